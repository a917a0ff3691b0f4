//! Datagrams of port 623: bytes to types and back.
//!
//! RMCP and its ASF ping (ASF 2.0 section 3.2), the session wrappers of IPMI 1.5 and 2.0 (IPMI 2.0
//! sections 13.6 and 13.8), the messages inside (section 13.8, table 13-8), RAKP (sections 13.17 to
//! 13.23) and Serial over LAN (section 15.9). Both directions are here: a client and a simulated BMC
//! use the same types.
//!
//! Decoding takes what BMCs send: reserved bytes are not looked at, and what follows a complete
//! packet is left out. Nothing here panics, whatever the bytes.

mod message;
mod rakp;
mod sol;
#[cfg(test)]
mod tests;
mod wrapper;

pub use message::{Completion, Message, NetFn, Reply};
pub use rakp::{
    Algorithms, OpenReply, OpenRequest, Rakp1, Rakp2, Rakp3, Rakp4, Random, Role, Status,
};
pub use sol::{SOL_HEADER, SolFlags, SolPacket};
pub use wrapper::{AuthType, PayloadType, V15, V20, Wrapped, trailer};

/// The UDP port of RMCP (ASF 2.0 section 3.2.1).
pub const PORT: u16 = 623;
/// The version, a reserved byte, the sequence number that asks for no RMCP acknowledgement.
const RMCP: [u8; 3] = [0x06, 0x00, 0xff];
const CLASS_ASF: u8 = 0x06;
const CLASS_IPMI: u8 = 0x07;
/// The enterprise number of ASF, big-endian.
const ASF_IANA: [u8; 4] = [0x00, 0x00, 0x11, 0xbe];
const ASF_PING: u8 = 0x80;
const ASF_PONG: u8 = 0x40;

/// Why bytes are no datagram of RMCP, or no payload of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the part needs.
    #[error("the {what} ends after {length} bytes")]
    Short {
        /// The part.
        what: &'static str,
        /// How many bytes there are.
        length: usize,
    },
    /// Not RMCP version 6, or a class other than ASF and IPMI.
    #[error("the datagram is not RMCP of class ASF or IPMI")]
    Rmcp,
    /// An ASF message other than ping and pong.
    #[error("the ASF message is of the unknown type {0:#04x}")]
    Asf(u8),
    /// An authentication type that IPMI does not define (table 13-8).
    #[error("the authentication type {0:#04x} is not defined")]
    AuthType(u8),
    /// A checksum of a message that does not come out as zero.
    #[error("the {0} checksum of the message is wrong")]
    Checksum(&'static str),
}

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Asks whether something speaks RMCP (ASF 2.0 section 3.2.4.1).
    Ping {
        /// Comes back in the pong.
        tag: u8,
    },
    /// The answer to a ping (ASF 2.0 section 3.2.4.3).
    Pong {
        /// The ping's tag.
        tag: u8,
        /// Bit 7 of the supported entities: IPMI is spoken.
        ipmi: bool,
    },
    /// An IPMI 1.5 packet.
    V15(V15<'a>),
    /// An IPMI 2.0 packet.
    V20(V20<'a>),
}

impl<'a> Datagram<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DecodeError`] says why the bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Short {
            what: "RMCP header",
            length: bytes.len(),
        })?;
        // The sequence number is free, and byte 1 is reserved: neither says anything.
        if head[0] != RMCP[0] {
            return Err(DecodeError::Rmcp);
        }
        match head[3] {
            CLASS_ASF => Self::asf(rest),
            CLASS_IPMI => match Wrapped::decode(rest)? {
                Wrapped::V15(packet) => Ok(Self::V15(packet)),
                Wrapped::V20(packet) => Ok(Self::V20(packet)),
            },
            _ => Err(DecodeError::Rmcp),
        }
    }

    fn asf(bytes: &[u8]) -> Result<Self, DecodeError> {
        // Enterprise number, type, tag, a reserved byte, the length of what follows.
        let short = DecodeError::Short {
            what: "ASF message",
            length: bytes.len(),
        };
        let (head, data) = bytes.split_first_chunk::<8>().ok_or(short)?;
        if !head.starts_with(&ASF_IANA) {
            return Err(DecodeError::Rmcp);
        }
        match head[4] {
            ASF_PING => Ok(Self::Ping { tag: head[5] }),
            ASF_PONG => {
                // Enterprise number, OEM data, supported entities.
                let entities = data.get(8).ok_or(short)?;
                Ok(Self::Pong {
                    tag: head[5],
                    ipmi: entities & 0x80 != 0,
                })
            }
            other => Err(DecodeError::Asf(other)),
        }
    }

    /// The datagram as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        match self {
            Self::Ping { tag } => {
                rmcp(CLASS_ASF, &mut out);
                out.extend_from_slice(&ASF_IANA);
                out.extend_from_slice(&[ASF_PING, *tag, 0, 0]);
            }
            Self::Pong { tag, ipmi } => {
                rmcp(CLASS_ASF, &mut out);
                out.extend_from_slice(&ASF_IANA);
                out.extend_from_slice(&[ASF_PONG, *tag, 0, 16]);
                out.extend_from_slice(&ASF_IANA);
                // Bit 0 of the entities: version 1 of ASF.
                let entities = 0x01 | if *ipmi { 0x80 } else { 0 };
                out.extend_from_slice(&[0, 0, 0, 0, entities, 0, 0, 0, 0, 0, 0, 0]);
            }
            Self::V15(packet) => {
                rmcp(CLASS_IPMI, &mut out);
                packet.encode(&mut out);
            }
            Self::V20(packet) => {
                rmcp(CLASS_IPMI, &mut out);
                packet.encode(&mut out);
            }
        }
        out
    }
}

fn rmcp(class: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&RMCP);
    out.push(class);
}

/// Takes values off the front of a payload.
struct Cursor<'a> {
    what: &'static str,
    length: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            what,
            length: bytes.len(),
            rest: bytes,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Short {
                what: self.what,
                length: self.length,
            })?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Short {
                what: self.what,
                length: self.length,
            })?;
        self.rest = rest;
        Ok(head)
    }
}
