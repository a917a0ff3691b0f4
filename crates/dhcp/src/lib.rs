//! DHCPv4 and PXE server: codec, sans-IO machine, sockets.
//!
//! ```text
//! packet, options   bytes <-> messages
//! machine           one interface's server: full (addresses) or proxy (only booting)
//!   full, offering    RFC 2131 section 4.3
//!   pxe               what boot clients are told, proxy offers, port 4011
//!   leases, offers    what is given out, and what is on offer
//! engine, auto      looks for another server first, then is a machine
//! net, sockets      sockets, clocks, group commit
//! ```
//!
//! Everything but `net`, `sockets` and `interface` is sans-IO: no socket, no clock, no task.

mod auto;
mod client;
mod config;
mod engine;
mod error;
mod frame;
mod full;
mod interface;
mod leases;
mod machine;
mod net;
mod offering;
mod offers;
mod options;
mod packet;
mod pool;
mod pxe;
mod recent;
mod reply;
mod sockets;
mod unsafe_packet;

pub use config::{
    ConfigError, CustomOption, DEFAULT_BOOT_LEASE, DEFAULT_LEASE, Network, Pool, Reservation,
    Subnet,
};
pub use engine::{Engine, Policy};
pub use error::Error;
pub use interface::Interface;
pub use machine::{
    Advisor, Ask, CLIENT_PORT, Destination, Identity, Ingress, Machine, Mode, Notice, NoticeKind,
    Now, Output, PXE_PORT, SERVER_PORT, Transmit,
};
pub use net::{Config, Handle, LeaseLog, Notify, Server};
pub use options::{MessageType, Options, Triples, code};
pub use packet::{DEFAULT_LIMIT, DecodeError, Encoded, IP_UDP_HEADERS, MIN_LENGTH, Op, Packet};
