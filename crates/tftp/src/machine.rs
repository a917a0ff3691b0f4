//! One transfer, from the server's side: ACKs and time in, "send this" out.
//!
//! The machine holds no data: it says which blocks to send, and the caller has them. Blocks are
//! counted from 1 without end; on the wire the number is taken modulo 65536, so it goes from 65535
//! to 0 and files may be of any size.
//!
//! What is sent, and when (RFC 1350, 2347, 7440):
//!
//! * An ACK of the last block of the flight brings the next flight of `windowsize` blocks.
//! * An ACK from the middle of the flight says that the client misses the block after it: the next
//!   flight starts there (go-back-N, RFC 7440 section 4).
//! * An ACK seen before brings nothing (the Sorcerer's Apprentice of RFC 1123 section 4.2.3.1), with
//!   one exception that RFC 7440 needs: with a window larger than 1 it is how a client says that the
//!   first block of the flight is missing. It counts once for each flight start, and only when it
//!   comes late enough to be an answer to the flight.
//! * No answer within the measured timeout ([`crate::rtt`]): the flight is sent again, and the
//!   timeout doubles, until the machine gives up.

mod terms;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::packet::{ErrorCode, Packet};
use crate::rtt::{MIN_RTO, Rtt};

pub use terms::{Limits, Terms};

/// How long a client may stay silent before its transfer is given up.
pub const GIVE_UP: Duration = Duration::from_secs(30);

/// What the caller is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nothing, until the next packet or the deadline.
    Wait,
    /// Send the OACK of [`Terms::oack`].
    OptionAck,
    /// Send these blocks.
    Blocks {
        /// The first block, counted from 1.
        first: u64,
        /// How many, at least 1 and at most `windowsize`.
        count: u16,
    },
    /// The transfer is over.
    End(End),
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything was sent and acknowledged. Where `confirmed` is false, the client closed its port
    /// with only its last ACK missing: it has the file as far as can be known.
    Finished {
        /// The last ACK was seen.
        confirmed: bool,
    },
    /// The client ended it. Boot ROMs do so on purpose, once they know the size of the file.
    Aborted {
        /// The code that it sent, or None when its port turned out to be closed.
        code: Option<ErrorCode>,
        /// The message that it sent.
        message: String,
    },
    /// The client stayed silent for [`GIVE_UP`].
    Silent,
}

/// The state of one transfer. Times are since any fixed moment that the caller chooses.
#[derive(Debug, Clone)]
pub struct Machine {
    windowsize: u16,
    /// The number of blocks of the file, at least 1: the last is shorter than `blksize`, maybe empty.
    blocks: u64,
    /// The first block that is not acknowledged; 0 while the OACK is not.
    base: u64,
    /// The last block of the flight on its way, and the highest ever sent; 0 before the first.
    flight_end: u64,
    flight_sent: Duration,
    /// The flight that was sent again on a repeated ACK, by its first block.
    went_back: Option<u64>,
    /// The first block of the flight that was not sent before, and when it was: Karn's rule measures
    /// no other.
    timed: Option<(u64, Duration)>,
    rtt: Rtt,
    deadline: Duration,
    last_progress: Duration,
    progressed: bool,
    retransmitted: u64,
}

impl Machine {
    /// Starts a transfer of `blocks` blocks (at least 1) on these terms, and says what to send first:
    /// the OACK where options were agreed, else the first flight.
    pub fn new(terms: &Terms, blocks: u64, now: Duration) -> (Self, Output) {
        let mut machine = Self {
            windowsize: terms.windowsize.max(1),
            blocks: blocks.max(1),
            base: 0,
            flight_end: 0,
            flight_sent: now,
            went_back: None,
            timed: Some((0, now)),
            rtt: Rtt::default(),
            deadline: now,
            last_progress: now,
            progressed: false,
            retransmitted: 0,
        };
        machine.deadline = now.saturating_add(machine.rtt.timeout());
        let first = if terms.has_oack() {
            Output::OptionAck
        } else {
            machine.base = 1;
            machine.fly(now)
        };
        (machine, first)
    }

    /// When [`timeout`](Self::timeout) is due.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether the client has answered at all. Before that, a second request from the same port is
    /// the first one again.
    pub fn progressed(&self) -> bool {
        self.progressed
    }

    /// When the client last acknowledged something new, or the transfer began.
    pub fn last_progress(&self) -> Duration {
        self.last_progress
    }

    /// Blocks sent more than once.
    pub fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// Blocks acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.base.saturating_sub(1)
    }

    /// The first block that may still be asked for. What lies before it is never sent again.
    pub fn base(&self) -> u64 {
        self.base.max(1)
    }

    /// Takes a packet from the client.
    pub fn packet(&mut self, packet: &Packet<'_>, now: Duration) -> Output {
        match packet {
            Packet::Ack { block } => self.ack(*block, now),
            Packet::Error { code, message } => Output::End(End::Aborted {
                code: Some(*code),
                message: String::from_utf8_lossy(message).into_owned(),
            }),
            // A client has no business sending anything else here; RFC 1350 lets it be ignored.
            _ => Output::Wait,
        }
    }

    /// Takes the news that the client's port is closed.
    pub fn unreachable(&mut self) -> Output {
        // The last flight was sent twice: the client may have received it, sent its ACK, and gone,
        // with the ACK lost.
        let acked_in_vain = self.flight_end == self.blocks && self.timed.is_none();
        Output::End(if acked_in_vain {
            End::Finished { confirmed: false }
        } else {
            End::Aborted {
                code: None,
                message: String::new(),
            }
        })
    }

    /// Takes the passing of time. Before the deadline this does nothing.
    pub fn timeout(&mut self, now: Duration) -> Output {
        if now < self.deadline {
            return Output::Wait;
        }
        if now.saturating_sub(self.last_progress) >= GIVE_UP {
            return Output::End(End::Silent);
        }
        self.rtt.back_off();
        self.timed = None;
        self.resend(now)
    }

    fn ack(&mut self, block: u16, now: Duration) -> Output {
        // The wire has 16 bits of the number. Only the blocks of the flight and the one before it
        // are possible, at most 65536 of them, so the bits decide.
        let before = self.base.saturating_sub(1);
        let ahead = block.wrapping_sub(before as u16);
        let acked = before.saturating_add(u64::from(ahead));
        if self.base == 0 {
            return if block == 0 {
                self.advance(0, now)
            } else {
                Output::Wait
            };
        }
        if acked > self.flight_end {
            return Output::Wait;
        }
        if acked == before {
            self.repeated(now)
        } else {
            self.advance(acked, now)
        }
    }

    /// An ACK that was not seen before.
    fn advance(&mut self, acked: u64, now: Duration) -> Output {
        if let Some((block, sent)) = self.timed.take()
            && block <= acked
        {
            self.rtt.sample(now.saturating_sub(sent));
        }
        let whole_flight = acked >= self.flight_end;
        self.base = acked.saturating_add(1);
        self.last_progress = now;
        self.progressed = true;
        if acked == self.blocks {
            return Output::End(End::Finished { confirmed: true });
        }
        if whole_flight || self.answers_flight(now) {
            return self.fly(now);
        }
        // A client that acknowledges every block although a window was agreed: the flight is still
        // on its way, and to send it again for each of its blocks would be a storm.
        self.deadline = now.saturating_add(self.rtt.timeout());
        Output::Wait
    }

    /// The ACK before the flight once more.
    fn repeated(&mut self, now: Duration) -> Output {
        if self.windowsize == 1 || self.went_back == Some(self.base) || !self.answers_flight(now) {
            return Output::Wait;
        }
        self.went_back = Some(self.base);
        self.timed = None;
        self.resend(now)
    }

    /// Whether enough time has passed for an ACK to be an answer to the flight, and not to what was
    /// sent before it.
    fn answers_flight(&self, now: Duration) -> bool {
        let least = self.rtt.smoothed().unwrap_or(MIN_RTO) / 2;
        now.saturating_sub(self.flight_sent) >= least
    }

    fn resend(&mut self, now: Duration) -> Output {
        if self.base == 0 {
            self.deadline = now.saturating_add(self.rtt.timeout());
            return Output::OptionAck;
        }
        self.fly(now)
    }

    /// Sends the flight that starts at `base`.
    fn fly(&mut self, now: Duration) -> Output {
        let first = self.base;
        let last = first
            .saturating_add(u64::from(self.windowsize) - 1)
            .min(self.blocks);
        let again = self.flight_end.saturating_add(1).saturating_sub(first);
        self.retransmitted = self.retransmitted.saturating_add(again);
        let fresh = first.saturating_add(again);
        self.timed = (fresh <= last).then_some((fresh, now));
        self.flight_end = last;
        self.flight_sent = now;
        self.deadline = now.saturating_add(self.rtt.timeout());
        let count = u16::try_from(last.saturating_sub(first).saturating_add(1));
        Output::Blocks {
            first,
            count: count.unwrap_or(self.windowsize),
        }
    }
}
