//! A read-only TFTP server that measures round trips.
//!
//! RFC 1350 with the options of RFC 2347, 2348 (`blksize`), 2349 (`tsize`, `timeout`) and 7440
//! (`windowsize`).
//!
//! ```text
//!  client       Worker (one thread, epoll)                 openers (a few threads)
//!    |--RRQ--> listener --decode, normalise path--> queue --> Source::open
//!    |                                                             |
//!    |         new socket, connected   <-- opened + eventfd -------+
//!    |<-OACK-- Machine  (what to send)
//!    |--ACK--> Machine  --> Stage (the bytes, headers in place) --> send, one call a window
//! ```
//!
//! * [`packet`]: bytes to types and back.
//! * [`machine`], [`rtt`]: one transfer without sockets and without a clock.
//! * [`Server`], [`Handle`]: sockets and threads.
//! * [`Source`]: where the content comes from; [`DirSource`] serves a folder.
//! * [`Observer`]: what happened, for a timeline.
//! * [`client`]: a client for tests and for load.
//!
//! What differs from the RFCs, and why: a datagram that reaches a transfer's port from another
//! address is not answered with ERROR 5 (RFC 1350 section 4), because the socket is connected and the
//! kernel answers with ICMP; with [`Config::single_port`] answers come from the listening port, in the
//! place of a port of their own, because that is what NAT and firewalls let through; the mode `mail` is refused, as RFC 1350 itself calls it obsolete; write
//! requests are refused with ERROR 2.

pub mod client;
mod dir;
mod error;
pub mod machine;
mod net;
mod observer;
pub mod packet;
mod path;
pub mod rtt;
mod source;
mod stage;
mod sys;

pub use dir::DirSource;
pub use error::Error;
pub use net::{Config, Handle, Listen, Server};
pub use observer::{Event, Observer, Transfer};
pub use path::normalise;
pub use source::{Content, OpenError, Request, Source};
