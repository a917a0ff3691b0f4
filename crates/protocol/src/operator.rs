//! The operator's side: `/api/v1/`. Bodies that are not plain nouns of [`bugler_model`].
//!
//! An error answer is JSON, a [`crate::agent::ErrorBody`].

use bugler_model::{DiskRule, Netboot, Task, VerifyMode};
use serde::{Deserialize, Serialize};

/// `POST /api/v1/devices/{device}/netboot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetNetboot {
    /// The new state.
    pub mode: Netboot,
}

/// What a new task is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Order {
    /// Write an image onto a disk, then boot from it.
    Deploy {
        /// Name or id of the image.
        image: String,
        /// Which disk.
        #[serde(default)]
        disk: DiskRule,
        /// How it is proved.
        #[serde(default)]
        verify: VerifyMode,
    },
    /// Reboot.
    Reboot {},
    /// Power off.
    PowerOff {},
}

/// `POST /api/v1/tasks`: the same order for several devices, all or none.
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
}

/// Answer to [`NewTasks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedTasks {
    /// One task for each device.
    pub tasks: Vec<Task>,
}

/// One damaged or missing chunk of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DamagedChunk {
    /// Its name: BLAKE3 of what it should hold.
    pub hash: String,
    /// Where on the disk it belongs, in bytes.
    pub offset: u64,
    /// What was found.
    pub detail: String,
}

/// `POST /api/v1/images/{image}/verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verified {
    /// Chunks that were read and hashed.
    pub chunks: u64,
    /// Those that are not what they should be; empty for a good image.
    pub damaged: Vec<DamagedChunk>,
}

/// `POST /api/v1/images/gc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CollectGarbage {
    /// Only count what would be removed.
    pub dry_run: bool,
}

/// Answer to [`CollectGarbage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Collected {
    /// Chunks that no image names.
    pub chunks: u64,
    /// Bytes they take in the store.
    pub bytes: u64,
}

/// `GET /api/v1/server`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerStatus {
    /// Version of the server.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Version of the boot environment that machines get, if there is one.
    pub bootenv: Option<String>,
    /// One line for each network service: what it listens on, and in which mode.
    pub services: Vec<String>,
}
