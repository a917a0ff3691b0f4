//! What happened to each request, for timelines and logs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::packet::ErrorCode;

/// One read request, from its arrival to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Counts the requests of this server from 1.
    pub id: u64,
    /// The client.
    pub peer: SocketAddrV4,
    /// The address of this machine that was asked.
    pub local: Ipv4Addr,
    /// The path that was asked for, normalised where that was possible. It comes from the network:
    /// escape it before it is shown.
    pub path: String,
}

/// What happened. A request brings exactly one of [`NotFound`](Self::NotFound),
/// [`Refused`](Self::Refused), [`Postponed`](Self::Postponed), [`Failed`](Self::Failed), or
/// [`Started`](Self::Started) and later one of [`Finished`](Self::Finished), [`Aborted`](Self::Aborted), `Failed`. Transfers that the server's
/// own stop cuts off are reported as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The content was found and the first answer sent.
    Started {
        /// Bytes that will be sent.
        size: u64,
        /// Bytes a block, as agreed.
        blksize: u16,
        /// Blocks before an ACK, as agreed.
        windowsize: u16,
    },
    /// Everything was sent.
    Finished {
        /// Bytes of content.
        bytes: u64,
        /// From the request to the last ACK.
        duration: Duration,
        /// Blocks that were sent more than once.
        retransmitted: u64,
        /// The last ACK was seen. False when the client closed its port right after the last block:
        /// as far as can be known, it has the file.
        confirmed: bool,
    },
    /// The client ended it. Boot ROMs do, once they know the size of a file: this is no failure.
    Aborted {
        /// The code that the client sent; None when its port turned out to be closed.
        code: Option<ErrorCode>,
        /// The message that it sent. It comes from the network: escape it before it is shown.
        message: String,
        /// Bytes that it had acknowledged.
        bytes: u64,
    },
    /// There is no such file. Clients ask for many that need not exist.
    NotFound,
    /// The request was not allowed.
    Refused {
        /// Why.
        reason: String,
    },
    /// It is being made. The client was not answered, and will ask again.
    Postponed,
    /// It went wrong on this side, or the client fell silent.
    Failed {
        /// What was tried and what came back.
        reason: String,
        /// Bytes that the client had acknowledged.
        bytes: u64,
    },
}

/// Is told of events.
///
/// It is called on the thread that serves all transfers: put the event into a channel and return;
/// do not wait for anything.
pub trait Observer: Send + Sync {
    /// `event` has happened to `transfer`.
    fn event(&self, transfer: &Transfer, event: &Event);
}

/// Listens to nothing.
impl Observer for () {
    fn event(&self, _: &Transfer, _: &Event) {}
}
