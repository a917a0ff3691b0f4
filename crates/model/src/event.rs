//! What happened, and the boot it happened in.

use crate::{DeviceId, EventId, Firmware, ImageId, SessionId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The stages of a boot, in their order. Each is entered by the packet or request named.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// First DHCPDISCOVER of the firmware.
    Dhcp,
    /// First request for a boot loader.
    Loader,
    /// First DHCPDISCOVER or script request of the loader.
    Script,
    /// First request for the kernel.
    Kernel,
    /// First request for the initramfs.
    Initramfs,
    /// The initramfs was sent whole: the kernel starts.
    Start,
    /// The agent's first request.
    Agent,
    /// The agent has registered.
    Registered,
    /// The device was told to boot its local disk.
    Local,
}

/// How a boot session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Still under way, as far as anybody knows.
    Open,
    /// Its agent registered.
    Registered,
    /// It was sent to its local disk.
    Local,
    /// It was given everything that its profile boots: what runs now is not Bugler's.
    Started,
    /// The operating system on its disk called home: it is up.
    Up,
    /// Another boot of the same device began first.
    Superseded,
}

/// One attempt of one device to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootSession {
    /// Its identifier.
    pub id: SessionId,
    /// Which device.
    pub device: DeviceId,
    /// The firmware that began it.
    pub firmware: Option<Firmware>,
    /// When it began.
    pub started: Timestamp,
    /// When each stage was first reached, in the order they were reached.
    pub stages: Vec<(Stage, Timestamp)>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What kind of thing happened. `text` of the [`Event`] says it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A device was seen for the first time, or changed.
    Device,
    /// A packet or request of a boot.
    Boot,
    /// A task was made, or changed its state.
    Task,
    /// A task's progress. Not kept: only sent to those who are listening.
    Progress,
    /// An image was added, removed, or found damaged.
    Image,
    /// A lease was given, refused, released or declined.
    Lease,
    /// A line of an agent's log.
    Log,
    /// A machine was switched on or off, or could not be.
    Power,
    /// The server itself: started, found another DHCP server, built a boot environment, ...
    Server,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; 0 for events that are not kept.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// What kind of thing.
    pub kind: EventKind,
    /// The device it concerns.
    pub device: Option<DeviceId>,
    /// The boot it belongs to.
    pub session: Option<SessionId>,
    /// The task it concerns.
    pub task: Option<TaskId>,
    /// The image it concerns.
    pub image: Option<ImageId>,
    /// What happened, for a person: one line, at most 1,000 characters.
    pub text: String,
}

/// An event to be kept. See [`Event`] for the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewEvent {
    pub kind: EventKind,
    pub device: Option<DeviceId>,
    pub session: Option<SessionId>,
    pub task: Option<TaskId>,
    pub image: Option<ImageId>,
    pub text: String,
}

impl NewEvent {
    /// An event about nothing in particular; fill in what it concerns.
    #[must_use]
    pub fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            device: None,
            session: None,
            task: None,
            image: None,
            text: text.into(),
        }
    }

    /// The same event, about this device.
    #[must_use]
    pub fn device(mut self, id: DeviceId) -> Self {
        self.device = Some(id);
        self
    }

    /// The same event, about this task.
    #[must_use]
    pub fn task(mut self, id: TaskId) -> Self {
        self.task = Some(id);
        self
    }
}
