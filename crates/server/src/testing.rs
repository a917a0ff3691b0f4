//! A server without sockets, for tests of what is behind them.

use crate::boot::{BootService, Places};
use crate::loaders::Loaders;
use crate::timeline::Timeline;
use bugler_model::Device;
use bugler_store::{EventFilter, SqliteStore, Store};
use std::sync::Arc;

/// The server. What it sees is kept until [`told`](Self::told) or [`devices`](Self::devices) is asked.
pub(crate) struct Site {
    pub(crate) boot: Arc<BootService>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) timeline: Timeline,
    /// The folder with its state, gone when this is dropped.
    _dir: tempfile::TempDir,
}

impl Site {
    /// With the loaders for PCs, and no devices.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        for loader in ["undionly.kpxe", "snponly.efi", "ipxe.efi"] {
            std::fs::write(dir.path().join(loader), b"loader").unwrap();
        }
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(dir.path().join("registry.sqlite")).unwrap());
        let (recorder, timeline) = Timeline::new(store.clone());
        let places = Places {
            loaders: Loaders::read(dir.path()).unwrap(),
            bootenvs: dir.path().join("bootenv"),
            files: dir.path().join("files"),
            pi: Arc::default(),
            eeproms: dir.path().join("eeprom"),
            cmdline: String::new(),
            cmdline_arm64: String::new(),
            diskless: None,
            keys: None,
        };
        Self {
            boot: Arc::new(BootService::new(store.clone(), recorder, places)),
            store,
            timeline,
            _dir: dir,
        }
    }

    /// Every event so far, in words.
    pub(crate) async fn told(&mut self) -> Vec<String> {
        self.timeline.write_waiting().await;
        let events = self.store.events(EventFilter::default()).await.unwrap();
        events.into_iter().map(|event| event.text).collect()
    }

    /// Every device.
    pub(crate) async fn devices(&mut self) -> Vec<Arc<Device>> {
        self.timeline.write_waiting().await;
        self.store.devices().await.unwrap()
    }
}
