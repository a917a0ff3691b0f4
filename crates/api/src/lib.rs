//! The HTTP API: the device plane that machines reach, and the operator plane that people reach.
//!
//! ```text
//!   machines                                   people
//!      |  device_router                           |  operator_router (+ the dashboard)
//!      v                                          v
//!   /boot/...      boot tree ----> BootTree    /api/v1/devices, tasks, images, events, server
//!   /agent/v1/...  agent API                      |
//!   /api/...       for shell clients              |
//!      |                                          |
//!      +--------------------> AppState <----------+
//!                 Store (registry, events)   ChunkStore (images)
//! ```
//!
//! Both planes are made from one [`AppState`] and are served by [`serve`], which bounds what a
//! client can hold on to. A device is handed only what is its own: every request of its agent
//! carries the token that registering gave it, and chunks are given only for the image of its own
//! open task.

mod device;
mod error;
mod extract;
mod field;
mod gc;
mod guard;
mod keys;
mod limits;
mod linger;
mod look;
mod operator;
mod overlays;
mod presence;
mod raw;
mod scrub;
mod serve;
mod shared;
mod state;
mod throttle;
mod token;
mod wake;

pub use device::{FrameError, Frames, router as device_router, split_commit};
pub use error::ApiError;
pub use field::input::{FieldError, Fields};
pub use gc::{clear_captures, collect_garbage};
pub use guard::guarded;
pub use keys::{KeyError, ServerKeys};
pub use limits::DeployLimits;
pub use operator::{document as openapi, router as operator_router};
pub use overlays::{NewVersion, OverlayError, Overlays};
pub use presence::{HEARTBEAT_S, watch_presence};
pub use raw::{Range, parse_range};
pub use scrub::verify_slowly;
pub use serve::serve;
pub use state::{AppState, BootContent, BootTree, BootTreeError, Clock, ServerInfo, system_clock};
