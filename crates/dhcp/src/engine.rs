//! A [`Machine`], and in `auto` the search that comes before it: everything that one interface's
//! server decides, without sockets and clocks.

use crate::audit::Audit;
use crate::auto::{Evidence, Search};
use crate::config::{ConfigError, Subnet, check_together};
use crate::machine::{Advisor, Identity, Ingress, Machine, Mode, Now};
use crate::options::MessageType;
use crate::output::{Notice, NoticeKind, Output};
use crate::packet::{Op, Packet};
use crate::recent::Recent;
use crate::unheard::Unheard;
use bugler_model::{Lease, MacAddr};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Most requests that are kept while it is not decided what to be: the latest of each client.
const MOST_HELD: usize = 1024;

/// How often a server that should not be there is reported.
const SAY_FOREIGN_EVERY: Duration = Duration::from_secs(600);

/// Most other servers that are told apart.
const MOST_FOREIGN: usize = 64;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Look for another server, then pick; addresses only with a pool.
    Auto,
    /// Give out addresses.
    Full,
    /// Leave addresses to another server.
    Proxy,
}

/// The server of one interface, whatever its policy.
pub struct Engine {
    identity: Identity,
    state: State,
    /// Other servers that it is right to have there.
    accepted: HashSet<Ipv4Addr>,
    /// Other servers that were reported.
    reported: Recent<Ipv4Addr>,
    /// Whether this server was told to be the one that gives out addresses, rather than having
    /// found out by itself that there is no other.
    insists: bool,
    /// Where it was told what to be, the search for other servers that goes on beside serving.
    inquiry: Option<Search>,
    unheard: Unheard,
    audit: Audit,
}

enum State {
    Searching {
        search: Box<Search>,
        held: Vec<(MacAddr, Ingress, Packet)>,
        subnets: Vec<Subnet>,
        leases: Vec<Lease>,
    },
    Serving(Box<Machine>),
}

impl Engine {
    /// A server with this policy; see [`Machine::new`] for `subnets` and `leases`. `mac` is the
    /// interface's own address and `xid` any number: both are for the search of `auto`.
    ///
    /// # Errors
    /// The first thing in a subnet that cannot be meant, or full mode without addresses.
    pub fn new(
        identity: Identity,
        policy: Policy,
        subnets: Vec<Subnet>,
        leases: Vec<Lease>,
        (mac, xid): (MacAddr, u32),
        now: Now,
    ) -> Result<Self, ConfigError> {
        subnets.iter().try_for_each(Subnet::check)?;
        check_together(&subnets)?;
        if let (Policy::Full, Some(link)) = (policy, subnets.first())
            && !subnets.iter().any(Subnet::has_addresses)
        {
            return Err(ConfigError::NoAddresses(link.network));
        }
        let inquiry = (policy != Policy::Auto).then(|| Search::new(mac, xid, now.up));
        let audit = Audit::new(identity.address, mac, now.up);
        let state = match policy {
            Policy::Auto => State::Searching {
                search: Box::new(Search::new(mac, xid, now.up)),
                held: vec![],
                subnets,
                leases,
            },
            Policy::Full | Policy::Proxy => {
                let mode = if policy == Policy::Full {
                    Mode::Full
                } else {
                    Mode::Proxy
                };
                State::Serving(Box::new(Machine::new(
                    identity.clone(),
                    mode,
                    subnets,
                    leases,
                )?))
            }
        };
        Ok(Self {
            identity,
            state,
            accepted: HashSet::new(),
            reported: Recent::new(SAY_FOREIGN_EVERY, MOST_FOREIGN),
            insists: policy == Policy::Full,
            inquiry,
            unheard: Unheard::new(now.up),
            audit,
        })
    }

    /// What it is; `None` while `auto` is still looking.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        match &self.state {
            State::Searching { .. } => None,
            State::Serving(machine) => Some(machine.mode()),
        }
    }

    /// Takes a client's packet, from port 67 or 4011.
    pub fn handle(
        &mut self,
        now: Now,
        ingress: Ingress,
        packet: &Packet,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        if packet.op != Op::Request {
            return;
        }
        if let Some(evidence) = Evidence::of(packet, *ingress.source.ip())
            && evidence.server != self.identity.address
            && evidence.server != ingress.destination
        {
            self.heard(now, evidence, advisor, out);
        }
        self.note_unheard(now, packet, out);
        match &mut self.state {
            State::Serving(machine) => machine.handle(now, ingress, packet, advisor, out),
            State::Searching { held, .. } => {
                let Some(mac) = packet.mac() else { return };
                held.retain(|(other, ..)| *other != mac);
                if held.len() < MOST_HELD {
                    held.push((mac, ingress, packet.clone()));
                }
            }
        }
    }

    /// Reports a client whose first requests were lost. Behind a relay that is not told from a relay
    /// that passes only what has waited (RFC 1542 section 4.1.1).
    fn note_unheard(&mut self, now: Now, packet: &Packet, out: &mut Vec<Output>) {
        if packet.message_type() != Some(MessageType::Discover) || !packet.giaddr.is_unspecified() {
            return;
        }
        let Some(mac) = packet.mac() else { return };
        if let Some(seconds) = self.unheard.discover(mac, packet.secs, now.up) {
            out.push(Output::Report(Notice {
                kind: NoticeKind::Unheard,
                mac: Some(mac),
                text: format!(
                    "{mac} has asked for an address for {seconds} s and was not heard before: the switch port in front \
                     of it most likely waits for spanning tree, about 30 s after the link comes up, and firmware may \
                     give up before that. Make it an edge port (portfast)"
                ),
            }));
        }
    }

    /// Takes a server's packet to a client, as it was heard on the link. It is not one of ours.
    pub fn overhear(
        &mut self,
        now: Now,
        source: Ipv4Addr,
        packet: &Packet,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let Some(evidence) = Evidence::of(packet, source).filter(|_| packet.op == Op::Reply) else {
            return;
        };
        if evidence.server != self.identity.address && source != self.identity.address {
            self.heard(now, evidence, advisor, out);
        }
    }

    fn heard(
        &mut self,
        now: Now,
        evidence: Evidence,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let interface = self.identity.interface.clone();
        let found = evidence.describe();
        let insists = self.insists;
        let text = match &mut self.state {
            _ if evidence.is_proxy => format!(
                "another boot server, {found}, answers PXE clients on {interface}: which answer a machine takes is \
                 up to its firmware. Stop one of the two"
            ),
            State::Searching { .. } => {
                self.accept(evidence.server);
                let text = format!(
                    "the DHCP server {found} gives out addresses on {interface}: it is left alone, and boot clients \
                     are answered as a proxy beside it"
                );
                self.serve(now, Mode::Proxy, text, advisor, out);
                return;
            }
            State::Serving(_) if self.accepted.contains(&evidence.server) => return,
            State::Serving(machine) if machine.mode() == Mode::Proxy => {
                let text = format!("the DHCP server {found} gives out addresses on {interface}");
                self.accept(evidence.server);
                text
            }
            State::Serving(machine) => {
                if !insists {
                    // It started later than this one, after a power cut perhaps: its clients have
                    // addresses that are unknown here and right all the same.
                    machine.cede_authority();
                }
                format!(
                    "another DHCP server, {found}, gives out addresses on {interface}, and so does this one: \
                     machines get their address from either. Stop one of the two, or run this one with --dhcp proxy"
                )
            }
        };
        if self.reported.is_first(evidence.server, now.up) {
            out.push(Output::Report(Notice {
                kind: NoticeKind::ForeignServer,
                mac: None,
                text,
            }));
        }
    }

    fn accept(&mut self, server: Ipv4Addr) {
        if self.accepted.len() < MOST_FOREIGN {
            self.accepted.insert(server);
        }
    }

    /// Ends the search.
    fn serve(
        &mut self,
        now: Now,
        mode: Mode,
        text: String,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let State::Searching {
            held,
            subnets,
            leases,
            ..
        } = &mut self.state
        else {
            return;
        };
        let (held, subnets, leases) = (
            std::mem::take(held),
            std::mem::take(subnets),
            std::mem::take(leases),
        );
        // The subnets were checked in `new`, which is all that can fail here.
        let Ok(mut machine) = Machine::new(self.identity.clone(), mode, subnets, leases) else {
            return;
        };
        out.push(Output::Report(Notice {
            kind: NoticeKind::Mode,
            mac: None,
            text,
        }));
        for (_, ingress, packet) in held {
            machine.handle(now, ingress, &packet, advisor, out);
        }
        self.state = State::Serving(Box::new(machine));
    }

    /// Somebody with this MAC address answered an ARP question, ours or the kernel's.
    pub fn arp_answered(
        &mut self,
        now: Now,
        address: Ipv4Addr,
        by: MacAddr,
        out: &mut Vec<Output>,
    ) {
        let mut leased = None;
        if let State::Serving(machine) = &mut self.state {
            leased = machine.holder(address, now.wall);
            machine.probe_answered(now, address, by, out);
        }
        if let Some(conflict) = self.audit.answered(now.up, address, by, leased) {
            out.push(Output::Report(Notice {
                kind: NoticeKind::DuplicateAddress,
                mac: Some(by),
                text: conflict.describe(address, by, &self.identity.interface),
            }));
        }
    }

    /// Goes on with the search beside serving. What it finds comes to [`heard`](Self::heard).
    fn inquire(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(search) = &mut self.inquiry else {
            return;
        };
        if let Some(question) = search.question(now.up) {
            out.push(Output::Search(Box::new(question)));
        }
        if !search.is_over(now.up) {
            return;
        }
        self.inquiry = None;
        if self.mode() == Some(Mode::Proxy) && self.accepted.is_empty() {
            let text = format!(
                "no DHCP server answered on {}, and this one was told to be a proxy: machines there get no address \
                 until the DHCP server of that network is up. Start it, or give out addresses from here with --dhcp \
                 full --pool FIRST-LAST",
                self.identity.interface
            );
            out.push(Output::Report(Notice {
                kind: NoticeKind::NoServer,
                mac: None,
                text,
            }));
        }
    }

    /// When [`on_deadline`](Self::on_deadline) has something to do, as [`Now::up`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Searching { search, .. } => Some(search.deadline()),
            State::Serving(machine) => {
                let inquiry = self.inquiry.as_ref().map(Search::deadline);
                [
                    machine.next_deadline(),
                    inquiry,
                    Some(self.audit.deadline()),
                ]
                .into_iter()
                .flatten()
                .min()
            }
        }
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now, advisor: &dyn Advisor, out: &mut Vec<Output>) {
        let (search, has_addresses) = match &mut self.state {
            State::Serving(machine) => {
                machine.on_deadline(now, out);
                let questions = self
                    .audit
                    .questions(now.up, || machine.leased_on_link(now.wall));
                out.extend(
                    questions
                        .into_iter()
                        .map(|address| Output::Probe { address }),
                );
                return self.inquire(now, out);
            }
            State::Searching {
                search, subnets, ..
            } => (search, subnets.iter().any(Subnet::has_addresses)),
        };
        if let Some(question) = search.question(now.up) {
            out.push(Output::Search(Box::new(question)));
        }
        if !search.is_over(now.up) {
            return;
        }
        let interface = &self.identity.interface;
        let (mode, text) = if has_addresses {
            (
                Mode::Full,
                format!(
                    "no other DHCP server answered on {interface}: addresses are given out from the pool"
                ),
            )
        } else {
            let text = format!(
                "no DHCP server answered on {interface}, and no pool was told: nobody gives out addresses there, so \
                 machines cannot boot. Say --pool FIRST-LAST to give out addresses from here, or start the DHCP server \
                 of that network; boot clients are answered as a proxy beside it"
            );
            (Mode::Proxy, text)
        };
        self.serve(now, mode, text, advisor, out);
    }
}
