//! Finds out what a partition holds, by the marks that filesystems and the like leave at known places.
//!
//! The places are those of each format's own documentation; where two formats have left a mark, an
//! older one was not wiped out, and neither is believed.

use crate::ReadAt;
use crate::bytes::{has, u16_at, u32_at, u64_at};
use crate::content::Content;
use crate::ext::{self, Superblock};
use crate::fat::Geometry;
use crate::survey::{SurveyError, read};
use crate::swap;

/// How much of the beginning is looked at: the labels of ZFS go furthest.
const HEAD: u64 = 256 << 10;
/// How much of the end: Linux RAID of version 0.90 has its superblock furthest from it.
const TAIL: u64 = 128 << 10;
/// Linux RAID.
const MD_MAGIC: u32 = 0xa92b_4efc;

/// Marks in the beginning: where, which bytes, what for.
const MARKS: &[(usize, &[u8], Content)] = &[
    (3, b"NTFS    ", Content::Ntfs),
    (3, b"EXFAT   ", Content::ExFat),
    (3, b"ReFS\0\0\0\0", Content::Refs),
    (3, b"-FVE-FS-", Content::BitLocker),
    // BitLocker To Go, which looks like FAT to others.
    (
        424,
        &[
            0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3,
            0xd0, 0x01,
        ],
        Content::BitLocker,
    ),
    (0, b"XFSB", Content::Xfs),
    (0x1_0040, b"_BHRfS_M", Content::Btrfs),
    (0, b"LUKS\xba\xbe", Content::Luks),
    // The second header of LUKS 2, at the least of its places.
    (0x4000, b"SKUL\xba\xbe", Content::Luks),
    (0, b"LABELONE", Content::Lvm),
    (512, b"LABELONE", Content::Lvm),
    (1024, b"LABELONE", Content::Lvm),
    (1536, b"LABELONE", Content::Lvm),
    // bcache and bcachefs.
    (
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
        Content::Bcache,
    ),
    (
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
        Content::Bcache,
    ),
    (0, b"hsqs", Content::Squashfs),
    (0, b"sqsh", Content::Squashfs),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], Content::Erofs),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], Content::F2fs),
    (32769, b"CD001", Content::Iso9660),
    (32769, b"BEA01", Content::Iso9660),
    (32, b"NXSB", Content::Apfs),
    (1024, b"H+\0\x04", Content::Hfs),
    (1024, b"HX\0\x05", Content::Hfs),
    (1024, b"BD", Content::Hfs),
    (32768, b"JFS1", Content::Jfs),
    (65536 + 52, b"ReIsEr", Content::Reiserfs),
    (8192 + 52, b"ReIsEr", Content::Reiserfs),
    (65536, b"ReIsEr4", Content::Reiserfs),
    (1024, b"OCFSV2", Content::Cluster),
    (2048, b"OCFSV2", Content::Cluster),
    (4096, b"OCFSV2", Content::Cluster),
    (8192, b"OCFSV2", Content::Cluster),
    // GFS2.
    (
        65536,
        &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1],
        Content::Cluster,
    ),
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// What it holds, as far as it can be told.
    pub(crate) content: Content,
    /// Everything that has left a mark, without repeats.
    pub(crate) marks: Vec<Content>,
    /// Where the filesystem ends, in bytes; what follows belongs to nobody. `None` where that is not
    /// known.
    pub(crate) end: Option<u64>,
}

impl Probe {
    /// Nothing is known.
    pub(crate) fn unknown() -> Self {
        Self {
            content: Content::Unknown,
            marks: Vec::new(),
            end: None,
        }
    }

    /// Whether a volume was found whose boot sector looks much like an MBR.
    pub(crate) fn is_bare_volume(&self) -> bool {
        self.marks.iter().any(|mark| {
            matches!(
                mark,
                Content::Fat { .. }
                    | Content::Ntfs
                    | Content::ExFat
                    | Content::Refs
                    | Content::BitLocker
            )
        })
    }

    /// Whether anything at all was found.
    pub(crate) fn found(&self) -> bool {
        !self.marks.is_empty()
    }
}

/// Looks for marks.
///
/// # Errors
/// Where `source` cannot be read.
pub(crate) fn probe(source: &dyn ReadAt) -> Result<Probe, SurveyError> {
    let size = source.size();
    let take = |from: u64, length: u64, what: &str| {
        // Neither is more than 256 KiB.
        read(source, what, from, length as usize).map(Option::unwrap_or_default)
    };
    let head = take(0, size.min(HEAD), "the beginning of a partition")?;
    let tail_at = size.saturating_sub(TAIL);
    let tail = take(tail_at, size - tail_at, "the end of a partition")?;

    let mut end = None;
    let mut marks: Vec<Content> = MARKS
        .iter()
        .filter(|(at, mark, _)| has(&head, *at, mark))
        .map(|(_, _, content)| *content)
        .collect();
    let superblock = head.get(1024..).unwrap_or_default();
    if ext::is_journal_device(superblock) {
        marks.push(Content::ExtJournal);
    } else if ext::looks_like(superblock) {
        let read = Superblock::read(source);
        end = read.as_ref().ok().map(|sb| sb.blocks * sb.block);
        marks.push(Content::Ext {
            // A superblock that cannot be used is most likely one of today.
            version: read.as_ref().map_or(4, Superblock::version),
        });
    }
    if let Some(bits) = fat_bits(source, &head) {
        let sectors = match u16_at(&head, 19) {
            0 => u64::from(u32_at(&head, 32)),
            sectors => u64::from(sectors),
        };
        end = Some(sectors * u64::from(u16_at(&head, 11)));
        marks.push(Content::Fat { bits });
    }
    if has(&head, 3, b"NTFS    ") {
        // The copy of the boot sector follows what the volume counts.
        let sector = u64::from(u16_at(&head, 11));
        end = Some(u64_at(&head, 40).saturating_add(1).saturating_mul(sector));
    }
    if swap::mark(&head).is_some() {
        marks.push(Content::Swap);
    }
    if head.len() > 1032 && u16_at(&head, 1024 + 6) == 0x3434 {
        marks.push(Content::Nilfs2);
    }
    if is_zfs(&head) {
        marks.push(Content::Zfs);
    }
    // What stands around a filesystem counts, and not what is found inside of it.
    let around = if is_md(&head, &tail, size) {
        Some(Content::MdRaid)
    } else if is_firmware_raid(&tail) {
        Some(Content::FirmwareRaid)
    } else {
        marks
            .contains(&Content::BitLocker)
            .then_some(Content::BitLocker)
    };
    if let Some(around) = around {
        marks = vec![around];
    }
    let mut distinct = Vec::new();
    for mark in marks {
        if !distinct.contains(&mark) {
            distinct.push(mark);
        }
    }
    let content = match distinct.as_slice() {
        [] if is_zero(&head) && is_zero(&tail) => Content::Empty,
        [] => Content::Unknown,
        [one] => *one,
        _ => Content::Several,
    };
    Ok(Probe {
        content,
        marks: distinct,
        end: end.filter(|&end| end <= size),
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|piece| piece == &ZEROS[..piece.len()])
}

/// Bits of an entry of the file allocation table, where this is a FAT volume, or was one.
fn fat_bits(source: &dyn ReadAt, head: &[u8]) -> Option<u8> {
    let jumps = matches!(head.first(), Some(0xeb | 0xe9));
    if u16_at(head, 510) != 0xaa55 || !jumps {
        return None;
    }
    if let Ok(geometry) = Geometry::read(source) {
        return Some(geometry.kind.bits());
    }
    // Damaged: it is still told what it was.
    [
        (54, b"FAT12   ", 12),
        (54, b"FAT16   ", 16),
        (82, b"FAT32   ", 32),
    ]
    .into_iter()
    .find(|(at, mark, _)| has(head, *at, *mark))
    .map(|(_, _, bits)| bits)
}

/// The uberblocks of the first label of ZFS, in either byte order.
fn is_zfs(head: &[u8]) -> bool {
    const MAGIC: u64 = 0x00ba_b10c;
    head.get(128 << 10..).is_some_and(|uberblocks| {
        uberblocks.chunks_exact(1024).any(|uberblock| {
            let magic = u64_at(uberblock, 0);
            magic == MAGIC || magic.swap_bytes() == MAGIC
        })
    })
}

/// The superblock of Linux RAID: versions 1.1 and 1.2 have it in the beginning, 0.90 and 1.0 at the
/// end.
fn is_md(head: &[u8], tail: &[u8], size: u64) -> bool {
    let tail_at = size - tail.len() as u64;
    let in_tail = |at: Option<u64>| {
        let at = at.and_then(|at| at.checked_sub(tail_at));
        at.and_then(|at| usize::try_from(at).ok())
            .and_then(|at| tail.get(at..))
            .map_or(0, |bytes| u32_at(bytes, 0))
    };
    let version_0_90 = in_tail((size & !0xffff).checked_sub(1 << 16));
    let version_1_0 = in_tail(
        (size / 512)
            .checked_sub(16)
            .map(|sector| (sector & !7) * 512),
    );
    version_0_90 == MD_MAGIC
        || version_0_90.swap_bytes() == MD_MAGIC
        || version_1_0 == MD_MAGIC
        || [0, 4096]
            .into_iter()
            .any(|at| u32_at(head, at) == MD_MAGIC && u32_at(head, at + 4) == 1)
}

/// Intel's RAID in the last sector but one, and the industry's DDF in the last one.
fn is_firmware_raid(tail: &[u8]) -> bool {
    let from_end = |back: usize, mark: &[u8]| {
        let at = tail.len().checked_sub(back);
        at.is_some_and(|at| has(tail, at, mark))
    };
    [512, 4096].into_iter().any(|sector| {
        from_end(2 * sector, b"Intel Raid ISM Cfg Sig. ")
            || from_end(sector, &[0xde, 0x11, 0xde, 0x11])
    })
}
