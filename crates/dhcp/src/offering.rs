//! DISCOVER: which address a client is offered, and the probe before a fresh one is
//! (RFC 2131 sections 2.2, 3.1 and 4.3.1).

use crate::full::declined;
use crate::machine::{Advisor, Ingress, Machine, Now, Request};
use crate::offers::{HOLD, HOLD_WITHOUT_REQUEST, MOST, Waiting};
use crate::options::{MessageType, code};
use crate::output::{NoticeKind, Output};
use crate::packet::Packet;
use bugler_boot::{BootAction, BootPlan};
use bugler_model::{LeaseState, MacAddr};
use std::net::Ipv4Addr;
use std::time::Duration;

/// From the first ARP question to the second.
const PROBE_AGAIN: Duration = Duration::from_millis(150);

/// From the second question to the offer. Together with [`PROBE_AGAIN`] far below the 4 s after
/// which PXE firmware asks again.
const PROBE_END: Duration = Duration::from_millis(250);

/// Addresses that one request tries before its client has to ask again.
const MOST_FOUND_USED: u8 = 8;

/// An address for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    address: Ipv4Addr,
    /// The client did not have it before: somebody may use it unknown to us.
    fresh: bool,
}

/// How long an offer to this client is kept. The boot ROMs of the Raspberry Pis that have no EEPROM
/// boot with what they were offered; where they are given nothing to boot, they do not.
fn hold(request: &Request<'_>, action: Option<&BootPlan>) -> Duration {
    let boots = action.is_some_and(|plan| plan.action == BootAction::RaspberryPi);
    match request.facts.pi {
        Some(pi) if boots && !pi.family.has_eeprom() => HOLD_WITHOUT_REQUEST,
        _ => HOLD,
    }
}

/// What one DISCOVER has come to.
struct Attempt {
    /// What the client is to boot.
    action: Option<BootPlan>,
    /// The address that was just found in use.
    avoid: Option<Ipv4Addr>,
    /// How many were found in use.
    found_used: u8,
}

impl Machine {
    /// Section 4.3.1.
    pub(crate) fn discover(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let action = self.advice(request, advisor);
        if let Some(scope) = self.scopes.get_mut(index)
            && let Some(address) = scope.offers.of(&request.client)
            && scope
                .offers
                .renew_waiting(address, request.packet, request.ingress, action.as_ref())
        {
            return;
        }
        let attempt = Attempt {
            action,
            avoid: None,
            found_used: 0,
        };
        self.offer(now, index, request, attempt, out);
    }

    /// Offers an address, at once or after a probe.
    fn offer(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        attempt: Attempt,
        out: &mut Vec<Output>,
    ) {
        let Attempt {
            action,
            avoid,
            found_used,
        } = attempt;
        let Some(Choice { address, fresh }) = self.choose(now, index, request, avoid) else {
            self.report_exhausted(now, index, request, out);
            return;
        };
        // Only on the link itself does ARP tell anything.
        let probes = fresh
            && index == 0
            && request.packet.giaddr.is_unspecified()
            && !self.unused.contains(&address, now.up);
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        if let Some(earlier) = scope.offers.of(&request.client) {
            scope.withdraw(earlier);
        }
        if scope.offers.len() >= MOST
            && let Some(oldest) = scope.offers.first()
        {
            scope.withdraw(oldest);
        }
        scope.leases.hold(address);
        let hold = hold(request, action.as_ref());
        let waiting = probes.then(|| {
            Box::new(Waiting {
                request: request.packet.clone(),
                ingress: request.ingress,
                action: action.clone(),
                tags: request.tags.clone(),
                due: now.up + PROBE_AGAIN,
                probes_left: 1,
                found_used,
            })
        });
        scope
            .offers
            .insert(address, request.client.clone(), waiting, hold, now.up);
        if probes {
            out.push(Output::Probe { address });
        } else {
            let reply = self.reply_with_address(
                index,
                request,
                MessageType::Offer,
                address,
                action.as_ref(),
            );
            if let Some(reply) = reply {
                self.delayed.send(request, reply, now.up, out);
            }
        }
    }

    /// In this order: what is on offer to the client, its reservation, the address that it had,
    /// the one that it asks for, one that nobody had, the one whose lease ended first, and the
    /// oldest offer that nobody took.
    fn choose(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        avoid: Option<Ipv4Addr>,
    ) -> Option<Choice> {
        let scope = self.scopes.get_mut(index)?;
        let client = &request.client;
        let allowed = |address: &Ipv4Addr| Some(*address) != avoid;
        if let Some(address) = scope.offers.of(client).filter(allowed) {
            return Some(Choice {
                address,
                fresh: false,
            });
        }
        let usable = scope
            .reservation(request)
            .filter(|reservation| scope.is_usable(reservation, request, now.wall));
        if let Some(address) = usable
            .map(|reservation| reservation.address)
            .filter(allowed)
        {
            return Some(Choice {
                address,
                fresh: !scope.leases.is_of(address, client),
            });
        }
        let not_offered = |address: &Ipv4Addr| scope.offers.at(*address).is_none();
        let had = scope.leases.of(client).filter(allowed).filter(not_offered);
        let requested = request
            .packet
            .options
            .address(code::REQUESTED_ADDRESS)
            .filter(allowed)
            .filter(|address| scope.leases.is_available(*address, now.wall));
        // A device that was given a tag moves to the pool of that tag when it next starts.
        for &part in scope.parts(&request.tags).iter() {
            let is_here = |address: &Ipv4Addr| scope.leases.part_of(*address) == Some(part);
            if let Some(address) = had.filter(is_here) {
                return Some(Choice {
                    address,
                    fresh: false,
                });
            }
            let address = requested
                .filter(is_here)
                .or_else(|| scope.leases.pick(part, client.mac, now.wall));
            if let Some(address) = address {
                return Some(Choice {
                    address,
                    fresh: true,
                });
            }
        }
        let oldest = scope
            .offers
            .oldest(now.up)
            .filter(|address| scope.has_for(*address, &request.tags))?;
        scope.withdraw(oldest);
        Some(Choice {
            address: oldest,
            fresh: true,
        })
    }

    fn report_exhausted(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(network) = self.scopes.get(index).map(|scope| scope.subnet.network) else {
            return;
        };
        let mac = request.client.mac;
        let text = |machine: &Self| {
            let Some(scope) = machine.scopes.get(index) else {
                return String::new();
            };
            let usage = scope.leases.usage(now.wall);
            format!(
                "no address of {network} is left for {mac}: of {} in the pools {} are leased, {} in quarantine \
                 because others use them, and {} on offer. Give out more addresses, or shorten the lease time of {} s",
                usage.total,
                usage.bound,
                usage.declined,
                scope.offers.len(),
                scope.subnet.lease.as_secs()
            )
        };
        self.report(
            now,
            NoticeKind::PoolExhausted,
            network.address,
            Some(mac),
            text,
            out,
        );
    }

    /// Somebody with this MAC address answered for an address.
    pub fn probe_answered(
        &mut self,
        now: Now,
        address: Ipv4Addr,
        by: MacAddr,
        out: &mut Vec<Output>,
    ) {
        let waits = |scope: &crate::scope::Scope| {
            scope
                .offers
                .at(address)
                .is_some_and(|offer| offer.waiting.is_some())
        };
        let Some(index) = self.scopes.iter().position(waits) else {
            return;
        };
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        if scope
            .offers
            .at(address)
            .is_some_and(|offer| offer.client.mac == by)
        {
            // The client itself, with an address that it had from elsewhere or that we forgot.
            self.send_waiting(now, index, address, out);
            return;
        }
        let Some(waiting) = scope.offers.remove(address).and_then(|offer| offer.waiting) else {
            return;
        };
        let holder = scope.leases.get(address);
        if holder.is_some_and(|lease| lease.state == LeaseState::Bound && lease.mac == by) {
            // Another interface of the machine that it is reserved for, which rightly has it.
            scope.leases.let_go(address);
        } else {
            let lease = declined(address, MacAddr([0; 6]), now.wall);
            scope.leases.record(lease.clone());
            out.push(Output::Commit {
                lease: Box::new(lease),
                then: None,
            });
            let text = |_: &Self| {
                format!(
                    "{by} uses {address} without a lease from here, so it is not given out for {} minutes: give that \
                     machine another address, or take this one out of the pool",
                    crate::full::QUARANTINE_MS / 60_000
                )
            };
            self.report(now, NoticeKind::AddressInUse, address, Some(by), text, out);
        }
        let found_used = waiting.found_used.saturating_add(1);
        if found_used >= MOST_FOUND_USED {
            return;
        }
        let attempt = Attempt {
            action: waiting.action,
            avoid: Some(address),
            found_used,
        };
        self.with_request(
            waiting.request,
            waiting.ingress,
            waiting.tags,
            |machine, request| {
                machine.offer(now, index, request, attempt, out);
            },
        );
    }

    /// What is due in one subnet.
    pub(crate) fn scope_deadline(&mut self, index: usize, now: Now, out: &mut Vec<Output>) {
        while let Some(scope) = self.scopes.get_mut(index)
            && let Some(address) = scope.offers.probe_due(now.up)
        {
            let waiting = scope
                .offers
                .at(address)
                .and_then(|offer| offer.waiting.as_ref());
            if waiting.is_some_and(|waiting| waiting.probes_left > 0) {
                scope.offers.probed(address, now.up + PROBE_END);
                out.push(Output::Probe { address });
            } else {
                self.unused.insert(address, now.up);
                self.send_waiting(now, index, address, out);
            }
        }
        while let Some(scope) = self.scopes.get_mut(index)
            && let Some(address) = scope.offers.lapsed(now.up)
        {
            scope.withdraw(address);
        }
    }

    /// Sends the offer that waited for a probe of its address.
    fn send_waiting(&mut self, now: Now, index: usize, address: Ipv4Addr, out: &mut Vec<Output>) {
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        let Some(offer) = scope.offers.remove(address) else {
            return;
        };
        scope
            .offers
            .insert(address, offer.client, None, offer.hold, now.up);
        let Some(waiting) = offer.waiting else { return };
        let action = waiting.action;
        self.with_request(
            waiting.request,
            waiting.ingress,
            waiting.tags,
            |machine, request| {
                let reply = machine.reply_with_address(
                    index,
                    request,
                    MessageType::Offer,
                    address,
                    action.as_ref(),
                );
                if let Some(reply) = reply {
                    machine.delayed.send(request, reply, now.up, out);
                }
            },
        );
    }

    /// Reads a request that was kept.
    fn with_request(
        &mut self,
        packet: Packet,
        ingress: Ingress,
        tags: Vec<String>,
        run: impl FnOnce(&mut Self, &Request<'_>),
    ) {
        if let (Some(kind), Some(mac)) = (packet.message_type(), packet.mac()) {
            let server = self.own_address(ingress.destination);
            let mut request = Request::read(&packet, kind, mac, ingress, server);
            request.tags = tags;
            run(self, &request);
        }
    }
}
