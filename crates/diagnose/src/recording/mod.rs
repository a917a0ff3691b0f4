//! A capture turned into timelines, one for each client.
//!
//! ```text
//! records --> frame --+--> dhcp   what was asked and answered, and who has which address
//!                     +--> tftp   transfers, block by block
//!                     +--> http   requests, answers, bytes
//! ```
//!
//! Memory is bounded: so many clients, so many steps of each, so many transfers at a time.

mod dhcp;
mod http;
mod tftp;

use crate::frame::{Body, Frame};
use crate::pcap::{Error, Reader, Record};
use crate::timeline::{Client, Fetch, Source, Step, Timeline, What, Who};
use bugler_model::{MacAddr, Timestamp};
use std::collections::HashMap;
use std::io::Read;
use std::net::Ipv4Addr;

/// Most clients that are told apart.
const MOST_CLIENTS: usize = 4096;
/// Most steps of one client; the first ones are kept.
const MOST_STEPS: usize = 20_000;
/// Most transfers that are followed at a time.
const MOST_FLOWS: usize = 8192;
/// Most addresses that are remembered.
const MOST_ADDRESSES: usize = 65_536;

/// What a capture holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Records in the file.
    pub frames: u64,
    /// Of these, those whose link layer cannot be read.
    pub unread: u64,
    /// When the first was seen.
    pub first: Timestamp,
    /// When the last was seen.
    pub last: Timestamp,
    /// Every client that asked by DHCP or fetched something, in the order they appeared.
    pub timelines: Vec<Timeline>,
    /// Whether something was left out because there was too much.
    pub clipped: bool,
}

/// Reads a capture, to its end or to where it is damaged.
///
/// # Errors
/// Where it is no capture, or damaged before anything could be read.
pub fn read(from: impl Read) -> Result<Recording, Error> {
    let mut reader = Reader::new(from)?;
    let mut watcher = Watcher::default();
    loop {
        match reader.next() {
            Ok(Some(record)) => watcher.record(&record),
            Ok(None) => break,
            Err(error) if watcher.frames == 0 => return Err(error),
            // What was read is worth more than the complaint.
            Err(_) => {
                watcher.clipped = true;
                break;
            }
        }
    }
    Ok(watcher.finish())
}

struct Log {
    client: Client,
    steps: Vec<Step>,
    /// Its agent was heard since it last asked as firmware.
    agent: bool,
}

/// Watches frames go by.
#[derive(Default)]
struct Watcher {
    frames: u64,
    unread: u64,
    first: Option<Timestamp>,
    last: Timestamp,
    clipped: bool,
    order: Vec<MacAddr>,
    logs: HashMap<MacAddr, Log>,
    addresses: HashMap<Ipv4Addr, MacAddr>,
    tftp: tftp::Flows,
    http: http::Flows,
}

/// A step that can be found again.
#[derive(Clone, Copy, Debug)]
struct Place {
    client: MacAddr,
    step: usize,
}

impl Watcher {
    fn record(&mut self, record: &Record) {
        self.frames += 1;
        let at = record.at;
        self.first.get_or_insert(at);
        // A clock may be set back while it records.
        self.last = self.last.max(at);
        let Some(frame) = Frame::read(record.link, &record.bytes) else {
            self.unread += 1;
            return;
        };
        match frame.body {
            Body::Arp { mac, address, .. } => self.learn(address, mac),
            Body::Udp {
                from,
                to,
                payload,
                fragmented,
            } => {
                if dhcp::is_dhcp(from, to) {
                    dhcp::packet(self, at, from, to, payload);
                } else {
                    self.sent_by(&frame, *from.ip());
                    tftp::packet(self, at, (from, to), payload, fragmented);
                }
            }
            Body::Tcp {
                from,
                to,
                sequence,
                flags,
                payload,
                length,
            } => {
                self.sent_by(&frame, *from.ip());
                let segment = http::Segment {
                    from,
                    to,
                    sequence,
                    flags,
                    payload,
                    length,
                };
                http::segment(self, at, segment);
            }
            Body::Icmp {
                from,
                to,
                kind,
                port,
            } => self.icmp(at, from, to, kind, port),
            Body::Other => {}
        }
    }

    /// Notes which client uses an address, as a frame of a known client shows.
    fn sent_by(&mut self, frame: &Frame<'_>, address: Ipv4Addr) {
        if let Some(mac) = frame.from
            && self.logs.contains_key(&mac)
        {
            self.learn(address, mac);
        }
    }

    fn learn(&mut self, address: Ipv4Addr, mac: MacAddr) {
        if address.is_unspecified() || !mac.is_unicast() {
            return;
        }
        if self.addresses.len() >= MOST_ADDRESSES && !self.addresses.contains_key(&address) {
            self.clipped = true;
            return;
        }
        self.addresses.insert(address, mac);
        if let Some(log) = self.logs.get_mut(&mac) {
            log.client.address = Some(address);
        }
    }

    /// The client that uses an address; where nobody is known to, one is made up from the address,
    /// so that a capture without DHCP and without link addresses can be read as well.
    fn client_at(&mut self, address: Ipv4Addr) -> MacAddr {
        match self.addresses.get(&address) {
            Some(mac) => *mac,
            None => {
                let [a, b, c, d] = address.octets();
                // Locally administered: no maker has it.
                MacAddr([0x02, 0xff, a, b, c, d])
            }
        }
    }

    fn log(&mut self, mac: MacAddr) -> Option<&mut Log> {
        if !self.logs.contains_key(&mac) {
            if self.logs.len() >= MOST_CLIENTS {
                self.clipped = true;
                return None;
            }
            self.order.push(mac);
            let known = self.addresses.iter().find(|(_, known)| **known == mac);
            let client = Client {
                macs: vec![mac],
                address: known.map(|(address, _)| *address),
                ..Client::default()
            };
            let log = Log {
                client,
                steps: vec![],
                agent: false,
            };
            self.logs.insert(mac, log);
        }
        self.logs.get_mut(&mac)
    }

    /// Puts a step on a client's timeline.
    fn step(&mut self, mac: MacAddr, at: Timestamp, what: What) -> Option<Place> {
        let log = self.log(mac)?;
        if log.steps.len() >= MOST_STEPS {
            self.clipped = true;
            return None;
        }
        log.steps.push(Step { at, what });
        let step = log.steps.len() - 1;
        Some(Place { client: mac, step })
    }

    fn knows(&mut self, mac: MacAddr, who: &Who) {
        let Some(log) = self.log(mac) else {
            return;
        };
        log.agent &= !who.boots();
        if log.client.facts.len() < 8 && !log.client.facts.contains(who) {
            log.client.facts.push(who.clone());
        }
    }

    /// The transfer at a place, and when it began.
    fn fetch(&mut self, place: Place) -> Option<(&mut Fetch, Timestamp)> {
        let step = self
            .logs
            .get_mut(&place.client)?
            .steps
            .get_mut(place.step)?;
        match &mut step.what {
            What::Fetched(fetch) => Some((fetch, step.at)),
            _ => None,
        }
    }

    fn icmp(
        &mut self,
        at: Timestamp,
        from: Ipv4Addr,
        to: Ipv4Addr,
        kind: (u8, u8),
        port: Option<u16>,
    ) {
        let port = port.unwrap_or_default();
        // To the client: the server has nobody there. From the client: it has gone on.
        let known = [to, from].map(|address| self.addresses.get(&address).copied());
        let (client, said) = match (kind, known) {
            ((3, 3), [Some(client), _]) => (
                client,
                format!("{from} says that nobody listens on its port {port}"),
            ),
            ((3, 9 | 10 | 13), [Some(client), _]) => (
                client,
                format!("{from} says that a firewall forbids port {port}"),
            ),
            ((3, 4), [_, Some(client)] | [Some(client), _]) => (
                client,
                format!("{from} says that a packet is too large for the way to port {port}"),
            ),
            _ => return,
        };
        let what = match kind {
            (3, 4) => What::Note { text: said },
            _ => What::Blocked {
                server: from,
                port,
                said,
            },
        };
        // One is as good as a hundred.
        let repeated = self.logs.get(&client).is_some_and(|log| {
            log.steps
                .iter()
                .rev()
                .take(50)
                .any(|step| step.what == what)
        });
        if self.logs.contains_key(&client) && !repeated {
            self.step(client, at, what);
        }
    }

    fn finish(mut self) -> Recording {
        tftp::finish(&mut self);
        http::finish(&mut self);
        let mut timelines = vec![];
        for mac in &self.order {
            let Some(mut log) = self.logs.remove(mac) else {
                continue;
            };
            log.steps.sort_by_key(|step| step.at);
            if !log.steps.is_empty() {
                timelines.push(Timeline {
                    source: Source::Recording,
                    client: log.client,
                    steps: log.steps,
                    until: self.last,
                });
            }
        }
        Recording {
            frames: self.frames,
            unread: self.unread,
            first: self.first.unwrap_or_default(),
            last: self.last,
            timelines,
            clipped: self.clipped,
        }
    }
}

/// Milliseconds between two moments; 0 where the clock went back.
fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.millis_since(from)).unwrap_or_default()
}

/// What a machine wrote, for one line of text.
fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .chars()
        .take(200)
        .collect();
    bugler_model::text::clean(&text)
}
