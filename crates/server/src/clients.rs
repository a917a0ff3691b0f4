//! What was last heard from each client: the bridge from a DHCP packet, which tells much, to a
//! TFTP or HTTP request, which tells only an address.

use crate::neighbours;
use bugler_boot::ClientFacts;
use bugler_model::{Firmware, MacAddr, Timestamp};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most clients that are remembered. Beyond it everything is forgotten and learned again: only
/// somebody who invents addresses gets there, and a client that is forgotten loses its timeline's
/// details, not its boot.
const MOST: usize = 16_384;

/// How long iPXE goes on looking for an IPv6 router after it asked by DHCP, in milliseconds.
const MOMENT_MS: i64 = 30_000;

#[derive(Default)]
pub(crate) struct Clients(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    facts: HashMap<MacAddr, (ClientFacts, Timestamp)>,
    addresses: HashMap<Ipv4Addr, MacAddr>,
}

impl Clients {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere leaves the maps whole: each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a packet told.
    pub(crate) fn learn(&self, facts: &ClientFacts, now: Timestamp) {
        let mut tables = self.tables();
        if tables.facts.len() >= MOST {
            tables.facts.clear();
        }
        tables.facts.insert(facts.mac, (facts.clone(), now));
    }

    /// Keeps which client uses an address.
    pub(crate) fn learn_address(&self, address: Ipv4Addr, mac: MacAddr) {
        let mut tables = self.tables();
        if tables.addresses.len() >= MOST {
            tables.addresses.clear();
        }
        tables.addresses.insert(address, mac);
    }

    /// What the client last told.
    pub(crate) fn facts(&self, mac: MacAddr) -> Option<ClientFacts> {
        self.tables()
            .facts
            .get(&mac)
            .map(|(facts, _)| facts.clone())
    }

    /// Whether iPXE asked by DHCP from this interface a moment ago.
    pub(crate) fn is_ipxe_now(&self, mac: MacAddr, now: Timestamp) -> bool {
        self.tables().facts.get(&mac).is_some_and(|(facts, heard)| {
            facts.firmware.is_some_and(Firmware::is_ipxe) && now.millis_since(*heard) < MOMENT_MS
        })
    }

    /// Which client uses an address: as the kernel knows it, else as the client last said.
    pub(crate) fn mac_of(&self, peer: IpAddr) -> Option<MacAddr> {
        let IpAddr::V4(peer) = peer.to_canonical() else {
            return None;
        };
        neighbours::lookup(peer).or_else(|| self.tables().addresses.get(&peer).copied())
    }

    /// Whether `peer` may act for the interface `mac`: not when the kernel knows that another
    /// interface stands behind that address. A peer behind a router cannot be told.
    pub(crate) fn may_act_for(&self, peer: IpAddr, mac: MacAddr) -> bool {
        let IpAddr::V4(peer) = peer.to_canonical() else {
            return true;
        };
        neighbours::lookup(peer).is_none_or(|known| known == mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(n: u32) -> ClientFacts {
        let [a, b, c, d] = n.to_be_bytes();
        ClientFacts::of_script_request(MacAddr([2, 0, a, b, c, d]), Firmware::BiosPxe, None)
    }

    #[test]
    fn ipxe_is_ipxe_for_a_moment_and_an_operating_system_never() {
        let clients = Clients::default();
        let mut ipxe = facts(1);
        ipxe.firmware = Some(Firmware::IpxeBios);
        clients.learn(&ipxe, Timestamp(0));
        clients.learn(&facts(2), Timestamp(0));
        assert!(clients.is_ipxe_now(ipxe.mac, Timestamp(5_000)));
        assert!(!clients.is_ipxe_now(ipxe.mac, Timestamp(60_000)));
        assert!(!clients.is_ipxe_now(facts(2).mac, Timestamp(0)));
        assert!(!clients.is_ipxe_now(facts(3).mac, Timestamp(0)));
    }

    #[test]
    fn somebody_who_invents_addresses_does_not_fill_the_memory() {
        let clients = Clients::default();
        for n in 0..3 * MOST as u32 {
            clients.learn(&facts(n), Timestamp(0));
            clients.learn_address(Ipv4Addr::from(n), facts(n).mac);
        }
        let tables = clients.tables();
        assert!(tables.facts.len() <= MOST && tables.addresses.len() <= MOST);
        drop(tables);
        assert!(clients.facts(facts(3 * MOST as u32 - 1).mac).is_some());
    }
}
