//! An inode, and content that is kept in it.

use super::{FileKind, TreeError};
use crate::bytes::{u16_at, u32_at};

/// Bytes for the map of blocks, or for content.
pub(super) const MAP: usize = 60;
/// Bytes of an inode that all versions have.
const OLD_SIZE: usize = 128;
/// Flags.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;
/// Marks extended attributes in an inode.
const ATTRIBUTES: u32 = 0xea02_0000;
/// What comes before an attribute's name of the system.
const SYSTEM: u8 = 7;

/// What is kept of an inode.
#[derive(Clone, Debug)]
pub(in crate::tree) struct Inode {
    number: u32,
    mode: u16,
    owner: (u32, u32),
    links: u16,
    size: u64,
    modified: (i64, u32),
    flags: u32,
    map: [u8; MAP],
    /// What `system.data` holds, with inline data.
    attribute: Option<Vec<u8>>,
}

impl Inode {
    pub(super) fn parse(number: u32, bytes: &[u8], has_large_folders: bool) -> Self {
        let (mode, flags) = (u16_at(bytes, 0), u32_at(bytes, 32));
        // In old versions the upper half is something else in folders.
        let is_wide = mode & 0xf000 == 0x8000 || has_large_folders && mode & 0xf000 == 0x4000;
        let high = if is_wide { u32_at(bytes, 108) } else { 0 };
        let extra = match bytes.len() {
            OLD_SIZE => 0,
            _ => usize::from(u16_at(bytes, OLD_SIZE)),
        };
        // The two lowest bits go on where the seconds end.
        let fine = if extra >= 12 { u32_at(bytes, 136) } else { 0 };
        let seconds = i64::from(u32_at(bytes, 16) as i32) + (i64::from(fine & 3) << 32);
        let map = bytes.get(40..).and_then(|rest| rest.first_chunk());
        Self {
            number,
            mode,
            owner: (
                u32::from(u16_at(bytes, 2)) | u32::from(u16_at(bytes, 120)) << 16,
                u32::from(u16_at(bytes, 24)) | u32::from(u16_at(bytes, 122)) << 16,
            ),
            links: u16_at(bytes, 26),
            size: u64::from(u32_at(bytes, 4)) | u64::from(high) << 32,
            modified: (seconds, (fine >> 2).min(999_999_999)),
            flags,
            map: map.copied().unwrap_or([0; MAP]),
            attribute: match flags & INLINE_DATA {
                0 => None,
                _ => attribute(bytes.get(OLD_SIZE + extra..).unwrap_or_default()),
            },
        }
    }

    pub(in crate::tree) fn number(&self) -> u32 {
        self.number
    }

    /// `None`: one that is not in use.
    pub(super) fn kind(&self) -> Option<FileKind> {
        Some(match self.mode & 0xf000 {
            0x1000 => FileKind::Fifo,
            0x2000 => FileKind::CharDevice,
            0x4000 => FileKind::Folder,
            0x6000 => FileKind::BlockDevice,
            0x8000 => FileKind::File,
            0xa000 => FileKind::Symlink,
            0xc000 => FileKind::Socket,
            _ => return None,
        })
    }

    pub(super) fn permissions(&self) -> u16 {
        self.mode & 0xfff
    }

    pub(super) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// How many names it has; 1 for a folder that has too many to count.
    pub(super) fn links(&self) -> u32 {
        self.links.into()
    }

    /// Major and minor number of a device: in 16 bits where they fit, else in the next 32.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        let is_device = matches!(
            self.kind(),
            Some(FileKind::CharDevice | FileKind::BlockDevice)
        );
        let (old, new) = (u32_at(&self.map, 0), u32_at(&self.map, 4));
        is_device.then_some(match old {
            0 => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
            _ => (old >> 8 & 0xff, old & 0xff),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Seconds since 1970, and nanoseconds.
    pub(super) fn modified(&self) -> (i64, u32) {
        self.modified
    }

    pub(super) fn map(&self) -> &[u8; MAP] {
        &self.map
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// # Errors
    /// Where its content or names are encrypted.
    pub(super) fn check_readable(&self) -> Result<(), TreeError> {
        if self.flags & ENCRYPTED != 0 {
            return Err(TreeError::Unsupported(format!(
                "inode {} is encrypted: only its system can read it",
                self.number
            )));
        }
        Ok(())
    }

    /// The target of a symbolic link that is kept where the map of blocks would be.
    pub(super) fn short_target(&self) -> Option<&[u8]> {
        let is_short = self.flags & (EXTENTS | INLINE_DATA) == 0 && self.size < MAP as u64;
        self.map.get(..self.size as usize).filter(|_| is_short)
    }

    /// The content, where it is kept in the inode.
    pub(in crate::tree) fn inline(&self) -> Result<Option<Vec<u8>>, TreeError> {
        self.check_readable()?;
        if self.flags & INLINE_DATA == 0 {
            return Ok(None);
        }
        let mut content = self.map.to_vec();
        content.extend(self.attribute.as_deref().unwrap_or_default());
        if (content.len() as u64) < self.size {
            return Err(TreeError::Damaged(format!(
                "inode {} has less content than its size",
                self.number
            )));
        }
        content.truncate(self.size as usize);
        Ok(Some(content))
    }

    /// The two parts of a folder that is kept in the inode: its parent's number comes first, and each
    /// part has entries of its own.
    pub(super) fn inline_folder(&self) -> Result<Option<[Vec<u8>; 2]>, TreeError> {
        let Some(content) = self.inline()? else {
            return Ok(None);
        };
        let first = content.get(4..MAP.min(content.len())).unwrap_or_default();
        let second = content.get(MAP..).unwrap_or_default();
        Ok(Some([first.to_vec(), second.to_vec()]))
    }
}

/// The value of `system.data` among the extended attributes in an inode (`attributes.rst`).
fn attribute(bytes: &[u8]) -> Option<Vec<u8>> {
    if u32_at(bytes, 0) != ATTRIBUTES {
        return None;
    }
    let entries = bytes.get(4..)?;
    let mut at = 0;
    // Each is at least 16 bytes long, so this ends.
    while u32_at(entries, at) != 0 {
        let entry = entries.get(at..)?;
        let length = usize::from(*entry.first()?);
        let name = entry.get(16..)?.get(..length)?;
        if *entry.get(1)? == SYSTEM && name == b"data" {
            let start = usize::from(u16_at(entry, 2));
            let size = u32_at(entry, 8) as usize;
            return Some(entries.get(start..)?.get(..size)?.to_vec());
        }
        at += (16 + length).next_multiple_of(4);
    }
    None
}
