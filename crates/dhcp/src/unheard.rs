//! Clients whose first requests nobody heard.
//!
//! A switch port that takes part in spanning tree (IEEE 802.1D section 17) forwards nothing for
//! about 30 s after its link came up, and firmware takes the link down and up whenever it hands the
//! machine on. What the machine sends meanwhile is lost; some give up before they are heard. The
//! field `secs` tells: it counts from the client's first request.

use bugler_model::MacAddr;
use std::time::Duration;

use crate::recent::Recent;

/// A client that has asked for this long was surely not heard the first time: ROMs ask after 4 and
/// after 8 s, and some begin to count at 4.
const LEAST: u16 = 10;

/// More than this is no wait for a switch port but a client that goes on asking for ever, or a
/// field with something else in it.
const MOST: u16 = 150;

/// What `secs` may be wrong by.
const SLACK: Duration = Duration::from_secs(3);

/// For how long a client's requests are remembered.
const REMEMBER: Duration = Duration::from_secs(600);

/// How often the same client is told about.
const SAY_EVERY: Duration = Duration::from_secs(86_400);

/// Remembers who was heard when.
#[derive(Debug)]
pub(crate) struct Unheard {
    /// Since when anybody could be heard.
    listening: Duration,
    heard: Recent<MacAddr>,
    said: Recent<MacAddr>,
}

impl Unheard {
    /// Nobody was heard before `now`, because nobody listened.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            listening: now,
            heard: Recent::new(REMEMBER, 65_536),
            said: Recent::new(SAY_EVERY, 4096),
        }
    }

    /// Takes a DISCOVER that came from the link itself. Returns for how many seconds its client had
    /// asked before without being heard, once for each client.
    pub(crate) fn discover(&mut self, mac: MacAddr, secs: u16, now: Duration) -> Option<u16> {
        let before = self.heard.when(&mac, now);
        self.heard.insert(mac, now);
        // Some clients send the field in the wrong byte order.
        let secs = if secs & 0xff == 0 { secs >> 8 } else { secs };
        if !(LEAST..=MOST).contains(&secs) {
            return None;
        }
        let began = now.checked_sub(Duration::from_secs(secs.into()))?;
        let listened = self.listening + SLACK <= began;
        let heard_since = before.is_some_and(|before| before + SLACK >= began);
        (listened && !heard_since && self.said.is_first(mac, now)).then_some(secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const START: Duration = Duration::from_secs(1000);

    fn after(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_client_that_is_first_heard_late_is_told_about_once() {
        let mut unheard = Unheard::new(START);
        assert_eq!(unheard.discover(MAC, 28, after(60)), Some(28));
        assert_eq!(unheard.discover(MAC, 60, after(92)), None);
        // The next stage of the same boot waits for the same port.
        assert_eq!(unheard.discover(MAC, 30, after(200)), None);
    }

    #[test]
    fn a_client_that_was_heard_from_the_start_is_not() {
        let mut unheard = Unheard::new(START);
        for (secs, at) in [(0, 60), (4, 64), (12, 72), (28, 88)] {
            assert_eq!(unheard.discover(MAC, secs, after(at)), None);
        }
        // It was heard in an earlier attempt, and then not for half a minute.
        assert_eq!(unheard.discover(MAC, 30, after(200)), Some(30));
    }

    #[test]
    fn the_servers_own_start_is_no_fault_of_the_switch() {
        let mut unheard = Unheard::new(START);
        assert_eq!(unheard.discover(MAC, 28, after(20)), None);
    }

    #[test]
    fn the_field_may_be_in_the_wrong_byte_order_or_nonsense() {
        let mut unheard = Unheard::new(START);
        assert_eq!(unheard.discover(MAC, 4 << 8, after(60)), None);
        let other = MacAddr([2, 0, 0, 0, 0, 2]);
        assert_eq!(unheard.discover(other, 32 << 8, after(60)), Some(32));
        let third = MacAddr([2, 0, 0, 0, 0, 3]);
        assert_eq!(unheard.discover(third, 4000, after(60)), None);
    }
}
