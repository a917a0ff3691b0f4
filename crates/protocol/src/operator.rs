//! The operator's side: `/api/v1/`. Bodies that are not plain nouns of [`bugler_model`].
//!
//! An error answer is JSON, a [`crate::agent::ErrorBody`].

mod look;
mod order;
mod overlay;
mod policy;
mod power;

pub use look::{
    ChangedFile, DiffRange, FileChange, ImageDiff, ImageFile, ImagePartition, PartitionDiff,
};
pub use order::{
    CaptureOrder, CreatedTasks, DeployOrder, IdentityOrder, NewTasks, Order, PlannedTask,
    PowerNote, SeedOrder, TaskPlan, Verdict, WipeOrder,
};
pub use overlay::{CommitOverlay, Committed, GrowOverlay, OverlayView};
pub use policy::{EepromUpdate, PlanAction, PlanGoal, PlanView, RuleVerdict, SetProfile};
pub use power::{
    NewPowerOrder, PowerDriverView, PowerResult, PowerVerdict, PowerView, SecretText, SetBoot,
    SetPower,
};

use bugler_model::{ImageId, Netboot};
use serde::{Deserialize, Serialize};

/// `POST /api/v1/devices/{device}/netboot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetNetboot {
    /// The new state.
    pub mode: Netboot,
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

/// `PATCH /api/v1/images/{image}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// What people say of this version: one line of at most 1,000 characters, or nothing.
    pub note: String,
}

/// `GET /api/v1/image-sizes`: what one version of an image takes in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageSizes {
    /// Which one.
    pub image: ImageId,
    /// The same for people: `debian-12@3`.
    pub label: String,
    /// Size of the disk that it makes, in bytes.
    pub size: u64,
    /// Bytes of it that are not zero, counted in whole chunks.
    pub used: u64,
    /// Bytes that its chunks take in the store, each chunk once.
    pub stored: u64,
    /// Bytes of those that no other version or image has: what removing it alone would free.
    pub own: u64,
    /// The rest: bytes that other versions or images have as well.
    pub shared: u64,
}

/// One version that is not whole, in [`VerifiedAll`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DamagedImage {
    /// Which one.
    pub image: ImageId,
    /// The same for people: `debian-12@3`.
    pub label: String,
}

/// `POST /api/v1/images/verify`: every chunk that an image needs, each read once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VerifiedAll {
    /// Versions that were looked at.
    pub images: u64,
    /// Chunks that were read and hashed.
    pub chunks: u64,
    /// Chunks of them that are missing or not what they should be.
    pub damaged_chunks: u64,
    /// The versions that need those chunks; they are marked as damaged.
    pub damaged: Vec<DamagedImage>,
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

/// One change of the server's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyChanged {
    /// The public key before, 64 hex digits.
    pub old: String,
    /// The one that took its place.
    pub new: String,
}

/// `GET /api/v1/server/key`: by what images are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerKey {
    /// The public key that signs now, 64 hex digits (Ed25519, RFC 8032).
    pub key: String,
    /// The changes that led to it, oldest first; agents that were started with any of these keys go
    /// on.
    pub changes: Vec<KeyChanged>,
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
