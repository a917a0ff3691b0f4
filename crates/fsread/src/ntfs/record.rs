//! Records of the master file table, and the attributes in them.

use super::damaged;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::usage::Unusable;

/// Kinds of attributes.
pub(super) const ATTRIBUTE_LIST: u32 = 0x20;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xa0;
pub(super) const BITMAP: u32 = 0xb0;

/// Bytes after each of which two are replaced by the update sequence number, whatever the size of the
/// disk's sectors.
const STRIDE: usize = 512;

/// A record, put together from its sectors.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    bytes: Vec<u8>,
}

/// An attribute, or a part of one whose runs did not fit into one record.
#[derive(Clone, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    /// Its name in UTF-16, little-endian; empty for none.
    pub(super) name: &'a [u8],
    /// Whether its content is compressed, encrypted or sparse.
    pub(super) flags: u16,
    pub(super) body: Body<'a>,
}

/// Where the content is.
#[derive(Clone, Debug)]
pub(super) enum Body<'a> {
    /// Here.
    Resident(&'a [u8]),
    /// In clusters.
    Runs {
        /// The first cluster of the content that this part is about.
        lowest: u64,
        /// One more than the last.
        end: u64,
        /// The runs, encoded.
        pairs: &'a [u8],
        /// Bytes of the content; only in the first part.
        size: u64,
        /// How many of them were ever written; the rest reads as zero.
        initialized: u64,
    },
}

/// Puts back the bytes that the update sequence number stands for.
///
/// # Errors
/// Where a sector lacks it: it was not written as a whole.
pub(super) fn fix_up(bytes: &mut [u8], magic: &[u8; 4]) -> Result<(), &'static str> {
    if bytes.first_chunk() != Some(magic) {
        return Err("it does not begin with its mark");
    }
    let at = usize::from(u16_at(bytes, 4));
    let count = usize::from(u16_at(bytes, 6));
    if count != bytes.len() / STRIDE + 1 || at + 2 * count > STRIDE - 2 || at % 2 != 0 {
        return Err("its update sequence does not fit its length");
    }
    let number = u16_at(bytes, at);
    for index in 1..count {
        let saved = u16_at(bytes, at + 2 * index);
        let end = index * STRIDE;
        if u16_at(bytes, end - 2) != number {
            return Err("its sectors do not belong together: a write was cut short");
        }
        if let Some(place) = bytes.get_mut(end - 2..end) {
            place.copy_from_slice(&saved.to_le_bytes());
        }
    }
    // The number itself differs between copies that are equal otherwise.
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.fill(0);
    }
    Ok(())
}

impl Record {
    /// Reads a record as it stands on the disk.
    ///
    /// # Errors
    /// Where it is damaged.
    pub(super) fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Self, Unusable> {
        fix_up(&mut bytes, b"FILE")
            .map_err(|what| damaged(format_args!("record {number} of $MFT: {what}")))?;
        Ok(Self { number, bytes })
    }

    /// Grows with each reuse of the record.
    pub(super) fn sequence(&self) -> u16 {
        u16_at(&self.bytes, 16)
    }

    pub(super) fn is_in_use(&self) -> bool {
        u16_at(&self.bytes, 22) & 1 != 0
    }

    /// The record that this one continues, without its sequence number; 0 for none.
    pub(super) fn base(&self) -> u64 {
        u64_at(&self.bytes, 32) & 0xffff_ffff_ffff
    }

    /// The part of it that means something.
    pub(super) fn content(&self) -> &[u8] {
        let length = u32_at(&self.bytes, 24) as usize;
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }

    /// Its attributes.
    ///
    /// # Errors
    /// Where one does not fit.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>, Unusable> {
        let mut attributes = vec![];
        let content = self.content();
        let mut at = usize::from(u16_at(content, 20));
        // Each is at least 24 bytes long, so this ends.
        while u32_at(content, at) != u32::MAX {
            let length = u32_at(content, at + 4) as usize;
            let bytes = content
                .get(at..)
                .and_then(|rest| rest.get(..length))
                .filter(|bytes| bytes.len() >= 24 && bytes.len() % 8 == 0);
            let attribute = bytes.and_then(Attribute::parse).ok_or_else(|| {
                damaged(format_args!(
                    "record {} of $MFT: the attribute at byte {at} does not fit",
                    self.number
                ))
            })?;
            attributes.push(attribute);
            at += length;
        }
        Ok(attributes)
    }
}

impl<'a> Attribute<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let name_length = 2 * usize::from(*bytes.get(9)?);
        let name_start = usize::from(u16_at(bytes, 10));
        let name = match name_length {
            0 => &[],
            _ => bytes.get(name_start..)?.get(..name_length)?,
        };
        let body = if *bytes.get(8)? == 0 {
            let start = usize::from(u16_at(bytes, 20));
            let length = u32_at(bytes, 16) as usize;
            Body::Resident(bytes.get(start..)?.get(..length)?)
        } else {
            if bytes.len() < 64 {
                return None;
            }
            Body::Runs {
                lowest: u64_at(bytes, 16),
                // An empty attribute ends at cluster -1.
                end: u64_at(bytes, 24).wrapping_add(1),
                pairs: bytes.get(usize::from(u16_at(bytes, 32))..)?,
                size: u64_at(bytes, 48),
                initialized: u64_at(bytes, 56),
            }
        };
        Some(Self {
            kind: u32_at(bytes, 0),
            name,
            flags: u16_at(bytes, 12),
            body,
        })
    }

    /// Whether it is of this kind, and has this name.
    pub(super) fn is(&self, kind: u32, name: &str) -> bool {
        self.kind == kind && is_named(self.name, name)
    }
}

/// Whether a name in UTF-16, little-endian, is this one.
pub(super) fn is_named(utf16: &[u8], name: &str) -> bool {
    utf16.len() == 2 * name.len()
        && utf16
            .chunks_exact(2)
            .map(|unit| u16_at(unit, 0))
            .eq(name.encode_utf16())
}
