//! A [`Machine`], and in `auto` the search that comes before it: everything that one interface's
//! server decides, without sockets and clocks.

use crate::auto::{Evidence, Search};
use crate::config::{ConfigError, Subnet};
use crate::machine::{Advisor, Identity, Ingress, Machine, Mode, Notice, NoticeKind, Now, Output};
use crate::packet::{Op, Packet};
use crate::recent::Recent;
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
        if let (Policy::Full, Some(link)) = (policy, subnets.first())
            && !subnets.iter().any(Subnet::has_addresses)
        {
            return Err(ConfigError::NoAddresses(link.network));
        }
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

    /// Somebody with this MAC address answered an ARP question.
    pub fn probe_answered(
        &mut self,
        now: Now,
        address: Ipv4Addr,
        by: MacAddr,
        out: &mut Vec<Output>,
    ) {
        if let State::Serving(machine) = &mut self.state {
            machine.probe_answered(now, address, by, out);
        }
    }

    /// When [`on_deadline`](Self::on_deadline) has something to do, as [`Now::up`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Searching { search, .. } => Some(search.deadline()),
            State::Serving(machine) => machine.next_deadline(),
        }
    }

    /// Does what is due.
    pub fn on_deadline(&mut self, now: Now, advisor: &dyn Advisor, out: &mut Vec<Output>) {
        let (search, has_addresses) = match &mut self.state {
            State::Serving(machine) => return machine.on_deadline(now, out),
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
