//! Messages of DHCP (RFC 2131 section 2, options of RFC 2132).

use bugler_model::MacAddr;
use std::net::Ipv4Addr;

/// Port that a client listens on, and the one of a server.
pub(crate) const CLIENT_PORT: u16 = 68;
pub(crate) const SERVER_PORT: u16 = 67;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Everything before the options, cookie included.
const FIXED_LEN: usize = 240;
/// Shortest message that old relays and servers accept (BOOTP, RFC 951).
const MIN_LEN: usize = 300;
/// Options that are joined when they come in pieces grow no longer than this, in bytes.
const MAX_OPTION: usize = 1024;
/// The place of an option that there is not: behind all that there can be.
const NOWHERE: u8 = u8::MAX;

/// Message types, option 53.
pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// Options, by number.
pub(crate) mod option {
    pub(crate) const MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const REQUESTED: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const TYPE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const PARAMETERS: u8 = 55;
    pub(crate) const MAX_SIZE: u8 = 57;
    pub(crate) const T1: u8 = 58;
    pub(crate) const T2: u8 = 59;
    pub(crate) const VENDOR_CLASS: u8 = 60;
    pub(crate) const CLIENT_ID: u8 = 61;
    /// UUID of the machine (RFC 4578 section 2.3).
    pub(crate) const UUID: u8 = 97;
}

/// A message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) xid: u32,
    /// Seconds since the client began.
    pub(crate) secs: u16,
    /// Whether the answer must be broadcast: the client has no address yet.
    pub(crate) broadcast: bool,
    /// The client's address, where it has one.
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) mac: MacAddr,
    /// Number and value, in the order of sending; values of at most 255 bytes.
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend_from_slice(&self.xid.to_be_bytes());
        bytes.extend_from_slice(&self.secs.to_be_bytes());
        bytes.extend_from_slice(&[u8::from(self.broadcast) << 7, 0]);
        bytes.extend_from_slice(&self.ciaddr.octets());
        // yiaddr, siaddr and giaddr are the server's and a relay's.
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&self.mac.0);
        // The rest of chaddr, sname and file.
        bytes.resize(FIXED_LEN - COOKIE.len(), 0);
        bytes.extend_from_slice(&COOKIE);
        for (number, value) in &self.options {
            let value = value.get(..255).unwrap_or(value);
            bytes.extend_from_slice(&[*number, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(MIN_LEN), 0);
        bytes
    }
}

/// A message of a server, as far as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) xid: u32,
    pub(crate) yiaddr: Ipv4Addr,
    pub(crate) mac: MacAddr,
    options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// Reads a datagram; `None` where it is no DHCP message to an Ethernet client.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, options) = bytes.split_first_chunk::<FIXED_LEN>()?;
        if fixed.get(..3)? != [2, 1, 6] || fixed.get(236..240)? != COOKIE {
            return None;
        }
        let mut reply = Self {
            xid: u32::from_be_bytes(*fixed.get(4..)?.first_chunk()?),
            yiaddr: Ipv4Addr::from(*fixed.get(16..)?.first_chunk::<4>()?),
            mac: MacAddr(*fixed.get(28..)?.first_chunk()?),
            options: Vec::new(),
        };
        let mut places = [NOWHERE; 256];
        reply.read_options(options, &mut places);
        // Option 52: sname and file may hold options too (RFC 2131 section 4.1), file first.
        let overload = reply.get(option::OVERLOAD).and_then(<[u8]>::first).copied();
        if matches!(overload, Some(1 | 3)) {
            reply.read_options(fixed.get(108..236)?, &mut places);
        }
        if matches!(overload, Some(2 | 3)) {
            reply.read_options(fixed.get(44..108)?, &mut places);
        }
        reply.get(option::TYPE)?;
        Some(reply)
    }

    /// Reads options up to the end marker. One that runs over the end of the bytes ends them.
    /// `places` tells where in `options` each number is, so that the time is linear in the bytes.
    fn read_options(&mut self, mut bytes: &[u8], places: &mut [u8; 256]) {
        loop {
            match *bytes {
                [] | [255, ..] => return,
                [0, ref rest @ ..] => bytes = rest,
                [_] => return,
                [number, length, ref rest @ ..] => {
                    let Some((value, rest)) = rest.split_at_checked(length.into()) else {
                        return;
                    };
                    if let Some(place) = places.get_mut(usize::from(number)) {
                        self.add(number, value, place);
                    }
                    bytes = rest;
                }
            }
        }
    }

    /// Pieces of an option that comes several times belong together (RFC 3396 section 7).
    fn add(&mut self, number: u8, value: &[u8], place: &mut u8) {
        match self.options.get_mut(usize::from(*place)) {
            Some((_, whole)) if whole.len() + value.len() <= MAX_OPTION => {
                whole.extend_from_slice(value);
            }
            Some(_) => {}
            None => {
                // 1 to 254 are the numbers of options, so the last place is 253.
                *place = u8::try_from(self.options.len()).unwrap_or(NOWHERE);
                self.options.push((number, value.to_vec()));
            }
        }
    }

    pub(crate) fn get(&self, number: u8) -> Option<&[u8]> {
        let mut options = self.options.iter();
        options
            .find(|(known, _)| *known == number)
            .map(|(_, value)| value.as_slice())
    }

    pub(crate) fn message_type(&self) -> Option<u8> {
        self.get(option::TYPE)?.first().copied()
    }

    pub(crate) fn number(&self, number: u8) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(number)?.first_chunk()?))
    }

    /// An option that lists addresses; at most eight of them.
    pub(crate) fn addresses(&self, number: u8) -> Vec<Ipv4Addr> {
        let (addresses, _) = self.get(number).unwrap_or(&[]).as_chunks::<4>();
        addresses
            .iter()
            .take(8)
            .map(|&octets| Ipv4Addr::from(octets))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server's message, for the tests of the machine too.
    pub(crate) fn reply(
        xid: u32,
        mac: MacAddr,
        yiaddr: Ipv4Addr,
        options: &[(u8, &[u8])],
    ) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_LEN];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[16..20].copy_from_slice(&yiaddr.octets());
        bytes[28..34].copy_from_slice(&mac.0);
        bytes[236..].copy_from_slice(&COOKIE);
        for (number, value) in options {
            bytes.extend_from_slice(&[*number, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        bytes.push(255);
        bytes
    }

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

    #[test]
    fn a_request_is_laid_out_as_rfc_2131_says() {
        let request = Request {
            xid: 0x0102_0304,
            secs: 5,
            broadcast: true,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            mac: MAC,
            options: vec![
                (option::TYPE, vec![DISCOVER]),
                (option::VENDOR_CLASS, b"x".to_vec()),
            ],
        };
        let bytes = request.encode();
        assert_eq!(bytes.len(), MIN_LEN);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 5, 0x80, 0]);
        assert_eq!(bytes[28..34], MAC.0);
        assert_eq!(
            bytes[236..247],
            [99, 130, 83, 99, 53, 1, 1, 60, 1, b'x', 255]
        );
        assert!(
            bytes[12..28]
                .iter()
                .chain(&bytes[34..236])
                .all(|&byte| byte == 0)
        );
    }

    #[test]
    fn options_in_pieces_and_in_other_fields_are_found() {
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        let mut bytes = reply(
            7,
            MAC,
            ip,
            &[(53, &[OFFER]), (52, &[3]), (6, &[1, 1, 1, 1])],
        );
        bytes[108..115].copy_from_slice(&[6, 4, 2, 2, 2, 2, 255]);
        bytes[44..51].copy_from_slice(&[3, 4, 10, 0, 0, 1, 255]);
        let reply = Reply::decode(&bytes).unwrap();
        assert_eq!((reply.xid, reply.yiaddr, reply.mac), (7, ip, MAC));
        assert_eq!(reply.message_type(), Some(OFFER));
        let dns = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2)];
        assert_eq!(reply.addresses(option::DNS), dns);
        assert_eq!(
            reply.addresses(option::ROUTER),
            [Ipv4Addr::new(10, 0, 0, 1)]
        );
        assert_eq!(reply.number(option::LEASE_TIME), None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let good = reply(7, MAC, Ipv4Addr::LOCALHOST, &[(53, &[ACK])]);
        assert!(Reply::decode(&good).is_some());
        for (at, value) in [(0, 1), (1, 6), (2, 16), (236, 0), (240, 54)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Reply::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Reply::decode(&good[..239]), None);
        assert_eq!(Reply::decode(&good[..241]), None, "no message type");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Reply::decode(&bytes);
        }

        #[test]
        fn any_options_are_read_within_bounds(
            options in proptest::collection::vec(any::<u8>(), 0..2000),
            overload in 0u8..5,
        ) {
            let mut bytes = reply(1, MAC, Ipv4Addr::LOCALHOST, &[(53, &[ACK]), (52, &[overload])]);
            bytes.pop();
            bytes.extend_from_slice(&options);
            let reply = Reply::decode(&bytes).unwrap();
            prop_assert!(reply.options.iter().all(|(_, value)| value.len() <= MAX_OPTION));
            prop_assert!(reply.addresses(option::DNS).len() <= 8);
        }
    }
}
