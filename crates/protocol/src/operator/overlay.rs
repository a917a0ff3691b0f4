//! Diskless machines: what they run from, and what they wrote.

use bugler_model::{Export, Image};
use serde::{Deserialize, Serialize};

/// `GET /api/v1/overlays`: one machine's root, and its layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OverlayView {
    /// What it is.
    pub export: Export,
    /// The device, as people call it.
    pub device: String,
    /// Bytes that the layer holds.
    pub used: u64,
    /// Bytes that it takes on the server's disk.
    pub stored: u64,
    /// Who is connected now: addresses, or the MAC address of an AoE machine.
    pub clients: Vec<String>,
    /// Bytes read since the server started.
    pub read: u64,
    /// Bytes written since the server started.
    pub written: u64,
    /// Bytes read a second, over the last seconds.
    pub read_rate: u64,
    /// Bytes written a second, over the last seconds.
    pub write_rate: u64,
    /// Seconds since the machine last asked for anything; `None`: not since the server started.
    pub idle_s: Option<u64>,
    /// What is wrong with the layer, where something is.
    pub problem: Option<String>,
}

/// `POST /api/v1/overlays/{overlay}/grow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GrowOverlay {
    /// Most bytes that it may take from now on; not fewer than it holds.
    pub size: u64,
}

/// `POST /api/v1/overlays/{overlay}/commit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommitOverlay {
    /// The image's name; it gets its next version.
    pub name: String,
    /// What people say of it.
    #[serde(default)]
    pub note: String,
    /// Whether to take it although the machine runs: what it holds in memory is not in it.
    #[serde(default)]
    pub running: bool,
}

/// The answer to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Committed {
    /// The new version.
    pub image: Image,
    /// Bytes of chunks that the store did not have, unpacked.
    pub new: u64,
}
