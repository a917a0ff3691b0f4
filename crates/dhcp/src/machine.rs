//! The server of one interface as a pure state machine: packets and the time in, replies, leases
//! to be stored and ARP probes out.
//!
//! ```text
//!                      Advisor (what does it boot?)
//!                         ^
//! handle(packet) ----> Machine ----> Send, Commit { lease, then }, Probe, Report
//! probe_answered ---->    |
//! on_deadline    ---->    +-- a Scope for each subnet: leases, offers
//! ```
//!
//! It opens no socket, reads no clock and draws no random number: the same inputs make the same
//! outputs.

use crate::client::Client;
use crate::config::Subnet;
use crate::leases::Leases;
use crate::offers::Offers;
use crate::options::{MessageType, code};
use crate::packet::{Op, Packet};
use crate::recent::Recent;
use bugler_boot::{BootAction, BootPlan, ClientFacts};
use bugler_model::{Lease, MacAddr, Timestamp};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Where servers listen (RFC 2131 section 4.1).
pub const SERVER_PORT: u16 = 67;
/// Where clients listen (RFC 2131 section 4.1).
pub const CLIENT_PORT: u16 = 68;
/// Where PXE boot servers listen (PXE specification 2.1 section 2.2.3).
pub const PXE_PORT: u16 = 4011;

/// The time, in both senses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Of the wall: when leases end. May jump.
    pub wall: Timestamp,
    /// Since some fixed moment: for offers and probes. Never goes back.
    pub up: Duration,
}

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The port it was sent to: [`SERVER_PORT`] or [`PXE_PORT`].
    pub port: u16,
    /// Who sent it, as the IP header says.
    pub source: SocketAddrV4,
    /// The address it was sent to: one of this host, or a broadcast.
    pub destination: Ipv4Addr,
}

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
    /// What `auto` picked.
    Mode,
    /// No address was left to give.
    PoolExhausted,
    /// An address is used by somebody who does not have it from here.
    AddressInUse,
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
    /// Ask by ARP who has this address; an answer goes to [`Machine::probe_answered`].
    Probe {
        /// Which address.
        address: Ipv4Addr,
    },
    /// Broadcast this as a client would, to find other servers: from port 68 to port 67.
    Search(Box<Packet>),
    /// Tell people.
    Report(Notice),
}

/// What the request was, for an [`Advisor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Its type.
    pub message: MessageType,
    /// The interface it came in on.
    pub interface: &'a str,
    /// The address of ours that the client sees.
    pub server: Ipv4Addr,
    /// The port it was sent to: [`SERVER_PORT`] or [`PXE_PORT`].
    pub port: u16,
}

/// Knows what a client boots.
///
/// Asked once for each DISCOVER, REQUEST and INFORM of a boot client that gets an answer. It must
/// answer at once, from memory.
pub trait Advisor: Send + Sync {
    /// What this client is to be given.
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan;
}

/// Whose addresses the clients have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Ours.
    Full,
    /// Another server's; only boot clients are answered, and only about booting.
    Proxy,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::Proxy => "proxy",
        })
    }
}

/// What a [`Machine`] is told of its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The interface's name.
    pub interface: String,
    /// Its address, by which clients know the server.
    pub address: Ipv4Addr,
    /// Its MTU in bytes.
    pub mtu: usize,
    /// The port under which `/boot/` is served over HTTP.
    pub http_port: u16,
}

/// A subnet and what became of its addresses.
pub(crate) struct Scope {
    pub(crate) subnet: Subnet,
    pub(crate) leases: Leases,
    pub(crate) offers: Offers,
}

/// The server of one interface.
pub struct Machine {
    pub(crate) identity: Identity,
    pub(crate) mode: Mode,
    /// That of the link first.
    pub(crate) scopes: Vec<Scope>,
    /// Addresses that nobody answered for a short while ago.
    pub(crate) unused: Recent<Ipv4Addr>,
    /// What was reported a short while ago.
    pub(crate) said: Recent<(NoticeKind, Ipv4Addr)>,
}

/// A request with what was read from it.
pub(crate) struct Request<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) kind: MessageType,
    pub(crate) ingress: Ingress,
    pub(crate) client: Client,
    pub(crate) facts: ClientFacts,
    /// The address of ours that the reply comes from.
    pub(crate) server: Ipv4Addr,
}

impl<'a> Request<'a> {
    pub(crate) fn read(
        packet: &'a Packet,
        kind: MessageType,
        mac: MacAddr,
        ingress: Ingress,
        server: Ipv4Addr,
    ) -> Self {
        Self {
            packet,
            kind,
            ingress,
            client: Client::of(mac, &packet.options),
            facts: ClientFacts::from_options(mac, |code| packet.options.get(code)),
            server,
        }
    }

    /// Whether the client asks to boot.
    pub(crate) fn boots(&self) -> bool {
        self.facts.firmware.is_some()
    }
}

/// How long an address counts as unused after nobody answered for it.
const UNUSED_FOR: Duration = Duration::from_secs(120);

/// How often the same thing is reported.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl Machine {
    /// A server in this mode. `subnets` is that of the link first, then those behind relays; in
    /// proxy mode they give nothing. `leases` is what was stored; those that no subnet has an
    /// address for are forgotten.
    ///
    /// # Errors
    /// The first thing in a subnet that cannot be meant.
    pub fn new(
        identity: Identity,
        mode: Mode,
        subnets: Vec<Subnet>,
        leases: Vec<Lease>,
    ) -> Result<Self, crate::config::ConfigError> {
        let mut scopes = vec![];
        for subnet in subnets {
            subnet.check()?;
            let leases = Leases::new(&subnet, identity.address);
            scopes.push(Scope {
                subnet,
                leases,
                offers: Offers::default(),
            });
        }
        for lease in leases {
            let home = scopes.iter_mut().find(|scope| scope.has(lease.address));
            if let Some(scope) = home {
                scope.leases.record(lease);
            }
        }
        Ok(Self {
            identity,
            mode,
            scopes,
            unused: Recent::new(UNUSED_FOR, 65_536),
            said: Recent::new(SAY_EVERY, 1024),
        })
    }

    /// No longer tells clients that an address is wrong only because it is not known here: another
    /// server may have given it.
    pub(crate) fn cede_authority(&mut self) {
        for scope in &mut self.scopes {
            scope.subnet.authoritative = false;
        }
    }

    /// In which mode it is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Takes a client's packet. What is to be done is added to `out`.
    ///
    /// Packets that are no request of an Ethernet client are ignored.
    pub fn handle(
        &mut self,
        now: Now,
        ingress: Ingress,
        packet: &Packet,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let (Op::Request, Some(kind), Some(mac)) = (packet.op, packet.message_type(), packet.mac())
        else {
            return;
        };
        let server = self.own_address(ingress.destination);
        let request = Request::read(packet, kind, mac, ingress, server);
        match (ingress.port, self.mode) {
            (PXE_PORT, _) => self.boot_server(&request, advisor, out),
            (_, Mode::Proxy) => self.proxy(&request, advisor, out),
            (_, Mode::Full) => self.full(now, &request, advisor, out),
        }
    }

    /// The address of ours that a client asked: what it wrote to, or the interface's own where
    /// that was a broadcast. A host with several addresses must answer from the right one.
    pub(crate) fn own_address(&self, destination: Ipv4Addr) -> Ipv4Addr {
        let link_broadcast = self.scopes.first().is_some_and(|scope| {
            scope.subnet.network.broadcast() == destination && scope.subnet.network.prefix < 31
        });
        if destination.is_broadcast()
            || destination.is_unspecified()
            || destination.is_multicast()
            || link_broadcast
        {
            self.identity.address
        } else {
            destination
        }
    }

    /// Whether a server identifier means this server.
    pub(crate) fn is_own(&self, server_id: Ipv4Addr, request: &Request<'_>) -> bool {
        server_id == self.identity.address || server_id == request.server
    }

    /// What a boot client is to be given; `None` for a client that does not boot.
    pub(crate) fn advice(
        &self,
        request: &Request<'_>,
        advisor: &dyn Advisor,
    ) -> Option<BootAction> {
        request.facts.firmware?;
        let ask = Ask {
            message: request.kind,
            interface: &self.identity.interface,
            server: request.server,
            port: request.ingress.port,
        };
        Some(advisor.advise(&request.facts, ask).action)
    }

    /// The reply, its length limit and the address it comes from.
    pub(crate) fn transmit(
        &self,
        request: &Request<'_>,
        packet: Packet,
        to: Destination,
    ) -> Box<Transmit> {
        Box::new(Transmit {
            limit: request.packet.reply_limit(self.identity.mtu),
            from: SocketAddrV4::new(request.server, request.ingress.port),
            packet,
            to,
        })
    }

    /// When [`on_deadline`](Self::on_deadline) has something to do, as [`Now::up`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.scopes
            .iter()
            .filter_map(|scope| scope.offers.next_deadline())
            .min()
    }

    /// Does what is due: lets offers lapse, and answers clients whose address nobody claimed.
    pub fn on_deadline(&mut self, now: Now, out: &mut Vec<Output>) {
        for index in 0..self.scopes.len() {
            self.scope_deadline(index, now, out);
        }
    }

    /// Reports, unless the same was reported about the same address a short while ago.
    pub(crate) fn report(
        &mut self,
        now: Now,
        kind: NoticeKind,
        about: Ipv4Addr,
        mac: Option<MacAddr>,
        text: impl FnOnce(&Self) -> String,
        out: &mut Vec<Output>,
    ) {
        if self.said.is_first((kind, about), now.up) {
            out.push(Output::Report(Notice {
                kind,
                mac,
                text: text(self),
            }));
        }
    }

    /// The subnet of a request: the relay's network, or that of an address which its client uses
    /// already, or that of the link.
    pub(crate) fn scope_of(&self, request: &Request<'_>) -> Option<usize> {
        let packet = request.packet;
        let containing = |address| {
            self.scopes
                .iter()
                .position(|scope| scope.subnet.network.contains(address))
        };
        if !packet.giaddr.is_unspecified() {
            return containing(packet.giaddr);
        }
        // A routed client renews by unicast, without its relay (RFC 2131 section 4.4.5).
        let unicast = request.ingress.destination == request.server;
        if unicast
            && !packet.ciaddr.is_unspecified()
            && let Some(index) = containing(packet.ciaddr)
        {
            return Some(index);
        }
        (!self.scopes.is_empty()).then_some(0)
    }
}

impl Scope {
    /// Whether the address is one that this subnet gives out.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.leases.is_dynamic(address)
            || self
                .subnet
                .reservations
                .iter()
                .any(|reservation| reservation.address == address)
    }
}

/// Text that a client sent, safe to show and to store: at most 64 characters, without control
/// characters.
pub(crate) fn shown(bytes: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .chars()
        .take(64)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect();
    (!text.is_empty()).then_some(text)
}

/// Option 12 as it is kept in a lease.
pub(crate) fn host_name(packet: &Packet) -> Option<String> {
    packet.options.get(code::HOST_NAME).and_then(shown)
}
