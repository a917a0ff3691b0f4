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
use crate::config::{Subnet, check_together};
use crate::delayed::Delayed;
use crate::leases::Leases;
use crate::offers::Offers;
use crate::options::{MessageType, code};
use crate::output::{Destination, Notice, NoticeKind, Output, Transmit};
use crate::packet::{Op, Packet};
use crate::recent::Recent;
use crate::scope::{Scope, subnet_named};
use bugler_boot::{BootPlan, ClientFacts};
use bugler_model::{Lease, LeaseState, MacAddr, Timestamp};
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
    /// An address of the network that the client is in: its relay's, or else `server`.
    pub from: Ipv4Addr,
}

/// Knows what a client boots.
///
/// Asked once for each DISCOVER, REQUEST and INFORM of a boot client that gets an answer. It must
/// answer at once, from memory.
pub trait Advisor: Send + Sync {
    /// What this client is to be given.
    fn advise(&self, facts: &ClientFacts, ask: Ask<'_>) -> BootPlan;

    /// The tags of the device that this client is, for [`Subnet::tagged`]. Asked for each packet of
    /// any client, and only where a subnet has something for tags.
    fn tags(&self, facts: &ClientFacts) -> Vec<String> {
        let _ = facts;
        vec![]
    }
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

/// The server of one interface.
pub struct Machine {
    pub(crate) identity: Identity,
    pub(crate) mode: Mode,
    /// That of the link first.
    pub(crate) scopes: Vec<Scope>,
    /// Whether any subnet has something for tags.
    has_tagged: bool,
    /// Addresses that nobody answered for a short while ago.
    pub(crate) unused: Recent<Ipv4Addr>,
    /// What was reported a short while ago.
    pub(crate) said: Recent<(NoticeKind, Ipv4Addr)>,
    /// Offers that are held back.
    pub(crate) delayed: Delayed,
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
    /// The tags of the client's device; none where no subnet has something for tags.
    pub(crate) tags: Vec<String>,
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
            tags: vec![],
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
        check_together(&subnets)?;
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
            has_tagged: scopes.iter().any(|scope| !scope.subnet.tagged.is_empty()),
            scopes,
            unused: Recent::new(UNUSED_FOR, 65_536),
            said: Recent::new(SAY_EVERY, 1024),
            delayed: Delayed::default(),
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
        let mut request = Request::read(packet, kind, mac, ingress, server);
        if self.mode == Mode::Full && self.has_tagged {
            request.tags = advisor.tags(&request.facts);
        }
        match (ingress.port, self.mode) {
            (PXE_PORT, _) => self.boot_server(&request, advisor, out),
            (_, Mode::Proxy) => self.proxy(now, &request, advisor, out),
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
    pub(crate) fn advice(&self, request: &Request<'_>, advisor: &dyn Advisor) -> Option<BootPlan> {
        request.facts.firmware?;
        let ask = Ask {
            message: request.kind,
            interface: &self.identity.interface,
            server: request.server,
            port: request.ingress.port,
            from: match request.packet.giaddr {
                Ipv4Addr::UNSPECIFIED => request.server,
                relay => relay,
            },
        };
        Some(advisor.advise(&request.facts, ask))
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
            .chain(self.delayed.next_deadline())
            .min()
    }

    /// Does what is due: lets offers lapse, answers clients whose address nobody claimed, and sends
    /// what was held back.
    pub fn on_deadline(&mut self, now: Now, out: &mut Vec<Output>) {
        self.delayed.on_deadline(now.up, out);
        for index in 0..self.scopes.len() {
            self.scope_deadline(index, now, out);
        }
    }

    /// The addresses of the link that are leased now.
    pub(crate) fn leased_on_link(&self, now: Timestamp) -> Vec<Ipv4Addr> {
        self.scopes
            .first()
            .map_or_else(Vec::new, |scope| scope.leases.bound(now).collect())
    }

    /// To whom an address is leased now.
    pub(crate) fn holder(&self, address: Ipv4Addr, now: Timestamp) -> Option<MacAddr> {
        let mut leases = self.scopes.iter().map(|scope| scope.leases.get(address));
        let lease = leases.find_map(|lease| lease)?;
        (lease.state == LeaseState::Bound && lease.expires > now).then_some(lease.mac)
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

    /// The subnet of a request: the one that it names, or the relay's network, or that of an
    /// address which its client uses already, or that of the link.
    pub(crate) fn scope_of(&self, request: &Request<'_>) -> Option<usize> {
        let packet = request.packet;
        let containing = |address| {
            self.scopes
                .iter()
                .position(|scope| scope.subnet.network.contains(address))
        };
        if let Some(named) = subnet_named(packet) {
            return containing(named);
        }
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

/// Text that a client sent, safe to show and to store: at most 64 characters, without control
/// characters.
pub(crate) fn shown(bytes: &[u8]) -> Option<String> {
    // Four times as many bytes as there are characters to keep: what is behind them costs nothing.
    let text: String = String::from_utf8_lossy(bytes.get(..256).unwrap_or(bytes))
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
