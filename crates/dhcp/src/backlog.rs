//! DISCOVERs that wait while everything else is answered.
//!
//! A server that is asked for more than it can do should finish what it has begun: a REQUEST that
//! is lost makes the DISCOVER before it and the OFFER a waste. So requests that came in together
//! are answered in two turns, DISCOVERs last, and when too many of these wait, the oldest are
//! dropped. Their clients ask again; nothing was promised to them.

use crate::machine::Ingress;
use std::collections::VecDeque;

/// Most that wait: a few milliseconds of work.
const MOST: usize = 512;

/// Where option 53 most often stands: directly behind the cookie.
const FIRST_OPTION: usize = 240;

/// Whether this is a DISCOVER, as all but the oddest clients write it (option 53 first). One that
/// is not recognised is only answered in the first turn.
pub(crate) fn is_discover(bytes: &[u8]) -> bool {
    matches!(bytes.get(FIRST_OPTION..), Some([53, 1, 1, ..]))
}

/// See the module.
#[derive(Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<(Ingress, Vec<u8>)>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds one behind the others.
    pub(crate) fn push(&mut self, ingress: Ingress, bytes: &[u8]) {
        if self.waiting.len() >= MOST
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            self.spare.push(oldest);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.waiting.push_back((ingress, buffer));
    }

    /// Has `work` done on the first one; returns whether there was one.
    pub(crate) fn next(&mut self, work: impl FnOnce(Ingress, &[u8])) -> bool {
        let Some((ingress, buffer)) = self.waiting.pop_front() else {
            return false;
        };
        work(ingress, &buffer);
        if self.spare.len() < MOST {
            self.spare.push(buffer);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::SERVER_PORT;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn ingress() -> Ingress {
        Ingress {
            port: SERVER_PORT,
            source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68),
            destination: Ipv4Addr::BROADCAST,
        }
    }

    #[test]
    fn the_oldest_of_too_many_are_dropped() {
        let mut backlog = Backlog::default();
        for n in 0..MOST as u32 + 10 {
            backlog.push(ingress(), &n.to_be_bytes());
        }
        let mut seen = vec![];
        while backlog.next(|_, bytes| seen.push(u32::from_be_bytes(bytes.try_into().unwrap()))) {}
        assert_eq!(seen, (10..MOST as u32 + 10).collect::<Vec<_>>());
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_discover_is_recognised_by_its_first_option() {
        let mut bytes = vec![0; 240];
        assert!(!is_discover(&bytes));
        bytes.extend([53, 1, 1, 255]);
        assert!(is_discover(&bytes));
        bytes[242] = 3;
        assert!(!is_discover(&bytes));
    }
}
