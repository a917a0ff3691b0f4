//! The superblock (`ext4/super.rst`): what lies where.

use crate::ReadAt;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::checksum::crc32c;
use std::io;

/// Where the superblock begins, in bytes of the volume.
pub(crate) const SUPERBLOCK_AT: u64 = 1024;
/// Its bytes.
pub(crate) const SUPERBLOCK: usize = 1024;
/// Where its checksum is: over all that stands before.
const CHECKSUM_AT: usize = 0x3fc;
/// Least blocks of a group, as mke2fs has it: it bounds how many groups a volume can have.
const MIN_GROUP: u64 = 256;

/// Features that older systems may ignore (`s_feature_compat`).
pub(crate) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

/// Features that must be known to read a volume (`s_feature_incompat`).
pub(crate) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEV: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BITS_64: u32 = 0x80;
    pub(crate) const MMP: u32 = 0x100;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const EA_INODE: u32 = 0x400;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGEDIR: u32 = 0x4000;
    pub(crate) const INLINE_DATA: u32 = 0x8000;
    pub(crate) const ENCRYPT: u32 = 0x1_0000;
    pub(crate) const CASEFOLD: u32 = 0x2_0000;
    /// All that are read here.
    pub(crate) const KNOWN: u32 = FILETYPE
        | RECOVER
        | JOURNAL_DEV
        | META_BG
        | EXTENTS
        | BITS_64
        | MMP
        | FLEX_BG
        | EA_INODE
        | CSUM_SEED
        | LARGEDIR
        | INLINE_DATA
        | ENCRYPT
        | CASEFOLD;
}

/// Features that must be known to write a volume (`s_feature_ro_compat`). Some change what a bitmap
/// means, so that they must be known here as well.
pub(crate) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const LARGE_FILE: u32 = 0x2;
    pub(crate) const BTREE_DIR: u32 = 0x4;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const BIGALLOC: u32 = 0x200;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    /// All that are read here: also huge files (0x8), many links (0x20), large inodes (0x40), quota
    /// (0x100), read-only (0x1000), projects (0x2000), shared blocks (0x4000), verity (0x8000) and
    /// orphans in the orphan file (0x10000).
    pub(crate) const KNOWN: u32 = SPARSE_SUPER
        | LARGE_FILE
        | BTREE_DIR
        | GDT_CSUM
        | BIGALLOC
        | METADATA_CSUM
        | 0x8
        | 0x20
        | 0x40
        | 0x100
        | 0x1000
        | 0x2000
        | 0x4000
        | 0x8000
        | 0x1_0000;
}

/// Why a volume is not taken for ext.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotExt {
    /// It cannot be read.
    #[error("the volume cannot be read")]
    Io(#[from] io::Error),
    /// There is no ext superblock.
    #[error("this is no ext volume")]
    Other,
    /// What its superblock says cannot be, or is of a kind that is not read.
    #[error("the ext volume cannot be read by its blocks: {0}")]
    Says(String),
}

/// A superblock whose numbers fit each other and the volume.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    /// Bytes of a block: 1024 to 65536.
    pub(crate) block: u64,
    /// Bytes that one bit of a bitmap stands for: a block, or with bigalloc several.
    pub(crate) cluster: u64,
    /// Blocks of the volume; that many bytes are there.
    pub(crate) blocks: u64,
    /// The block where group 0 begins: 0 or 1.
    pub(crate) first_data_block: u64,
    /// Blocks of a group: a multiple of a cluster's, with at most one bitmap block of clusters.
    pub(crate) blocks_per_group: u64,
    /// Inodes of a group: at least one, with at most one bitmap block of them.
    pub(crate) inodes_per_group: u64,
    /// Inodes of the volume.
    pub(crate) inodes: u32,
    /// Bytes of an inode: a power of two from 128 to a block.
    pub(crate) inode_size: u64,
    /// Bytes of a group descriptor: a power of two from 32 to 1024.
    pub(crate) descriptor: u64,
    /// Blocks that are kept for more group descriptors, behind those of the superblock's copies.
    pub(crate) reserved_gdt: u64,
    /// The first block of group descriptors that lies in its own groups, with `META_BG`.
    pub(crate) first_meta_bg: u64,
    /// The groups with a copy of the superblock, with `SPARSE_SUPER2`.
    pub(crate) backups: [u32; 2],
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
    /// What every checksum of metadata begins with, with `METADATA_CSUM`.
    pub(crate) checksum_seed: u32,
    pub(crate) uuid: [u8; 16],
    /// `s_state`: bit 0 is set when the volume was closed, bit 1 when errors were found.
    pub(crate) state: u16,
    /// The inode of the journal; 0 for none, or for one on another device.
    pub(crate) journal_inode: u32,
    /// The block of multiple mount protection.
    pub(crate) mmp_block: u64,
}

impl Superblock {
    /// Reads the superblock at byte 1024 of a volume.
    ///
    /// # Errors
    /// Where there is none, or it contradicts itself or the size of the volume, or it has features
    /// that are not known here, or cannot be read.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, NotExt> {
        let mut bytes = vec![0; SUPERBLOCK];
        if volume.size() < SUPERBLOCK_AT + SUPERBLOCK as u64 {
            return Err(NotExt::Other);
        }
        volume.read_at(SUPERBLOCK_AT, &mut bytes)?;
        if !looks_like(&bytes) {
            return Err(NotExt::Other);
        }
        Self::parse(&bytes, volume.size()).map_err(NotExt::Says)
    }

    fn parse(bytes: &[u8], size: u64) -> Result<Self, String> {
        let (revision, incompat) = (u32_at(bytes, 0x4c), u32_at(bytes, 0x60));
        let (compat, ro_compat) = (u32_at(bytes, 0x5c), u32_at(bytes, 0x64));
        // Revision 0 has no features, and inodes of 128 bytes.
        let dynamic = revision >= 1;
        let (compat, incompat, ro_compat) = match dynamic {
            true => (compat, incompat, ro_compat),
            false => (0, 0, 0),
        };
        if revision > 1 {
            return Err(format!("its revision {revision} is not known"));
        }
        let unknown = incompat & !incompat::KNOWN;
        if unknown != 0 {
            return Err(format!(
                "it has a feature that is not known (incompat {unknown:#x})"
            ));
        }
        let unknown = ro_compat & !ro_compat::KNOWN;
        if unknown != 0 {
            return Err(format!(
                "it has a feature that is not known (ro_compat {unknown:#x})"
            ));
        }
        let uuid: [u8; 16] = std::array::from_fn(|at| bytes[0x68 + at]);
        let metadata_csum = ro_compat & ro_compat::METADATA_CSUM != 0;
        if metadata_csum {
            if bytes[0x175] != 1 {
                return Err(format!(
                    "its kind of checksum ({}) is not known",
                    bytes[0x175]
                ));
            }
            if crc32c(u32::MAX, &bytes[..CHECKSUM_AT]) != u32_at(bytes, CHECKSUM_AT) {
                return Err("its superblock does not fit its checksum".into());
            }
        }

        let block = 1024 << u32_at(bytes, 0x18).min(6);
        let cluster = match (ro_compat & ro_compat::BIGALLOC != 0, u32_at(bytes, 0x1c)) {
            (false, _) => block,
            (true, log @ 0..=20) if 1024 << log >= block => 1024 << log,
            (true, log) => return Err(format!("its clusters have no possible size (2^{log} KiB)")),
        };
        let is_64bit = incompat & incompat::BITS_64 != 0;
        let blocks = u64::from(u32_at(bytes, 0x4))
            | if is_64bit {
                u64::from(u32_at(bytes, 0x150)) << 32
            } else {
                0
            };
        let first_data_block = u64::from(u32_at(bytes, 0x14));
        if first_data_block > u64::from(block == 1024) {
            return Err(format!("its first block cannot be {first_data_block}"));
        }
        if blocks <= first_data_block || blocks > size / block {
            return Err(format!(
                "it has {blocks} blocks of {block} bytes, and the partition has {size} bytes"
            ));
        }
        let blocks_per_group = u64::from(u32_at(bytes, 0x20));
        let clusters_per_group = blocks_per_group * block / cluster;
        if blocks_per_group < MIN_GROUP
            || clusters_per_group * cluster != blocks_per_group * block
            || clusters_per_group > block * 8
        {
            return Err(format!("a group cannot have {blocks_per_group} blocks"));
        }
        let inode_size = if dynamic {
            u64::from(u16_at(bytes, 0x58))
        } else {
            128
        };
        if !inode_size.is_power_of_two() || !(128..=block).contains(&inode_size) {
            return Err(format!("an inode cannot have {inode_size} bytes"));
        }
        let inodes_per_group = u64::from(u32_at(bytes, 0x28));
        if inodes_per_group == 0 || inodes_per_group > block * 8 {
            return Err(format!("a group cannot have {inodes_per_group} inodes"));
        }
        let descriptor = if is_64bit {
            u64::from(u16_at(bytes, 0xfe))
        } else {
            32
        };
        let least = if is_64bit { 64 } else { 32 };
        if !descriptor.is_power_of_two() || !(least..=1024).contains(&descriptor) {
            return Err(format!("a group descriptor cannot have {descriptor} bytes"));
        }
        let sb = Self {
            block,
            cluster,
            blocks,
            first_data_block,
            blocks_per_group,
            inodes_per_group,
            inodes: u32_at(bytes, 0),
            inode_size,
            descriptor,
            reserved_gdt: u64::from(u16_at(bytes, 0xce)),
            first_meta_bg: u64::from(u32_at(bytes, 0x104)),
            backups: [u32_at(bytes, 0x24c), u32_at(bytes, 0x250)],
            compat,
            incompat,
            ro_compat,
            checksum_seed: match incompat & incompat::CSUM_SEED != 0 {
                true => u32_at(bytes, 0x270),
                false => crc32c(u32::MAX, &uuid),
            },
            uuid,
            state: u16_at(bytes, 0x3a),
            journal_inode: if compat & compat::HAS_JOURNAL != 0 {
                u32_at(bytes, 0xe0)
            } else {
                0
            },
            mmp_block: u64_at(bytes, 0x168),
        };
        let inodes = sb.groups() * inodes_per_group;
        if u64::from(sb.inodes) != inodes {
            return Err(format!(
                "it has {} inodes in all, and {inodes} in its groups",
                sb.inodes
            ));
        }
        Ok(sb)
    }

    pub(crate) fn has_incompat(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    pub(crate) fn has_ro_compat(&self, feature: u32) -> bool {
        self.ro_compat & feature != 0
    }

    /// Whether group descriptors have checksums, and groups can be uninitialised.
    pub(crate) fn has_group_checksums(&self) -> bool {
        self.has_ro_compat(ro_compat::GDT_CSUM | ro_compat::METADATA_CSUM)
    }

    /// How many groups there are; at least one.
    pub(crate) fn groups(&self) -> u64 {
        (self.blocks - self.first_data_block).div_ceil(self.blocks_per_group)
    }

    /// The blocks of a group; the last one can be shorter.
    pub(crate) fn group_blocks(&self, group: u64) -> std::ops::Range<u64> {
        let start = self.first_data_block + group * self.blocks_per_group;
        start..(start + self.blocks_per_group).min(self.blocks)
    }

    /// How many group descriptors fit into a block.
    pub(crate) fn descriptors_per_block(&self) -> u64 {
        self.block / self.descriptor
    }

    /// Blocks of the table of inodes of a group.
    pub(crate) fn inode_table_blocks(&self) -> u64 {
        (self.inodes_per_group * self.inode_size).div_ceil(self.block)
    }

    /// 2, 3 or 4: the oldest that knows every feature.
    pub(crate) fn version(&self) -> u8 {
        const OLD_INCOMPAT: u32 = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        const OLD_RO_COMPAT: u32 =
            ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
        if self.incompat & !OLD_INCOMPAT != 0 || self.ro_compat & !OLD_RO_COMPAT != 0 {
            4
        } else if self.compat & compat::HAS_JOURNAL != 0 {
            3
        } else {
            2
        }
    }
}

/// Whether a superblock of ext stands at the beginning of `bytes`: its mark, and numbers that are
/// possible at all.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.len() >= SUPERBLOCK
        && u16_at(bytes, 0x38) == 0xef53
        && u32_at(bytes, 0x18) <= 6
        && u32_at(bytes, 0) != 0
        && u32_at(bytes, 0x28) != 0
}

/// Whether the superblock at the beginning of `bytes` is that of a journal for a volume on another
/// device.
pub(crate) fn is_journal_device(bytes: &[u8]) -> bool {
    u16_at(bytes, 0x38) == 0xef53
        && u32_at(bytes, 0x4c) >= 1
        && u32_at(bytes, 0x60) & incompat::JOURNAL_DEV != 0
}
