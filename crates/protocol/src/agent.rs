//! The agent's side of the device plane: `/agent/v1/`.
//!
//! | Request | Body | Answer |
//! |---|---|---|
//! | `POST /agent/v1/register` | [`Register`] | [`Registered`] |
//! | `GET /agent/v1/task?wait=S` | | 200 [`Assignment`], or 204 after at most `S` seconds (0 to 60) without one |
//! | `POST /agent/v1/tasks/{id}/report` | [`Report`] | [`ReportAnswer`] |
//! | `POST /agent/v1/heartbeat` | [`Heartbeat`] | 204 |
//! | `GET /agent/v1/manifests/{hash}` | | the manifest's bytes ([`crate::manifest`]) |
//! | `POST /agent/v1/chunks` | [`ChunkRequest`] | the chunks, framed as [`CHUNK_STREAM`] says |
//! | `POST /agent/v1/damaged` | [`Damaged`] | 204 |
//! | `POST /agent/v1/captures/{id}/missing` | [`ChunkRequest`], up to [`MAX_HASHES_PER_QUESTION`] | [`Missing`] |
//! | `POST /agent/v1/captures/{id}/chunks` | chunks, framed as [`CHUNK_STREAM`] says | 204 once all were checked and taken |
//! | `POST /agent/v1/captures/{id}/commit` | [`CAPTURE_COMMIT`] | [`Captured`] |
//! | `POST /agent/v1/diskless` | [`Diskless`] | 204 |
//!
//! The three of a capture belong to the task `{id}`, which is this agent's open capture. A commit that
//! is sent again, because its answer was lost, is answered as the first one was.
//!
//! The answer with a manifest carries [`SIGNATURE_HEADER`]; see there.
//!
//! Every request but `register` and `diskless`, which have the boot token in their bodies, carries `Authorization: Bearer <token>` with the token that
//! `register` gave; 401 means that the server knows no such token (any more): register again.
//! An error answer is JSON, an [`ErrorBody`].
//!
//! Unknown fields are ignored on both sides and new fields have defaults, so that an agent and a
//! server of neighbouring versions understand each other.

use bugler_model::{
    DeviceId, ImageId, Inventory, MacAddr, Progress, TaskAction, TaskId, TaskState,
};
use serde::{Deserialize, Serialize};

/// The version of this protocol. It changes when a field's meaning does.
pub const VERSION: u32 = 1;

/// Kernel command line: where the server is, for example `bugler.server=http://10.0.0.1:8480`.
pub const CMDLINE_SERVER: &str = "bugler.server";

/// Kernel command line: the token made for this boot.
pub const CMDLINE_TOKEN: &str = "bugler.token";

/// Kernel command line: the server's public key, 64 hex digits, which manifests must be signed by.
pub const CMDLINE_KEY: &str = "bugler.key";

/// Kernel command line: where the root filesystem of a machine without a disk is, as a URL.
/// `nbd://ADDRESS:PORT/NAME`, `aoe:eSHELF.SLOT` or `nfs://ADDRESS:PORT/PATH`.
pub const CMDLINE_ROOT: &str = "bugler.root";

/// Kernel command line: the partition of that root, from 1; 0 where the whole device is a filesystem.
pub const CMDLINE_ROOT_PART: &str = "bugler.root-part";

/// Kernel command line: what kind of filesystem it is, by the kernel's name.
pub const CMDLINE_ROOT_TYPE: &str = "bugler.root-type";

/// Kernel command line: options for mounting it, separated by commas.
pub const CMDLINE_ROOT_FLAGS: &str = "bugler.root-flags";

/// Kernel command line: the first program of the system on it.
pub const CMDLINE_INIT: &str = "bugler.init";

/// Kernel command line: SHA-256 of the server's certificate, 64 hex digits, for an NBD client that can
/// do TLS. The kernel's own cannot.
pub const CMDLINE_TLS: &str = "bugler.tls";

/// Kernel command line: the MTU of the interface that the root comes over, in bytes.
pub const CMDLINE_MTU: &str = "bugler.mtu";

/// Where a machine without a disk tells how far it has come: [`Diskless`].
pub const DISKLESS_PATH: &str = "/agent/v1/diskless";

/// Header of the answer with a manifest: `<key>:<signature>`, the server's ed25519 public key (64 hex
/// digits) and its signature (128) over [`SIGNED_PREFIX`] and the 32 bytes of the manifest's hash.
///
/// Where that key is not the one that the agent was started with, [`SUCCESSION_HEADER`] leads from the
/// one to the other.
pub const SIGNATURE_HEADER: &str = "bugler-signature";

/// Header beside [`SIGNATURE_HEADER`] after keys were changed: `<old>:<new>:<signature>` for each
/// change, oldest first, with commas between; the old key's signature over [`SUCCESSION_PREFIX`] and the
/// 32 bytes of the new key.
pub const SUCCESSION_HEADER: &str = "bugler-key-succession";

/// What a signature of a manifest is over, before the hash.
pub const SIGNED_PREFIX: &[u8] = b"bugler manifest 1\n";

/// What a signature of a key is over, before the key.
pub const SUCCESSION_PREFIX: &[u8] = b"bugler key 1\n";

/// Most hashes in one question which chunks are missing.
pub const MAX_HASHES_PER_QUESTION: usize = 4096;

/// Media type of what ends a capture: the length of a [`Capturing`] in JSON as a little-endian `u32`,
/// that JSON, and the bytes of the manifest ([`crate::manifest`]) to the end. What stands in it as
/// the lengths of stored frames (at least 1) does not matter: the server puts its own there.
pub const CAPTURE_COMMIT: &str = "application/vnd.bugler.capture";

/// Media type of an answer to `POST /agent/v1/chunks`.
///
/// The body is, for every hash of the request in its order, a frame: the length of what follows
/// as a little-endian `u32`, then one zstd frame that holds the chunk. Length 0 stands for a chunk
/// that the server cannot give (missing or damaged in its store); the agent reports it as the
/// task's failure. A body that ends early was cut off: what came whole is good.
pub const CHUNK_STREAM: &str = "application/vnd.bugler.chunks";

/// Most hashes in one [`ChunkRequest`].
pub const MAX_CHUNKS_PER_REQUEST: usize = 64;

/// The agent introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// [`VERSION`] of the agent.
    pub protocol: u32,
    /// The agent's own version, for people.
    pub agent_version: String,
    /// What it found on its command line: the token that was made for this boot.
    pub boot_token: String,
    /// The interface that it booted from.
    pub boot_mac: MacAddr,
    /// What the machine is made of.
    pub inventory: Inventory,
    /// Milliseconds since the kernel started.
    #[serde(default)]
    pub uptime_ms: u64,
}

/// `POST /agent/v1/diskless`, without an answer: how far a machine without a disk has come. The boot token
/// says which one it is; there is no registration before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diskless {
    /// The token of this boot.
    pub boot_token: String,
    /// The interface that the machine booted from.
    pub boot_mac: MacAddr,
    /// How far it is.
    pub stage: DisklessStage,
    /// The root that was attached, or what has gone wrong; for people.
    pub detail: String,
    /// Milliseconds since its kernel started.
    pub uptime_ms: u64,
}

/// How far a machine without a disk is on its way to its root filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisklessStage {
    /// The root could not be attached; it is tried again.
    RootFailed,
    /// The root is attached and mounted, and its system starts now.
    RootAttached,
}

/// The server's answer to [`Register`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// [`VERSION`] of the server.
    pub protocol: u32,
    /// Who this machine is.
    pub device: DeviceId,
    /// Its name, or its id where it has none.
    pub label: String,
    /// The token for everything that follows in this boot.
    pub token: String,
    /// How often to send a heartbeat, in seconds.
    pub heartbeat_s: u32,
}

/// A task for this agent. The same task can be handed out again: after a reboot, and when the
/// answer to an earlier poll was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which task.
    pub task: TaskId,
    /// What to do.
    pub action: TaskAction,
    /// How often an agent has claimed it, this time included.
    pub attempt: u32,
}

/// How a task goes. Sent at every change of state, and about once a second while at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `Claimed` while disk and image are only looked at, `Running` before the first write and
    /// from then on, `Verifying`, `Done`, `Failed`, or `Cancelled` once a cancel was obeyed.
    pub state: TaskState,
    /// How far it is.
    pub progress: Progress,
    /// What went wrong, with what was tried, on what, what came back and what to do.
    #[serde(default)]
    pub message: Option<String>,
    /// The disk that a deploy has chosen: its serial number, or its path where it has none. From
    /// the first report that names one, the task is about this disk and no other: a later attempt
    /// is handed out with [`bugler_model::DiskRule::Named`].
    #[serde(default)]
    pub disk: Option<String>,
}

/// The server's answer to a [`Report`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// An operator has cancelled the task: stop, and leave the disk as it is.
    pub cancel: bool,
}

/// A sign of life, with what the agent has logged since the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// New log lines, oldest first; at most 200, each at most 1,000 characters.
    pub log: Vec<String>,
}

/// Asks for chunks by the BLAKE3 of their content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRequest {
    /// 64 hex digits each; at most [`MAX_CHUNKS_PER_REQUEST`].
    pub hashes: Vec<String>,
}

/// Which of the chunks that were asked about the store lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Positions in the question's list, from 0, rising; each hash once.
    pub missing: Vec<u32>,
}

/// What an agent says of what it took an image from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capturing {
    /// The disk or partition, for people.
    pub disk: String,
    /// The agent's version.
    pub agent_version: String,
    /// How each partition was read, one line each; at most 200 lines of 500 characters.
    pub reading: Vec<String>,
}

/// The version that a capture became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Which one.
    pub image: ImageId,
    /// The version of its name.
    pub version: u32,
}

/// Tells the server that what it sent is not what it is named: damage in its store or on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// The chunk's name.
    pub hash: String,
    /// What was found instead.
    pub detail: String,
}

/// An error answer of either plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What was tried, on what, what came back, and what to do next.
    pub error: String,
}
