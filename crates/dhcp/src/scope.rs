//! One subnet with its addresses, and how a request names the subnet that it means.

use crate::config::Subnet;
use crate::leases::{ANYBODY, Leases};
use crate::offers::Offers;
use crate::options::{Triples, code};
use crate::packet::Packet;
use std::borrow::Cow;
use std::net::Ipv4Addr;

/// A subnet and what became of its addresses.
pub(crate) struct Scope {
    pub(crate) subnet: Subnet,
    pub(crate) leases: Leases,
    pub(crate) offers: Offers,
}

/// The subnet that a request names: the relay, which knows its links, before the client (RFC 3527
/// section 3; RFC 3011).
pub(crate) fn subnet_named(packet: &Packet) -> Option<Ipv4Addr> {
    let of_relay = packet
        .options
        .get(code::RELAY_INFO)
        .and_then(|info| Triples::new(info).find_code(code::LINK_SELECTION))
        .and_then(|value| <[u8; 4]>::try_from(value).ok())
        .map(Ipv4Addr::from);
    of_relay
        .or_else(|| packet.options.address(code::SUBNET_SELECTION))
        .filter(|address| !address.is_unspecified())
}

impl Scope {
    /// The parts of the pools that a device with these tags gets addresses from, best first.
    pub(crate) fn parts(&self, tags: &[String]) -> Cow<'static, [usize]> {
        if tags.is_empty() {
            return Cow::Borrowed(&[ANYBODY]);
        }
        let tagged = self.subnet.tagged.iter().zip(ANYBODY + 1..);
        tagged
            .filter(|(tagged, _)| tags.contains(&tagged.tag))
            .map(|(_, part)| part)
            .chain([ANYBODY])
            .collect()
    }

    /// Whether the address is in a pool that a device with these tags gets addresses from.
    pub(crate) fn has_for(&self, address: Ipv4Addr, tags: &[String]) -> bool {
        self.leases
            .part_of(address)
            .is_some_and(|part| self.parts(tags).contains(&part))
    }

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
