//! DHCP load: many exchanges from one thread, faster than the servers that it measures.
//!
//! It acts as a relay agent (RFC 1542 section 4, RFC 2131 section 4.3): every message has its own
//! address as `giaddr` and goes to the server's port 67 by unicast, and the server answers to port
//! 67 of that address. So one socket plays any number of clients, no server has to look for an
//! address on the link before it offers it, and all servers are driven in the same way. Nothing is
//! ever sent anywhere but to the one server that it was told.
//!
//! Messages are made once and patched (MAC address, xid, address); they leave and come in by the
//! batch. *Closed loop*: a fixed number of exchanges is outstanding, and the end of one begins the
//! next. *Open loop*: exchanges begin at a fixed rate, whatever the server answers.

use crate::error::Error;
use crate::kind::{Kind, bytes_of, mac_of};
use bugler_dhcp::batch::{Inbox, Outbox};
use bugler_dhcp::{MessageType, Triples, code};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// Where the options begin in a message.
const OPTIONS: usize = 240;

/// Room for what comes back: servers say more than they were asked.
const ROOM: usize = 1500;

/// What the sockets may hold; the kernel gives as much as it allows.
const QUEUE: usize = 8 << 20;

/// How often an open loop sends what is due.
const TICK: Duration = Duration::from_micros(500);

/// Exchanges that an open loop remembers; older ones no longer count when they are answered.
const REMEMBERED: usize = 1 << 16;

/// Whom to load, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's address.
    pub server: Ipv4Addr,
    /// The address of this host that the server answers to: the relay agent's. Its port 67 must be
    /// free.
    pub relay: Ipv4Addr,
    /// What the clients are.
    pub kind: Kind,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// This many exchanges outstanding.
    Closed(usize),
    /// This many exchanges begun in a second.
    Open(f64),
}

/// When it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many exchanges that ended with an ACK, or this time.
    Acknowledged(u64, Duration),
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadReport {
    /// DISCOVERs sent, repetitions not counted.
    pub begun: u64,
    /// Exchanges that ended with an ACK.
    pub acknowledged: u64,
    /// Offers received.
    pub offered: u64,
    /// Requests that were refused (NAK).
    pub refused: u64,
    /// How often a client waited for an answer in vain.
    pub timeouts: u64,
    /// From the first message to the end, in seconds.
    pub seconds: f64,
    /// Time from DISCOVER to ACK, in microseconds: of half of the exchanges at most.
    pub median_us: f64,
    /// The same of 99 in 100.
    pub p99_us: f64,
}

impl LoadReport {
    /// Exchanges a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// One exchange that is under way.
#[derive(Clone, Copy)]
struct Slot {
    client: u32,
    xid: u32,
    began: Duration,
    /// When it is given up.
    until: Duration,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Discovering,
    Requesting,
}

/// A generator with its socket.
pub struct Generator {
    socket: Socket,
    inbox: Inbox,
    play: Play,
}

/// The clients: everything but the socket.
struct Play {
    discover: Vec<u8>,
    request: Vec<u8>,
    /// Where in `request` the address and the server identifier stand.
    places: (usize, usize),
    slots: Vec<Slot>,
    next: u32,
    clients: u32,
    generation: u16,
    timeout: Duration,
    outbox: Outbox,
    report: LoadReport,
    times: Vec<u32>,
}

impl Generator {
    /// Opens the socket.
    ///
    /// # Errors
    /// Where the relay's port 67 cannot be had, or the server has no route.
    pub fn new(target: &Target) -> Result<Self, Error> {
        let local = SocketAddrV4::new(target.relay, 67);
        let server = SocketAddrV4::new(target.server, 67);
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            // More than the kernel allows is not an error.
            socket.set_recv_buffer_size(QUEUE)?;
            socket.set_send_buffer_size(QUEUE)?;
            socket.bind(&local.into())?;
            socket.connect(&server.into())?;
            Ok(socket)
        };
        let socket = open().map_err(|source: io::Error| Error::Relay {
            relay: local,
            server,
            source,
        })?;
        let program = target.kind.program();
        let mac = mac_of(0);
        let relayed = |mut packet: bugler_dhcp::Packet| {
            packet.giaddr = target.relay;
            packet.hops = 1;
            bytes_of(&packet)
        };
        let discover = relayed(program.message(MessageType::Discover, mac, 0));
        let nobody = Ipv4Addr::UNSPECIFIED;
        let request = relayed(program.request(mac, 0, nobody, nobody));
        let place = |wanted| value_place(&request, wanted).unwrap_or(0);
        let play = Play {
            places: (place(code::REQUESTED_ADDRESS), place(code::SERVER_ID)),
            discover,
            request,
            slots: Vec::new(),
            next: 0,
            clients: 1,
            generation: 0,
            timeout: Duration::from_secs(1),
            outbox: Outbox::default(),
            report: LoadReport::default(),
            times: Vec::new(),
        };
        Ok(Self {
            socket,
            inbox: Inbox::new(ROOM),
            play,
        })
    }

    /// Loads the server: the clients number 0 to `clients` - 1 take turns. A client that hears
    /// nothing for `timeout` begins anew (closed loop) or counts as not served (open loop).
    ///
    /// # Errors
    /// Where the socket fails. That the server does not answer is counted instead.
    pub fn run(
        &mut self,
        clients: u32,
        pace: Pace,
        until: Until,
        timeout: Duration,
    ) -> Result<LoadReport, Error> {
        self.play.clients = clients.max(1);
        self.play.next = 0;
        self.play.timeout = timeout;
        self.play.report = LoadReport::default();
        self.play.times.clear();
        // What is left over from an earlier run is not an answer to this one.
        while self.inbox.receive(&self.socket).is_ok() {}
        let (most, limit) = match until {
            Until::Elapsed(limit) => (u64::MAX, limit),
            Until::Acknowledged(count, limit) => (count, limit),
        };
        let idle = Slot {
            client: 0,
            xid: 0,
            began: Duration::ZERO,
            until: Duration::ZERO,
            state: State::Idle,
        };
        let slots = match pace {
            Pace::Closed(outstanding) => outstanding.clamp(1, REMEMBERED),
            Pace::Open(_) => REMEMBERED,
        };
        self.play.slots = vec![idle; slots];
        let start = Instant::now();
        let result = match pace {
            Pace::Closed(_) => self.closed(start, most, limit),
            Pace::Open(rate) => self.open(start, rate, most, limit),
        };
        let elapsed = start.elapsed();
        result.map_err(|source| Error::Socket { source })?;
        let mut report = std::mem::take(&mut self.play.report);
        report.seconds = elapsed.as_secs_f64();
        self.play.times.sort_unstable();
        let at = |part: usize| {
            let index =
                (self.play.times.len() * part / 100).min(self.play.times.len().saturating_sub(1));
            self.play.times.get(index).copied().map_or(0.0, f64::from)
        };
        report.median_us = at(50);
        report.p99_us = at(99);
        Ok(report)
    }

    fn closed(&mut self, start: Instant, most: u64, limit: Duration) -> io::Result<()> {
        let mut now = start.elapsed();
        for slot in 0..self.play.slots.len() {
            self.play.begin(slot, now);
        }
        self.flush()?;
        let mut look = now + self.play.timeout;
        while now < limit && self.play.report.acknowledged < most {
            self.wait((limit.min(look)).saturating_sub(now))?;
            now = start.elapsed();
            self.receive(now, true)?;
            if now >= look {
                self.play.lapse(now);
                look = now + self.play.timeout / 4;
            }
            self.flush()?;
        }
        Ok(())
    }

    fn open(&mut self, start: Instant, rate: f64, most: u64, limit: Duration) -> io::Result<()> {
        let mut now = start.elapsed();
        let mut slot = 0;
        while now < limit && self.play.report.acknowledged < most {
            let due = (now.as_secs_f64() * rate) as u64;
            // A generator that cannot keep up does not make up for it in one burst.
            let behind = due.saturating_sub(self.play.report.begun).min(4096);
            for _ in 0..behind {
                self.play.begin(slot, now);
                slot = (slot + 1) % self.play.slots.len();
            }
            self.flush()?;
            self.wait(TICK.min(limit.saturating_sub(now)))?;
            now = start.elapsed();
            self.receive(now, false)?;
            self.flush()?;
            now = start.elapsed();
        }
        Ok(())
    }

    fn wait(&self, time: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all that is there. `again`: the end of an exchange begins another.
    fn receive(&mut self, now: Duration, again: bool) -> io::Result<()> {
        loop {
            let count = match self.inbox.receive(&self.socket) {
                Ok(count) => count,
                Err(error) => {
                    return match error.kind() {
                        // The server's port is closed for now: its clients' timeouts tell.
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused => Ok(()),
                        io::ErrorKind::Interrupted => continue,
                        _ => Err(error),
                    };
                }
            };
            for received in self.inbox.iter() {
                if let Some(reply) = Reply::read(received.bytes) {
                    self.play.reply(&reply, now, again);
                }
            }
            self.flush()?;
            if count < bugler_dhcp::batch::MOST {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut broken = None;
        self.play.outbox.send(&self.socket, |_, error| {
            let passes = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
            ) || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error());
            if !passes {
                broken = Some(error);
            }
        });
        broken.map_or(Ok(()), Err)
    }
}

impl Play {
    fn begin(&mut self, index: usize, now: Duration) {
        let client = self.next;
        self.next = (self.next + 1) % self.clients;
        self.discover(index, client, now);
        self.report.begun += 1;
    }

    fn discover(&mut self, index: usize, client: u32, now: Duration) {
        self.generation = self.generation.wrapping_add(1);
        let xid = (u32::from(self.generation) << 16) | (index as u32 & 0xffff);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot {
                client,
                xid,
                began: now,
                until: now + self.timeout,
                state: State::Discovering,
            };
        }
        let template = &self.discover;
        self.outbox.push(None, None, |bytes| {
            let start = bytes.len();
            bytes.extend_from_slice(template);
            patch(bytes, start, xid, client);
        });
    }

    fn reply(&mut self, reply: &Reply, now: Duration, again: bool) {
        let index = (reply.xid & 0xffff) as usize;
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        if slot.xid != reply.xid || slot.state == State::Idle {
            return;
        }
        match (reply.kind, slot.state) {
            (MessageType::Offer, State::Discovering) => {
                slot.state = State::Requesting;
                slot.until = now + self.timeout;
                let (xid, client) = (slot.xid, slot.client);
                self.report.offered += 1;
                let (template, places) = (&self.request, self.places);
                self.outbox.push(None, None, |bytes| {
                    let start = bytes.len();
                    bytes.extend_from_slice(template);
                    patch(bytes, start, xid, client);
                    put(bytes, start + places.0, &reply.address.octets());
                    put(bytes, start + places.1, &reply.server.octets());
                });
            }
            (MessageType::Ack, State::Requesting) => {
                slot.state = State::Idle;
                let took = now.saturating_sub(slot.began).as_micros();
                self.times.push(u32::try_from(took).unwrap_or(u32::MAX));
                self.report.acknowledged += 1;
                if again {
                    self.begin(index, now);
                }
            }
            (MessageType::Nak, State::Requesting) => {
                slot.state = State::Idle;
                let client = slot.client;
                self.report.refused += 1;
                if again {
                    self.discover(index, client, now);
                }
            }
            _ => {}
        }
    }

    /// Lets clients that have waited too long begin anew.
    fn lapse(&mut self, now: Duration) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            if slot.state != State::Idle && slot.until <= now {
                let client = slot.client;
                self.report.timeouts += 1;
                self.discover(index, client, now);
            }
        }
    }
}

/// Puts bytes at a place.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Makes the message at `start` this client's.
fn patch(bytes: &mut [u8], start: usize, xid: u32, client: u32) {
    put(bytes, start + 4, &xid.to_be_bytes());
    let mac = mac_of(client).0;
    put(bytes, start + 28, &mac);
    // Option 97 ends with the MAC address; a template has it at the same place.
    if let Some(at) = bytes
        .get(start..)
        .and_then(|message| value_place(message, code::CLIENT_UUID))
    {
        put(bytes, start + at + 11, &mac);
    }
}

/// Where the value of an option begins in a message.
fn value_place(message: &[u8], wanted: u8) -> Option<usize> {
    let mut at = OPTIONS;
    loop {
        match *message.get(at)? {
            code::PAD => at += 1,
            code::END => return None,
            found if found == wanted => return Some(at + 2),
            _ => at += 2 + usize::from(*message.get(at + 1)?),
        }
    }
}

/// What is read of an answer.
struct Reply {
    xid: u32,
    kind: MessageType,
    address: Ipv4Addr,
    server: Ipv4Addr,
}

impl Reply {
    fn read(bytes: &[u8]) -> Option<Self> {
        if *bytes.first()? != 2 {
            return None;
        }
        let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..)?.first_chunk().copied() };
        let (mut kind, mut server) = (None, Ipv4Addr::UNSPECIFIED);
        for (found, value) in Triples::new(bytes.get(OPTIONS..)?) {
            match (found, value) {
                (code::MESSAGE_TYPE, [number, ..]) => kind = MessageType::from_number(*number),
                (code::SERVER_ID, [a, b, c, d]) => server = Ipv4Addr::new(*a, *b, *c, *d),
                _ => {}
            }
        }
        Some(Self {
            xid: u32::from_be_bytes(word(4)?),
            kind: kind?,
            address: word(16)?.into(),
            server,
        })
    }
}

/// Reads any bytes as an answer.
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = Reply::read(bytes);
    let _ = value_place(bytes, code::SERVER_ID);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_dhcp::Packet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_read_or_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Reply::read(&bytes);
            let _ = value_place(&bytes, 54);
        }
    }

    #[test]
    fn a_patched_template_is_that_clients_message() {
        for kind in Kind::ALL {
            let program = kind.program();
            let mut bytes = bytes_of(&program.message(MessageType::Discover, mac_of(0), 0));
            patch(&mut bytes, 0, 9, 70_000);
            let expected = bytes_of(&program.message(MessageType::Discover, mac_of(70_000), 9));
            if kind == Kind::RaspberryPi4 {
                // Its option 97 holds the serial number behind the MAC address.
                assert_eq!(Packet::decode(&bytes).unwrap().mac(), Some(mac_of(70_000)));
            } else {
                assert_eq!(bytes, expected, "{kind}");
            }
        }
    }
}
