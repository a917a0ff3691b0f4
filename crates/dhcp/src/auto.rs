//! Looking for another DHCP server before deciding what to be.
//!
//! A DISCOVER of our own goes out a few times; every offer and acknowledgement of others is
//! evidence, and so is a client that names another server. Nothing is given out meanwhile.

use crate::options::{MessageType, code};
use crate::packet::{Op, Packet};
use bugler_model::MacAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often we ask.
const QUESTIONS: u8 = 3;

/// From one question to the next.
const BETWEEN: Duration = Duration::from_millis(1200);

/// How long we listen. dnsmasq pings an address for 3 s, and ISC dhcpd for 1 s, before they offer
/// it; the second question still has that time.
const LISTEN: Duration = Duration::from_millis(4500);

/// What tells of another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Its server identifier, or where its packet came from.
    pub(crate) server: Ipv4Addr,
    /// The address that it offered or gave. `None`: it is known from a client that chose it, or
    /// from a refusal.
    pub(crate) gave: Option<Ipv4Addr>,
    /// Whether it is a proxy: it helps with booting and gives no addresses.
    pub(crate) is_proxy: bool,
}

impl Evidence {
    /// What a packet that is not ours tells; `source` is where it came from.
    pub(crate) fn of(packet: &Packet, source: Ipv4Addr) -> Option<Self> {
        let named = packet
            .options
            .address(code::SERVER_ID)
            .filter(|id| !id.is_unspecified());
        let kind = packet.message_type()?;
        if packet.op == Op::Request {
            let server = named.filter(|_| kind == MessageType::Request)?;
            return Some(Self {
                server,
                gave: None,
                is_proxy: false,
            });
        }
        if !matches!(
            kind,
            MessageType::Offer | MessageType::Ack | MessageType::Nak
        ) {
            return None;
        }
        let class = packet.options.get(code::VENDOR_CLASS).unwrap_or_default();
        let boots = class.starts_with(b"PXEClient") || class.starts_with(b"HTTPClient");
        let gave = (!packet.yiaddr.is_unspecified()).then_some(packet.yiaddr);
        Some(Self {
            server: named.unwrap_or(source),
            gave,
            is_proxy: boots && gave.is_none(),
        })
    }

    /// For people: `10.0.0.1 (it offered 10.0.0.17)`.
    pub(crate) fn describe(&self) -> String {
        match self.gave {
            Some(gave) => format!("{} (it offered {gave})", self.server),
            None => self.server.to_string(),
        }
    }
}

/// A search that is under way.
#[derive(Debug)]
pub(crate) struct Search {
    question: Packet,
    asked: u8,
    next: Duration,
    end: Duration,
}

impl Search {
    /// A search that begins now. `xid` is any number; `mac` is the interface's own.
    pub(crate) fn new(mac: MacAddr, xid: u32, now: Duration) -> Self {
        let mut question = Packet::new(Op::Request, xid, mac);
        // Answers must reach us although we take no address.
        question.set_broadcast();
        question
            .options
            .push(code::MESSAGE_TYPE, &[MessageType::Discover as u8]);
        question.options.push(
            code::PARAMETER_LIST,
            &[code::SUBNET_MASK, code::ROUTER, code::DNS],
        );
        Self {
            question,
            asked: 0,
            next: now,
            end: now + LISTEN,
        }
    }

    /// When [`question`](Self::question) or [`is_over`](Self::is_over) changes.
    pub(crate) fn deadline(&self) -> Duration {
        if self.asked < QUESTIONS {
            self.next
        } else {
            self.end
        }
    }

    /// The question, where one is due.
    pub(crate) fn question(&mut self, now: Duration) -> Option<Packet> {
        if self.asked >= QUESTIONS || now < self.next {
            return None;
        }
        self.asked += 1;
        self.next = now + BETWEEN;
        let mut question = self.question.clone();
        question.secs = u16::from(self.asked);
        Some(question)
    }

    /// Whether nobody answered in the time that a server has.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        now >= self.end
    }
}
