//! The BMC's side of Serial over LAN: what is typed comes back.

use bugler_bmc::ipmi::packet::{SolFlags, SolPacket};
use std::collections::VecDeque;
use std::time::Duration;

/// How long an answer to a packet of characters is waited for.
const RETRY: Duration = Duration::from_millis(400);
/// How long the serial port is full after it took what it could.
const FULL: Duration = Duration::from_millis(3);
/// The most characters of one packet to the console.
const MOST: usize = 48;

/// A serial port whose machine echoes.
#[derive(Debug)]
pub(super) struct Serial {
    /// How many characters it takes at a time.
    room: usize,
    /// The last packet with characters, how many were taken, and whether that was not all.
    last: Option<(u8, u8, bool)>,
    /// When it can take more, and the packet that it did not take as a whole.
    full: Option<(Duration, u8, u8)>,
    echo: VecDeque<u8>,
    number: u8,
    /// How many characters of the front of the echo are on their way, and when they are sent again.
    flight: Option<(usize, Duration)>,
    pub(super) breaks: u32,
    pub(super) typed: Vec<u8>,
}

impl Serial {
    pub(super) fn new(room: usize) -> Self {
        Self {
            room: room.max(1),
            last: None,
            full: None,
            echo: VecDeque::new(),
            number: 0,
            flight: None,
            breaks: 0,
            typed: Vec::new(),
        }
    }

    /// The machine says something.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.echo.extend(bytes);
    }

    /// Another session begins: numbers start again.
    pub(super) fn attach(&mut self) {
        self.last = None;
        self.full = None;
        self.number = 0;
        self.flight = None;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let full = self.full.map(|(until, ..)| until);
        let flight = self.flight.map(|(_, until)| until);
        full.into_iter().chain(flight).min()
    }

    pub(super) fn receive(&mut self, packet: &SolPacket<'_>, now: Duration) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if packet.acked != 0
            && packet.acked == self.number
            && let Some((length, _)) = self.flight.take()
        {
            self.echo.drain(..usize::from(packet.accepted).min(length));
        }
        if packet.sequence != 0 {
            let (taken, nack) = match self.last {
                // The same once more: the answer was lost.
                Some((number, taken, nack)) if number == packet.sequence => (taken, nack),
                _ => self.take(packet, now),
            };
            self.last = Some((packet.sequence, taken, nack));
            let flags = if nack { SolFlags::NACK } else { 0 };
            out.push(acknowledgement(packet.sequence, taken, flags));
        }
        out.extend(self.poll(now));
        out
    }

    fn take(&mut self, packet: &SolPacket<'_>, now: Duration) -> (u8, bool) {
        self.breaks += u32::from(packet.flags.has(SolFlags::MAKE_BREAK));
        if self.full.is_some_and(|(until, ..)| now < until) {
            return (0, !packet.data.is_empty());
        }
        let taken = packet.data.len().min(self.room);
        self.typed.extend_from_slice(&packet.data[..taken]);
        self.echo.extend(&packet.data[..taken]);
        let nack = taken < packet.data.len();
        if nack {
            self.full = Some((now + FULL, packet.sequence, taken as u8));
        }
        (taken as u8, nack)
    }

    /// What is due.
    pub(super) fn poll(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if let Some((until, number, taken)) = self.full
            && now >= until
        {
            self.full = None;
            out.push(acknowledgement(number, taken, 0));
        }
        if self.flight.is_some_and(|(_, until)| now < until) || self.echo.is_empty() {
            return out;
        }
        let length = match self.flight {
            Some((length, _)) => length,
            None => {
                self.number = if self.number >= 15 {
                    1
                } else {
                    self.number + 1
                };
                self.echo.len().min(MOST)
            }
        };
        self.flight = Some((length, now + RETRY));
        let data: Vec<u8> = self.echo.iter().take(length).copied().collect();
        out.push(
            SolPacket {
                sequence: self.number,
                acked: 0,
                accepted: 0,
                flags: SolFlags::default(),
                data: &data,
            }
            .to_bytes(),
        );
        out
    }
}

fn acknowledgement(acked: u8, accepted: u8, flags: u8) -> Vec<u8> {
    SolPacket {
        sequence: 0,
        acked,
        accepted,
        flags: SolFlags(flags),
        data: &[],
    }
    .to_bytes()
}
