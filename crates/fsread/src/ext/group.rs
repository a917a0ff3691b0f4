//! Group descriptors (`ext4/group_descr.rst`), and which blocks of a group hold metadata at fixed
//! places (`ext4/blockgroup.rst`).

use super::superblock::{Superblock, compat, incompat, ro_compat};
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at};
use crate::checksum::{crc16, crc32c};
use std::io;
use std::ops::Range;

/// Where a descriptor has its checksum, which counts as nothing or as zero in it.
const CHECKSUM: Range<usize> = 0x1e..0x20;
/// The block bitmap was never written: its content follows from what lies in the group.
const BLOCK_UNINIT: u16 = 0x2;

/// What is known of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The block of its block bitmap.
    pub(crate) block_bitmap: u64,
    /// The block of its inode bitmap.
    pub(crate) inode_bitmap: u64,
    /// The first block of its table of inodes.
    pub(crate) inode_table: u64,
    /// How many clusters are free.
    pub(crate) free: u64,
    /// Whether its block bitmap was never written.
    pub(crate) is_uninitialised: bool,
    /// The checksum of its block bitmap, and which bits of it are kept.
    pub(crate) bitmap_checksum: (u32, u32),
    /// Whether it fits its own checksum; true where it has none.
    pub(crate) is_sound: bool,
}

/// Reads group descriptors, and keeps the block of them that was read last.
pub(crate) struct Descriptors<'a> {
    volume: &'a dyn ReadAt,
    superblock: &'a Superblock,
    /// Which block of descriptors is in `bytes`.
    at: Option<u64>,
    bytes: Vec<u8>,
}

impl<'a> Descriptors<'a> {
    pub(crate) fn new(volume: &'a dyn ReadAt, superblock: &'a Superblock) -> Self {
        Self {
            volume,
            superblock,
            at: None,
            bytes: Vec::new(),
        }
    }

    /// The descriptor of a group.
    ///
    /// # Errors
    /// Where it cannot be read; [`io::ErrorKind::UnexpectedEof`] where there is no such group.
    pub(crate) fn get(&mut self, group: u64) -> io::Result<Descriptor> {
        let sb = self.superblock;
        if group >= sb.groups() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let which = group / sb.descriptors_per_block();
        if self.at != Some(which) {
            self.at = None;
            self.bytes.resize(sb.block as usize, 0);
            let place = descriptor_block(sb, which) * sb.block;
            self.volume.read_at(place, &mut self.bytes)?;
            self.at = Some(which);
        }
        let begin = (group % sb.descriptors_per_block() * sb.descriptor) as usize;
        let bytes = self
            .bytes
            .get(begin..begin + sb.descriptor as usize)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(parse(sb, group, bytes))
    }
}

/// The block where the descriptors of this number are: behind the superblock, or with `META_BG` at
/// the beginning of the first group that they describe.
fn descriptor_block(sb: &Superblock, which: u64) -> u64 {
    if !sb.has_incompat(incompat::META_BG) || which < sb.first_meta_bg {
        // The superblock is in block 1 where blocks have 1 KiB, whatever the first data block is.
        return u64::from(sb.block == 1024) + 1 + which;
    }
    let group = which * sb.descriptors_per_block();
    sb.group_blocks(group).start + superblock_blocks(sb, group)
}

fn parse(sb: &Superblock, group: u64, bytes: &[u8]) -> Descriptor {
    let wide = sb.descriptor >= 64;
    let number = |low: usize, high: usize| {
        u64::from(u32_at(bytes, low))
            | if wide {
                u64::from(u32_at(bytes, high)) << 32
            } else {
                0
            }
    };
    let half = |low: usize, high: usize| {
        u32::from(u16_at(bytes, low))
            | if wide {
                u32::from(u16_at(bytes, high)) << 16
            } else {
                0
            }
    };
    Descriptor {
        block_bitmap: number(0x0, 0x20),
        inode_bitmap: number(0x4, 0x24),
        inode_table: number(0x8, 0x28),
        free: u64::from(half(0xc, 0x2c)),
        is_uninitialised: sb.has_group_checksums() && u16_at(bytes, 0x12) & BLOCK_UNINIT != 0,
        bitmap_checksum: (half(0x18, 0x38), if wide { u32::MAX } else { 0xffff }),
        is_sound: is_sound(sb, group, bytes),
    }
}

/// Whether a descriptor fits its checksum.
fn is_sound(sb: &Superblock, group: u64, bytes: &[u8]) -> bool {
    // Groups are counted in 32 bits.
    let number = (group as u32).to_le_bytes();
    let (before, behind) = (&bytes[..CHECKSUM.start], &bytes[CHECKSUM.end..]);
    let wanted = u16_at(bytes, CHECKSUM.start);
    if sb.has_ro_compat(ro_compat::METADATA_CSUM) {
        let sum = crc32c(crc32c(sb.checksum_seed, &number), before);
        crc32c(crc32c(sum, &[0, 0]), behind) as u16 == wanted
    } else if sb.has_ro_compat(ro_compat::GDT_CSUM) {
        let sum = crc16(crc16(u16::MAX, &sb.uuid), &number);
        crc16(crc16(sum, before), behind) == wanted
    } else {
        true
    }
}

/// Whether a group begins with a superblock: the first one, and those with a copy.
fn has_superblock(sb: &Superblock, group: u64) -> bool {
    let is_power = |of: u64| {
        let mut power = of;
        while power < group {
            power *= of;
        }
        power == group
    };
    if group == 0 {
        true
    } else if sb.compat & compat::SPARSE_SUPER2 != 0 {
        sb.backups.iter().any(|&backup| u64::from(backup) == group)
    } else if sb.has_ro_compat(ro_compat::SPARSE_SUPER) {
        group == 1 || is_power(3) || is_power(5) || is_power(7)
    } else {
        true
    }
}

/// How many blocks at the beginning of a group come before its descriptors, where it has any: the
/// superblock; and in group 0 of blocks of 1 KiB that begins at block 0, the boot block.
fn superblock_blocks(sb: &Superblock, group: u64) -> u64 {
    let boot = group == 0 && sb.block == 1024 && sb.first_data_block == 0;
    u64::from(has_superblock(sb, group)) + u64::from(boot)
}

/// The blocks at the beginning of a group that hold a superblock and group descriptors, with those
/// that are kept for more descriptors; mostly none.
pub(super) fn copies(sb: &Superblock, group: u64) -> Range<u64> {
    let blocks = sb.group_blocks(group);
    let per_block = sb.descriptors_per_block();
    let has_meta_bg = sb.has_incompat(incompat::META_BG);
    let before = superblock_blocks(sb, group);
    let descriptors = if !has_meta_bg || group / per_block < sb.first_meta_bg {
        match has_superblock(sb, group) {
            true if has_meta_bg => sb.first_meta_bg,
            true => sb.groups().div_ceil(per_block) + sb.reserved_gdt,
            false => 0,
        }
    } else {
        // One block, in the first, the second and the last group of those that it describes.
        let place = group % per_block;
        u64::from(place < 2 || place == per_block - 1)
    };
    let end = blocks
        .start
        .saturating_add(before.saturating_add(descriptors));
    blocks.start..end.min(sb.blocks)
}
