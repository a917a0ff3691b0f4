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
//!
//! Every request but `register` carries `Authorization: Bearer <token>` with the token that
//! `register` gave; 401 means that the server knows no such token (any more): register again.
//! An error answer is JSON, an [`ErrorBody`].
//!
//! Unknown fields are ignored on both sides and new fields have defaults, so that an agent and a
//! server of neighbouring versions understand each other.

use bugler_model::{DeviceId, Inventory, MacAddr, Progress, TaskAction, TaskId, TaskState};
use serde::{Deserialize, Serialize};

/// The version of this protocol. It changes when a field's meaning does.
pub const VERSION: u32 = 1;

/// Kernel command line: where the server is, for example `bugler.server=http://10.0.0.1:8480`.
pub const CMDLINE_SERVER: &str = "bugler.server";

/// Kernel command line: the token made for this boot.
pub const CMDLINE_TOKEN: &str = "bugler.token";

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
