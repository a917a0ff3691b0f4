//! Addresses that two machines use.
//!
//! Now and then each leased address and the server's own is asked for by ARP, a few at a time. Of
//! one address only one machine should answer, and of a leased one the machine that leased it
//! (RFC 5227 says what trouble it is otherwise).

use crate::recent::Recent;
use bugler_model::MacAddr;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// From one round over all addresses to the next; longer where there are more than 1,600.
const ROUND: Duration = Duration::from_secs(300);

/// From the start to the first round.
const FIRST: Duration = Duration::from_secs(1);

/// From one batch of a round to the next.
const BETWEEN: Duration = Duration::from_secs(5);

/// Batches that a round is cut into, where that does not make them larger than [`MOST_AT_ONCE`].
const BATCHES: usize = 50;

/// Most questions at a time: what a segment does not notice.
const MOST_AT_ONCE: usize = 32;

/// Two answers within this time are answers to one question.
const TOGETHER: Duration = Duration::from_secs(2);

/// Addresses whose last answer is remembered.
const MOST_REMEMBERED: usize = 1024;

/// How often the same address is told about.
const SAY_EVERY: Duration = Duration::from_secs(3600);

/// What an answer shows to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Another machine has the server's own address.
    OwnAddress,
    /// This machine answered for the same address a moment before.
    TwoAnswers(MacAddr),
    /// The address is leased to this machine.
    LeasedTo(MacAddr),
}

/// When to ask, and what was answered.
#[derive(Debug)]
pub(crate) struct Audit {
    address: Ipv4Addr,
    mac: MacAddr,
    /// What is still to be asked in this round.
    left: Vec<Ipv4Addr>,
    batch: usize,
    round: Duration,
    next: Duration,
    answers: HashMap<Ipv4Addr, (MacAddr, Duration)>,
    said: Recent<Ipv4Addr>,
}

impl Audit {
    /// For the server with this address and Ethernet address.
    pub(crate) fn new(address: Ipv4Addr, mac: MacAddr, now: Duration) -> Self {
        Self {
            address,
            mac,
            left: vec![],
            batch: 1,
            round: now + FIRST,
            next: now + FIRST,
            answers: HashMap::new(),
            said: Recent::new(SAY_EVERY, MOST_REMEMBERED),
        }
    }

    /// When [`questions`](Self::questions) has something.
    pub(crate) fn deadline(&self) -> Duration {
        self.next
    }

    /// The addresses to ask for now. `leased` is called once a round.
    pub(crate) fn questions(
        &mut self,
        now: Duration,
        leased: impl FnOnce() -> Vec<Ipv4Addr>,
    ) -> Vec<Ipv4Addr> {
        if now < self.next {
            return vec![];
        }
        if now >= self.round && self.left.is_empty() {
            self.left = leased();
            self.left.push(self.address);
            self.batch = self.left.len().div_ceil(BATCHES).min(MOST_AT_ONCE);
            self.round = now + ROUND;
        }
        let rest = self.left.len().saturating_sub(self.batch);
        let questions = self.left.split_off(rest);
        self.next = if self.left.is_empty() {
            self.round.max(now + BETWEEN)
        } else {
            now + BETWEEN
        };
        questions
    }

    /// Somebody answered for an address, that is leased to `leased` where it is leased. Returns
    /// what is wrong with that, once in a while.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        address: Ipv4Addr,
        by: MacAddr,
        leased: Option<MacAddr>,
    ) -> Option<Conflict> {
        if by == self.mac {
            return None;
        }
        if self.answers.len() >= MOST_REMEMBERED {
            self.answers.retain(|_, (_, then)| *then + TOGETHER > now);
            if self.answers.len() >= MOST_REMEMBERED {
                self.answers.clear();
            }
        }
        let before = self.answers.insert(address, (by, now));
        let other = before
            .filter(|(mac, then)| *mac != by && *then + TOGETHER > now)
            .map(|(mac, _)| mac);
        let conflict = if address == self.address {
            Conflict::OwnAddress
        } else if let Some(other) = other {
            Conflict::TwoAnswers(other)
        } else {
            Conflict::LeasedTo(leased.filter(|mac| *mac != by)?)
        };
        self.said.is_first(address, now).then_some(conflict)
    }
}

impl Conflict {
    /// In one or two sentences: what is wrong, and what to do.
    pub(crate) fn describe(self, address: Ipv4Addr, by: MacAddr, interface: &str) -> String {
        // Linux answers on any of its interfaces for any of its addresses.
        let unless = "unless both are one machine that answers on all its interfaces (arp_ignore)";
        match self {
            Self::OwnAddress => format!(
                "{by} answers for {address}, which is this server's own address on {interface}: machines reach \
                 either of the two by chance. Give one of them another address"
            ),
            Self::TwoAnswers(other) => format!(
                "two machines, {other} and {by}, answer for {address} on {interface}, so neither works reliably, \
                 {unless}. Give one of them another address"
            ),
            Self::LeasedTo(holder) => format!(
                "{by} uses {address} on {interface}, which is leased to {holder}, {unless}. Give {by} an address \
                 outside of the pools, or let it ask for one"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn mac(n: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, n])
    }

    fn leased(count: u32) -> Vec<Ipv4Addr> {
        (0..count)
            .map(|n| Ipv4Addr::from_bits(0x0a00_0100 + n))
            .collect()
    }

    fn audit() -> Audit {
        Audit::new(OWN, mac(0), Duration::ZERO)
    }

    #[test]
    fn a_round_asks_for_every_address_once_and_few_at_a_time() {
        for count in [0, 7, 400, 1500] {
            let mut audit = audit();
            let mut asked = vec![];
            let first = audit.deadline();
            let mut last = first;
            while asked.len() <= count as usize {
                last = audit.deadline();
                let questions = audit.questions(last, || leased(count));
                assert!(questions.len() <= MOST_AT_ONCE);
                assert!(!questions.is_empty());
                asked.extend(questions);
            }
            assert!(last - first < ROUND + BETWEEN, "{count}: {last:?}");
            asked.sort_unstable();
            let mut expected = leased(count);
            expected.insert(0, OWN);
            assert_eq!(asked, expected);
            assert!(audit.deadline() >= first + ROUND);
            assert!(audit.questions(last, || panic!("too early")).is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_told_once() {
        let mut audit = audit();
        let address = Ipv4Addr::new(10, 0, 0, 9);
        let now = Duration::from_secs(10);
        assert_eq!(audit.answered(now, address, mac(1), Some(mac(1))), None);
        assert_eq!(
            audit.answered(now, address, mac(2), Some(mac(1))),
            Some(Conflict::TwoAnswers(mac(1)))
        );
        assert_eq!(audit.answered(now, address, mac(1), None), None);
        let other = Ipv4Addr::new(10, 0, 0, 8);
        assert_eq!(
            audit.answered(now, other, mac(2), Some(mac(1))),
            Some(Conflict::LeasedTo(mac(1)))
        );
        assert_eq!(audit.answered(now, OWN, mac(0), None), None);
        assert_eq!(
            audit.answered(now, OWN, mac(3), None),
            Some(Conflict::OwnAddress)
        );
    }

    #[test]
    fn an_address_that_moved_is_no_conflict() {
        let mut audit = audit();
        let address = Ipv4Addr::new(10, 0, 0, 9);
        let at = |seconds| Duration::from_secs(seconds);
        assert_eq!(audit.answered(at(10), address, mac(1), None), None);
        assert_eq!(audit.answered(at(20), address, mac(2), None), None);
    }

    #[test]
    fn a_flood_of_answers_is_bounded() {
        let mut audit = audit();
        for n in 0..100_000 {
            audit.answered(at_once(), Ipv4Addr::from_bits(n), mac(1), None);
        }
        assert!(audit.answers.len() <= MOST_REMEMBERED);
    }

    fn at_once() -> Duration {
        Duration::from_secs(10)
    }
}
