//! IPMI messages as they stand on a LAN (section 13.8).

use super::{Cursor, DecodeError};
use std::fmt;

/// The address of a BMC on its own bus (section 5.5).
const BMC: u8 = 0x20;
/// The address of a remote console's software (section 5.4, table 5-4).
const CONSOLE: u8 = 0x81;

/// What a command belongs to (table 5-1). The value is that of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetFn(pub u8);

impl NetFn {
    /// Power, boot device.
    pub const CHASSIS: Self = Self(0x00);
    /// The controller itself, sessions, users.
    pub const APP: Self = Self(0x06);
    /// LAN and Serial over LAN settings.
    pub const TRANSPORT: Self = Self(0x0c);
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// What the command belongs to, at most 0x3e and even.
    pub netfn: NetFn,
    /// The command.
    pub command: u8,
    /// The request's number, 0 to 63; the reply has the same.
    pub sequence: u8,
    /// What the command takes.
    pub data: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// When the bytes end early or a checksum is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (netfn, sequence, command, data) = open(bytes)?;
        Ok(Self {
            netfn: NetFn(netfn),
            command,
            sequence,
            data,
        })
    }

    /// The request as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        seal(
            [BMC, self.netfn.0 << 2],
            [CONSOLE, self.sequence << 2, self.command],
            &[self.data],
        )
    }
}

/// A completion code (table 5-2), or one that is the command's own (0x80 to 0xbe).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Completion(pub u8);

impl Completion {
    /// It was done.
    pub const OK: Self = Self(0x00);
    /// The controller is busy: the same may be asked again.
    pub const BUSY: Self = Self(0xc0);
    /// It does not know the command.
    pub const INVALID_COMMAND: Self = Self(0xc1);
    /// The data is too short or too long.
    pub const BAD_LENGTH: Self = Self(0xc7);
    /// A value of the data is out of range.
    pub const INVALID_FIELD: Self = Self(0xcc);
    /// The request came a second time: the answer to the first counts.
    pub const DUPLICATE: Self = Self(0xcf);
    /// The user's privilege is too low.
    pub const PRIVILEGE: Self = Self(0xd4);
    /// It cannot be done in the present state, such as a reset of a machine that is off.
    pub const STATE: Self = Self(0xd5);
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x00 => "done",
            0xc0 => "the controller is busy",
            0xc1 => "it does not know the command",
            0xc2 => "it does not know the command for this unit",
            0xc3 => "it took the controller too long",
            0xc4 => "it has no room",
            0xc7 => "the data has the wrong length",
            0xc9 => "a value is out of range",
            0xcb => "there is no such thing",
            0xcc => "a field of the data is not valid",
            0xce => "the controller could not answer",
            0xcf => "it came a second time",
            0xd4 => "the user's privilege is too low",
            0xd5 => "not possible in the present state",
            0xd6 => "it is switched off",
            0xff => "not said why",
            _ => return write!(f, "completion code {:#04x}", self.0),
        };
        write!(f, "completion code {:#04x}, {name}", self.0)
    }
}

/// The reply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What the command belongs to: the value of the request.
    pub netfn: NetFn,
    /// The command.
    pub command: u8,
    /// The request's number.
    pub sequence: u8,
    /// How it went.
    pub completion: Completion,
    /// What came back.
    pub data: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Reads a reply.
    ///
    /// # Errors
    /// When the bytes end early or a checksum is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (netfn, sequence, command, data) = open(bytes)?;
        let (completion, data) = data.split_first().ok_or(DecodeError::Short {
            what: "reply",
            length: bytes.len(),
        })?;
        Ok(Self {
            // A reply has the odd number after its request's.
            netfn: NetFn(netfn & !1),
            command,
            sequence,
            completion: Completion(*completion),
            data,
        })
    }

    /// The reply as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        seal(
            [CONSOLE, (self.netfn.0 | 1) << 2],
            [BMC, self.sequence << 2, self.command],
            &[&[self.completion.0], self.data],
        )
    }
}

/// The network function, the sequence number, the command and the data.
fn open(bytes: &[u8]) -> Result<(u8, u8, u8, &[u8]), DecodeError> {
    let mut cursor = Cursor::new("message", bytes);
    let head: [u8; 3] = cursor.array()?;
    if sum(&head) != 0 {
        return Err(DecodeError::Checksum("header"));
    }
    if sum(cursor.rest) != 0 {
        return Err(DecodeError::Checksum("data"));
    }
    let [_, sequence, command] = cursor.array()?;
    let (_, data) = cursor.rest.split_last().ok_or(DecodeError::Short {
        what: "message",
        length: bytes.len(),
    })?;
    Ok((head[1] >> 2, sequence >> 2, command, data))
}

fn seal(head: [u8; 2], body: [u8; 3], data: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(&head);
    out.push(sum(&head).wrapping_neg());
    out.extend_from_slice(&body);
    for part in data {
        out.extend_from_slice(part);
    }
    out.push(sum(&out[3..]).wrapping_neg());
    out
}

/// The sum modulo 256, which is 0 over anything that ends with its checksum (section 13.8).
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
