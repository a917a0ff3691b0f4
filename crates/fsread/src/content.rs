//! What a partition holds, and how it is read: in the words that people use for it.

use std::fmt;

/// What a partition, or a disk without a table, was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext {
        /// 2, 3 or 4: the oldest of them that knows every feature that the filesystem uses.
        version: u8,
    },
    /// The journal of an ext filesystem that lies on another device.
    ExtJournal,
    /// FAT12, FAT16 or FAT32.
    Fat {
        /// 12, 16 or 32: bits of an entry of the file allocation table.
        bits: u8,
    },
    /// exFAT.
    ExFat,
    /// NTFS.
    Ntfs,
    /// `ReFS`.
    Refs,
    /// Linux swap space.
    Swap,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// bcachefs, or a cache of bcache, or what stands behind one.
    Bcache,
    /// A physical volume of LVM 2.
    Lvm,
    /// LUKS 1 or LUKS 2.
    Luks,
    /// A volume that is encrypted by BitLocker.
    BitLocker,
    /// A member of a Linux software RAID.
    MdRaid,
    /// A member of a RAID that the firmware or a controller makes.
    FirmwareRaid,
    /// A member of a ZFS pool.
    Zfs,
    /// squashfs.
    Squashfs,
    /// EROFS.
    Erofs,
    /// F2FS.
    F2fs,
    /// ISO 9660 or UDF, as on optical disks.
    Iso9660,
    /// APFS.
    Apfs,
    /// HFS or HFS+.
    Hfs,
    /// JFS.
    Jfs,
    /// `ReiserFS`.
    Reiserfs,
    /// NILFS2.
    Nilfs2,
    /// OCFS2 or GFS2.
    Cluster,
    /// Several of the above have left their mark: which one counts is not known.
    Several,
    /// None of the above.
    Unknown,
    /// Nothing but zeros where any of the above would have its mark.
    Empty,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext { version } => return write!(f, "ext{version}"),
            Self::Fat { bits } => return write!(f, "FAT{bits}"),
            Self::ExtJournal => "ext journal",
            Self::ExFat => "exFAT",
            Self::Ntfs => "NTFS",
            Self::Refs => "ReFS",
            Self::Swap => "swap",
            Self::Xfs => "XFS",
            Self::Btrfs => "btrfs",
            Self::Bcache => "bcache",
            Self::Lvm => "LVM",
            Self::Luks => "LUKS",
            Self::BitLocker => "BitLocker",
            Self::MdRaid => "Linux RAID",
            Self::FirmwareRaid => "firmware RAID",
            Self::Zfs => "ZFS",
            Self::Squashfs => "squashfs",
            Self::Erofs => "EROFS",
            Self::F2fs => "F2FS",
            Self::Iso9660 => "ISO 9660",
            Self::Apfs => "APFS",
            Self::Hfs => "HFS",
            Self::Jfs => "JFS",
            Self::Reiserfs => "ReiserFS",
            Self::Nilfs2 => "NILFS2",
            Self::Cluster => "cluster filesystem",
            Self::Several => "several marks",
            Self::Unknown => "unknown",
            Self::Empty => "empty",
        })
    }
}

/// How a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Only what its filesystem counts as used.
    UsedBlocks,
    /// Only its header: of swap space.
    HeaderOnly,
    /// Every byte.
    Whole {
        /// Why no reader of its filesystem could say what is used.
        why: String,
    },
    /// Not at all: it is not clean, and that was to be refused ([`crate::Unclean::Refuse`]).
    Refused {
        /// What is not clean, and what to do about it.
        why: String,
    },
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsedBlocks => f.write_str("used blocks"),
            Self::HeaderOnly => f.write_str("header only"),
            Self::Whole { why } => write!(f, "whole: {why}"),
            Self::Refused { why } => write!(f, "refused: {why}"),
        }
    }
}
