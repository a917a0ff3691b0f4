//! Root filesystems over NFSv3 (RFC 1813): a shared tree, and what one machine changed on top.
//!
//! ```text
//! client --TCP--> net --call--> export (one thread a device) --> machine --> layer --> tree
//!                  |               one commit for all that waits      |         |        an image's ext
//!            MOUNT, port mapper                                 procedures    SQLite     filesystem, or
//!              answered here                                    of RFC 1813   and files  a folder
//! ```
//!
//! | Room | What is in it |
//! |---|---|
//! | [`tree`] | the shared tree: [`FolderTree`], [`ImageTree`], read only |
//! | [`layer`] | what one device sees and has changed; how that is kept on disk |
//! | [`xdr`], [`rpc`], [`packet`], [`mount`] | bytes to calls and back |
//! | [`machine`] | the 22 procedures: a call, who asks and the time in, an answer out |
//! | [`export`] | a layer with its thread, its counters, and answers that are kept for calls sent again |
//! | [`net`] | connections, limits, and which export a call is for: [`Exports`] |
//!
//! An export belongs to one device, whose root is root on it: users are told apart by what the device's
//! kernel says (AUTH_SYS). Which device asks is known by its address alone, as NFSv3 has nothing
//! better; handles are proven by a key, so they cannot be made up.
//!
//! # What a client must say
//!
//! `vers=3,proto=tcp,nolock,port=P,mountport=P`. Locks are then between the processes of the device,
//! which is all there is, as nobody else has its layer. Version 4 and UDP are not spoken. Extended
//! attributes and ACLs are not part of NFSv3: file capabilities in an image have no effect over it.
//!
//! # Why not a crate
//!
//! `nfs3_server` 0.11 (BSD) answers LINK and MKNOD with "not supported", leaves the attributes of MKDIR
//! out, has one number for handles and for the write verifier (so that handles that outlive a restart
//! would hide lost writes), and does not tell a filesystem who the peer is. `nfs-mamont` 0.2 (MIT) has
//! the procedures, but takes names as UTF-8 text, does not tell a filesystem who the peer is either,
//! and calls itself under development. A Debian root needs all of these.

pub mod export;
mod fuzz;
pub mod handle;
pub mod kinds;
pub mod layer;
pub mod machine;
pub mod mount;
pub mod net;
pub mod packet;
pub mod rpc;
pub mod tree;
pub mod xdr;

pub use export::{Export, Usage};
pub use fuzz::fuzz_call;
pub use handle::ExportId;
pub use kinds::{Attributes, Credential, Kind, SetAttributes, SetTime, Stability, Status, Time};
pub use layer::{Layer, LayerError, LayerOptions};
pub use mount::MountStatus;
pub use net::{Exports, ServeOptions, serve};
pub use tree::{FolderTree, ImageTree, Tree, TreeFault};
