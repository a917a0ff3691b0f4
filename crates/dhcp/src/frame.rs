//! Ethernet frames of our own: replies to clients that have no address yet, and ARP.
//!
//! A client answers no ARP before it has its address, so the kernel cannot send to it; the headers
//! are built here instead (RFC 894, RFC 791, RFC 768, RFC 826).

use bugler_model::MacAddr;
use std::net::{Ipv4Addr, SocketAddrV4};

/// EtherType of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(crate) const ARP: u16 = 0x0806;
/// The Ethernet broadcast address.
pub(crate) const BROADCAST: MacAddr = MacAddr([0xff; 6]);

const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// A UDP datagram with its IPv4 and Ethernet headers. `payload` is below the link's MTU.
pub(crate) fn udp(
    (from_mac, from): (MacAddr, SocketAddrV4),
    (to_mac, to): (MacAddr, SocketAddrV4),
    payload: &[u8],
) -> Vec<u8> {
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).unwrap_or(u16::MAX);
    let total = udp_length.saturating_add(IPV4_HEADER as u16);
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    // Identification 0, "don't fragment", time to live 64, checksum still 0.
    ip.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    ip.extend(from.ip().octets());
    ip.extend(to.ip().octets());
    let checksum = checksum(&[&ip]);
    ip.splice(10..12, checksum.to_be_bytes());

    let mut header = vec![];
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(udp_length.to_be_bytes());
    let [high, low] = udp_length.to_be_bytes();
    let pseudo = [0, UDP, high, low];
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    // 0 would mean "no checksum" (RFC 768).
    let udp_checksum =
        match crate::frame::checksum(&[&addresses, &pseudo, &header, &[0, 0], payload]) {
            0 => 0xffff,
            sum => sum,
        };
    header.extend(udp_checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(ETHERNET_HEADER + ip.len() + header.len() + payload.len());
    frame.extend(to_mac.0);
    frame.extend(from_mac.0);
    frame.extend(IPV4.to_be_bytes());
    frame.extend(ip);
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// The Internet checksum (RFC 1071) of these parts, all but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        let mut words = part.chunks_exact(2);
        for word in &mut words {
            if let [high, low] = word {
                sum += u64::from(u16::from_be_bytes([*high, *low]));
            }
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_be_bytes([*last, 0]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An ARP question: who has `address`?
pub(crate) fn arp_question(mac: MacAddr, own: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST.0);
    frame.extend(mac.0);
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, their address lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// Who an ARP reply says has which address.
pub(crate) fn arp_answer(frame: &[u8]) -> Option<(Ipv4Addr, MacAddr)> {
    let arp = frame.get(ETHERNET_HEADER..)?;
    let [0, 1, 8, 0, 6, 4, 0, 2, rest @ ..] = arp else {
        return None;
    };
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let address: [u8; 4] = *rest.first_chunk()?;
    Some((address.into(), MacAddr(*mac)))
}

/// Where a UDP datagram in an Ethernet frame comes from, and what it carries.
pub(crate) fn udp_payload(frame: &[u8]) -> Option<(SocketAddrV4, &[u8])> {
    let ip = frame.get(ETHERNET_HEADER..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
    if header < IPV4_HEADER || *ip.get(9)? != UDP {
        return None;
    }
    let source: [u8; 4] = *ip.get(12..)?.first_chunk()?;
    // Short frames are padded behind the IP packet.
    let udp = ip.get(header..total.min(ip.len()))?;
    let port = u16::from_be_bytes(*udp.first_chunk()?);
    let length = usize::from(u16::from_be_bytes(*udp.get(4..)?.first_chunk()?));
    let payload = udp.get(UDP_HEADER..length.min(udp.len()))?;
    Some((SocketAddrV4::new(source.into(), port), payload))
}

/// For the fuzzer: reads any bytes as a frame that was heard on the link, for what other servers say
/// and for answers to ARP.
pub fn fuzz(bytes: &[u8]) {
    let _ = arp_answer(bytes);
    if let Some((_, payload)) = udp_payload(bytes) {
        let _ = crate::packet::Packet::decode(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn socket(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, last].into(), port)
    }

    #[test]
    fn the_headers_of_a_datagram_add_up() {
        for length in [0usize, 1, 2, 301] {
            let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let frame = udp((OURS, socket(1, 67)), (THEIRS, socket(9, 68)), &payload);
            assert_eq!(frame.len(), 42 + length);
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            // A sum over everything that a checksum covers, with it, is all ones.
            assert_eq!(checksum(&[&frame[14..34]]), 0);
            let pseudo = [0, 17, frame[38], frame[39]];
            assert_eq!(checksum(&[&frame[26..34], &pseudo, &frame[34..]]), 0);
            assert_eq!(udp_payload(&frame), Some((socket(1, 67), &payload[..])));
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071 section 3.
        assert_eq!(
            checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
    }

    #[test]
    fn an_answer_is_read_and_a_question_is_none() {
        let question = arp_question(OURS, [10, 0, 0, 1].into(), [10, 0, 0, 9].into());
        assert_eq!(question.len(), 42);
        assert_eq!(arp_answer(&question), None);
        let mut answer = arp_question(THEIRS, [10, 0, 0, 9].into(), [10, 0, 0, 1].into());
        answer[21] = 2;
        assert_eq!(arp_answer(&answer), Some(([10, 0, 0, 9].into(), THEIRS)));
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_refused(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = arp_answer(&frame);
            let _ = udp_payload(&frame);
        }

        #[test]
        fn any_lengths_in_the_headers_are_survived(
            first: u8, total: u16, length: u16, payload in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut frame = udp((OURS, socket(1, 67)), (THEIRS, socket(9, 68)), &payload);
            frame[14] = first;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[38..40].copy_from_slice(&length.to_be_bytes());
            let _ = udp_payload(&frame);
        }
    }
}
