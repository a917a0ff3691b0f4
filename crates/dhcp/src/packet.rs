//! DHCP messages: bytes to types and back (RFC 2131 section 2, RFC 3396).
//!
//! Reading is tolerant: firmware sends odd lengths, leaves END out, and repeats itself. What can be
//! read is read, and one bad option never hides another. Writing is strict.

use crate::options::{MessageType, Options, code};
use bugler_model::MacAddr;
use std::net::Ipv4Addr;

/// Bytes before the options: the BOOTP header and the magic cookie.
const HEADER: usize = 240;

/// RFC 2131 section 2: what tells DHCP options from the vendor area of old BOOTP.
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// The least length of a BOOTP message (RFC 1542 section 2.1); relays drop shorter ones.
pub const MIN_LENGTH: usize = 300;

/// The length that every client must take: 576 bytes less the IP and UDP headers (RFC 2131
/// section 2).
pub const DEFAULT_LIMIT: usize = 576 - IP_UDP_HEADERS;

/// Bytes of the IP and UDP headers, which option 57 counts in.
pub const IP_UDP_HEADERS: usize = 28;

/// The broadcast bit of `flags` (RFC 2131 section 2).
const BROADCAST: u16 = 0x8000;

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A client: BOOTREQUEST.
    Request,
    /// A server: BOOTREPLY.
    Reply,
}

/// Why bytes are not a DHCP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than the header and the cookie.
    #[error("{0} bytes are too few for a DHCP message, which has at least 240")]
    TooShort(usize),
    /// `op` is neither 1 nor 2.
    #[error("op is {0}, neither 1 (request) nor 2 (reply)")]
    Op(u8),
    /// The hardware address would be longer than its field.
    #[error("hlen is {0}, longer than the 16 bytes of chaddr")]
    HardwareLength(u8),
    /// No magic cookie: BOOTP without DHCP.
    #[error("the DHCP cookie is missing: this is BOOTP, which has no leases")]
    NoCookie,
}

/// One DHCP message.
///
/// The fields have their names of RFC 2131 section 2. Where `sname` or `file` held options
/// (option 52), these are in `options` and the field is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Packet {
    pub op: Op,
    pub htype: u8,
    pub hlen: u8,
    pub hops: u8,
    pub xid: u32,
    pub secs: u16,
    pub flags: u16,
    pub ciaddr: Ipv4Addr,
    pub yiaddr: Ipv4Addr,
    pub siaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub chaddr: [u8; 16],
    pub sname: [u8; 64],
    pub file: [u8; 128],
    pub options: Options,
}

/// What [`Packet::encode`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The message.
    pub bytes: Vec<u8>,
    /// Options for which there was no room.
    pub left_out: Vec<u8>,
}

/// Reads a fixed-size array at `at`.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Packet {
    /// A message without options, all fields zero but those given.
    #[must_use]
    pub fn new(op: Op, xid: u32, mac: MacAddr) -> Self {
        let mut chaddr = [0; 16];
        for (to, from) in chaddr.iter_mut().zip(mac.0) {
            *to = from;
        }
        Self {
            op,
            htype: 1,
            hlen: 6,
            hops: 0,
            xid,
            secs: 0,
            flags: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            sname: [0; 64],
            file: [0; 128],
            options: Options::default(),
        }
    }

    /// Reads a message. The time is linear in the length of `bytes`.
    ///
    /// # Errors
    /// Where the header is not one of DHCP. Options never make an error: those that can be read
    /// are there, an option whose length points behind the end is not.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = || DecodeError::TooShort(bytes.len());
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
        let [op, htype, hlen, hops] = field(header, 0).ok_or_else(short)?;
        let op = match op {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(DecodeError::Op(other)),
        };
        if hlen > 16 {
            return Err(DecodeError::HardwareLength(hlen));
        }
        if field(header, 236) != Some(COOKIE) {
            return Err(DecodeError::NoCookie);
        }
        let address = |at| field::<4>(header, at).map(Ipv4Addr::from).ok_or_else(short);
        let mut packet = Self {
            op,
            htype,
            hlen,
            hops,
            xid: u32::from_be_bytes(field(header, 4).ok_or_else(short)?),
            secs: u16::from_be_bytes(field(header, 8).ok_or_else(short)?),
            flags: u16::from_be_bytes(field(header, 10).ok_or_else(short)?),
            ciaddr: address(12)?,
            yiaddr: address(16)?,
            siaddr: address(20)?,
            giaddr: address(24)?,
            chaddr: field(header, 28).ok_or_else(short)?,
            sname: field(header, 44).ok_or_else(short)?,
            file: field(header, 108).ok_or_else(short)?,
            options: Options::default(),
        };
        let overload;
        (packet.options, overload) = Options::gather(rest, &packet.file, &packet.sname);
        if overload.is_some_and(|overload| overload & 1 != 0) {
            packet.file = [0; 128];
        }
        if overload.is_some_and(|overload| overload & 2 != 0) {
            packet.sname = [0; 64];
        }
        Ok(packet)
    }

    /// Writes the message in at most `limit` bytes (at least [`MIN_LENGTH`] count), padded to
    /// [`MIN_LENGTH`].
    ///
    /// Option 53 is first and option 82 last (RFC 3046 section 2.1). Options longer than 255 bytes
    /// are split (RFC 3396). The others keep their order; each that does not fit is left out.
    /// Options 52, 0 and 255 are never written: they are the codec's own.
    #[must_use]
    pub fn encode(&self, limit: usize) -> Encoded {
        let mut bytes = Vec::with_capacity(limit.clamp(MIN_LENGTH, 1024));
        let left_out = self.encode_to(limit, &mut bytes);
        Encoded { bytes, left_out }
    }

    /// Does what [`encode`](Self::encode) does, behind what is in `bytes` already. Returns the
    /// options that were left out.
    pub fn encode_to(&self, limit: usize, bytes: &mut Vec<u8>) -> Vec<u8> {
        let start = bytes.len();
        // Where the message has to end.
        let limit = start + limit.max(MIN_LENGTH);
        bytes.push(match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        });
        bytes.extend([self.htype, self.hlen, self.hops]);
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.chaddr);
        bytes.extend(self.sname);
        bytes.extend(self.file);
        bytes.extend(COOKIE);

        let mut left_out = vec![];
        let relay = self.options.get(code::RELAY_INFO);
        // Room for END, and for what the relay must get back.
        let reserved = 1 + relay.map_or(0, written_length);
        if let Some(value) = self.options.get(code::MESSAGE_TYPE) {
            write_option(bytes, code::MESSAGE_TYPE, value);
        }
        for (code, value) in self.options.iter() {
            if matches!(code, code::MESSAGE_TYPE | code::RELAY_INFO | code::OVERLOAD) {
                continue;
            }
            if bytes.len() + written_length(value) + reserved > limit {
                left_out.push(code);
                continue;
            }
            write_option(bytes, code, value);
        }
        if let Some(value) = relay {
            if bytes.len() + reserved > limit {
                left_out.push(code::RELAY_INFO);
            } else {
                write_option(bytes, code::RELAY_INFO, value);
            }
        }
        bytes.push(code::END);
        if bytes.len() < start + MIN_LENGTH {
            bytes.resize(start + MIN_LENGTH, code::PAD);
        }
        left_out
    }

    /// The hardware address as an Ethernet address; `None` where it is not one machine's.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddr> {
        let mac = MacAddr(*self.chaddr.first_chunk()?);
        (self.hlen == 6 && mac.is_unicast()).then_some(mac)
    }

    /// Option 53.
    #[must_use]
    pub fn message_type(&self) -> Option<MessageType> {
        self.options.message_type()
    }

    /// Whether the client cannot take a unicast before it has its address (RFC 2131 section 4.1).
    #[must_use]
    pub fn wants_broadcast(&self) -> bool {
        self.flags & BROADCAST != 0
    }

    /// Sets the broadcast bit.
    pub fn set_broadcast(&mut self) {
        self.flags |= BROADCAST;
    }

    /// Puts a name into the `file` field. Returns whether it fits with its closing zero; otherwise
    /// the field is left as it is.
    pub fn set_file(&mut self, name: &[u8]) -> bool {
        if name.len() >= self.file.len() {
            return false;
        }
        self.file = [0; 128];
        for (to, from) in self.file.iter_mut().zip(name) {
            *to = *from;
        }
        true
    }

    /// The name in the `file` field, without its zeros.
    #[must_use]
    pub fn file_name(&self) -> &[u8] {
        self.file.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// The longest message, without IP and UDP headers, that the sender takes over a link of this
    /// MTU: option 57 (RFC 2132 section 9.10), which counts the headers and is at least 576.
    #[must_use]
    pub fn reply_limit(&self, mtu: usize) -> usize {
        let told = self
            .options
            .u16(code::MAX_MESSAGE_SIZE)
            .map_or(576, usize::from);
        told.max(576).min(mtu.max(576)) - IP_UDP_HEADERS
    }
}

/// Bytes that a value takes with its codes and lengths.
fn written_length(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(255).max(1)
}

fn write_option(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    let mut write = |part: &[u8]| {
        bytes.push(code);
        bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(part);
    };
    if value.is_empty() {
        write(&[]);
    }
    value.chunks(255).for_each(write);
}
