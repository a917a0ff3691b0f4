//! Addresses that were offered, or are about to be, and not yet requested.

use crate::client::Client;
use crate::machine::Ingress;
use crate::packet::Packet;
use bugler_boot::BootPlan;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an address is kept for the client that it was offered to. PXE firmware collects offers
/// for up to 16 s, and tries a second server before it comes back.
pub(crate) const HOLD: Duration = Duration::from_secs(60);

/// How long it is kept for a client that uses what it was offered and never requests it: a Raspberry
/// Pi 3B (raspberrypi/firmware issue 1699) has its address from the offer alone while it fetches a
/// kernel and an initramfs over TFTP in lock step. It is not given to anybody else in the meantime,
/// but for the last minute, when no other address is left.
pub(crate) const HOLD_WITHOUT_REQUEST: Duration = Duration::from_secs(600);

/// How long it is kept at least, where others go without.
pub(crate) const LEAST_HOLD: Duration = Duration::from_secs(5);

/// Most offers at a time: what a flood of invented clients can take of the memory.
pub(crate) const MOST: usize = 32_768;

/// An address on offer.
pub(crate) struct Offer {
    pub(crate) client: Client,
    /// For how long it is kept, and until when.
    pub(crate) hold: Duration,
    until: Duration,
    /// The request that is answered once the address is known to be unused.
    pub(crate) waiting: Option<Box<Waiting>>,
}

/// A DISCOVER that waits for an ARP probe.
pub(crate) struct Waiting {
    pub(crate) request: Packet,
    pub(crate) ingress: Ingress,
    pub(crate) action: Option<BootPlan>,
    /// The tags of the client's device.
    pub(crate) tags: Vec<String>,
    /// When the next step is due.
    pub(crate) due: Duration,
    /// Questions still to be asked before the address counts as unused.
    pub(crate) probes_left: u8,
    /// Addresses found in use for this request.
    pub(crate) found_used: u8,
}

#[derive(Default)]
pub(crate) struct Offers {
    by_address: HashMap<Ipv4Addr, Offer>,
    by_client: HashMap<Client, Ipv4Addr>,
    lapses: BTreeSet<(Duration, Ipv4Addr)>,
    probes: BTreeSet<(Duration, Ipv4Addr)>,
}

impl Offers {
    pub(crate) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// What is on offer to this client.
    pub(crate) fn of(&self, client: &Client) -> Option<Ipv4Addr> {
        self.by_client.get(client).copied()
    }

    pub(crate) fn at(&self, address: Ipv4Addr) -> Option<&Offer> {
        self.by_address.get(&address)
    }

    /// Puts an address on offer from `now` on, for as long as `hold`. The caller has removed what was there.
    pub(crate) fn insert(
        &mut self,
        address: Ipv4Addr,
        client: Client,
        waiting: Option<Box<Waiting>>,
        hold: Duration,
        now: Duration,
    ) {
        let until = now + hold;
        self.lapses.insert((until, address));
        if let Some(waiting) = &waiting {
            self.probes.insert((waiting.due, address));
        }
        self.by_client.insert(client.clone(), address);
        self.by_address.insert(
            address,
            Offer {
                client,
                hold,
                until,
                waiting,
            },
        );
    }

    /// Takes an address off.
    pub(crate) fn remove(&mut self, address: Ipv4Addr) -> Option<Offer> {
        let offer = self.by_address.remove(&address)?;
        self.lapses.remove(&(offer.until, address));
        if let Some(waiting) = &offer.waiting {
            self.probes.remove(&(waiting.due, address));
        }
        if self.by_client.get(&offer.client) == Some(&address) {
            self.by_client.remove(&offer.client);
        }
        Some(offer)
    }

    /// Puts a newer request in the place of the one that waits; returns whether one waits.
    pub(crate) fn renew_waiting(
        &mut self,
        address: Ipv4Addr,
        request: &Packet,
        ingress: Ingress,
        action: Option<&BootPlan>,
    ) -> bool {
        let Some(waiting) = self
            .by_address
            .get_mut(&address)
            .and_then(|offer| offer.waiting.as_mut())
        else {
            return false;
        };
        waiting.request = request.clone();
        waiting.ingress = ingress;
        waiting.action = action.cloned();
        true
    }

    /// An offer that has lapsed.
    pub(crate) fn lapsed(&self, now: Duration) -> Option<Ipv4Addr> {
        let &(until, address) = self.lapses.first()?;
        (until <= now).then_some(address)
    }

    /// The oldest offer.
    pub(crate) fn first(&self) -> Option<Ipv4Addr> {
        self.lapses.first().map(|&(_, address)| address)
    }

    /// The oldest offer, where it is old enough to be given to somebody else.
    pub(crate) fn oldest(&self, now: Duration) -> Option<Ipv4Addr> {
        let &(until, address) = self.lapses.first()?;
        (until + LEAST_HOLD <= now + HOLD).then_some(address)
    }

    /// An address whose probe has a step due.
    pub(crate) fn probe_due(&self, now: Duration) -> Option<Ipv4Addr> {
        let &(due, address) = self.probes.first()?;
        (due <= now).then_some(address)
    }

    /// Notes that another question was asked, and when the next step is due.
    pub(crate) fn probed(&mut self, address: Ipv4Addr, due: Duration) {
        let waiting = self
            .by_address
            .get_mut(&address)
            .and_then(|offer| offer.waiting.as_mut());
        if let Some(waiting) = waiting {
            self.probes.remove(&(waiting.due, address));
            waiting.due = due;
            waiting.probes_left = waiting.probes_left.saturating_sub(1);
            self.probes.insert((due, address));
        }
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let first = |set: &BTreeSet<(Duration, Ipv4Addr)>| set.first().map(|&(due, _)| due);
        first(&self.lapses)
            .into_iter()
            .chain(first(&self.probes))
            .min()
    }
}
