//! The client's states (RFC 2131 section 4.4, figure 5), without INIT-REBOOT: a boot environment
//! remembers nothing.

use super::packet::{ACK, DISCOVER, NAK, OFFER, REQUEST, Reply, Request, option};
use crate::backoff::Backoff;
use bugler_model::MacAddr;
use std::net::Ipv4Addr;
use std::time::Duration;
use uuid::Uuid;

/// First and longest wait before a message is sent again. RFC 2131 section 4.1 proposes 4 s and
/// 64 s; a first second serves the machine whose first message fell into a switch that was still
/// bringing its port up.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(16);

/// How often an offered address is asked for before another offer is sought.
const REQUEST_TRIES: u32 = 4;

/// Shortest wait between two tries to renew (RFC 2131 section 4.4.5), and shortest lease that is
/// believed: a server that gives less would have its client do nothing else.
const MIN_RENEW: Duration = Duration::from_secs(60);
const MIN_LEASE: Duration = Duration::from_secs(10);

/// Option 51: a lease without end.
const FOREVER: u32 = u32::MAX;

/// What is asked for in option 55.
const PARAMETERS: [u8; 8] = [
    option::MASK,
    option::ROUTER,
    option::DNS,
    option::DOMAIN,
    option::LEASE_TIME,
    option::SERVER,
    option::T1,
    option::T2,
];

/// Largest message that the client takes, in bytes: what fits an Ethernet frame.
const MAX_SIZE: u16 = 1472;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The interface's address.
    pub mac: MacAddr,
    /// SMBIOS UUID; sent in the byte order of its text form, as iPXE does.
    pub uuid: Option<Uuid>,
}

/// An address and what came with it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix in bits, 1 to 32.
    pub prefix: u8,
    /// The way out of the network.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Where names without a dot are looked for.
    pub domain: Option<String>,
    /// The server that gave it.
    pub server: Ipv4Addr,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send to 255.255.255.255, from 0.0.0.0 while there is no address.
    Broadcast(Vec<u8>),
    /// Send to a server, from the client's address.
    Unicast(Ipv4Addr, Vec<u8>),
    /// Use this lease from now on; where it is the same as before, nothing changes.
    Bound(Lease),
    /// The address may not be used any more.
    Lost(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    /// An offer was taken up.
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
        tries: u32,
    },
    Bound(Terms),
}

/// A lease with its times, counted like `now`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Terms {
    /// The lease.
    pub lease: Lease,
    /// From here on its server is asked to renew it.
    pub renew: Duration,
    /// From here on any server is asked.
    pub rebind: Duration,
    /// Here the address may not be used any more.
    pub end: Duration,
}

impl Terms {
    /// The same, counted from `now` on.
    #[must_use]
    pub fn after(&self, now: Duration) -> Self {
        Self {
            lease: self.lease.clone(),
            renew: self.renew.saturating_sub(now),
            rebind: self.rebind.saturating_sub(now),
            end: self.end.saturating_sub(now),
        }
    }
}

/// One interface's client.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    state: State,
    backoff: Backoff,
    xid: u32,
    began: Duration,
    /// When to send next.
    next: Duration,
}

impl Client {
    /// A client that begins at `now`. `seed` should differ between machines.
    #[must_use]
    pub fn new(identity: Identity, seed: u64, now: Duration) -> Self {
        Self {
            identity,
            state: State::Selecting,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY, seed),
            xid: (seed ^ (seed >> 32)) as u32,
            began: now,
            next: now,
        }
    }

    /// A client that goes on with a lease that another one got, with the same identity.
    #[must_use]
    pub fn resume(identity: Identity, seed: u64, terms: Terms, now: Duration) -> Self {
        Self {
            next: terms.renew,
            state: State::Bound(terms),
            ..Self::new(identity, seed, now)
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.next
    }

    /// The lease that is in use.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.terms().map(|terms| &terms.lease)
    }

    /// The lease that is in use, with its times.
    #[must_use]
    pub fn terms(&self) -> Option<&Terms> {
        match &self.state {
            State::Bound(terms) => Some(terms),
            State::Selecting | State::Requesting { .. } => None,
        }
    }

    /// Does what is due at `now`.
    pub fn poll(&mut self, now: Duration) -> Vec<Output> {
        if now < self.next {
            return Vec::new();
        }
        match &mut self.state {
            State::Requesting { tries, .. } if *tries >= REQUEST_TRIES => self.restart(now),
            State::Bound(terms) if now >= terms.end => {
                let why = "its lease has run out and nobody renewed it".into();
                self.restart(now);
                let mut out = vec![Output::Lost(why)];
                out.extend(self.send(now));
                return out;
            }
            _ => {}
        }
        self.send(now).into_iter().collect()
    }

    fn send(&mut self, now: Duration) -> Option<Output> {
        match &mut self.state {
            State::Selecting => {
                self.next = now + self.backoff.wait();
                Some(Output::Broadcast(self.message(now, DISCOVER, None, &[])))
            }
            State::Requesting {
                address,
                server,
                tries,
            } => {
                *tries += 1;
                let options = [(option::REQUESTED, *address), (option::SERVER, *server)];
                self.next = now + self.backoff.wait();
                Some(Output::Broadcast(
                    self.message(now, REQUEST, None, &options),
                ))
            }
            State::Bound(terms) => {
                let terms = terms.clone();
                let (next_stage, server) = if now < terms.rebind {
                    (terms.rebind, Some(terms.lease.server))
                } else {
                    (terms.end, None)
                };
                // Half of what is left, but not more often than once a minute.
                let half = next_stage.saturating_sub(now) / 2;
                self.next = next_stage.min(now + half.max(MIN_RENEW));
                let message = self.message(now, REQUEST, Some(terms.lease.address), &[]);
                Some(match server {
                    Some(server) => Output::Unicast(server, message),
                    None => Output::Broadcast(message),
                })
            }
        }
    }

    fn message(
        &self,
        now: Duration,
        kind: u8,
        ciaddr: Option<Ipv4Addr>,
        addresses: &[(u8, Ipv4Addr)],
    ) -> Vec<u8> {
        let mac = self.identity.mac;
        let mut options = vec![(option::TYPE, vec![kind])];
        options.extend(
            addresses
                .iter()
                .map(|(n, address)| (*n, address.octets().to_vec())),
        );
        options.push((option::CLIENT_ID, [&[1], mac.0.as_slice()].concat()));
        options.push((option::VENDOR_CLASS, b"bugler-agent".to_vec()));
        options.push((option::MAX_SIZE, MAX_SIZE.to_be_bytes().to_vec()));
        options.push((option::PARAMETERS, PARAMETERS.to_vec()));
        if let Some(uuid) = self.identity.uuid {
            // In the order of SMBIOS, as the machine's firmware sends it.
            options.push((option::UUID, [&[0], uuid.to_bytes_le().as_slice()].concat()));
        }
        Request {
            xid: self.xid,
            secs: u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX),
            broadcast: ciaddr.is_none(),
            ciaddr: ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED),
            mac,
            options,
        }
        .encode()
    }

    /// Takes a datagram that came to the client's port.
    pub fn receive(&mut self, datagram: &[u8], now: Duration) -> Vec<Output> {
        let Some(reply) = Reply::decode(datagram) else {
            return Vec::new();
        };
        if reply.xid != self.xid || reply.mac != self.identity.mac {
            return Vec::new();
        }
        match (reply.message_type(), &self.state) {
            (Some(OFFER), State::Selecting) => self.take_offer(&reply, now),
            (Some(ACK), State::Requesting { .. }) => self.bind(&reply, now),
            // Only once it was asked for: before, this is an old answer that came twice.
            (Some(ACK), State::Bound(terms)) if now >= terms.renew => self.bind(&reply, now),
            (Some(NAK), State::Requesting { server, .. }) if is_from(&reply, *server) => {
                self.restart(now);
                // Not at once, so that a server that always refuses is not asked without end.
                self.next = now + self.backoff.wait();
                Vec::new()
            }
            (Some(NAK), State::Bound(terms)) if now >= terms.renew => {
                self.restart(now);
                let mut out = vec![Output::Lost("the server does not renew it".into())];
                out.extend(self.send(now));
                out
            }
            _ => Vec::new(),
        }
    }

    /// The first offer of an address is taken. One without an address is a proxy's, for firmware.
    fn take_offer(&mut self, reply: &Reply, now: Duration) -> Vec<Output> {
        let server = reply.addresses(option::SERVER).first().copied();
        let Some(server) = server.filter(|_| is_usable(reply.yiaddr)) else {
            return Vec::new();
        };
        self.state = State::Requesting {
            address: reply.yiaddr,
            server,
            tries: 0,
        };
        self.backoff.reset();
        self.send(now).into_iter().collect()
    }

    fn bind(&mut self, reply: &Reply, now: Duration) -> Vec<Output> {
        let (known_server, known_address) = match &self.state {
            State::Requesting {
                server, address, ..
            } => (*server, *address),
            State::Bound(terms) => (terms.lease.server, terms.lease.address),
            State::Selecting => return Vec::new(),
        };
        if !is_usable(reply.yiaddr) {
            return Vec::new();
        }
        let server = reply
            .addresses(option::SERVER)
            .first()
            .copied()
            .unwrap_or(known_server);
        let lease = Lease {
            address: reply.yiaddr,
            prefix: prefix(reply),
            router: reply
                .addresses(option::ROUTER)
                .first()
                .copied()
                .filter(|a| is_usable(*a)),
            dns: reply.addresses(option::DNS),
            domain: reply.get(option::DOMAIN).and_then(domain),
            server,
        };
        let mut out = Vec::new();
        if known_address != lease.address && self.lease().is_some() {
            out.push(Output::Lost("the server gave another address".into()));
        }
        let seconds = |number| reply.number(number).map(u64::from).map(Duration::from_secs);
        // A lease without a length is an error of the server; an hour is a careful reading.
        let length = match reply.number(option::LEASE_TIME) {
            Some(FOREVER) => Duration::from_secs(u64::from(FOREVER)),
            Some(seconds) => Duration::from_secs(seconds.into()).max(MIN_LEASE),
            None => Duration::from_secs(3600),
        };
        // RFC 2131 section 4.4.5: half and seven eighths, where the server does not say.
        let rebind = seconds(option::T2)
            .filter(|t2| *t2 < length)
            .unwrap_or(length / 8 * 7);
        let renew = seconds(option::T1)
            .filter(|t1| *t1 < rebind)
            .unwrap_or(length / 2);
        let renew = renew.min(rebind).max(Duration::from_secs(1));
        self.backoff.reset();
        self.state = State::Bound(Terms {
            lease: lease.clone(),
            renew: now + renew,
            rebind: now + rebind,
            end: now + length,
        });
        self.next = now + renew;
        out.push(Output::Bound(lease));
        out
    }

    fn restart(&mut self, now: Duration) {
        self.state = State::Selecting;
        // A new exchange: answers to the old one no longer count.
        self.xid = self.xid.wrapping_add(0x9e37_79b9);
        self.began = now;
        self.next = now;
    }
}

fn is_from(reply: &Reply, server: Ipv4Addr) -> bool {
    reply
        .addresses(option::SERVER)
        .first()
        .is_none_or(|from| *from == server)
}

/// Whether an address can be a host's own.
fn is_usable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}

/// Prefix length from option 1; from the address's class where it is missing or has holes.
fn prefix(reply: &Reply) -> u8 {
    let mask = reply
        .addresses(option::MASK)
        .first()
        .map(|mask| mask.to_bits());
    match mask {
        Some(mask) if mask != 0 && mask.leading_ones() == mask.count_ones() => {
            mask.leading_ones() as u8
        }
        _ => match reply.yiaddr.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        },
    }
}

/// A domain name as it can stand in resolv.conf; anything else is left out.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes)
        .ok()?
        .trim_end_matches(['\0', '.']);
    let good = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    (!text.is_empty() && text.len() <= 253 && text.chars().all(good)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
