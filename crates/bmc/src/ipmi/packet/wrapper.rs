//! The session wrappers: IPMI 1.5 (section 13.6, table 13-8) and IPMI 2.0 (the same table, format
//! "RMCP+").

use super::{Cursor, DecodeError};
use std::fmt;

/// How an IPMI 1.5 packet is authenticated (IPMI 2.0 section 13.6; table 22-15 has the bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthType {
    /// Not at all.
    None,
    /// MD2 of password, session, message and sequence number. Known by name only: it is never used.
    Md2,
    /// MD5 of the same.
    Md5,
    /// The password itself, in clear.
    Password,
    /// What a manufacturer made up.
    Oem,
}

impl AuthType {
    /// The value on the wire.
    pub fn value(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Md2 => 1,
            Self::Md5 => 2,
            Self::Password => 4,
            Self::Oem => 5,
        }
    }

    /// The type of a value on the wire; None for one that is not defined.
    pub fn of(value: u8) -> Option<Self> {
        [Self::None, Self::Md2, Self::Md5, Self::Password, Self::Oem]
            .into_iter()
            .find(|one| one.value() == value)
    }
}

impl fmt::Display for AuthType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Md2 => "MD2",
            Self::Md5 => "MD5",
            Self::Password => "password",
            Self::Oem => "OEM",
        })
    }
}

/// The value of the authentication type that announces the IPMI 2.0 format.
const FORMAT_RMCP_PLUS: u8 = 6;

/// What an IPMI 2.0 packet carries (table 13-16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// An IPMI message.
    Message,
    /// Serial over LAN.
    Sol,
    /// RMCP+ Open Session Request.
    OpenRequest,
    /// RMCP+ Open Session Response.
    OpenReply,
    /// RAKP Message 1.
    Rakp1,
    /// RAKP Message 2.
    Rakp2,
    /// RAKP Message 3.
    Rakp3,
    /// RAKP Message 4.
    Rakp4,
    /// Something else.
    Other(u8),
}

impl PayloadType {
    fn value(self) -> u8 {
        match self {
            Self::Message => 0x00,
            Self::Sol => 0x01,
            Self::OpenRequest => 0x10,
            Self::OpenReply => 0x11,
            Self::Rakp1 => 0x12,
            Self::Rakp2 => 0x13,
            Self::Rakp3 => 0x14,
            Self::Rakp4 => 0x15,
            Self::Other(value) => value & 0x3f,
        }
    }

    fn of(value: u8) -> Self {
        match value & 0x3f {
            0x00 => Self::Message,
            0x01 => Self::Sol,
            0x10 => Self::OpenRequest,
            0x11 => Self::OpenReply,
            0x12 => Self::Rakp1,
            0x13 => Self::Rakp2,
            0x14 => Self::Rakp3,
            0x15 => Self::Rakp4,
            other => Self::Other(other),
        }
    }
}

/// A packet of either version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrapped<'a> {
    /// IPMI 1.5.
    V15(V15<'a>),
    /// IPMI 2.0.
    V20(V20<'a>),
}

impl<'a> Wrapped<'a> {
    /// Reads what follows the RMCP header.
    ///
    /// # Errors
    /// When the bytes end early, or the authentication type is not defined.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("session header", bytes);
        let format = cursor.byte()? & 0x0f;
        if format == FORMAT_RMCP_PLUS {
            return V20::decode(bytes).map(Self::V20);
        }
        let auth = AuthType::of(format).ok_or(DecodeError::AuthType(format))?;
        let sequence = cursor.u32()?;
        let session = cursor.u32()?;
        let code = match auth {
            AuthType::None => None,
            _ => Some(cursor.array()?),
        };
        let length = usize::from(cursor.byte()?);
        Ok(Self::V15(V15 {
            auth,
            sequence,
            session,
            code,
            payload: cursor.slice(length)?,
        }))
    }
}

/// An IPMI 1.5 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V15<'a> {
    /// How it is authenticated.
    pub auth: AuthType,
    /// The session's sequence number; 0 outside of one.
    pub sequence: u32,
    /// The session; 0 outside of one.
    pub session: u32,
    /// The authentication code; None with [`AuthType::None`].
    pub code: Option<[u8; 16]>,
    /// The message, at most 255 bytes.
    pub payload: &'a [u8],
}

impl V15<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let payload = &self.payload[..self.payload.len().min(255)];
        out.push(self.auth.value());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.session.to_le_bytes());
        if self.auth != AuthType::None {
            out.extend_from_slice(&self.code.unwrap_or_default());
        }
        out.push(payload.len() as u8);
        out.extend_from_slice(payload);
    }
}

/// An IPMI 2.0 packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V20<'a> {
    /// What the payload is.
    pub kind: PayloadType,
    /// The payload is encrypted.
    pub encrypted: bool,
    /// An authentication code follows.
    pub authenticated: bool,
    /// The receiver's number of the session; 0 outside of one.
    pub session: u32,
    /// The session's sequence number; 0 outside of one.
    pub sequence: u32,
    /// The payload, as it is on the wire.
    pub payload: &'a [u8],
    /// What follows the payload: the padding, its length, the next header and the authentication
    /// code; empty where there is none.
    pub trailer: &'a [u8],
}

impl<'a> V20<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("RMCP+ session header", bytes);
        let [_, kind] = cursor.array()?;
        if kind & 0x3f == 2 {
            // An OEM payload names its manufacturer and its own type first.
            cursor.array::<6>()?;
        }
        let session = cursor.u32()?;
        let sequence = cursor.u32()?;
        let length = usize::from(u16::from_le_bytes(cursor.array()?));
        Ok(Self {
            kind: PayloadType::of(kind),
            encrypted: kind & 0x80 != 0,
            authenticated: kind & 0x40 != 0,
            session,
            sequence,
            payload: cursor.slice(length)?,
            trailer: cursor.rest,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let payload = &self.payload[..self.payload.len().min(usize::from(u16::MAX))];
        let kind = self.kind.value();
        let flags = u8::from(self.encrypted) << 7 | u8::from(self.authenticated) << 6;
        out.extend_from_slice(&[FORMAT_RMCP_PLUS, kind | flags]);
        if kind == 2 {
            out.extend_from_slice(&[0; 6]);
        }
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(self.trailer);
    }
}

/// The trailer of an authenticated packet without its code: padding that makes everything from the
/// authentication type on a multiple of four bytes, its length, the next header.
///
/// `payload` is the length of the payload in bytes.
pub fn trailer(payload: usize) -> Vec<u8> {
    // Two bytes of format and type, 8 of session and sequence, 2 of length; then the trailer's own
    // two.
    let unpadded = 12 + payload + 2;
    let padding = (4 - unpadded % 4) % 4;
    let mut out = vec![0xff; padding];
    out.extend_from_slice(&[padding as u8, 0x07]);
    out
}
