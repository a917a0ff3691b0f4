//! Nouns and states that every part of Bugler shares.
//!
//! This crate is ground: it opens no socket and reads no clock. A time is always an argument, as
//! a [`Timestamp`]. Everything here is plain data with `serde` so that the registry, the HTTP API
//! and recorded test cases store the same shapes.

mod device;
mod event;
mod export;
mod ids;
mod image;
mod inventory;
mod lease;
mod mac;
mod power;
mod profile;
mod task;
pub mod text;

pub use device::{
    Arch, Deployed, Device, DevicePatch, EfiStart, Firmware, Netboot, OfferShape, Presence, Quirks,
};
pub use event::{BootSession, Event, EventKind, NewEvent, Outcome, Stage};
pub use export::{
    AoeAddress, AoeAddressError, DEFAULT_OVERLAY_SIZE, Diskless, DisklessStart, Export,
    ExportProtocol, ImageRef, ImageRefError, NewExport, OverlayKind,
};
pub use ids::{DeviceId, EventId, ExportId, IdParseError, ImageId, SessionId, TaskId};
pub use image::{Image, ImageName, ImageNameError, ImageState, NewImage, Origin};
pub use inventory::{Cpu, Disk, Inventory, Nic, Transport};
pub use lease::{Lease, LeaseState};
pub use mac::{MacAddr, MacParseError};
pub use power::{BootDevice, PowerAction, PowerDriver, PowerEntry, PowerRole, PowerState};
pub use profile::{
    BootPolicy, Boots, Cidr, CidrError, Conditions, Loader, MenuEntry, Profile, ProfileName,
    ProfileNameError, Rule,
};
pub use task::{
    Capture, Compare, Deploy, DiskRule, Identity, NewTask, Phase, Progress, Seed, Task, TaskAction,
    TaskState, TaskStateError, Unclean, VerifyMode, Wipe, WipeMethod,
};

/// Milliseconds since the Unix epoch, in UTC.
///
/// Wall-clock time, for what people read and what outlives a restart. Protocol machines take a
/// monotonic `Duration` instead.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `millis` milliseconds later; saturates at the ends of the range.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to `self`; negative when `self` is the earlier one.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, for example `2026-11-21T10:14:00.250Z`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}
