//! What devices are ordered to do, and what would come of it.
//!
//! Orders have types of their own beside the tasks of `bugler_model` that are made from them, also where
//! the fields are the same: an order with a field that is not known is refused, for it may be a word
//! that was mistyped; a task that is kept, or that an older agent is given, may have fields of later
//! versions.

use bugler_model::{
    Capture, Compare, DeviceId, DiskRule, Identity, ImageName, Seed, Task, Unclean, VerifyMode,
    Wipe, WipeMethod,
};
use serde::{Deserialize, Serialize};

/// What a new task is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Order {
    /// Write an image onto a disk, then boot from it.
    Deploy(DeployOrder),
    /// Take an image from a disk, as the next version of a name. The disk is only read.
    Capture(CaptureOrder),
    /// Make a disk forget everything.
    Wipe(WipeOrder),
    /// Reboot.
    Reboot {},
    /// Power off.
    PowerOff {},
}

/// How an image is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DeployOrder {
    /// The image: a name (its latest version), a name and version (`debian-12@3`), or an id.
    pub image: String,
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
    /// Most bytes a second that each device takes from the network.
    #[serde(default)]
    pub limit_rate: Option<u64>,
    /// What each machine gets of its own. Its texts are templates.
    #[serde(default)]
    pub identity: Option<IdentityOrder>,
    /// Only devices whose last deploy was of an earlier version of the same name, or that had none.
    /// The others are left as they are, and named in [`CreatedTasks::skipped`].
    #[serde(default)]
    pub upgrade_only: bool,
}

impl DeployOrder {
    /// A deploy of an image with everything else as it is by default.
    #[must_use]
    pub fn of(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            ..Self::default()
        }
    }
}

/// What each machine gets of its own; see [`Identity`]. The texts are templates, filled in for each
/// device when the task is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct IdentityOrder {
    /// Template of its name: it makes 1 to 64 letters, digits, `-` and `.`.
    pub hostname: Option<String>,
    /// A machine-id of its own.
    pub machine_id: bool,
    /// An SSH host key of its own (Ed25519) in place of those of the image, of whatever kind.
    pub ssh_host_keys: bool,
    /// New GUIDs for the disk and its partitions.
    pub gpt_guids: bool,
    /// A seed for cloud-init's NoCloud data source.
    pub seed: Option<SeedOrder>,
}

impl IdentityOrder {
    /// The same with its texts filled in.
    #[must_use]
    pub fn with(&self, hostname: Option<String>, seed: Option<Seed>) -> Identity {
        Identity {
            hostname,
            machine_id: self.machine_id,
            ssh_host_keys: self.ssh_host_keys,
            gpt_guids: self.gpt_guids,
            seed,
        }
    }
}

/// Templates of the files of cloud-init's NoCloud data source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SeedOrder {
    /// `user-data`; an empty file where it is not given.
    pub user_data: Option<String>,
    /// `meta-data`; an `instance-id` of this deploy and the machine's name where it is not given.
    pub meta_data: Option<String>,
    /// `network-config`; none where it is not given.
    pub network_config: Option<String>,
}

/// How an image is taken; see [`Capture`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CaptureOrder {
    /// The name that the new version is filed under.
    pub image_name: ImageName,
    /// What is said of the new version; at most 1,000 characters.
    #[serde(default)]
    pub note: String,
    /// Which disk.
    #[serde(default)]
    pub disk: DiskRule,
    /// One partition of it alone, by its number from 1.
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

impl From<CaptureOrder> for Capture {
    fn from(order: CaptureOrder) -> Self {
        Self {
            image_name: order.image_name,
            note: order.note,
            disk: order.disk,
            partition: order.partition,
            whole: order.whole,
            unclean: order.unclean,
            limit_rate: order.limit_rate,
        }
    }
}

/// How a disk is made forget; see [`Wipe`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct WipeOrder {
    /// Which disk.
    pub disk: DiskRule,
    /// How.
    pub method: WipeMethod,
}

impl From<WipeOrder> for Wipe {
    fn from(order: WipeOrder) -> Self {
        Self {
            disk: order.disk,
            method: order.method,
        }
    }
}

/// `POST /api/v1/tasks`: the same order for several devices, all or none. `POST /api/v1/tasks/plan`:
/// what would come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTasks {
    /// What they are to do.
    pub action: Order,
    /// Ids, names, MAC addresses or UUIDs, or unambiguous starts of one.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Every device with this tag as well.
    #[serde(default)]
    pub tag: Option<String>,
    /// Leave the power of the devices alone. Without it, those whose agent does not run and that
    /// something can switch are switched on, or reset, into their agent for a deploy, a wipe or a
    /// capture; for a capture their operating system is asked to shut down first.
    #[serde(default)]
    pub leave_power: bool,
}

/// How a device gets into the agent that its task needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerNote {
    /// Which device.
    pub device: DeviceId,
    /// Its name, or its id where it has none.
    pub label: String,
    /// What is done, or is to be done by a person.
    pub text: String,
    /// Whether a person is to do it.
    pub by_hand: bool,
}

/// Answer to [`NewTasks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedTasks {
    /// One task for each device that is not in `skipped`.
    pub tasks: Vec<Task>,
    /// The devices that are left as they are, and why.
    #[serde(default)]
    pub skipped: Vec<PlannedTask>,
    /// How those get into their agent that do not run it now.
    #[serde(default)]
    pub power: Vec<PowerNote>,
}

/// What would come of an order for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A task is made.
    Do,
    /// Nothing is done, as the order says.
    Skip,
    /// The order is refused, for all its devices.
    Refuse,
}

/// What would come of an order for one device, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlannedTask {
    /// Which device.
    pub device: DeviceId,
    /// Its name, or its id where it has none.
    pub label: String,
    /// What would come of it.
    pub verdict: Verdict,
    /// Why, and what is to be known of it.
    pub why: String,
    /// What was last deployed to it: `debian-12@2`.
    pub now: Option<String>,
    /// What would be deployed, or made by a capture (without a version: the next).
    pub then: Option<String>,
    /// The disk that the inventory lets expect; `None` where the agent finds out.
    pub disk: Option<String>,
}

/// Answer of `POST /api/v1/tasks/plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskPlan {
    /// One for each device, by id.
    pub devices: Vec<PlannedTask>,
}
