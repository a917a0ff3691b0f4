//! DHCPv4 and PXE server: codec, sans-IO machine, sockets.
//!
//! ```text
//! packet, options   bytes <-> messages
//! machine, output   one interface's server: full (addresses) or proxy (only booting); what it wants done
//!   full, offering    RFC 2131 section 4.3
//!   pxe               what boot clients are told, proxy offers, port 4011
//!   scope, leases, offers   a subnet: what is given out, and what is on offer
//!   delayed           offers that are held back for firmware that misses early ones
//!   unheard, audit    who was heard late, and addresses that two machines use
//! engine, auto      looks for another server first, then is a machine
//! net, sockets      sockets, clocks, group commit
//! backlog           what waits when there is too much to do
//! batch             many datagrams with one system call
//! ```
//!
//! Everything but `net`, `sockets`, `interface` and `changes` is sans-IO: no socket, no clock, no task.

mod audit;
mod auto;
mod backlog;
pub mod batch;
mod changes;
mod client;
mod config;
mod delayed;
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
mod output;
mod packet;
mod pool;
mod pxe;
mod recent;
mod reply;
mod scope;
mod sockets;
mod unheard;
mod unsafe_link;

pub use changes::Changes;
pub use config::{
    ConfigError, CustomOption, DEFAULT_BOOT_LEASE, DEFAULT_LEASE, Network, Pool, Reservation,
    Subnet, Tagged,
};
pub use engine::{Engine, Policy};
pub use error::Error;
pub use frame::fuzz as fuzz_frame;
pub use interface::Interface;
pub use machine::{
    Advisor, Ask, CLIENT_PORT, Identity, Ingress, Machine, Mode, Now, PXE_PORT, SERVER_PORT,
};
pub use net::{Config, Handle, LeaseLog, Notify, Server};
pub use options::{MessageType, Options, Triples, code};
pub use output::{Destination, Notice, NoticeKind, Output, Transmit};
pub use packet::{DEFAULT_LIMIT, DecodeError, Encoded, IP_UDP_HEADERS, MIN_LENGTH, Op, Packet};
