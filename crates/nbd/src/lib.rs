//! A server for network block devices (NBD): newstyle fixed negotiation, structured replies,
//! `base:allocation`, STARTTLS, as in the NBD project's `doc/proto.md`.
//!
//! [`Server`] speaks the protocol; an [`Exports`] decides which client gets which disk, as an [`Export`]
//! around a [`BlockDevice`](bugler_disk::BlockDevice).
//!
//! # Who gets in
//!
//! The name of an export is a secret of one boot: `Exports::open` compares it. Where the network is not
//! trusted, it travels encrypted: a client that was given the authority's certificate (see [`Identity`])
//! talks to this server or to nobody, and shows the name to it alone. A refused name is answered like one
//! that does not exist. `NBD_OPT_LIST` names nothing unless `Exports::list` does.
//!
//! # What of the protocol is not there
//!
//! - Oldstyle negotiation, and newstyle without "fixed": no client of the last ten years needs them.
//! - `NBD_OPT_EXTENDED_HEADERS`: it is answered as unknown, and clients go on with 32-bit lengths.
//! - Contexts other than `base:allocation`, `NBD_CMD_RESIZE` (withdrawn by the protocol),
//!   `NBD_CMD_FLAG_FAST_ZERO`.
//! - Structured replies to reads in more than one chunk: holes are sent as zeros.

mod answer;
mod connection;
mod error;
mod export;
mod fuzz;
pub mod machine;
mod net;
pub mod packet;
mod tls;
mod wire;
mod workers;

pub use error::NbdError;
pub use export::{Export, ExportStats, Exports, Peer, Refusal};
pub use fuzz::fuzz;
pub use machine::TlsPolicy;
pub use net::{Listening, Options, Server};
pub use tls::Identity;
