//! Serial over LAN without a clock: characters in, packets out, and back (IPMI 2.0 section 15.11).
//!
//! One packet is on its way to the BMC at a time. The BMC says how many of its characters it took; the
//! rest goes out again under the next number: at once, or, after a NACK, when the BMC says that it can
//! take more. A packet without an answer goes out again under its own number, so that the BMC knows it
//! for the same.

use crate::ipmi::packet::{SOL_HEADER, SolFlags, SolPacket};
use std::collections::VecDeque;
use std::time::Duration;

/// How long a packet is waited for (section 15.11, the retry interval of a remote console).
const RETRY: Duration = Duration::from_secs(1);
/// How often a packet is sent before the BMC counts as gone.
const ATTEMPTS: u32 = 10;
/// The highest sequence number; after it comes 1, for 0 says "no number" (table 15-2).
const LAST: u8 = 15;

/// What the console of a machine had to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SolEvent {
    /// Characters that the machine sent.
    Data(Vec<u8>),
    /// The machine sent a break.
    Break,
    /// The BMC lost characters of the machine, or a packet of it never came.
    Lost,
    /// The BMC ended it.
    Inactive,
}

/// How characters are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pacing {
    /// How long to rest after each character. With 0, the BMC's acknowledgements alone are the pace.
    pub delay: Duration,
}

#[derive(Debug)]
struct Flight {
    number: u8,
    /// How many characters of the front of the queue; 0 for a break.
    length: usize,
    attempts: u32,
    deadline: Duration,
}

/// One console.
#[derive(Debug)]
pub(super) struct Sol {
    /// The most characters of one packet.
    most: usize,
    pacing: Pacing,
    /// What was not yet acknowledged, the flight included.
    queue: VecDeque<u8>,
    wants_break: bool,
    flight: Option<Flight>,
    /// The number of the last packet that was sent.
    number: u8,
    /// Nothing is sent before this.
    hold: Option<Duration>,
    /// The packet that the BMC did not take as a whole, until it can take more.
    refused: Option<u8>,
    /// The last packet that came, and how many characters it had.
    received: Option<(u8, usize)>,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<SolEvent>,
}

impl Sol {
    /// A console of a BMC that takes packets of `size` bytes, header included.
    pub(super) fn new(size: u16, pacing: Pacing) -> Self {
        // A BMC that does not say, or says too little, is given small packets.
        let most = usize::from(size).saturating_sub(SOL_HEADER);
        Self {
            most: if most == 0 { 16 } else { most.min(255) },
            pacing,
            queue: VecDeque::new(),
            wants_break: false,
            flight: None,
            number: 0,
            hold: None,
            refused: None,
            received: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], now: Duration) {
        self.queue.extend(bytes);
        self.pump(now);
    }

    pub(super) fn send_break(&mut self, now: Duration) {
        self.wants_break = true;
        self.pump(now);
    }

    pub(super) fn set_pacing(&mut self, pacing: Pacing) {
        self.pacing = pacing;
    }

    /// How many characters were not yet acknowledged.
    pub(super) fn unsent(&self) -> usize {
        self.queue.len()
    }

    /// The characters that were not acknowledged; the last packet among them may have arrived.
    pub(super) fn take_unsent(&mut self) -> Vec<u8> {
        self.flight = None;
        self.queue.drain(..).collect()
    }

    pub(super) fn poll(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<SolEvent> {
        self.events.pop_front()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.flight {
            Some(flight) => Some(flight.deadline),
            None if self.queue.is_empty() && !self.wants_break => None,
            None => self.hold,
        }
    }

    /// Takes a packet of the BMC.
    pub(super) fn receive(&mut self, packet: &SolPacket<'_>, now: Duration) {
        let flags = packet.flags;
        self.acknowledged(packet, now);
        if packet.sequence != 0 {
            self.take(packet);
            self.out.push_back(
                SolPacket {
                    sequence: 0,
                    acked: packet.sequence,
                    accepted: packet.data.len().min(255) as u8,
                    flags: SolFlags::default(),
                    data: &[],
                }
                .to_bytes(),
            );
        }
        if flags.has(SolFlags::OVERRUN) {
            self.events.push_back(SolEvent::Lost);
        }
        if flags.has(SolFlags::BREAK) {
            self.events.push_back(SolEvent::Break);
        }
        if flags.has(SolFlags::INACTIVE) {
            self.events.push_back(SolEvent::Inactive);
        }
        self.pump(now);
    }

    fn acknowledged(&mut self, packet: &SolPacket<'_>, now: Duration) {
        if packet.acked == 0 {
            return;
        }
        let nack = packet.flags.has(SolFlags::NACK);
        match self.flight.take_if(|flight| flight.number == packet.acked) {
            Some(flight) => {
                let taken = usize::from(packet.accepted).min(flight.length);
                self.queue.drain(..taken.min(self.queue.len()));
                let stuck = nack || (taken == 0 && flight.length != 0);
                if stuck {
                    self.refused = Some(flight.number);
                    self.hold = Some(now.saturating_add(RETRY));
                } else if !self.pacing.delay.is_zero() {
                    self.hold = Some(now.saturating_add(self.pacing.delay));
                }
                if flight.length == 0 {
                    self.wants_break = nack;
                }
            }
            // "Now I can": the same acknowledgement once more, without the NACK.
            None if self.refused == Some(packet.acked) && !nack => {
                self.refused = None;
                self.hold = None;
            }
            None => {}
        }
    }

    fn take(&mut self, packet: &SolPacket<'_>) {
        let known = match self.received {
            // The same packet again: our acknowledgement was lost. It may have grown meanwhile.
            Some((number, length)) if number == packet.sequence => length,
            Some((number, _)) => {
                if packet.sequence != after(number) {
                    self.events.push_back(SolEvent::Lost);
                }
                0
            }
            None => 0,
        };
        self.received = Some((packet.sequence, packet.data.len().max(known)));
        match packet.data.get(known..) {
            Some(new) if !new.is_empty() => self.events.push_back(SolEvent::Data(new.to_vec())),
            _ => {}
        }
    }

    /// Takes the passing of time. False: the BMC has not answered for too long.
    pub(super) fn timeout(&mut self, now: Duration) -> bool {
        if let Some(flight) = &mut self.flight
            && now >= flight.deadline
        {
            if flight.attempts >= ATTEMPTS {
                return false;
            }
            flight.attempts += 1;
            flight.deadline = now.saturating_add(RETRY);
            let (number, length) = (flight.number, flight.length);
            self.send(number, length);
        }
        self.pump(now);
        true
    }

    fn pump(&mut self, now: Duration) {
        if self.flight.is_some() || self.hold.is_some_and(|hold| now < hold) {
            return;
        }
        let length = if self.wants_break {
            0
        } else if self.queue.is_empty() {
            return;
        } else if self.pacing.delay.is_zero() {
            self.queue.len().min(self.most)
        } else {
            1
        };
        self.hold = None;
        self.refused = None;
        self.number = after(self.number);
        self.flight = Some(Flight {
            number: self.number,
            length,
            attempts: 1,
            deadline: now.saturating_add(RETRY),
        });
        self.send(self.number, length);
    }

    fn send(&mut self, number: u8, length: usize) {
        let data: Vec<u8> = self.queue.iter().take(length).copied().collect();
        let flags = if length == 0 { SolFlags::MAKE_BREAK } else { 0 };
        self.out.push_back(
            SolPacket {
                sequence: number,
                acked: 0,
                accepted: 0,
                flags: SolFlags(flags),
                data: &data,
            }
            .to_bytes(),
        );
    }
}

/// The number after this one.
fn after(number: u8) -> u8 {
    if number >= LAST { 1 } else { number + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ack(sol: &mut Sol, bytes: [u8; 4], now: u64) {
        sol.receive(&SolPacket::decode(&bytes).unwrap(), at(now));
    }

    fn sent(sol: &mut Sol) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| sol.poll()).collect()
    }

    #[test]
    fn a_tail_that_was_not_taken_goes_out_when_the_bmc_can_take_it() {
        let mut sol = Sol::new(68, Pacing::default());
        let text: Vec<u8> = (0..40).collect();
        sol.write(&text, at(0));
        let first = sent(&mut sol);
        assert_eq!(first.len(), 1);
        assert_eq!(first[0][..4], [1, 0, 0, 0]);
        assert_eq!(first[0][4..], text[..]);
        // 32 taken, no more for now.
        ack(&mut sol, [0, 1, 32, 0x40], 5);
        assert!(sent(&mut sol).is_empty());
        ack(&mut sol, [0, 1, 32, 0x00], 9);
        let tail = sent(&mut sol);
        assert_eq!(tail.len(), 1);
        assert_eq!(tail[0][..4], [2, 0, 0, 0]);
        assert_eq!(tail[0][4..], text[32..]);
        ack(&mut sol, [0, 2, 8, 0], 12);
        assert_eq!((sol.unsent(), sol.deadline()), (0, None));
    }

    #[test]
    fn a_lost_go_ahead_costs_one_interval() {
        let mut sol = Sol::new(68, Pacing::default());
        sol.write(b"abcd", at(0));
        sent(&mut sol);
        ack(&mut sol, [0, 1, 1, 0x40], 5);
        assert_eq!(sol.deadline(), Some(at(1005)));
        assert!(sol.timeout(at(1005)));
        assert_eq!(sent(&mut sol), [b"\x02\0\0\0bcd".to_vec()]);
    }

    #[test]
    fn numbers_leave_zero_out() {
        let mut sol = Sol::new(68, Pacing::default());
        let mut numbers = Vec::new();
        for _ in 0..33 {
            sol.write(b"x", at(0));
            let packets = sent(&mut sol);
            numbers.push(packets[0][0]);
            ack(&mut sol, [0, packets[0][0], 1, 0], 0);
        }
        let expected: Vec<u8> = (1..=15).cycle().take(33).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_packet_that_came_twice_is_heard_once_and_acknowledged_twice() {
        let mut sol = Sol::new(68, Pacing::default());
        for bytes in [
            &b"\x01\0\0\0ab"[..],
            b"\x01\0\0\0ab",
            b"\x01\0\0\0abc",
            b"\x02\0\0\0d",
        ] {
            sol.receive(&SolPacket::decode(bytes).unwrap(), at(0));
        }
        let heard: Vec<_> = std::iter::from_fn(|| sol.poll_event()).collect();
        assert_eq!(
            heard,
            [
                SolEvent::Data(b"ab".to_vec()),
                SolEvent::Data(b"c".to_vec()),
                SolEvent::Data(b"d".to_vec())
            ]
        );
        assert_eq!(
            sent(&mut sol),
            [[0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 3, 0], [0, 2, 1, 0]].map(|b| b.to_vec())
        );
    }

    #[test]
    fn paced_characters_go_one_by_one() {
        let mut sol = Sol::new(68, Pacing { delay: at(50) });
        sol.write(b"ab", at(0));
        assert_eq!(sent(&mut sol), [b"\x01\0\0\0a".to_vec()]);
        ack(&mut sol, [0, 1, 1, 0], 2);
        assert!(sent(&mut sol).is_empty());
        assert_eq!(sol.deadline(), Some(at(52)));
        assert!(sol.timeout(at(52)));
        assert_eq!(sent(&mut sol), [b"\x02\0\0\0b".to_vec()]);
    }

    #[test]
    fn a_break_goes_between_characters() {
        let mut sol = Sol::new(68, Pacing::default());
        sol.write(b"a", at(0));
        sol.send_break(at(0));
        assert_eq!(sent(&mut sol), [b"\x01\0\0\0a".to_vec()]);
        ack(&mut sol, [0, 1, 1, 0], 1);
        assert_eq!(sent(&mut sol), [b"\x02\0\0\x10".to_vec()]);
        ack(&mut sol, [0, 2, 0, 0], 2);
        assert_eq!(sol.deadline(), None);
        assert!(sent(&mut sol).is_empty());
    }

    #[test]
    fn a_bmc_that_is_gone_is_given_up() {
        let mut sol = Sol::new(68, Pacing::default());
        sol.write(b"a", at(0));
        let mut packets = sent(&mut sol).len();
        let gone = (1..100).find(|second| !sol.timeout(at(second * 1000)));
        packets += sent(&mut sol).len();
        assert_eq!((gone, packets), (Some(10), 10));
        assert_eq!(sol.take_unsent(), b"a");
    }
}
