//! Serial over LAN (section 15.9, table 15-2).

use super::{Cursor, DecodeError};

/// Bytes before the characters of a SOL packet.
pub const SOL_HEADER: usize = 4;

/// The fourth byte of a SOL packet. Its bits mean one thing to the BMC and another from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SolFlags(pub u8);

impl SolFlags {
    /// Both ways: the packet that is acknowledged was not taken as a whole.
    pub const NACK: u8 = 0x40;
    /// From the BMC: characters cannot be taken at the moment.
    pub const UNAVAILABLE: u8 = 0x20;
    /// From the BMC: SOL is no longer active; no further packet will come.
    pub const INACTIVE: u8 = 0x10;
    /// To the BMC: make a break.
    pub const MAKE_BREAK: u8 = 0x10;
    /// From the BMC: characters of the machine were lost before they could be sent.
    pub const OVERRUN: u8 = 0x08;
    /// From the BMC: a break was seen.
    pub const BREAK: u8 = 0x04;

    /// Whether one of these bits is set.
    pub fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// A SOL packet, with or without characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SolPacket<'a> {
    /// 1 to 15, or 0: nothing but an acknowledgement.
    pub sequence: u8,
    /// The packet that this one acknowledges; 0 for none.
    pub acked: u8,
    /// How many of its characters were taken.
    pub accepted: u8,
    /// What else is to be said.
    pub flags: SolFlags,
    /// The characters, at most 255.
    pub data: &'a [u8],
}

impl<'a> SolPacket<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// When there are fewer than four bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new("SOL packet", bytes);
        let [sequence, acked, accepted, flags] = cursor.array()?;
        Ok(Self {
            sequence: sequence & 0x0f,
            acked: acked & 0x0f,
            accepted,
            flags: SolFlags(flags),
            data: cursor.rest,
        })
    }

    /// The packet as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SOL_HEADER + self.data.len());
        out.extend_from_slice(&[
            self.sequence & 0x0f,
            self.acked & 0x0f,
            self.accepted,
            self.flags.0,
        ]);
        out.extend_from_slice(self.data);
        out
    }
}
