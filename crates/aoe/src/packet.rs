//! Frames of ATA over Ethernet (AoE specification, AoEr11): bytes to types and back.
//!
//! Every number is big-endian, except for the logical block address. Offsets here count from the start
//! of the Ethernet frame, as everywhere in this crate.

pub use crate::address::{Address, AddressError, Selector};
use bugler_model::MacAddr;

/// EtherType of AoE.
pub const ETHERTYPE: u16 = 0x88a2;

/// Bytes of the Ethernet and AoE headers that every frame begins with.
pub const HEADER: usize = 24;

/// Bytes of an ATA frame before its data.
pub const ATA_HEADER: usize = HEADER + 12;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// The longest config string, in bytes.
pub const LONGEST_CONFIG: usize = 1024;

/// The most addresses in a MAC mask that one frame of an MTU of 1500 tells.
pub const MOST_MASKS: usize = (1500 - 14) / 8;

/// The most addresses that reserve a target, so that one frame of an MTU of 1500 tells them.
pub const MOST_RESERVED: usize = (1500 - 12) / 6;

const VERSION: u8 = 1;
const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;

/// Bit of [`Ata::flags`]: the address has 48 bits.
pub const LBA48: u8 = 0x40;
/// Bit of [`Ata::flags`]: data goes to the target.
pub const WRITE: u8 = 0x01;

/// Commands of ATA that a target knows (ATA/ATAPI-6).
pub mod ata {
    /// READ SECTOR(S).
    pub const READ: u8 = 0x20;
    /// READ SECTOR(S) EXT: 48-bit address.
    pub const READ_EXT: u8 = 0x24;
    /// WRITE SECTOR(S).
    pub const WRITE: u8 = 0x30;
    /// WRITE SECTOR(S) EXT: 48-bit address.
    pub const WRITE_EXT: u8 = 0x34;
    /// CHECK POWER MODE.
    pub const CHECK_POWER: u8 = 0xe5;
    /// FLUSH CACHE.
    pub const FLUSH: u8 = 0xe7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xea;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
}

/// What an AoE header says about a command that could not be tried. Failures of the disk are told in
/// the ATA status instead: the Linux driver only logs these, and asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// The command is not known.
    UnknownCommand = 1,
    /// An argument does not make sense.
    BadArgument = 2,
    /// The target cannot take the command now.
    Unavailable = 3,
    /// There is a config string already.
    ConfigPresent = 4,
    /// The version of the protocol is not known.
    UnsupportedVersion = 5,
    /// Another client has reserved the target.
    Reserved = 6,
}

/// The beginning of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Ethernet address of the receiver.
    pub destination: MacAddr,
    /// Ethernet address of the sender.
    pub source: MacAddr,
    /// Version of the protocol; 1 is known.
    pub version: u8,
    /// Whether it answers a command.
    pub response: bool,
    /// What went wrong; 0 for nothing. See [`ErrorCode`].
    pub error: u8,
    /// Whom it is for, or who answers.
    pub target: Selector,
    /// What is commanded.
    pub command: u8,
    /// Chosen by the client, and copied into the answer.
    pub tag: u32,
}

/// Why bytes are not an AoE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early.
    #[error("the frame ends before its {0} does")]
    Short(&'static str),
    /// It is of another protocol.
    #[error("the frame has EtherType {0:#06x}, not that of AoE")]
    NotAoe(u16),
    /// A length or a count in it is impossible.
    #[error("the frame has an impossible {0}")]
    Bad(&'static str),
}

impl Header {
    /// Reads the header of a frame; the rest is what [`Message::decode`] reads.
    ///
    /// # Errors
    /// [`DecodeError::Short`] and [`DecodeError::NotAoe`].
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let Some((head, rest)) = frame.split_first_chunk::<HEADER>() else {
            return Err(DecodeError::Short("header"));
        };
        let &[
            d0,
            d1,
            d2,
            d3,
            d4,
            d5,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            e0,
            e1,
            flags,
            error,
            m0,
            m1,
            slot,
            command,
            t0,
            t1,
            t2,
            t3,
        ] = head;
        let ethertype = u16::from_be_bytes([e0, e1]);
        if ethertype != ETHERTYPE {
            return Err(DecodeError::NotAoe(ethertype));
        }
        let header = Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            version: flags >> 4,
            response: flags & FLAG_RESPONSE != 0,
            error: if flags & FLAG_ERROR != 0 { error } else { 0 },
            target: Selector {
                shelf: u16::from_be_bytes([m0, m1]),
                slot,
            },
            command,
            tag: u32::from_be_bytes([t0, t1, t2, t3]),
        };
        Ok((header, rest))
    }

    /// A command of this client to a target.
    #[must_use]
    pub fn request(destination: MacAddr, source: MacAddr, target: Selector, tag: u32) -> Self {
        Self {
            destination,
            source,
            version: VERSION,
            response: false,
            error: 0,
            target,
            command: 0,
            tag,
        }
    }

    /// The header of the answer that the target at `address` gives from the interface with the address
    /// `own`.
    #[must_use]
    pub fn answer(&self, own: MacAddr, address: Selector) -> Self {
        Self {
            destination: self.source,
            source: own,
            version: VERSION,
            response: true,
            error: 0,
            target: address,
            ..*self
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let [d0, d1, d2, d3, d4, d5] = self.destination.0;
        let [s0, s1, s2, s3, s4, s5] = self.source.0;
        let [e0, e1] = ETHERTYPE.to_be_bytes();
        let [m0, m1] = self.target.shelf.to_be_bytes();
        let [t0, t1, t2, t3] = self.tag.to_be_bytes();
        let mut flags = self.version << 4;
        if self.response {
            flags |= FLAG_RESPONSE;
        }
        if self.error != 0 {
            flags |= FLAG_ERROR;
        }
        let (error, slot, command) = (self.error, self.target.slot, self.command);
        [
            d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, e0, e1, flags, error, m0, m1, slot,
            command, t0, t1, t2, t3,
        ]
    }

    /// Whether the version is one that is known.
    #[must_use]
    pub fn is_known_version(&self) -> bool {
        self.version == VERSION
    }
}

/// An ATA command or its result (AoEr11 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ata<'a> {
    /// [`LBA48`], [`WRITE`], and others that change nothing here.
    pub flags: u8,
    /// Feature register of a command, error register of a result.
    pub error: u8,
    /// Sectors.
    pub count: u8,
    /// Command, or status of a result.
    pub command: u8,
    /// Logical block address, lowest byte first.
    pub lba: [u8; 6],
    /// Data.
    pub data: &'a [u8],
}

impl Ata<'_> {
    /// The number of the first sector.
    #[must_use]
    pub fn sector(&self) -> u64 {
        let [a, b, c, d, e, f] = self.lba;
        if self.flags & LBA48 != 0 {
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
        } else {
            // The high half of the fourth byte is the device register's, and 28 bits are the address.
            u64::from_le_bytes([a, b, c, d & 0x0f, 0, 0, 0, 0])
        }
    }
}

/// What to do with a config string (AoEr11 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// Tell it.
    Read,
    /// Answer only where it is this one.
    Test,
    /// Answer only where it begins like this.
    Prefix,
    /// Set it where there is none.
    Set,
    /// Set it.
    Force,
    /// Not known.
    Other(u8),
}

impl From<u8> for ConfigCommand {
    fn from(value: u8) -> Self {
        match value & 0x0f {
            0 => Self::Read,
            1 => Self::Test,
            2 => Self::Prefix,
            3 => Self::Set,
            4 => Self::Force,
            other => Self::Other(other),
        }
    }
}

impl From<ConfigCommand> for u8 {
    fn from(value: ConfigCommand) -> Self {
        match value {
            ConfigCommand::Read => 0,
            ConfigCommand::Test => 1,
            ConfigCommand::Prefix => 2,
            ConfigCommand::Set => 3,
            ConfigCommand::Force => 4,
            ConfigCommand::Other(other) => other & 0x0f,
        }
    }
}

/// Query config information (AoEr11 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// How many commands the target queues.
    pub buffers: u16,
    /// Version of the target's firmware.
    pub firmware: u16,
    /// Most sectors in a command; 0 means 2.
    pub sectors: u8,
    /// What to do.
    pub command: ConfigCommand,
    /// Config string.
    pub string: &'a [u8],
}

/// Ethernet addresses in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacList<'a>(&'a [u8]);

impl<'a> MacList<'a> {
    /// The addresses.
    pub fn iter(self) -> impl Iterator<Item = MacAddr> + 'a {
        self.0
            .as_chunks::<6>()
            .0
            .iter()
            .map(|bytes| MacAddr(*bytes))
    }
}

/// One change of a MAC mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// 0 for none, 1 to add the address, 2 to delete it.
    pub command: u8,
    /// The address.
    pub mac: MacAddr,
}

/// Changes of a MAC mask in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directives<'a>(&'a [u8]);

impl<'a> Directives<'a> {
    /// The changes, in order.
    pub fn iter(self) -> impl Iterator<Item = Directive> + 'a {
        let parts = self.0.as_chunks::<8>().0.iter();
        parts.map(|&[_, command, a, b, c, d, e, f]| Directive {
            command,
            mac: MacAddr([a, b, c, d, e, f]),
        })
    }
}

/// MAC mask list (AoEr11 section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask<'a> {
    /// 0 to read, 1 to edit.
    pub command: u8,
    /// In an answer: 0 for none, 1 for an unspecified error, 2 for a bad directive, 3 for a full list.
    pub error: u8,
    /// Changes; in an answer, the list.
    pub directives: Directives<'a>,
}

/// Reserve and release (AoEr11 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve<'a> {
    /// 0 to read, 1 to set, 2 to set by force.
    pub command: u8,
    /// Whom the target is for; nobody in particular where it is empty.
    pub macs: MacList<'a>,
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Command 0.
    Ata(Ata<'a>),
    /// Command 1.
    Config(Config<'a>),
    /// Command 2.
    Mask(Mask<'a>),
    /// Command 3.
    Reserve(Reserve<'a>),
    /// Another command.
    Other(u8),
}

impl<'a> Message<'a> {
    /// Reads the rest of a frame with this command in its header. What stands behind the end of lists
    /// and strings is padding.
    ///
    /// # Errors
    /// [`DecodeError::Short`] and [`DecodeError::Bad`].
    pub fn decode(command: u8, rest: &'a [u8]) -> Result<Self, DecodeError> {
        match command {
            0 => {
                let Some((&[flags, error, count, command, ref lba @ .., _, _], data)) =
                    rest.split_first_chunk::<12>()
                else {
                    return Err(DecodeError::Short("ATA registers"));
                };
                Ok(Self::Ata(Ata {
                    flags,
                    error,
                    count,
                    command,
                    lba: *lba,
                    data,
                }))
            }
            1 => {
                let Some((&[b0, b1, f0, f1, sectors, command, l0, l1], rest)) =
                    rest.split_first_chunk::<8>()
                else {
                    return Err(DecodeError::Short("config header"));
                };
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                if length > LONGEST_CONFIG {
                    return Err(DecodeError::Bad("length of a config string"));
                }
                let string = rest
                    .get(..length)
                    .ok_or(DecodeError::Short("config string"))?;
                Ok(Self::Config(Config {
                    buffers: u16::from_be_bytes([b0, b1]),
                    firmware: u16::from_be_bytes([f0, f1]),
                    sectors,
                    command: command.into(),
                    string,
                }))
            }
            2 => {
                let Some((&[_, command, error, count], rest)) = rest.split_first_chunk::<4>()
                else {
                    return Err(DecodeError::Short("header of a MAC mask"));
                };
                let list = rest.get(..usize::from(count) * 8);
                Ok(Self::Mask(Mask {
                    command,
                    error,
                    directives: Directives(list.ok_or(DecodeError::Short("MAC mask"))?),
                }))
            }
            3 => {
                let Some((&[command, count], rest)) = rest.split_first_chunk::<2>() else {
                    return Err(DecodeError::Short("header of a reservation"));
                };
                let list = rest.get(..usize::from(count) * 6);
                Ok(Self::Reserve(Reserve {
                    command,
                    macs: MacList(list.ok_or(DecodeError::Short("reservation"))?),
                }))
            }
            other => Ok(Self::Other(other)),
        }
    }

    /// The command that goes into the header.
    #[must_use]
    pub fn command(&self) -> u8 {
        match self {
            Self::Ata(_) => 0,
            Self::Config(_) => 1,
            Self::Mask(_) => 2,
            Self::Reserve(_) => 3,
            Self::Other(command) => *command,
        }
    }

    /// Appends a whole frame: this message behind `header`, with the command set in it.
    pub fn encode(&self, header: &Header, to: &mut Vec<u8>) {
        let command = self.command();
        to.extend_from_slice(&Header { command, ..*header }.encode());
        match self {
            Self::Ata(ata) => {
                to.extend_from_slice(&[ata.flags, ata.error, ata.count, ata.command]);
                to.extend_from_slice(&ata.lba);
                to.extend_from_slice(&[0, 0]);
                to.extend_from_slice(ata.data);
            }
            Self::Config(config) => {
                let length = config.string.len().min(LONGEST_CONFIG);
                to.extend_from_slice(&config.buffers.to_be_bytes());
                to.extend_from_slice(&config.firmware.to_be_bytes());
                to.extend_from_slice(&[config.sectors, VERSION << 4 | u8::from(config.command)]);
                to.extend_from_slice(&(length as u16).to_be_bytes());
                to.extend_from_slice(config.string.get(..length).unwrap_or_default());
            }
            Self::Mask(mask) => {
                let count = (mask.directives.0.len() / 8) as u8;
                to.extend_from_slice(&[0, mask.command, mask.error, count]);
                to.extend_from_slice(mask.directives.0);
            }
            Self::Reserve(reserve) => {
                let count = (reserve.macs.0.len() / 6) as u8;
                to.extend_from_slice(&[reserve.command, count]);
                to.extend_from_slice(reserve.macs.0);
            }
            Self::Other(_) => {}
        }
    }
}

/// The bytes of a list of addresses, for [`Reserve`]. The most that a frame tells is
/// [`MOST_RESERVED`].
#[must_use]
pub fn mac_bytes(macs: &[MacAddr]) -> Vec<u8> {
    macs.iter().flat_map(|mac| mac.0).collect()
}

/// The bytes of a list of changes, for [`Mask`].
#[must_use]
pub fn directive_bytes(directives: impl IntoIterator<Item = Directive>) -> Vec<u8> {
    let bytes = |directive: Directive| {
        let [a, b, c, d, e, f] = directive.mac.0;
        [0, directive.command, a, b, c, d, e, f]
    };
    directives.into_iter().flat_map(bytes).collect()
}

impl<'a> From<&'a [u8]> for MacList<'a> {
    /// Whole addresses count; at most 255 of them.
    fn from(bytes: &'a [u8]) -> Self {
        let length = (bytes.len() / 6).min(255) * 6;
        Self(bytes.get(..length).unwrap_or_default())
    }
}

impl<'a> From<&'a [u8]> for Directives<'a> {
    /// Whole changes count; at most 255 of them.
    fn from(bytes: &'a [u8]) -> Self {
        let length = (bytes.len() / 8).min(255) * 8;
        Self(bytes.get(..length).unwrap_or_default())
    }
}

/// How many sectors fit into a frame on a link with this MTU, as the Linux driver counts: 2 at 1500, 17
/// at 9000.
#[must_use]
pub fn sectors_in(mtu: u32) -> u8 {
    let sectors = (mtu as usize).saturating_sub(ATA_HEADER) / SECTOR;
    sectors.min(255) as u8
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
