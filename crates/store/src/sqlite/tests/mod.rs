//! What is only seen from inside: what shares a transaction, what a full disk does, what is pruned.

mod bounds;
mod commits;

use super::{Limits, SqliteStore};
use crate::Store;
use bugler_model::{DeviceId, EventKind, MacAddr, NewEvent, Timestamp};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Waker};

const NOW: Timestamp = Timestamp(1);

struct Fixture {
    folder: tempfile::TempDir,
    store: SqliteStore,
}

fn fixture(limits: Limits) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open_with(&folder.path().join("registry.sqlite"), limits).unwrap();
    Fixture { folder, store }
}

impl Fixture {
    fn path(&self) -> PathBuf {
        self.folder.path().join("registry.sqlite")
    }
}

fn mac(number: u16) -> MacAddr {
    let [high, low] = number.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

async fn observed(store: &SqliteStore, number: u16, now: i64) -> DeviceId {
    let seen = crate::Sighting {
        mac: mac(number),
        uuid: None,
        arch: None,
        firmware: None,
    };
    store.observe(seen, Timestamp(now)).await.unwrap().device.id
}

fn log(text: impl Into<String>) -> NewEvent {
    NewEvent::new(EventKind::Log, text)
}

/// Polls an operation once: that is what sends it to the writer.
fn send<F: Future + ?Sized>(operation: &mut Pin<Box<F>>) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(operation.as_mut().poll(&mut context).is_pending());
}

/// Stops the writer in the middle of a transaction, until the sender it returns is used or
/// dropped.
fn hold(store: &SqliteStore) -> (impl Future<Output = ()> + '_, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (begun, begin) = mpsc::channel();
    let mut held = Box::pin(store.writer.run("hold", move |_| {
        begun.send(()).unwrap();
        // An error is the sender's drop.
        let _ = released.recv();
        Ok(())
    }));
    send(&mut held);
    begin.recv().unwrap();
    (async move { held.await.unwrap() }, release)
}
