//! What the operations of [`Store`](crate::Store) take and give.

use bugler_model::{
    Arch, Device, DeviceId, EventId, EventKind, Export, Firmware, Inventory, MacAddr, Progress,
    SessionId, Task, TaskId, TaskState,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use uuid::Uuid;

/// A client that asked to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The interface it asks from.
    pub mac: MacAddr,
    /// Its UUID (option 97), where it told one.
    pub uuid: Option<Uuid>,
    /// Its architecture, where it told one.
    pub arch: Option<Arch>,
    /// What asks.
    pub firmware: Option<Firmware>,
}

/// What became of a [`Sighting`].
#[derive(Clone, Debug)]
pub struct Observed {
    /// The device.
    pub device: Arc<Device>,
    /// Whether it was not known before.
    pub new: bool,
}

/// An agent that introduced itself with a good boot token.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The device that the boot token was made for.
    pub device: DeviceId,
    /// The boot session that it was made for.
    pub session: SessionId,
    /// The interface that the agent booted from.
    pub boot_mac: MacAddr,
    /// Where the request came from.
    pub address: Option<Ipv4Addr>,
    /// What the agent found.
    pub inventory: Inventory,
    /// The hash of the token that is handed to the agent.
    pub agent_token: TokenHash,
}

/// BLAKE3 of a secret token: what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// Who an agent token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentAuth {
    /// The device.
    pub device: DeviceId,
    /// The boot session in which it registered.
    pub session: SessionId,
}

/// What became of asking for a task in turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Here it is.
    Task(Box<Task>),
    /// There is one, and it is not its turn.
    NotYet(TaskId),
    /// The device has nothing to do.
    Nothing,
}

/// An agent's report on its task.
#[derive(Clone, Debug)]
pub struct TaskReport {
    /// Whose agent reports.
    pub device: DeviceId,
    /// On which task.
    pub task: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// How far it is.
    pub progress: Progress,
    /// What went wrong.
    pub message: Option<String>,
    /// The disk that a deploy has chosen, by serial number or path. The first one that is reported
    /// becomes the task's rule: a later attempt writes to this disk or to none.
    pub disk: Option<String>,
}

/// An export, and what tells its machine apart from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownExport {
    /// What it is.
    pub export: Export,
    /// Hash of the token of its latest boot.
    pub token: TokenHash,
}

/// Which tasks to list. The default lists the latest 200.
#[derive(Clone, Debug)]
pub struct TaskFilter {
    /// Only this device's.
    pub device: Option<DeviceId>,
    /// Only open ones.
    pub open_only: bool,
    /// At most this many.
    pub limit: usize,
}

impl Default for TaskFilter {
    fn default() -> Self {
        Self {
            device: None,
            open_only: false,
            limit: 200,
        }
    }
}

/// Which events to list. The default lists the latest 200.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// Only this device's.
    pub device: Option<DeviceId>,
    /// Only of this kind.
    pub kind: Option<EventKind>,
    /// Only those after this one: then the *earliest* `limit` of them, so that a reader can page.
    pub after: Option<EventId>,
    /// At most this many.
    pub limit: usize,
}

impl Default for EventFilter {
    fn default() -> Self {
        Self {
            device: None,
            kind: None,
            after: None,
            limit: 200,
        }
    }
}
