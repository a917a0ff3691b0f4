//! Looking into images, and comparing them.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/images/{image}/partitions`: one partition of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagePartition {
    /// Its number in the table.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its name in the table, where it has one.
    pub name: Option<String>,
    /// What it holds: ext4, FAT32, swap.
    pub content: String,
    /// Bytes of it that are in use, as far as its filesystem can be read; else all.
    pub used: u64,
    /// Whether its files can be read.
    pub readable: bool,
}

/// `GET /api/v1/images/{image}/files`: a file or folder in an image. Bytes of names that are no UTF-8
/// are shown as U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageFile {
    /// Its name; empty for the root.
    pub name: String,
    /// `file`, `folder`, `symlink`, `character device`, `block device`, `pipe` or `socket`.
    pub kind: String,
    /// Bytes of a file, or of the target of a link.
    pub size: u64,
    /// Permissions with the bits for setuid, setgid and sticky; FAT has none.
    pub mode: Option<u16>,
    /// Number of its user.
    pub uid: Option<u32>,
    /// Number of its group.
    pub gid: Option<u32>,
    /// When its content was last changed, in seconds since 1970.
    pub modified: Option<i64>,
    /// Where a link points to.
    pub target: Option<String>,
}

/// In which way a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum FileChange {
    /// The newer image alone has it.
    Added,
    /// The older image alone has it.
    Removed,
    /// Its bytes, its kind or the target of the link are others.
    Content,
    /// Its permissions or its owner are others.
    Rights,
}

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangedFile {
    /// Its path on the partition.
    pub path: String,
    /// In which way.
    pub change: FileChange,
    /// Its size in bytes in the older image.
    pub before: Option<u64>,
    /// Its size in bytes in the newer one.
    pub after: Option<u64>,
}

/// A range of bytes in which two images differ, in whole chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiffRange {
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What differs on one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionDiff {
    /// Its number in the older image.
    pub number: u32,
    /// What it holds there.
    pub content: String,
    /// The files that differ, by path: the first 10,000.
    pub changes: Vec<ChangedFile>,
    /// How many there are.
    pub changes_in_all: u64,
    /// Why its files were not compared.
    pub note: Option<String>,
}

/// `GET /api/v1/images/{image}/diff`: what differs between two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageDiff {
    /// Sizes of the older and the newer disk in bytes.
    pub sizes: [u64; 2],
    /// Bytes in the ranges that differ.
    pub bytes: u64,
    /// The ranges: the first 10,000.
    pub ranges: Vec<DiffRange>,
    /// How many there are.
    pub ranges_in_all: u64,
    /// The partitions of the older image that have such a range.
    pub partitions: Vec<PartitionDiff>,
}
