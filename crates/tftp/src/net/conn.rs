//! One transfer with its socket.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use super::link::{Link, Sent};
use super::listener::Route;
use super::openers::Job;
use super::timers::Alarm;
use crate::machine::{End, Limits, Machine, Output, Terms};
use crate::observer::{Event, Transfer};
use crate::packet::{ErrorCode, Packet};
use crate::source::Content;
use crate::stage::Stage;

/// The most datagrams that one send may be cut into (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_SEGMENTS: usize = 64;
/// The most bytes of one send: an IPv4 packet less its headers.
const MAX_SEND: usize = 65_507;
/// The most data of one window: it fits the socket's default send buffer, and bounds the memory.
const MAX_WINDOW_BYTES: u32 = 128 * 1024;

/// How many datagrams that bring nothing are read before others get their turn.
const DATAGRAMS_AT_A_TIME: usize = 32;

/// A transfer that is under way.
#[derive(Debug)]
pub(super) struct Conn {
    link: Link,
    machine: Machine,
    stage: Stage,
    terms: Terms,
    /// Windows go out by segmentation offload.
    offload: bool,
    pub(super) transfer: Transfer,
    pub(super) route: Route,
    pub(super) fingerprint: u64,
    received: Duration,
    pub(super) alarm: Option<Alarm>,
}

impl Conn {
    /// Agrees on terms and sends the first answer through `link`. Gives the transfer, the event that
    /// it started, and the event that ended it at once, if one did.
    pub(super) fn start(
        job: Job,
        link: (Link, u32),
        content: Content,
        size: u64,
        max_windowsize: u16,
        now: Duration,
    ) -> (Self, Event, Option<Event>) {
        let (mut link, mtu) = link;
        let limits = Limits {
            blksize: Limits::blksize_for_mtu(mtu),
            windowsize: max_windowsize,
            window_bytes: MAX_WINDOW_BYTES,
        };
        let terms = Terms::agree(&job.options, size, &limits);
        let blocks = terms.blocks(size);
        let (machine, first) = Machine::new(&terms, blocks, now);
        let stage = Stage::new(
            content,
            job.mode,
            size,
            terms.blksize,
            terms.windowsize,
            blocks,
        );
        let segment = u16::try_from(stage.packet_len()).ok();
        let offload = terms.windowsize > 1 && segment.is_some_and(|size| link.cut(size));
        let mut conn = Self {
            link,
            machine,
            stage,
            terms,
            offload,
            transfer: job.transfer,
            route: job.route,
            fingerprint: job.fingerprint,
            received: job.received,
            alarm: None,
        };
        let started = Event::Started {
            size,
            blksize: terms.blksize,
            windowsize: terms.windowsize,
        };
        let ended = conn.perform(first, now);
        (conn, started, ended)
    }

    /// When it wants [`timeout`](Self::timeout) to be called.
    pub(super) fn deadline(&self) -> Duration {
        self.machine.deadline()
    }

    /// Whether the client has answered.
    pub(super) fn progressed(&self) -> bool {
        self.machine.progressed()
    }

    /// Takes datagrams from the socket, and gives the event that ended the transfer, if one did.
    ///
    /// epoll reports only arrivals (edges), and what has arrived is read only until something was
    /// sent in answer: in lockstep that saves the call that finds nothing. What is left behind can
    /// only be a repetition, is read after the next arrival, and by [`timeout`](Self::timeout).
    pub(super) fn readable(&mut self, now: Duration) -> Option<Event> {
        for _ in 0..DATAGRAMS_AT_A_TIME {
            let output = self.receive(now)?;
            if output != Output::Wait {
                return self.perform(output, now);
            }
        }
        None
    }

    /// Takes one datagram; None when there is none.
    fn receive(&mut self, now: Duration) -> Option<Output> {
        // An ACK has four bytes. What an ERROR has to say beyond this buffer is cut off.
        let mut buffer = [0; 256];
        match self.link.receive(&mut buffer) {
            Ok(len) => Some(
                match Packet::decode(buffer.get(..len).unwrap_or_default()) {
                    Ok(packet) => self.machine.packet(&packet, now),
                    Err(_) => Output::Wait,
                },
            ),
            Err(Errno::AGAIN) => None,
            Err(Errno::CONNREFUSED) => Some(self.machine.unreachable()),
            // A signal, or a network that is away for the moment.
            Err(_) => Some(Output::Wait),
        }
    }

    /// Takes a datagram that came to the listener, and gives the event that ended the transfer, if
    /// one did.
    pub(super) fn packet(&mut self, packet: &Packet<'_>, now: Duration) -> Option<Event> {
        let output = self.machine.packet(packet, now);
        self.perform(output, now)
    }

    /// Whether the client has not answered anything new for so long.
    pub(super) fn is_silent(&self, for_long: Duration, now: Duration) -> bool {
        now.saturating_sub(self.machine.last_progress()) >= for_long
    }

    /// Takes the passing of the deadline.
    pub(super) fn timeout(&mut self, now: Duration) -> Option<Event> {
        if now < self.machine.deadline() {
            return None;
        }
        if let Some(ended) = self.readable(now) {
            return Some(ended);
        }
        let output = self.machine.timeout(now);
        self.perform(output, now)
    }

    /// The event of a transfer that the server itself ends.
    pub(super) fn failed(&self, reason: impl Into<String>) -> Event {
        Event::Failed {
            reason: reason.into(),
            bytes: self.acknowledged(),
        }
    }

    /// The event of a transfer whose client has asked for something else meanwhile.
    pub(super) fn superseded(&self) -> Event {
        let message = "the client made another request from the same port".to_owned();
        Event::Aborted {
            code: None,
            message,
            bytes: self.acknowledged(),
        }
    }

    fn acknowledged(&self) -> u64 {
        self.stage.bytes_in(self.machine.acknowledged())
    }

    fn perform(&mut self, mut output: Output, now: Duration) -> Option<Event> {
        loop {
            let sent = match output {
                Output::Wait => return None,
                Output::End(end) => return Some(self.ended(end, now)),
                Output::OptionAck => self.send(&Packet::OptionAck(self.terms.oack).to_bytes()),
                Output::Blocks { first, count } => match self.send_blocks(first, count) {
                    Ok(sent) => sent,
                    Err(error) => return Some(self.unreadable(&error)),
                },
            };
            match sent {
                Sent::Yes => return None,
                Sent::PortClosed => output = self.machine.unreachable(),
            }
        }
    }

    fn ended(&self, end: End, now: Duration) -> Event {
        match end {
            End::Finished { confirmed } => Event::Finished {
                bytes: self.stage.size(),
                duration: now.saturating_sub(self.received),
                retransmitted: self.machine.retransmitted(),
                confirmed,
            },
            End::Aborted { code, message } => Event::Aborted {
                code,
                message,
                bytes: self.acknowledged(),
            },
            End::Silent => self.failed(format!(
                "the client did not answer for {} s",
                crate::machine::GIVE_UP.as_secs()
            )),
        }
    }

    fn unreadable(&self, error: &io::Error) -> Event {
        let message = b"the server cannot read the file";
        self.send(
            &Packet::Error {
                code: ErrorCode::NOT_DEFINED,
                message,
            }
            .to_bytes(),
        );
        self.failed(format!("reading the content: {error}"))
    }

    fn send_blocks(&mut self, first: u64, count: u16) -> io::Result<Sent> {
        let packet = self.stage.packet_len();
        let packets = self.stage.packets(first, count)?;
        if !self.offload {
            return Ok(self.link.send_each(packets, packet));
        }
        let most = (MAX_SEND / packet).clamp(1, MAX_SEGMENTS) * packet;
        for (index, part) in packets.chunks(most).enumerate() {
            match self.link.send_once(part) {
                Ok(Sent::Yes) => {}
                Ok(Sent::PortClosed) => return Ok(Sent::PortClosed),
                // A device that cannot sum checksums, or a rule that wants whole packets: from now
                // on, one by one.
                Err(errno) => {
                    tracing::debug!(%errno, peer = %self.route.peer, "no segmentation offload");
                    self.link.cut(0);
                    self.offload = false;
                    let rest = packets.get(index * most..).unwrap_or_default();
                    return Ok(self.link.send_each(rest, packet));
                }
            }
        }
        Ok(Sent::Yes)
    }

    fn send(&self, datagram: &[u8]) -> Sent {
        self.link.send_each(datagram, datagram.len().max(1))
    }

    /// The socket to watch; None where the listener hears the client.
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.link.own()
    }
}

/// Answers a request with an ERROR, from where any answer comes. It may be lost: then the client
/// asks again.
pub(super) fn refuse(route: &Route, code: ErrorCode, message: &str) {
    let packet = Packet::Error {
        code,
        message: message.as_bytes(),
    };
    let sent = Link::new(route).and_then(|link| Ok(link.send_once(&packet.to_bytes())?));
    if let Err(error) = sent {
        tracing::debug!(%error, peer = %route.peer, "TFTP error answer");
    }
}
