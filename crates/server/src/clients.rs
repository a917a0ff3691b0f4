//! What was last heard from each client: the bridge from a DHCP packet, which tells much, to a
//! TFTP or HTTP request, which tells only an address.

use crate::neighbours;
use bugler_boot::ClientFacts;
use bugler_model::{Firmware, MacAddr, OfferShape, Stage, Timestamp};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most clients that are remembered. Beyond it everything is forgotten and learned again: only
/// somebody who invents addresses gets there, and a client that is forgotten loses its timeline's
/// details, not its boot.
const MOST: usize = 16_384;

/// How long iPXE goes on looking for an IPv6 router after it asked by DHCP, in milliseconds.
const MOMENT_MS: i64 = 30_000;

/// What is remembered of every client that asked to boot.
#[derive(Default)]
pub(crate) struct Clients(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    heard: HashMap<MacAddr, Heard>,
    /// The files that a client's script names; not every client that fetches one asked by DHCP.
    expected: HashMap<MacAddr, Expected>,
    addresses: HashMap<Ipv4Addr, MacAddr>,
}

struct Heard {
    facts: ClientFacts,
    at: Timestamp,
    /// The shape of what it was last answered.
    shape: OfferShape,
    /// How many times its ROM has asked for offers since it took something.
    unanswered: u32,
}

/// The files of the boot tree that a script told a client to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The kernel.
    pub(crate) kernel: String,
    /// The initramfs files.
    pub(crate) initrd: Vec<String>,
    /// The one that it fetches last: then it has everything.
    pub(crate) last: String,
}

impl Expected {
    /// The stage that a boot reaches when this file is asked for.
    pub(crate) fn stage(&self, path: &str) -> Option<Stage> {
        if self.kernel == path {
            return Some(Stage::Kernel);
        }
        self.initrd
            .iter()
            .any(|file| file == path)
            .then_some(Stage::Initramfs)
    }
}

impl Clients {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere leaves the maps whole: each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a packet told, and the shape of what was answered.
    pub(crate) fn learn(
        &self,
        facts: &ClientFacts,
        shape: OfferShape,
        message: &str,
        now: Timestamp,
    ) {
        let mut tables = self.tables();
        if tables.heard.len() >= MOST {
            tables.heard.clear();
        }
        let before = tables.heard.remove(&facts.mac);
        let unanswered = before.map_or(0, |heard| heard.unanswered);
        let asks = facts.firmware.is_some_and(Firmware::is_rom) && message == "DISCOVER";
        let heard = Heard {
            facts: facts.clone(),
            at: now,
            shape,
            unanswered: unanswered.saturating_add(u32::from(asks)),
        };
        tables.heard.insert(facts.mac, heard);
    }

    /// How many times its ROM has asked for offers since it took something.
    pub(crate) fn unanswered(&self, mac: MacAddr) -> u32 {
        self.tables()
            .heard
            .get(&mac)
            .map_or(0, |heard| heard.unanswered)
    }

    /// It took what it was offered; the shape of that, when it had asked before.
    pub(crate) fn answered(&self, mac: MacAddr) -> Option<OfferShape> {
        let mut tables = self.tables();
        let heard = tables.heard.get_mut(&mac)?;
        let asked = std::mem::take(&mut heard.unanswered);
        (asked > 0).then_some(heard.shape)
    }

    /// Keeps which files its script names.
    pub(crate) fn expect(&self, mac: MacAddr, expected: Option<Expected>) {
        let mut tables = self.tables();
        if tables.expected.len() >= MOST {
            tables.expected.clear();
        }
        match expected {
            Some(expected) => tables.expected.insert(mac, expected),
            None => tables.expected.remove(&mac),
        };
    }

    /// The files that its script names.
    pub(crate) fn expected(&self, mac: MacAddr) -> Option<Expected> {
        self.tables().expected.get(&mac).cloned()
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
            .heard
            .get(&mac)
            .map(|heard| heard.facts.clone())
    }

    /// Whether iPXE asked by DHCP from this interface a moment ago.
    pub(crate) fn is_ipxe_now(&self, mac: MacAddr, now: Timestamp) -> bool {
        self.tables().heard.get(&mac).is_some_and(|heard| {
            heard.facts.firmware.is_some_and(Firmware::is_ipxe)
                && now.millis_since(heard.at) < MOMENT_MS
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

    fn learn(clients: &Clients, facts: &ClientFacts) {
        clients.learn(facts, OfferShape::Direct, "DISCOVER", Timestamp(0));
    }

    #[test]
    fn a_rom_that_asks_and_asks_is_counted_until_it_takes_something() {
        let clients = Clients::default();
        let rom = facts(1);
        for _ in 0..3 {
            learn(&clients, &rom);
        }
        assert_eq!(clients.unanswered(rom.mac), 3);
        assert_eq!(clients.answered(rom.mac), Some(OfferShape::Direct));
        assert_eq!(
            (clients.unanswered(rom.mac), clients.answered(rom.mac)),
            (0, None)
        );
        // A loader that asks again is no ROM that was not answered.
        let mut ipxe = facts(2);
        ipxe.firmware = Some(Firmware::IpxeBios);
        learn(&clients, &ipxe);
        assert_eq!(clients.unanswered(ipxe.mac), 0);
    }

    #[test]
    fn what_a_client_is_to_fetch_is_kept_while_it_asks_on() {
        let clients = Clients::default();
        let expected = Expected {
            kernel: "files/linux".into(),
            initrd: vec!["files/a".into(), "files/b".into()],
            last: "files/b".into(),
        };
        assert_eq!(expected.stage("files/linux"), Some(Stage::Kernel));
        assert_eq!(expected.stage("files/a"), Some(Stage::Initramfs));
        assert_eq!(expected.stage("files/preseed.cfg"), None);
        clients.expect(facts(1).mac, Some(expected.clone()));
        learn(&clients, &facts(1));
        assert_eq!(clients.expected(facts(1).mac), Some(expected));
        clients.expect(facts(1).mac, None);
        assert_eq!(clients.expected(facts(1).mac), None);
    }

    #[test]
    fn ipxe_is_ipxe_for_a_moment_and_an_operating_system_never() {
        let clients = Clients::default();
        let mut ipxe = facts(1);
        ipxe.firmware = Some(Firmware::IpxeBios);
        learn(&clients, &ipxe);
        learn(&clients, &facts(2));
        assert!(clients.is_ipxe_now(ipxe.mac, Timestamp(5_000)));
        assert!(!clients.is_ipxe_now(ipxe.mac, Timestamp(60_000)));
        assert!(!clients.is_ipxe_now(facts(2).mac, Timestamp(0)));
        assert!(!clients.is_ipxe_now(facts(3).mac, Timestamp(0)));
    }

    #[test]
    fn somebody_who_invents_addresses_does_not_fill_the_memory() {
        let clients = Clients::default();
        for n in 0..3 * MOST as u32 {
            learn(&clients, &facts(n));
            clients.learn_address(Ipv4Addr::from(n), facts(n).mac);
            let expected = Expected {
                kernel: String::new(),
                initrd: vec![],
                last: String::new(),
            };
            clients.expect(facts(n).mac, Some(expected));
        }
        let tables = clients.tables();
        assert!(tables.heard.len() <= MOST && tables.expected.len() <= MOST);
        assert!(tables.addresses.len() <= MOST);
        drop(tables);
        assert!(clients.facts(facts(3 * MOST as u32 - 1).mac).is_some());
    }
}
