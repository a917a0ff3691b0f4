//! Giving out addresses: RFC 2131 section 4.3.

use crate::machine::{Advisor, CLIENT_PORT, Machine, Now, Request, SERVER_PORT, host_name};
use crate::options::{MessageType, code};
use crate::output::{Destination, NoticeKind, Output, Transmit};
use crate::packet::Packet;
use crate::pxe::Shape;
use crate::reply;
use crate::scope::{Scope, subnet_named};
use crate::{client, config::Reservation};
use bugler_boot::BootPlan;
use bugler_model::{Lease, LeaseState, Timestamp};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// How long an address that somebody else uses is not given out.
pub(crate) const QUARANTINE_MS: i64 = 600_000;

/// Whether a client may have the address that it asks for.
enum Verdict {
    Grant,
    /// Why not.
    Refuse(&'static str),
}

impl Machine {
    /// A packet on port 67 in full mode.
    pub(crate) fn full(
        &mut self,
        now: Now,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let Some(index) = self.scope_of(request) else {
            let relay = request.packet.giaddr;
            let network = subnet_named(request.packet).unwrap_or(relay);
            let asks = if relay.is_unspecified() {
                format!("{} asks", request.client.mac)
            } else {
                format!("the relay {relay} asks")
            };
            let text = |machine: &Self| {
                format!(
                    "{asks} on {} for an address in the network of {network}, which is not configured here, so {} \
                     gets none: configure a subnet that contains {network}, or stop the relay",
                    machine.identity.interface, request.client.mac
                )
            };
            self.report(
                now,
                NoticeKind::UnknownNetwork,
                network,
                Some(request.client.mac),
                text,
                out,
            );
            return;
        };
        match request.kind {
            MessageType::Discover => self.discover(now, index, request, advisor, out),
            MessageType::Request => self.request(now, index, request, advisor, out),
            MessageType::Decline => self.decline(now, index, request, out),
            MessageType::Release => self.release(now, index, request, out),
            MessageType::Inform => self.inform(index, request, advisor, out),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => {}
        }
    }

    /// Section 4.3.2.
    fn request(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let asked = request.packet;
        let server_id = asked.options.address(code::SERVER_ID);
        let requested = asked.options.address(code::REQUESTED_ADDRESS);
        if server_id.is_some_and(|id| !self.is_own(id, request)) {
            self.withdraw_offer(index, request);
            return;
        }
        let selects = server_id.is_some() && asked.ciaddr.is_unspecified();
        // Renewing and rebinding clients have the address already; others name it in option 50.
        let address = if asked.ciaddr.is_unspecified() {
            requested
        } else {
            Some(asked.ciaddr)
        };
        let (Some(address), Some(scope)) = (address, self.scopes.get(index)) else {
            return;
        };
        match scope.verdict(address, request, selects, now) {
            Verdict::Grant => {
                let action = self.advice(request, advisor);
                self.grant(now, index, request, address, action.as_ref(), out);
            }
            Verdict::Refuse(why) => {
                let authoritative = scope.subnet.authoritative;
                self.withdraw_offer(index, request);
                if (selects || authoritative) && !self.renews_elsewhere(index, request) {
                    self.refuse(now, request, address, why, out);
                }
            }
        }
    }

    /// Whether a relay passes on the renewal of an address that this client has in another subnet.
    /// A relay that is a router hears what clients send to the server itself, and some pass it on a
    /// second time as coming from the relay's other side. The first copy is answered; a refusal of
    /// the second would take the client's address away.
    fn renews_elsewhere(&self, index: usize, request: &Request<'_>) -> bool {
        let address = request.packet.ciaddr;
        let has_it = |scope: &Scope| scope.leases.is_of(address, &request.client);
        let mut scopes = self.scopes.iter().enumerate();
        !request.packet.giaddr.is_unspecified()
            && !address.is_unspecified()
            && scopes.any(|(other, scope)| other != index && has_it(scope))
    }

    /// Binds the address and acknowledges it, once that is durable.
    fn grant(
        &mut self,
        now: Now,
        index: usize,
        request: &Request<'_>,
        address: Ipv4Addr,
        action: Option<&BootPlan>,
        out: &mut Vec<Output>,
    ) {
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        let seconds = scope.lease_time(request.boots());
        if let Some(other) = scope
            .offers
            .of(&request.client)
            .filter(|other| *other != address)
        {
            scope.withdraw(other);
        }
        scope.offers.remove(address);
        let lease = Lease {
            address,
            mac: request.client.mac,
            client_id: request
                .packet
                .options
                .get(code::CLIENT_ID)
                .filter(|id| id.len() <= 255)
                .map(<[u8]>::to_vec),
            hostname: host_name(request.packet),
            state: LeaseState::Bound,
            expires: now
                .wall
                .plus_millis(i64::try_from(seconds.as_millis()).unwrap_or(i64::MAX)),
        };
        scope.leases.record(lease.clone());
        self.unused.forget(&address);
        let then = self.reply_with_address(index, request, MessageType::Ack, address, action);
        out.push(Output::Commit {
            lease: Box::new(lease),
            then,
        });
    }

    /// An OFFER or ACK of this address.
    pub(crate) fn reply_with_address(
        &self,
        index: usize,
        request: &Request<'_>,
        kind: MessageType,
        address: Ipv4Addr,
        action: Option<&BootPlan>,
    ) -> Option<Box<Transmit>> {
        let scope = self.scopes.get(index)?;
        let mut packet = reply::to(request.packet, kind, request.server);
        packet.yiaddr = address;
        if kind == MessageType::Ack {
            packet.ciaddr = request.packet.ciaddr;
        }
        reply::put_lease_time(&mut packet, scope.lease_time(request.boots()));
        self.put_configuration(&mut packet, scope, request, action);
        let to = reply::destination(request.packet, address, request.client.mac);
        Some(self.transmit(request, packet, to))
    }

    fn put_configuration(
        &self,
        packet: &mut Packet,
        scope: &Scope,
        request: &Request<'_>,
        action: Option<&BootPlan>,
    ) {
        if let Some(action) = action {
            self.put_boot(packet, request, action, Shape::WithAddress);
        }
        let hostname = scope
            .reservation(request)
            .and_then(|reservation| reservation.hostname.as_deref());
        reply::put_network(
            packet,
            request.packet,
            &scope.subnet,
            &request.tags,
            hostname,
            request.boots(),
        );
        reply::put_echoes(packet, request.packet);
    }

    /// DHCPNAK. It is broadcast, or the relay is told to (section 4.3.2): the client's address is
    /// not to be trusted.
    fn refuse(
        &mut self,
        now: Now,
        request: &Request<'_>,
        address: Ipv4Addr,
        why: &str,
        out: &mut Vec<Output>,
    ) {
        let mac = request.client.mac;
        let mut packet = reply::to(request.packet, MessageType::Nak, request.server);
        packet.options.push(code::MESSAGE, why.as_bytes());
        reply::put_echoes(&mut packet, request.packet);
        let to = if packet.giaddr.is_unspecified() {
            Destination::Broadcast
        } else {
            Destination::Udp(SocketAddrV4::new(packet.giaddr, SERVER_PORT))
        };
        packet.set_broadcast();
        out.push(Output::Send(self.transmit(request, packet, to)));
        let text = |_: &Self| {
            format!(
                "{mac} asked for {address} and was refused: {why}. It will ask for another address"
            )
        };
        self.report(now, NoticeKind::Refused, address, Some(mac), text, out);
    }

    /// Section 4.3.3. Only whoever has an address can decline it.
    fn decline(&mut self, now: Now, index: usize, request: &Request<'_>, out: &mut Vec<Output>) {
        let mac = request.client.mac;
        let Some(address) = request.packet.options.address(code::REQUESTED_ADDRESS) else {
            return;
        };
        if !self.is_for_us(request) {
            return;
        }
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        let offered = scope.offers.of(&request.client) == Some(address);
        if !offered && !scope.leases.is_of(address, &request.client) {
            return;
        }
        scope.offers.remove(address);
        let lease = declined(address, request.client.mac, now.wall);
        scope.leases.record(lease.clone());
        out.push(Output::Commit {
            lease: Box::new(lease),
            then: None,
        });
        let text = |_: &Self| {
            format!(
                "{mac} found {address} in use by another machine and declined it. It is not given out for {} \
                 minutes; find out who uses it, or take it out of the pool",
                QUARANTINE_MS / 60_000
            )
        };
        self.report(now, NoticeKind::AddressInUse, address, Some(mac), text, out);
    }

    /// Section 4.3.4.
    fn release(&mut self, now: Now, index: usize, request: &Request<'_>, out: &mut Vec<Output>) {
        let address = request.packet.ciaddr;
        if !self.is_for_us(request) {
            return;
        }
        let Some(scope) = self.scopes.get_mut(index) else {
            return;
        };
        if !scope.leases.is_of(address, &request.client) {
            return;
        }
        let Some(held) = scope
            .leases
            .get(address)
            .filter(|lease| lease.state == LeaseState::Bound)
        else {
            return;
        };
        let lease = Lease {
            state: LeaseState::Released,
            expires: now.wall.min(held.expires),
            ..held.clone()
        };
        scope.offers.remove(address);
        scope.leases.record(lease.clone());
        out.push(Output::Commit {
            lease: Box::new(lease),
            then: None,
        });
    }

    /// Section 4.3.5: configuration without an address, for a client of this network.
    fn inform(
        &self,
        index: usize,
        request: &Request<'_>,
        advisor: &dyn Advisor,
        out: &mut Vec<Output>,
    ) {
        let ciaddr = request.packet.ciaddr;
        let client = if ciaddr.is_unspecified() {
            *request.ingress.source.ip()
        } else {
            ciaddr
        };
        let Some(scope) = self
            .scopes
            .get(index)
            .filter(|scope| scope.subnet.network.is_host(client))
        else {
            return;
        };
        let action = self.advice(request, advisor);
        let mut packet = reply::to(request.packet, MessageType::Ack, request.server);
        packet.ciaddr = ciaddr;
        self.put_configuration(&mut packet, scope, request, action.as_ref());
        let to = Destination::Udp(SocketAddrV4::new(client, CLIENT_PORT));
        out.push(Output::Send(self.transmit(request, packet, to)));
    }

    /// Whether option 54, which DECLINE and RELEASE must have, means this server; clients that
    /// leave it out are believed.
    fn is_for_us(&self, request: &Request<'_>) -> bool {
        request
            .packet
            .options
            .address(code::SERVER_ID)
            .is_none_or(|id| self.is_own(id, request))
    }

    /// Forgets what was offered to this client: it chose otherwise.
    fn withdraw_offer(&mut self, index: usize, request: &Request<'_>) {
        if let Some(scope) = self.scopes.get_mut(index)
            && let Some(address) = scope.offers.of(&request.client)
        {
            scope.withdraw(address);
        }
    }
}

/// The record of an address that somebody else uses.
pub(crate) fn declined(address: Ipv4Addr, mac: bugler_model::MacAddr, now: Timestamp) -> Lease {
    Lease {
        address,
        mac,
        client_id: None,
        hostname: None,
        state: LeaseState::Declined,
        expires: now.plus_millis(QUARANTINE_MS),
    }
}

impl Scope {
    /// How long a lease is.
    fn lease_time(&self, boots: bool) -> Duration {
        if boots {
            self.subnet.boot_lease
        } else {
            self.subnet.lease
        }
    }

    /// The reservation of this client, by MAC address or by UUID.
    pub(crate) fn reservation(&self, request: &Request<'_>) -> Option<&Reservation> {
        let all = &self.subnet.reservations;
        if all.is_empty() {
            return None;
        }
        let by_mac = |reservation: &&Reservation| reservation.mac == Some(request.client.mac);
        all.iter().find(by_mac).or_else(|| {
            let uuid = client::uuid(&request.packet.options)?;
            all.iter()
                .find(|reservation| reservation.uuid == Some(uuid))
        })
    }

    /// Whether a reserved address can be given to its client: nobody else was offered it, and
    /// nobody else has it. Another interface of the same machine may have it; then a probe tells
    /// whether it still uses it.
    pub(crate) fn is_usable(
        &self,
        reservation: &Reservation,
        request: &Request<'_>,
        now: Timestamp,
    ) -> bool {
        let address = reservation.address;
        let not_offered = self
            .offers
            .at(address)
            .is_none_or(|offer| offer.client == request.client);
        let same_machine =
            reservation.uuid.is_some() && reservation.uuid == client::uuid(&request.packet.options);
        not_offered
            && self.leases.get(address).is_none_or(|lease| {
                lease.expires <= now
                    || self.leases.is_of(address, &request.client)
                    || (same_machine && lease.state == LeaseState::Bound)
            })
    }

    /// Whether the client may have this address. `selects`: it answers an offer of ours.
    fn verdict(
        &self,
        address: Ipv4Addr,
        request: &Request<'_>,
        selects: bool,
        now: Now,
    ) -> Verdict {
        if !self.subnet.network.contains(address) {
            return Verdict::Refuse("the address is not of this network");
        }
        let usable = |reservation: &&Reservation| self.is_usable(reservation, request, now.wall);
        let reserved = self
            .reservation(request)
            .filter(usable)
            .map(|reservation| reservation.address);
        if let Some(offer) = self.offers.at(address) {
            return if offer.client == request.client {
                Verdict::Grant
            } else {
                Verdict::Refuse("the address was offered to another client")
            };
        }
        if reserved.is_some_and(|reserved| reserved != address) {
            return Verdict::Refuse("another address is reserved for this client");
        }
        let is_own = self.leases.is_of(address, &request.client) && self.has(address);
        let is_reserved = reserved == Some(address);
        // An offer that has lapsed, or that was made before a restart, still holds where the
        // address is free: it was probed then.
        let still_free = selects
            && self.offers.of(&request.client).is_none()
            && self.has_for(address, &request.tags)
            && self.leases.is_available(address, now.wall);
        if (is_own && (is_reserved || self.has_for(address, &request.tags)))
            || still_free
            || (is_reserved && selects)
        {
            Verdict::Grant
        } else {
            Verdict::Refuse("there is no lease of this address for this client")
        }
    }

    /// Takes an offer back.
    pub(crate) fn withdraw(&mut self, address: Ipv4Addr) {
        if self.offers.remove(address).is_some() {
            self.leases.let_go(address);
        }
    }
}
