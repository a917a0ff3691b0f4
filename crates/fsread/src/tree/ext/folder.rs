//! The entries of a folder (`directory.rst`). The index of a large folder hides in entries that are not
//! in use, so all blocks can be read as if there were none.

use super::TreeError;
use crate::bytes::{u16_at, u32_at};

/// Bytes before a name.
const HEAD: usize = 8;

/// Is told a name and its inode, and says whether it wants more.
pub(super) type Visit<'a> = dyn FnMut(&[u8], u32) -> Result<bool, TreeError> + 'a;

/// Visits the names in a block of a folder and their inodes, without the folder itself and its parent.
/// False when `visit` had enough.
pub(super) fn names(
    block: &[u8],
    has_types: bool,
    visit: &mut Visit<'_>,
) -> Result<bool, TreeError> {
    let damaged = || TreeError::Damaged("an entry of a folder does not fit".into());
    let mut rest = block;
    while rest.len() >= HEAD {
        let length = match usize::from(u16_at(rest, 4)) {
            // The two lowest bits are the upper ones, for blocks of 64 KiB.
            0 | 0xffff if block.len() == 65536 => 65536,
            length if block.len() == 65536 => length & 0xfffc | (length & 3) << 16,
            length => length,
        };
        if length < HEAD || length % 4 != 0 || length > rest.len() {
            return Err(damaged());
        }
        let number = u32_at(rest, 0);
        let name_length = match has_types {
            true => usize::from(rest.get(6).copied().unwrap_or(0)),
            false => usize::from(u16_at(rest, 6)),
        };
        let entry = rest.get(..length).unwrap_or_default();
        if number != 0 {
            let name = entry.get(HEAD..).and_then(|rest| rest.get(..name_length));
            let name = name.filter(|name| !name.is_empty()).ok_or_else(damaged)?;
            if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(TreeError::Damaged(
                    "a name in a folder has a byte that no name can have".into(),
                ));
            }
            if !matches!(name, b"." | b"..") && !visit(name, number)? {
                return Ok(false);
            }
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(true)
}

/// The inode of the parent, out of the first block of a folder: its second entry, behind one of 12
/// bytes for the folder itself.
pub(super) fn parent(block: &[u8]) -> Result<u32, TreeError> {
    let second = block.get(12..).unwrap_or_default();
    match second.get(HEAD..HEAD + 2) {
        Some(b"..") if u32_at(second, 0) != 0 => Ok(u32_at(second, 0)),
        _ => Err(TreeError::Damaged(
            "a folder does not say what it is in".into(),
        )),
    }
}
