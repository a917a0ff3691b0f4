//! What the machine wants done: replies and their ways, leases to store, probes, and what people
//! should know.

use crate::packet::Packet;
use bugler_model::{Lease, MacAddr};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To everybody on the link: 255.255.255.255 port 68.
    Broadcast,
    /// To a client that does not have its address yet and so answers no ARP: port 68 of `ip`, in
    /// a frame to `mac`.
    Link {
        /// The address that it is about to have.
        ip: Ipv4Addr,
        /// Its Ethernet address.
        mac: MacAddr,
    },
    /// As any UDP datagram: to a relay, or to a client that has its address.
    Udp(SocketAddrV4),
}

/// A reply and its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The message.
    pub packet: Packet,
    /// The length it may have; see [`Packet::encode`].
    pub limit: usize,
    /// The address and port that it comes from: those that the client asked.
    pub from: SocketAddrV4,
    /// Where it goes.
    pub to: Destination,
}

/// What kind of thing a [`Notice`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A DHCP server or proxy that is not ours was heard.
    ForeignServer,
    /// A proxy found no DHCP server beside it.
    NoServer,
    /// What `auto` picked.
    Mode,
    /// No address was left to give.
    PoolExhausted,
    /// An address is used by somebody who does not have it from here.
    AddressInUse,
    /// Two machines use one address.
    DuplicateAddress,
    /// A client had asked for a while before it was heard: a switch port was not forwarding yet.
    Unheard,
    /// A client was told that its address is wrong.
    Refused,
    /// A relay speaks for a network that is not configured.
    UnknownNetwork,
    /// Leases could not be stored.
    CommitFailed,
    /// Options did not fit into a reply.
    LeftOut,
    /// A socket failed.
    Network,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What kind of thing.
    pub kind: NoticeKind,
    /// The client that it concerns.
    pub mac: Option<MacAddr>,
    /// One or two sentences: what happened, and what to do.
    pub text: String,
}

/// What the machine wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a reply.
    Send(Box<Transmit>),
    /// Store a lease, and only when it is durable send the reply that goes with it. When it cannot
    /// be stored, nothing is sent.
    Commit {
        /// The lease, in the place of any other of its address.
        lease: Box<Lease>,
        /// The ACK. `None` after DECLINE and RELEASE, which have no answer.
        then: Option<Box<Transmit>>,
    },
    /// Ask by ARP who has this address; an answer goes to [`Machine::probe_answered`](crate::Machine::probe_answered).
    Probe {
        /// Which address.
        address: Ipv4Addr,
    },
    /// Broadcast this as a client would, to find other servers: from port 68 to port 67.
    Search(Box<Packet>),
    /// Tell people.
    Report(Notice),
}
