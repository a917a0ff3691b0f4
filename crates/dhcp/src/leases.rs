//! The leases of one subnet, and which of its addresses are free.
//!
//! Every question that a packet asks is answered without walking over leases: by address and by
//! client through hash maps, the next free address from [`AddressSet`], the lease that ended first
//! from an ordered set.

use crate::client::{Client, preference};
use crate::config::{Pool, Subnet};
use crate::pool::AddressSet;
use bugler_model::{Lease, LeaseState, MacAddr, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// Most addresses that one MAC address gets by naming client identifiers: enough for containers
/// that share an interface, too few to empty a pool.
const MOST_PER_MAC: usize = 8;

/// How the addresses of a subnet are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Addresses in pools.
    pub(crate) total: usize,
    /// Leased at this time.
    pub(crate) bound: usize,
    /// In quarantine at this time.
    pub(crate) declined: usize,
}

pub(crate) struct Leases {
    records: HashMap<Ipv4Addr, Lease>,
    /// The addresses that a MAC address has or had, the latest last.
    by_mac: HashMap<MacAddr, Vec<Ipv4Addr>>,
    /// [`ANYBODY`], then one for each of [`Subnet::tagged`], in their order.
    parts: Vec<Part>,
}

/// The part of a subnet's addresses that is for anybody.
pub(crate) const ANYBODY: usize = 0;

/// Addresses for the same clients.
struct Part {
    /// When each record ends whose address is one of these and not on offer.
    ends: BTreeSet<(Timestamp, Ipv4Addr)>,
    /// As configured.
    dynamic: AddressSet,
    /// Those of them without a record and not on offer.
    free: AddressSet,
}

impl Part {
    /// The addresses of these pools, but for those that are `taken`.
    fn new(subnet: &Subnet, pools: &[Pool], taken: &[Ipv4Addr]) -> Self {
        let first = pools.iter().map(|pool| pool.first).min();
        let last = pools.iter().map(|pool| pool.last).max();
        let mut dynamic = match (first, last) {
            (Some(first), Some(last)) => AddressSet::new(first, last),
            _ => AddressSet::new(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED),
        };
        for pool in pools {
            for address in pool.first.to_bits()..=pool.last.to_bits() {
                let address = Ipv4Addr::from_bits(address);
                if subnet.network.is_host(address) {
                    dynamic.insert(address);
                }
            }
        }
        for &address in taken {
            dynamic.remove(address);
        }
        Self {
            ends: BTreeSet::new(),
            free: dynamic.clone(),
            dynamic,
        }
    }
}

impl Leases {
    /// The addresses of a subnet, none of them given out. `server` is never given out.
    pub(crate) fn new(subnet: &Subnet, server: Ipv4Addr) -> Self {
        let routers = subnet.tagged.iter().filter_map(|tagged| tagged.router);
        let taken: Vec<Ipv4Addr> = subnet
            .reservations
            .iter()
            .map(|reservation| reservation.address)
            .chain(subnet.router)
            .chain(routers)
            .chain([server])
            .collect();
        let pools = subnet.tagged.iter().map(|tagged| &tagged.pools);
        let parts = std::iter::once(&subnet.pools)
            .chain(pools)
            .map(|pools| Part::new(subnet, pools, &taken))
            .collect();
        Self {
            records: HashMap::new(),
            by_mac: HashMap::new(),
            parts,
        }
    }

    /// Whether the address is in a pool, for anybody or for some.
    pub(crate) fn is_dynamic(&self, address: Ipv4Addr) -> bool {
        self.part_of(address).is_some()
    }

    /// Which part an address of a pool is in.
    pub(crate) fn part_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.parts
            .iter()
            .position(|part| part.dynamic.contains(address))
    }

    fn part_mut(&mut self, address: Ipv4Addr) -> Option<&mut Part> {
        self.parts
            .iter_mut()
            .find(|part| part.dynamic.contains(address))
    }

    /// What is known of an address.
    pub(crate) fn get(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.records.get(&address)
    }

    /// Whether the address is, or was last, this client's.
    pub(crate) fn is_of(&self, address: Ipv4Addr, client: &Client) -> bool {
        self.get(address).is_some_and(|lease| {
            lease.state != LeaseState::Declined
                && lease.mac == client.mac
                && !client.differs_from(lease.client_id.as_deref())
        })
    }

    /// The address that this client has or had.
    pub(crate) fn of(&self, client: &Client) -> Option<Ipv4Addr> {
        let held = self.by_mac.get(&client.mac)?;
        // The same identifier first; then the latest that may be the same client's.
        let same_id = |address: &&Ipv4Addr| {
            let id = self
                .get(**address)
                .and_then(|lease| lease.client_id.as_deref());
            client.id.is_some() && client.id.as_deref() == id && self.is_of(**address, client)
        };
        let may_be = |address: &&Ipv4Addr| self.is_of(**address, client);
        let found = held
            .iter()
            .rev()
            .find(same_id)
            .or_else(|| held.iter().rev().find(may_be));
        match found {
            None if held.len() >= MOST_PER_MAC => held.last().copied(),
            found => found.copied(),
        }
    }

    /// Whether this address may be given out now, as far as leases say.
    pub(crate) fn is_available(&self, address: Ipv4Addr, now: Timestamp) -> bool {
        self.parts.iter().any(|part| {
            part.free.contains(address)
                || self.get(address).is_some_and(|lease| {
                    part.ends.contains(&(lease.expires, address)) && lease.expires <= now
                })
        })
    }

    /// An address of one part for a new client: one that nobody had, where the client's hash
    /// points; else the one whose lease ended first.
    pub(crate) fn pick(&self, part: usize, mac: MacAddr, now: Timestamp) -> Option<Ipv4Addr> {
        let part = self.parts.get(part)?;
        part.free.pick(preference(mac)).or_else(|| {
            let &(ended, address) = part.ends.first()?;
            (ended <= now).then_some(address)
        })
    }

    /// Takes an address out of what [`pick`](Self::pick) finds, while it is on offer.
    pub(crate) fn hold(&mut self, address: Ipv4Addr) {
        let held = self.records.get(&address).map(|lease| lease.expires);
        if let Some(part) = self.part_mut(address) {
            part.free.remove(address);
            if let Some(expires) = held {
                part.ends.remove(&(expires, address));
            }
        }
    }

    /// Ends [`hold`](Self::hold).
    pub(crate) fn let_go(&mut self, address: Ipv4Addr) {
        let held = self.records.get(&address).map(|lease| lease.expires);
        let Some(part) = self.part_mut(address) else {
            return;
        };
        match held {
            Some(expires) => {
                part.ends.insert((expires, address));
            }
            None => part.free.insert(address),
        }
    }

    /// Records what became of an address; ends a hold on it.
    pub(crate) fn record(&mut self, lease: Lease) {
        let address = lease.address;
        let before = self.records.get(&address).map(|old| old.expires);
        if let Some(part) = self.part_mut(address) {
            part.free.remove(address);
            if let Some(before) = before {
                part.ends.remove(&(before, address));
            }
            part.ends.insert((lease.expires, address));
        }
        let mac = lease.mac;
        let is_declined = lease.state == LeaseState::Declined;
        if let Some(old) = self.records.insert(address, lease)
            && (old.mac != mac || is_declined)
        {
            self.forget_holder(old.mac, address);
        }
        if is_declined {
            // It is nobody's: neither its finder nor its last holder gets it again.
            return;
        }
        let held = self.by_mac.entry(mac).or_default();
        if held.last() != Some(&address) {
            held.retain(|other| *other != address);
            held.push(address);
        }
    }

    fn forget_holder(&mut self, mac: MacAddr, address: Ipv4Addr) {
        if let Some(held) = self.by_mac.get_mut(&mac) {
            held.retain(|other| *other != address);
            if held.is_empty() {
                self.by_mac.remove(&mac);
            }
        }
    }

    /// The addresses that are leased now, by walking over everything.
    pub(crate) fn bound(&self, now: Timestamp) -> impl Iterator<Item = Ipv4Addr> {
        self.records
            .values()
            .filter(move |lease| lease.state == LeaseState::Bound && lease.expires > now)
            .map(|lease| lease.address)
    }

    /// Counts, by walking over everything: for a message to people, not for a packet.
    pub(crate) fn usage(&self, now: Timestamp) -> Usage {
        let count = |state| {
            let counts = |lease: &&Lease| {
                lease.state == state && lease.expires > now && self.is_dynamic(lease.address)
            };
            self.records.values().filter(counts).count()
        };
        Usage {
            total: self.parts.iter().map(|part| part.dynamic.len()).sum(),
            bound: count(LeaseState::Bound),
            declined: count(LeaseState::Declined),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Network, Reservation};

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn leases(last: u8) -> Leases {
        let mut subnet = Subnet::new(Network {
            address: SERVER,
            prefix: 24,
        });
        subnet.pools = vec![Pool {
            first: SERVER,
            last: [10, 0, 0, last].into(),
        }];
        subnet.router = Some([10, 0, 0, 2].into());
        subnet.reservations = vec![Reservation {
            mac: Some(mac(99)),
            uuid: None,
            address: [10, 0, 0, 3].into(),
            hostname: None,
        }];
        Leases::new(&subnet, SERVER)
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    fn client(n: u8, id: Option<&[u8]>) -> Client {
        Client {
            mac: mac(n),
            id: id.map(Into::into),
        }
    }

    fn lease(n: u8, address: u8, id: Option<&[u8]>, expires: i64) -> Lease {
        Lease {
            address: [10, 0, 0, address].into(),
            mac: mac(n),
            client_id: id.map(Into::into),
            hostname: None,
            state: LeaseState::Bound,
            expires: Timestamp(expires),
        }
    }

    #[test]
    fn the_servers_the_routers_and_reserved_addresses_are_for_nobody() {
        let leases = leases(5);
        let all: Vec<u8> = (0..=255)
            .filter(|&n| leases.is_dynamic([10, 0, 0, n].into()))
            .collect();
        assert_eq!(all, [4, 5]);
    }

    #[test]
    fn an_address_that_nobody_had_comes_before_one_that_ended_and_the_longest_ended_first() {
        let mut leases = leases(6);
        leases.record(lease(1, 4, None, 100));
        leases.record(lease(2, 5, None, 50));
        assert_eq!(
            leases.pick(ANYBODY, mac(7), Timestamp(200)),
            Some([10, 0, 0, 6].into())
        );
        leases.hold([10, 0, 0, 6].into());
        assert_eq!(
            leases.pick(ANYBODY, mac(7), Timestamp(200)),
            Some([10, 0, 0, 5].into())
        );
        leases.hold([10, 0, 0, 5].into());
        assert_eq!(leases.pick(ANYBODY, mac(7), Timestamp(99)), None);
        assert_eq!(
            leases.pick(ANYBODY, mac(7), Timestamp(100)),
            Some([10, 0, 0, 4].into())
        );
        leases.let_go([10, 0, 0, 5].into());
        assert_eq!(
            leases.pick(ANYBODY, mac(7), Timestamp(99)),
            Some([10, 0, 0, 5].into())
        );
        leases.let_go([10, 0, 0, 6].into());
        assert_eq!(
            leases.pick(ANYBODY, mac(7), Timestamp(0)),
            Some([10, 0, 0, 6].into())
        );
    }

    #[test]
    fn an_address_that_is_given_to_another_is_no_longer_the_first_ones() {
        let mut leases = leases(6);
        leases.record(lease(1, 4, None, 100));
        leases.record(lease(2, 4, None, 300));
        assert_eq!(leases.of(&client(1, None)), None);
        assert_eq!(leases.of(&client(2, None)), Some([10, 0, 0, 4].into()));
        assert!(!leases.is_available([10, 0, 0, 4].into(), Timestamp(200)));
        assert!(leases.is_available([10, 0, 0, 4].into(), Timestamp(300)));
    }

    #[test]
    fn stages_of_a_boot_share_an_address_and_systems_behind_one_mac_do_not() {
        let mut leases = leases(20);
        leases.record(lease(1, 4, None, 100));
        assert_eq!(
            leases.of(&client(1, Some(b"\xffsystem"))),
            Some([10, 0, 0, 4].into())
        );
        leases.record(lease(1, 4, Some(b"\xffsystem"), 100));
        assert_eq!(leases.of(&client(1, None)), Some([10, 0, 0, 4].into()));
        assert_eq!(leases.of(&client(1, Some(b"\xffother"))), None);
        leases.record(lease(1, 5, Some(b"\xffother"), 100));
        assert_eq!(
            leases.of(&client(1, Some(b"\xffsystem"))),
            Some([10, 0, 0, 4].into())
        );
        assert_eq!(leases.of(&client(1, None)), Some([10, 0, 0, 5].into()));
    }

    #[test]
    fn identifiers_of_one_mac_do_not_empty_the_pool() {
        let mut leases = leases(100);
        for n in 0..50u8 {
            let id = [7, 7, n];
            let address = leases
                .of(&client(1, Some(&id)))
                .or(leases.pick(ANYBODY, mac(1), Timestamp(0)))
                .unwrap();
            let mut lease = lease(1, 0, Some(&id), 100);
            lease.address = address;
            leases.record(lease);
        }
        assert_eq!(leases.usage(Timestamp(0)).bound, MOST_PER_MAC);
    }

    #[test]
    fn usage_counts_what_is_in_force() {
        let mut leases = leases(6);
        leases.record(lease(1, 4, None, 100));
        let mut declined = lease(2, 5, None, 100);
        declined.state = LeaseState::Declined;
        leases.record(declined);
        assert_eq!(
            leases.usage(Timestamp(99)),
            Usage {
                total: 3,
                bound: 1,
                declined: 1
            }
        );
        assert_eq!(
            leases.usage(Timestamp(100)),
            Usage {
                total: 3,
                bound: 0,
                declined: 0
            }
        );
    }
}
