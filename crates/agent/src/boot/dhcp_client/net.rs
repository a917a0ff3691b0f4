//! The client's socket: UDP, bound to one interface, without an address at first.
//!
//! Servers must broadcast their answers while the client asks them to (RFC 2131 section 4.1), and
//! the kernel delivers a broadcast on an interface without an address too; so no raw socket is
//! needed, nor the module that makes them.

use super::machine::{Client, Identity, Lease, Output, Terms};
use super::packet::{CLIENT_PORT, SERVER_PORT};
use crate::backoff;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Use this lease from now on.
    Bound(Lease),
    /// Stop using the address.
    Lost(String),
}

/// A client at work on an interface.
pub(crate) struct Session {
    socket: UdpSocket,
    client: Client,
    epoch: Instant,
    waiting: std::collections::VecDeque<Event>,
    /// What the last send that failed came back with; told once.
    trouble: Option<io::Error>,
}

impl Session {
    /// Opens the client's port on `interface`.
    ///
    /// # Errors
    /// What the kernel answers: the port is taken, the interface is gone.
    pub(crate) fn open(interface: &str, identity: Identity) -> io::Result<Self> {
        let client = Client::new(identity, backoff::seed(), Duration::ZERO);
        Self::with(interface, client)
    }

    /// As [`open`](Self::open), going on with a lease that another process got; its times count from
    /// now on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn resume(interface: &str, identity: Identity, terms: Terms) -> io::Result<Self> {
        let client = Client::resume(identity, backoff::seed(), terms, Duration::ZERO);
        Self::with(interface, client)
    }

    fn with(interface: &str, client: Client) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // After a restart of the agent the old socket may not be gone yet.
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        Ok(Self {
            socket: socket.into(),
            client,
            epoch: Instant::now(),
            waiting: std::collections::VecDeque::new(),
            trouble: None,
        })
    }

    /// The lease with its times, counted from now on.
    pub(crate) fn terms(&self) -> Option<Terms> {
        let terms = self.client.terms()?;
        Some(terms.after(self.epoch.elapsed()))
    }

    /// Works until there is something to do for the caller, or until `end`.
    ///
    /// # Errors
    /// When the socket fails for good; a network that is down is none.
    pub(crate) fn step(&mut self, end: Option<Instant>) -> io::Result<Option<Event>> {
        let mut datagram = [0; 2048];
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let now = self.epoch.elapsed();
            let outputs = self.client.poll(now);
            self.carry_out(outputs);
            if !self.waiting.is_empty() {
                continue;
            }
            let mut wait = self.client.deadline().saturating_sub(now);
            if let Some(end) = end {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                wait = wait.min(left);
            }
            // Zero would mean to wait for ever.
            self.socket
                .set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            match self.socket.recv(&mut datagram) {
                Ok(len) => {
                    let received = datagram.get(..len).unwrap_or(&[]);
                    let outputs = self.client.receive(received, self.epoch.elapsed());
                    self.carry_out(outputs);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted
                    // An ICMP answer to something that was sent; the retry follows anyway.
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NetworkDown => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let (to, message) = match output {
                Output::Broadcast(message) => (Ipv4Addr::BROADCAST, message),
                Output::Unicast(to, message) => (to, message),
                Output::Bound(lease) => {
                    self.waiting.push_back(Event::Bound(lease));
                    continue;
                }
                Output::Lost(why) => {
                    self.waiting.push_back(Event::Lost(why));
                    continue;
                }
            };
            // A message that cannot be sent is one that got lost: it is sent again in time.
            let sent = self.socket.send_to(&message, (to, SERVER_PORT));
            self.trouble = sent.err();
        }
    }

    /// What sending last failed with, where it did: to be told when nobody answers.
    pub(crate) fn trouble(&self) -> Option<&io::Error> {
        self.trouble.as_ref()
    }
}
