//! How an IPMI 2.0 session begins (sections 13.17 to 13.23).

use super::{Cursor, DecodeError};
use std::fmt;

/// A random number of one side, or the GUID of a BMC.
pub type Random = [u8; 16];

/// How a step of the beginning went (table 13-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

impl Status {
    /// Well.
    pub const OK: Self = Self(0x00);
    /// No room for another session. Some BMCs say this of a suite that they lack.
    pub const INSUFFICIENT_RESOURCES: Self = Self(0x01);
    /// No such session.
    pub const BAD_SESSION: Self = Self(0x02);
    /// The authentication algorithm is not known.
    pub const BAD_AUTHENTICATION: Self = Self(0x04);
    /// The integrity algorithm is not known.
    pub const BAD_INTEGRITY: Self = Self(0x05);
    /// No authentication algorithm of the proposal matches.
    pub const NO_AUTHENTICATION: Self = Self(0x06);
    /// No integrity algorithm of the proposal matches.
    pub const NO_INTEGRITY: Self = Self(0x07);
    /// The role is not one that the user may have.
    pub const ROLE: Self = Self(0x09);
    /// The role is not allowed at the moment.
    pub const ROLE_DENIED: Self = Self(0x0a);
    /// The name is too long.
    pub const NAME_LENGTH: Self = Self(0x0c);
    /// There is no such user.
    pub const NAME: Self = Self(0x0d);
    /// The integrity check value is wrong.
    pub const BAD_ICV: Self = Self(0x0f);
    /// The confidentiality algorithm is not known.
    pub const BAD_CONFIDENTIALITY: Self = Self(0x10);
    /// There is no cipher suite with these algorithms.
    pub const NO_SUITE: Self = Self(0x11);
    /// A parameter is not valid.
    pub const ILLEGAL: Self = Self(0x12);

    /// Whether another cipher suite may be met with another answer.
    pub fn is_about_the_suite(self) -> bool {
        matches!(
            self,
            Self::INSUFFICIENT_RESOURCES
                | Self::BAD_AUTHENTICATION
                | Self::BAD_INTEGRITY
                | Self::NO_AUTHENTICATION
                | Self::NO_INTEGRITY
                | Self::BAD_CONFIDENTIALITY
                | Self::NO_SUITE
                | Self::ILLEGAL
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x00 => "well",
            0x01 => "no room for another session",
            0x02 | 0x08 => "no such session",
            0x04 => "the authentication algorithm is not known",
            0x05 => "the integrity algorithm is not known",
            0x06 => "no authentication algorithm matches",
            0x07 => "no integrity algorithm matches",
            0x09 => "the user may not have this role",
            0x0a => "the role is not allowed now",
            0x0b => "no room for a session with this role",
            0x0c => "the name is too long",
            0x0d => "there is no such user",
            0x0f => "the integrity check value is wrong",
            0x10 => "the confidentiality algorithm is not known",
            0x11 => "no cipher suite matches",
            0x12 => "a parameter is not valid",
            _ => return write!(f, "status {:#04x}", self.0),
        };
        write!(f, "status {:#04x}, {name}", self.0)
    }
}

/// A privilege level (section 6.8), and how users are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// May only begin sessions.
    Callback = 1,
    /// May look.
    User = 2,
    /// May switch machines.
    Operator = 3,
    /// May do everything.
    Administrator = 4,
}

impl Role {
    /// The value on the wire.
    pub fn value(self) -> u8 {
        self as u8
    }

    /// The byte of RAKP 1: the role, with the bit that has users looked up by name alone (table
    /// 13-11).
    pub fn by_name(self) -> u8 {
        self as u8 | 0x10
    }
}

/// The algorithms of a cipher suite (section 22.15.2, table 22-19): authentication, integrity and
/// confidentiality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Algorithms(pub [u8; 3]);

impl Algorithms {
    fn encode(self, out: &mut Vec<u8>) {
        for (kind, algorithm) in (0u8..).zip(self.0) {
            out.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let mut algorithms = [0; 3];
        for one in &mut algorithms {
            let [_, _, _, _, algorithm, ..]: [u8; 8] = cursor.array()?;
            *one = algorithm & 0x3f;
        }
        Ok(Self(algorithms))
    }
}

/// RMCP+ Open Session Request (table 13-9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    /// Comes back in the reply.
    pub tag: u8,
    /// The privilege that is asked for; 0: the highest that the suite allows.
    pub privilege: u8,
    /// The console's number for the session.
    pub console: u32,
    /// The proposed suite.
    pub algorithms: Algorithms,
}

impl OpenRequest {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("Open Session Request", bytes);
        let [tag, privilege, _, _] = cursor.array()?;
        Ok(Self {
            tag,
            privilege: privilege & 0x0f,
            console: cursor.u32()?,
            algorithms: Algorithms::decode(&mut cursor)?,
        })
    }

    /// The request as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.privilege, 0, 0];
        out.extend_from_slice(&self.console.to_le_bytes());
        self.algorithms.encode(&mut out);
        out
    }
}

/// RMCP+ Open Session Response (table 13-10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReply {
    /// The request's.
    pub tag: u8,
    /// The console's number for the session.
    pub console: u32,
    /// The BMC's number for it and the suite that it took, or why there is none.
    pub opened: Result<(u32, Algorithms), Status>,
}

impl OpenReply {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("Open Session Response", bytes);
        let [tag, status] = cursor.array()?;
        let reserved = cursor.array::<2>();
        if status != Status::OK.0 {
            // Some BMCs end a refusal here, `ipmi_sim` among them.
            return Ok(Self {
                tag,
                console: cursor.u32().unwrap_or(0),
                opened: Err(Status(status)),
            });
        }
        reserved?;
        let console = cursor.u32()?;
        let bmc = cursor.u32()?;
        Ok(Self {
            tag,
            console,
            opened: Ok((bmc, Algorithms::decode(&mut cursor)?)),
        })
    }

    /// The reply as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let status = self.opened.as_ref().err().map_or(0, |status| status.0);
        let mut out = vec![self.tag, status, Role::Administrator.value(), 0];
        out.extend_from_slice(&self.console.to_le_bytes());
        if let Ok((bmc, algorithms)) = &self.opened {
            out.extend_from_slice(&bmc.to_le_bytes());
            algorithms.encode(&mut out);
        }
        out
    }
}

/// RAKP Message 1 (table 13-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rakp1<'a> {
    /// Comes back in the reply.
    pub tag: u8,
    /// The BMC's number for the session.
    pub bmc: u32,
    /// The console's random number.
    pub random: Random,
    /// The role, with the bit for how users are looked up: see [`Role::by_name`].
    pub role: u8,
    /// The user's name, at most 16 bytes.
    pub user: &'a [u8],
}

impl<'a> Rakp1<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("RAKP message 1", bytes);
        let [tag, _, _, _] = cursor.array()?;
        let bmc = cursor.u32()?;
        let random = cursor.array()?;
        let [role, _, _, length] = cursor.array()?;
        Ok(Self {
            tag,
            bmc,
            random,
            role,
            user: cursor.slice(usize::from(length))?,
        })
    }

    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let user = &self.user[..self.user.len().min(255)];
        let mut out = vec![self.tag, 0, 0, 0];
        out.extend_from_slice(&self.bmc.to_le_bytes());
        out.extend_from_slice(&self.random);
        out.extend_from_slice(&[self.role, 0, 0, user.len() as u8]);
        out.extend_from_slice(user);
        out
    }
}

/// RAKP Message 2 (table 13-12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rakp2<'a> {
    /// The request's.
    pub tag: u8,
    /// The console's number for the session.
    pub console: u32,
    /// The BMC's random number, its GUID and its proof that it knows the password; or why not.
    pub body: Result<(Random, Random, &'a [u8]), Status>,
}

impl<'a> Rakp2<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("RAKP message 2", bytes);
        let [tag, status] = cursor.array()?;
        let reserved = cursor.array::<2>();
        if status != Status::OK.0 {
            return Ok(Self {
                tag,
                console: cursor.u32().unwrap_or(0),
                body: Err(Status(status)),
            });
        }
        reserved?;
        Ok(Self {
            tag,
            console: cursor.u32()?,
            body: Ok((cursor.array()?, cursor.array()?, cursor.rest)),
        })
    }

    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let status = self.body.as_ref().err().map_or(0, |status| status.0);
        let mut out = vec![self.tag, status, 0, 0];
        out.extend_from_slice(&self.console.to_le_bytes());
        if let Ok((random, guid, code)) = &self.body {
            out.extend_from_slice(random);
            out.extend_from_slice(guid);
            out.extend_from_slice(code);
        }
        out
    }
}

/// RAKP Message 3 (table 13-13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rakp3<'a> {
    /// Comes back in the reply.
    pub tag: u8,
    /// How message 2 was found.
    pub status: Status,
    /// The BMC's number for the session.
    pub bmc: u32,
    /// The console's proof that it knows the password.
    pub code: &'a [u8],
}

impl<'a> Rakp3<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("RAKP message 3", bytes);
        let [tag, status, _, _] = cursor.array()?;
        Ok(Self {
            tag,
            status: Status(status),
            bmc: cursor.u32()?,
            code: cursor.rest,
        })
    }

    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status.0, 0, 0];
        out.extend_from_slice(&self.bmc.to_le_bytes());
        out.extend_from_slice(self.code);
        out
    }
}

/// RAKP Message 4 (table 13-14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rakp4<'a> {
    /// The request's.
    pub tag: u8,
    /// How it went.
    pub status: Status,
    /// The console's number for the session.
    pub console: u32,
    /// The integrity check value; empty with a status other than [`Status::OK`].
    pub icv: &'a [u8],
}

impl<'a> Rakp4<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("RAKP message 4", bytes);
        let [tag, status] = cursor.array()?;
        let status = Status(status);
        let console = cursor.array::<2>().and_then(|_| cursor.u32());
        let console = match console {
            Ok(console) => console,
            Err(error) if status == Status::OK => return Err(error),
            Err(_) => 0,
        };
        Ok(Self {
            tag,
            status,
            console,
            icv: cursor.rest,
        })
    }

    /// The message as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status.0, 0, 0];
        out.extend_from_slice(&self.console.to_le_bytes());
        out.extend_from_slice(self.icv);
        out
    }
}
