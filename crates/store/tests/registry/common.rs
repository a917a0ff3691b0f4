//! A registry to test on, and short ways to fill it.

use bugler_model::{
    Arch, Deploy, Device, DeviceId, EventKind, Firmware, Image, Inventory, MacAddr, NewImage,
    NewTask, Nic, Progress, SessionId, Task, TaskAction, TaskId, TaskState, Timestamp,
};
use bugler_store::{
    EventFilter, Registration, Sighting, SqliteStore, Store, StoreError, TaskReport, TokenHash,
};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// A registry in a folder of its own.
pub(crate) struct Registry {
    folder: TempDir,
    store: Option<SqliteStore>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Self {
            folder,
            store: None,
        };
        registry.store = Some(SqliteStore::open(registry.path()).unwrap());
        registry
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("registry.sqlite")
    }

    /// The same registry as a restarted server sees it.
    pub(crate) fn restart(&mut self) {
        self.store = None;
        self.store = Some(SqliteStore::open(self.path()).unwrap());
    }
}

impl Deref for Registry {
    type Target = SqliteStore;
    fn deref(&self) -> &SqliteStore {
        self.store.as_ref().unwrap()
    }
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp(millis)
}

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

pub(crate) fn uuid(last: u8) -> Uuid {
    Uuid::from_u128(0x4c4c4544_0042_3510_8052_b4c04f333700 + u128::from(last))
}

pub(crate) fn token(first: u8) -> TokenHash {
    TokenHash([first; 32])
}

pub(crate) fn sighting(mac: MacAddr, uuid: Option<Uuid>) -> Sighting {
    Sighting {
        mac,
        uuid,
        arch: Some(Arch::X86_64),
        firmware: Some(Firmware::UefiPxe),
    }
}

/// The device that boots from this interface.
pub(crate) async fn seen(store: &SqliteStore, mac: MacAddr, uuid: Option<Uuid>) -> Arc<Device> {
    store
        .observe(sighting(mac, uuid), at(1))
        .await
        .unwrap()
        .device
}

pub(crate) fn nic(mac: MacAddr) -> Nic {
    Nic {
        name: "eth0".into(),
        mac,
        link: true,
        speed: Some(1000),
        driver: None,
    }
}

pub(crate) fn inventory(uuid: Option<Uuid>, macs: &[MacAddr]) -> Inventory {
    Inventory {
        uuid,
        vendor: Some("Acme".into()),
        model: Some("Anvil 3".into()),
        nics: macs.iter().copied().map(nic).collect(),
        ..Inventory::default()
    }
}

/// What an agent sends that booted from the first of these interfaces.
pub(crate) fn registration(
    device: DeviceId,
    session: SessionId,
    uuid: Option<Uuid>,
    macs: &[MacAddr],
    agent_token: TokenHash,
) -> Registration {
    Registration {
        device,
        session,
        boot_mac: macs[0],
        address: Some([10, 0, 0, 9].into()),
        inventory: inventory(uuid, macs),
        agent_token,
    }
}

/// Boots a machine up to its agent.
pub(crate) async fn registered(
    store: &SqliteStore,
    uuid: Option<Uuid>,
    macs: &[MacAddr],
    agent_token: TokenHash,
) -> Arc<Device> {
    let device = seen(store, macs[0], None).await;
    let session = store.begin_session(device.id, None, at(2)).await.unwrap();
    store
        .register(
            registration(device.id, session, uuid, macs, agent_token),
            at(3),
        )
        .await
        .unwrap()
}

pub(crate) async fn image(store: &SqliteStore, name: &str) -> Image {
    let new = NewImage {
        name: name.parse().unwrap(),
        note: String::new(),
        origin: None,
        manifest: "ab".repeat(32),
        size: 2_000_000_000,
        used: 700_000_000,
        stored: 300_000_000,
        sector_size: 512,
    };
    store.add_image(new, at(4)).await.unwrap()
}

pub(crate) fn deploy(device: DeviceId, image: &Image) -> NewTask {
    let action = TaskAction::Deploy(Deploy::of(image));
    NewTask { device, action }
}

pub(crate) fn reboot(device: DeviceId) -> NewTask {
    NewTask {
        device,
        action: TaskAction::Reboot,
    }
}

/// Makes one task.
pub(crate) async fn created(store: &SqliteStore, new: NewTask) -> Task {
    store
        .create_tasks(vec![new], at(5))
        .await
        .unwrap()
        .remove(0)
}

pub(crate) fn report(task: &Task, state: TaskState) -> TaskReport {
    report_of(task.device, task.id, state)
}

pub(crate) fn report_of(device: DeviceId, task: TaskId, state: TaskState) -> TaskReport {
    TaskReport {
        device,
        task,
        state,
        progress: Progress::default(),
        message: None,
        disk: None,
    }
}

/// The texts of the kept events of one kind, oldest first.
pub(crate) async fn told(store: &SqliteStore, kind: EventKind) -> Vec<String> {
    let filter = EventFilter {
        kind: Some(kind),
        limit: usize::MAX,
        ..EventFilter::default()
    };
    store
        .events(filter)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.text)
        .collect()
}

pub(crate) fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

pub(crate) fn is_missing<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound(_)))
}

/// An error with all of its causes, as a person reads it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
