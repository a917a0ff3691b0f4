//! Finding a file in the root folder.

use super::damaged;
use super::mft::Mft;
use super::record::{BITMAP, INDEX_ALLOCATION, INDEX_ROOT, fix_up};
use super::runs::Stream;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::usage::Unusable;

/// Record of the root folder.
const ROOT: u64 = 5;
/// The attributes of a folder's index have this name.
const NAMES: &str = "$I30";
/// Largest index that is searched, in bytes.
pub(super) const MAX_INDEX: u64 = 64 << 20;
/// Where the bytes of an entry's key begin, and in them the name.
const KEY: usize = 16;
const NAME: usize = KEY + 66;

/// What the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no file of this name.
    Nothing,
    /// The record of the file, and its sequence number.
    Record(u64, u16),
    /// The folder is larger than [`MAX_INDEX`].
    TooLarge,
}

/// Looks for a file in the root folder; upper and lower case of ASCII are the same. The index is a
/// tree, but all of its blocks are looked at: so it need not be in the order of a table of upper case
/// letters that is another file.
///
/// # Errors
/// Where the folder is damaged or cannot be read.
pub(super) fn find_in_root(mft: &Mft<'_>, name: &str) -> Result<Found, Unusable> {
    let wrong = |what: &str| damaged(format_args!("the index of its root folder: {what}"));
    let root = mft.record(ROOT)?;
    let Some(Stream::Resident(head)) = mft.stream(&root, INDEX_ROOT, NAMES)? else {
        return Err(wrong("it has no root"));
    };
    let is_large = u32_at(&head, 16 + 12) & 1 != 0;
    let nodes = head.get(16..).unwrap_or_default();
    if let Some((number, sequence)) =
        find_in_node(nodes, name).ok_or_else(|| wrong("an entry does not fit"))?
    {
        return Ok(Found::Record(number, sequence));
    }
    if !is_large {
        return Ok(Found::Nothing);
    }
    let size = u32_at(&head, 8) as usize;
    if !size.is_power_of_two() || !(512..=65536).contains(&size) {
        return Err(wrong("its blocks have no possible size"));
    }
    let blocks = mft.stream(&root, INDEX_ALLOCATION, NAMES)?;
    let blocks = blocks.ok_or_else(|| wrong("it has no blocks"))?;
    let in_use = mft.stream(&root, BITMAP, NAMES)?;
    let in_use = in_use.ok_or_else(|| wrong("it does not say which blocks are in use"))?;
    if blocks.size() > MAX_INDEX {
        return Ok(Found::TooLarge);
    }
    let count = blocks.size() / size as u64;
    let mut bits = vec![0; count.div_ceil(8) as usize];
    in_use.read(mft.volume, mft.boot, 0, &mut bits)?;
    let mut block = vec![0; size];
    for index in 0..count {
        let byte = bits.get((index / 8) as usize).copied().unwrap_or(0);
        if byte >> (index % 8) & 1 == 0 {
            continue;
        }
        blocks.read(mft.volume, mft.boot, index * size as u64, &mut block)?;
        fix_up(&mut block, b"INDX").map_err(wrong)?;
        let nodes = block.get(24..).unwrap_or_default();
        let found = find_in_node(nodes, name).ok_or_else(|| wrong("an entry does not fit"))?;
        if let Some((number, sequence)) = found {
            return Ok(Found::Record(number, sequence));
        }
    }
    Ok(Found::Nothing)
}

/// Looks through the entries of a node: its header, and what follows. Outer `None`: an entry does not
/// fit.
#[expect(
    clippy::option_option,
    reason = "damaged, and not there, are two things"
)]
fn find_in_node(node: &[u8], name: &str) -> Option<Option<(u64, u16)>> {
    let end = u32_at(node, 4) as usize;
    let entries = node.get(..end)?;
    let mut at = u32_at(node, 0) as usize;
    loop {
        let rest = entries.get(at..)?;
        let length = usize::from(u16_at(rest, 8));
        let entry = rest.get(..length).filter(|_| length >= KEY)?;
        if u16_at(entry, 12) & 2 != 0 {
            return Some(None);
        }
        let letters = usize::from(*entry.get(KEY + 64)?);
        let utf16 = entry.get(NAME..)?.get(..2 * letters)?;
        let units = utf16.chunks_exact(2).map(|unit| u16_at(unit, 0));
        let lower = units.map(|unit| match u8::try_from(unit) {
            Ok(byte) => u16::from(byte.to_ascii_lowercase()),
            Err(_) => unit,
        });
        if lower.eq(name.encode_utf16()) {
            let reference = u64_at(entry, 0);
            let record = reference & 0xffff_ffff_ffff;
            return Some(Some((record, (reference >> 48) as u16)));
        }
        at += length;
    }
}
