//! What of a frame matters for booting: ARP, UDP, TCP and ICMP over IPv4.
//!
//! Nothing is reassembled: of a fragmented datagram the first fragment is read, and that there were
//! more is told.

use crate::pcap::Link;
use bugler_model::MacAddr;
use std::net::{Ipv4Addr, SocketAddrV4};

/// A frame, read as far as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The Ethernet address it came from, where the capture has one.
    pub from: Option<MacAddr>,
    /// The Ethernet address it went to, where the capture has one.
    pub to: Option<MacAddr>,
    /// What is in it.
    pub body: Body<'a>,
}

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// ARP for IPv4 over Ethernet (RFC 826): who says that it has which address, and who is asked
    /// for.
    Arp {
        /// The sender's Ethernet address.
        mac: MacAddr,
        /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227).
        address: Ipv4Addr,
        /// The address that is asked for, or that answers.
        target: Ipv4Addr,
        /// Whether it is an answer.
        reply: bool,
    },
    /// UDP (RFC 768).
    Udp {
        /// Sender.
        from: SocketAddrV4,
        /// Receiver.
        to: SocketAddrV4,
        /// What it carries; the beginning where it was fragmented or cut off.
        payload: &'a [u8],
        /// Whether more fragments follow.
        fragmented: bool,
    },
    /// TCP (RFC 9293).
    Tcp {
        /// Sender.
        from: SocketAddrV4,
        /// Receiver.
        to: SocketAddrV4,
        /// Sequence number of the first byte of `payload`.
        sequence: u32,
        /// The eight flags: FIN is 1, SYN 2, RST 4, ACK 16.
        flags: u8,
        /// What it carries, as far as it was captured.
        payload: &'a [u8],
        /// How much it carried.
        length: usize,
    },
    /// ICMP (RFC 792).
    Icmp {
        /// Sender.
        from: Ipv4Addr,
        /// Receiver.
        to: Ipv4Addr,
        /// Type and code: 3 and 3 is "port unreachable", 3 and 4 "fragmentation needed".
        kind: (u8, u8),
        /// The UDP or TCP port that the packet was sent to which this answers.
        port: Option<u16>,
    },
    /// Any other.
    Other,
}

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
/// 802.1Q and 802.1ad.
const TAGS: [u16; 2] = [0x8100, 0x88a8];

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn mac(bytes: &[u8], at: usize) -> Option<MacAddr> {
    Some(MacAddr(*bytes.get(at..)?.first_chunk()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
    Some(octets.into())
}

impl<'a> Frame<'a> {
    /// Reads a frame. `None`: it ends in its link header, or has one that is not read.
    #[must_use]
    pub fn read(link: Link, bytes: &'a [u8]) -> Option<Self> {
        let (from, to, mut kind, mut at) = match link {
            Link::Ethernet => (mac(bytes, 6), mac(bytes, 0), word(bytes, 12)?, 14),
            Link::Cooked => {
                let from = (word(bytes, 4)? == 6).then(|| mac(bytes, 6)).flatten();
                (from, None, word(bytes, 14)?, 16)
            }
            Link::Cooked2 => {
                let from = (*bytes.get(11)? == 6).then(|| mac(bytes, 12)).flatten();
                (from, None, word(bytes, 0)?, 20)
            }
            Link::Raw => (None, None, IPV4, 0),
            Link::Loopback => (None, None, IPV4, 4),
            Link::Other(_) => return None,
        };
        // Two tags are as many as there are in practice.
        for _ in 0..2 {
            if TAGS.contains(&kind) {
                kind = word(bytes, at + 2)?;
                at += 4;
            }
        }
        let rest = bytes.get(at..)?;
        let body = match kind {
            ARP => arp(rest),
            IPV4 => ipv4(rest),
            _ => None,
        };
        Some(Self {
            from,
            to,
            body: body.unwrap_or(Body::Other),
        })
    }
}

fn arp(bytes: &[u8]) -> Option<Body<'_>> {
    let reply = match bytes {
        [0, 1, 8, 0, 6, 4, 0, 1, ..] => false,
        [0, 1, 8, 0, 6, 4, 0, 2, ..] => true,
        _ => return None,
    };
    Some(Body::Arp {
        mac: mac(bytes, 8)?,
        address: address(bytes, 14)?,
        target: address(bytes, 24)?,
        reply,
    })
}

fn ipv4(bytes: &[u8]) -> Option<Body<'_>> {
    let first = *bytes.first()?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    // Offloading leaves 0 here for packets longer than the field can say.
    let total = match usize::from(word(bytes, 2)?) {
        0 => bytes.len(),
        total => total,
    };
    let fragment = word(bytes, 6)?;
    if fragment & 0x1fff != 0 {
        // Not the first fragment: there are no ports in it.
        return None;
    }
    let (from, to) = (address(bytes, 12)?, address(bytes, 16)?);
    let rest = bytes.get(header..total.min(bytes.len()))?;
    let socket = |ip, at| Some(SocketAddrV4::new(ip, word(rest, at)?));
    match *bytes.get(9)? {
        17 => {
            let length = usize::from(word(rest, 4)?);
            let end = if length < 8 {
                rest.len()
            } else {
                length.min(rest.len())
            };
            Some(Body::Udp {
                from: socket(from, 0)?,
                to: socket(to, 2)?,
                payload: rest.get(8..end)?,
                fragmented: fragment & 0x2000 != 0,
            })
        }
        6 => {
            let offset = usize::from(*rest.get(12)? >> 4) * 4;
            Some(Body::Tcp {
                from: socket(from, 0)?,
                to: socket(to, 2)?,
                sequence: u32::from_be_bytes(*rest.get(4..)?.first_chunk()?),
                flags: *rest.get(13)?,
                payload: rest.get(offset.max(20)..).unwrap_or_default(),
                length: total.saturating_sub(header + offset.max(20)),
            })
        }
        1 => {
            // Eight bytes, then the packet that it is about.
            let about = rest.get(8..);
            let port = about.and_then(|about| {
                let header = usize::from(about.first()? & 0xf) * 4;
                word(about, header + 2)
            });
            Some(Body::Icmp {
                from,
                to,
                kind: (*rest.first()?, *rest.get(1)?),
                port,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod build {
    //! Frames for tests: no checksums, which nothing here looks at.

    use super::*;

    pub(crate) fn ethernet(from: MacAddr, to: MacAddr, kind: u16, rest: &[u8]) -> Vec<u8> {
        [&to.0, &from.0, &kind.to_be_bytes()[..], rest].concat()
    }

    pub(crate) fn ip(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
        let total = (20 + rest.len()) as u16;
        let mut bytes = vec![0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(rest);
        bytes
    }

    pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mut bytes = from.port().to_be_bytes().to_vec();
        bytes.extend(to.port().to_be_bytes());
        bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        ip(17, *from.ip(), *to.ip(), &bytes)
    }

    pub(crate) fn tcp(
        from: SocketAddrV4,
        to: SocketAddrV4,
        sequence: u32,
        flags: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = from.port().to_be_bytes().to_vec();
        bytes.extend(to.port().to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(payload);
        ip(6, *from.ip(), *to.ip(), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::build::*;
    use super::*;
    use proptest::prelude::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, last].into(), port)
    }

    #[test]
    fn a_datagram_is_found_behind_every_link_header() {
        let packet = udp(at(1, 67), at(9, 68), b"hello");
        let ethernet_frame = ethernet(A, B, IPV4, &packet);
        let tagged = ethernet(A, B, 0x8100, &[&[0, 5, 8, 0], &packet[..]].concat());
        let mut cooked = vec![0, 0, 0, 1, 0, 6];
        cooked.extend(A.0);
        cooked.extend([0, 0, 8, 0]);
        cooked.extend(&packet);
        let mut cooked2 = vec![8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6];
        cooked2.extend(A.0);
        cooked2.extend([0, 0]);
        cooked2.extend(&packet);
        let loopback = [&[2, 0, 0, 0], &packet[..]].concat();
        for (link, bytes, from) in [
            (Link::Ethernet, &ethernet_frame, Some(A)),
            (Link::Ethernet, &tagged, Some(A)),
            (Link::Cooked, &cooked, Some(A)),
            (Link::Cooked2, &cooked2, Some(A)),
            (Link::Raw, &packet, None),
            (Link::Loopback, &loopback, None),
        ] {
            let frame = Frame::read(link, bytes).unwrap();
            assert_eq!(frame.from, from, "{link:?}");
            let expected = Body::Udp {
                from: at(1, 67),
                to: at(9, 68),
                payload: b"hello",
                fragmented: false,
            };
            assert_eq!(frame.body, expected, "{link:?}");
        }
        assert_eq!(Frame::read(Link::Other(147), &packet), None);
    }

    #[test]
    fn a_segment_tells_how_much_it_carried_although_less_was_kept() {
        let mut packet = tcp(at(9, 5000), at(1, 80), 77, 0x18, &[7; 1000]);
        packet.truncate(100);
        let frame = Frame::read(Link::Raw, &packet).unwrap();
        let Body::Tcp {
            sequence,
            payload,
            length,
            ..
        } = frame.body
        else {
            panic!("{frame:?}")
        };
        assert_eq!((sequence, payload.len(), length), (77, 60, 1000));
    }

    #[test]
    fn an_unreachable_port_is_named() {
        let asked = udp(at(9, 1069), at(1, 69), b"x");
        let message = [&[3, 3, 0, 0, 0, 0, 0, 0], &asked[..]].concat();
        let packet = ip(1, [10, 0, 0, 1].into(), [10, 0, 0, 9].into(), &message);
        let Some(Frame {
            body: Body::Icmp { kind, port, .. },
            ..
        }) = Frame::read(Link::Raw, &packet)
        else {
            panic!("no ICMP")
        };
        assert_eq!((kind, port), ((3, 3), Some(69)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(link in 0..5usize, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let links = [Link::Ethernet, Link::Cooked, Link::Cooked2, Link::Raw, Link::Loopback];
            let _ = Frame::read(links[link], &bytes);
        }

        #[test]
        fn any_header_is_survived(
            protocol in prop_oneof![Just(1u8), Just(6), Just(17)], first: u8, total: u16,
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut packet = ip(protocol, [1; 4].into(), [2; 4].into(), &bytes);
            packet[0] = 0x40 | (first & 0xf);
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            let _ = Frame::read(Link::Raw, &packet);
        }
    }
}
