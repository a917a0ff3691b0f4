//! A server on loopback with a folder of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bugler_tftp::{Config, DirSource, Event, Handle, Observer, Server, Transfer};

/// Bytes that differ from block to block.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 509) as u8).collect()
}

/// What a server reported, to be waited for.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<(Mutex<Entries>, Condvar)>);

#[derive(Default)]
struct Entries {
    all: Vec<(Transfer, Event)>,
    taken: usize,
}

impl Journal {
    /// The next event that was not taken yet.
    pub(crate) fn next(&self) -> (Transfer, Event) {
        let (entries, news) = &*self.0;
        let entries = entries.lock().unwrap();
        let wait = news.wait_timeout_while(entries, Duration::from_secs(60), |entries| {
            entries.taken == entries.all.len()
        });
        let (mut entries, timeout) = wait.unwrap();
        assert!(
            !timeout.timed_out(),
            "no further event; so far: {:?}",
            entries.all
        );
        entries.taken += 1;
        entries.all[entries.taken - 1].clone()
    }

    pub(crate) fn all(&self) -> Vec<(Transfer, Event)> {
        self.0.0.lock().unwrap().all.clone()
    }
}

impl Observer for Journal {
    fn event(&self, transfer: &Transfer, event: &Event) {
        let (entries, news) = &*self.0;
        entries
            .lock()
            .unwrap()
            .all
            .push((transfer.clone(), event.clone()));
        news.notify_all();
    }
}

pub(crate) struct Site {
    dir: tempfile::TempDir,
    server: Handle,
    pub(crate) journal: Journal,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::listening(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
    }

    pub(crate) fn listening(address: SocketAddrV4) -> Self {
        Self::with(|config| config.listen = vec![address.into()])
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()],
            ..Config::default()
        };
        change(&mut config);
        let dir = tempfile::tempdir().unwrap();
        let source = DirSource::new(dir.path()).unwrap();
        let journal = Journal::default();
        let server = Server::start(config, Arc::new(source), Arc::new(journal.clone())).unwrap();
        Self {
            dir,
            server,
            journal,
        }
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.server.local_addrs()[0]
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn stop(self) {
        self.server.stop().unwrap();
    }
}
