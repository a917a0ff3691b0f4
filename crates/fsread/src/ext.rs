//! ext2, ext3 and ext4.
//!
//! The kernel's documentation of ext4's data structures (`Documentation/filesystems/ext4/`), which
//! holds for its forerunners too; where it says nothing, what mke2fs writes and e2fsck accepts.

mod group;
mod superblock;
mod used;

pub(crate) use group::Descriptors;
pub(crate) use superblock::{NotExt, Superblock, incompat, is_journal_device, looks_like};
pub(crate) use used::used;
