//! What agents are told to do, as a durable state machine.

use crate::{DeviceId, Image, ImageId, ImageName, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which disk of the machine a deploy writes to.
///
/// A rule is applied by the agent to what it finds at that moment, before the first byte is
/// written. A disk of another sector size is never taken, and one that is smaller than the image only
/// where everything in use ends before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskRule {
    /// The only fixed, writable disk that the image fits on; where there are several, the
    /// smallest one; among equals the first by serial number (disks without one last), then by
    /// path. Decided when no more disks appear. Removable media never.
    #[default]
    Auto,
    /// The disk with this serial number; where there is none, the one with this path; where there
    /// is none either, with this model. Two such disks are refused. Removable media only this way.
    Named(String),
}

/// How a deploy proves what it wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifyMode {
    /// Reads everything back from the disk, past the page cache, and compares the hashes.
    #[default]
    ReadBack,
    /// Only what was hashed on its way to the disk.
    WriteOnly,
}

/// Whether a deploy first reads what is on the disk, and fetches only what differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Where that is likely to be quicker: the disk seems to hold a version of the image, and
    /// reading it is faster than the network.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: everything is fetched and written. An interrupted attempt is resumed all the same.
    Never,
}

/// What a machine gets of its own when an image has been written: images are cloned, identities
/// must not be. Everything here is written into the image's root filesystem after the disk was
/// proved to hold the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Identity {
    /// Its name: `/etc/hostname`, and its line in `/etc/hosts`.
    pub hostname: Option<String>,
    /// A machine-id of its own (machine-id(5)).
    pub machine_id: bool,
    /// An SSH host key of its own (Ed25519) in place of those of the image, of whatever kind.
    pub ssh_host_keys: bool,
    /// New GUIDs for the disk and its partitions. Where something on the disk names partitions by
    /// their GUID, it is changed with them, or the deploy fails before it changes any.
    pub gpt_guids: bool,
    /// A seed for cloud-init's NoCloud data source.
    pub seed: Option<Seed>,
}

/// Files of cloud-init's NoCloud data source, as they are written: templates are rendered by the
/// server when the task is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Seed {
    /// `user-data`.
    pub user_data: String,
    /// `meta-data`: must give an `instance-id`.
    pub meta_data: String,
    /// `network-config`.
    pub network_config: Option<String>,
}

/// Write an image onto a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deploy {
    /// Which image: one version of a name.
    pub image: ImageId,
    /// Its name when the task was made, for people.
    pub image_name: ImageName,
    /// Its version, from 1. 0 in tasks that are older than versions.
    #[serde(default)]
    pub version: u32,
    /// BLAKE3 of its manifest, in hex: the image that is meant, whatever becomes of the name.
    pub manifest: String,
    /// Which disk.
    #[serde(default)]
    pub disk: DiskRule,
    /// How it is proved.
    #[serde(default)]
    pub verify: VerifyMode,
    /// Whether what is on the disk is made use of.
    #[serde(default)]
    pub compare: Compare,
    /// Whether the last partition, and its ext4 or FAT filesystem, grow to the end of the disk.
    #[serde(default)]
    pub grow: bool,
    /// What the machine gets of its own.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Most bytes a second that the agent takes from the network.
    #[serde(default)]
    pub limit_rate: Option<u64>,
}

impl Deploy {
    /// A deploy of an image with everything else as it is by default.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        Self {
            image: image.id,
            image_name: image.name.clone(),
            version: image.version,
            manifest: image.manifest.clone(),
            disk: DiskRule::default(),
            verify: VerifyMode::default(),
            compare: Compare::default(),
            grow: false,
            identity: None,
            limit_rate: None,
        }
    }
}

/// What a capture does with a filesystem that was not closed cleanly, or is hibernated: its own
/// account of what is in use cannot be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unclean {
    /// Takes its partition whole.
    #[default]
    Whole,
    /// Refuses, before anything is sent.
    Refuse,
}

/// Take an image from a disk. The disk is only read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capture {
    /// The name that the new version is filed under.
    pub image_name: ImageName,
    /// What is said of the new version.
    #[serde(default)]
    pub note: String,
    /// Which disk. [`DiskRule::Auto`]: the only fixed disk; several are refused.
    #[serde(default)]
    pub disk: DiskRule,
    /// One partition of it alone, by its number; the image is then of that partition.
    #[serde(default)]
    pub partition: Option<u32>,
    /// Take every byte, whatever the filesystems say is free.
    #[serde(default)]
    pub whole: bool,
    /// What is done about filesystems that were not closed cleanly.
    #[serde(default)]
    pub unclean: Unclean,
    /// Most bytes a second that the agent sends.
    #[serde(default)]
    pub limit_rate: Option<u64>,
}

/// How a disk is made forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WipeMethod {
    /// The disk's own erase where it has one (NVMe format, ATA secure erase), else zeroes.
    #[default]
    Auto,
    /// Discards everything. Refused where the disk does not promise that it then reads as zero.
    Discard,
    /// Writes zeroes.
    Zero,
    /// NVMe Format with user data erase.
    NvmeFormat,
    /// ATA Security Erase Unit.
    AtaSecureErase,
}

/// Make a disk forget everything, and prove it by samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wipe {
    /// Which disk. [`DiskRule::Auto`]: the only fixed disk; several are refused.
    #[serde(default)]
    pub disk: DiskRule,
    /// How.
    #[serde(default)]
    pub method: WipeMethod,
}

/// What an agent is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TaskAction {
    /// Write an image onto a disk, then reboot from it.
    Deploy(Deploy),
    /// Take an image from a disk, then reboot.
    Capture(Capture),
    /// Make a disk forget everything; the machine then waits.
    Wipe(Wipe),
    /// Reboot; what then boots is the device's own state.
    Reboot,
    /// Power off.
    PowerOff,
}

impl TaskAction {
    /// One word for it: `deploy`, `capture`, `wipe`, `reboot` or `poweroff`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deploy(_) => "deploy",
            Self::Capture(_) => "capture",
            Self::Wipe(_) => "wipe",
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
        }
    }
}

/// Where a task stands.
///
/// `Queued -> Claimed -> Running -> Verifying -> Done`; from each of the first four also
/// `Failed` or `Cancelled`. `Claimed`, `Running` and `Verifying` go back to `Claimed` when the
/// device's agent comes back after a reboot: it resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Waits for the device's agent.
    Queued,
    /// An agent has it: it looks at the disk and the image, and writes nothing yet.
    Claimed,
    /// The agent writes.
    Running,
    /// Everything is written; it is being read back.
    Verifying,
    /// Finished, and proved.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended by an operator.
    Cancelled,
}

/// A step that the state machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {from} cannot become {to}")]
pub struct TaskStateError {
    /// Where it stands.
    pub from: TaskState,
    /// Where it was to go.
    pub to: TaskState,
}

impl TaskState {
    /// Whether more is to come.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// `to`, where the state machine has such a step. A step to the same open state is allowed:
    /// reports can arrive twice.
    ///
    /// # Errors
    /// [`TaskStateError`] where it has not.
    pub fn step(self, to: Self) -> Result<Self, TaskStateError> {
        use TaskState::{Cancelled, Claimed, Done, Failed, Queued, Running, Verifying};
        let allowed = match self {
            Queued => matches!(to, Queued | Claimed | Failed | Cancelled),
            Claimed => matches!(
                to,
                Claimed | Running | Verifying | Done | Failed | Cancelled
            ),
            Running => matches!(
                to,
                Claimed | Running | Verifying | Done | Failed | Cancelled
            ),
            Verifying => matches!(to, Claimed | Verifying | Done | Failed | Cancelled),
            Done | Failed | Cancelled => false,
        };
        if allowed {
            Ok(to)
        } else {
            Err(TaskStateError { from: self, to })
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Claimed => "claimed",
            Self::Running => "running",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// What a working agent is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Checks the disk and the image against each other; nothing is written yet.
    #[default]
    Checking,
    /// Reads what is on the disk already, to resume.
    Comparing,
    /// Fetches and writes.
    Writing,
    /// Flushes, re-reads the partition table, moves the GPT backup header.
    Finalizing,
    /// Reads back.
    Verifying,
    /// Reads the disk, and sends what the store lacks.
    Capturing,
    /// Makes the disk forget.
    Wiping,
    /// Gives the machine an identity of its own, and grows its last filesystem.
    Personalizing,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Progress {
    /// What the agent is busy with.
    pub phase: Phase,
    /// Bytes of image data that are durable on the disk (in `Verifying`: read back and right).
    pub done: u64,
    /// Bytes of image data in all.
    pub total: u64,
    /// Bytes found right on the disk already, and so not fetched; counted in `done` as well.
    pub skipped: u64,
    /// Bytes that came over the network, as sent (compressed).
    pub fetched: u64,
    /// Milliseconds since the agent began this task in this boot.
    pub elapsed_ms: u64,
}

/// One thing that one device's agent is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its identifier.
    pub id: TaskId,
    /// Whose agent.
    pub device: DeviceId,
    /// What it is to do.
    pub action: TaskAction,
    /// Where it stands.
    pub state: TaskState,
    /// How far it is.
    pub progress: Progress,
    /// What went wrong, for `failed`; who or what ended it, for `cancelled`; what was proved, for a
    /// wipe that is `done`.
    pub message: Option<String>,
    /// How often an agent has claimed it; more than 1 means that it resumed.
    pub attempts: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// A task to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Whose agent.
    pub device: DeviceId,
    /// What it is to do.
    pub action: TaskAction,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TaskState; 7] = [
        TaskState::Queued,
        TaskState::Claimed,
        TaskState::Running,
        TaskState::Verifying,
        TaskState::Done,
        TaskState::Failed,
        TaskState::Cancelled,
    ];

    #[test]
    fn an_ended_task_never_moves() {
        for from in ALL.into_iter().filter(|s| !s.is_open()) {
            for to in ALL {
                assert!(from.step(to).is_err(), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn every_open_task_can_fail_be_cancelled_and_be_reported_twice() {
        for from in ALL.into_iter().filter(|s| s.is_open()) {
            for to in [TaskState::Failed, TaskState::Cancelled, from] {
                assert!(from.step(to).is_ok(), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn a_queued_task_is_not_done_without_an_agent() {
        assert!(TaskState::Queued.step(TaskState::Done).is_err());
        assert!(TaskState::Queued.step(TaskState::Running).is_err());
    }
}
