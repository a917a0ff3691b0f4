//! FAT12, FAT16 and FAT32.
//!
//! Microsoft's "FAT: General Overview of On-Disk Format" 1.03. exFAT is another format, and is not
//! read.

mod folder;
mod geometry;
mod table;
#[cfg(test)]
mod tests;
mod used;

pub(crate) use folder::{FolderEntry, entries};
pub(crate) use geometry::{Geometry, Kind, NotFat};
pub(crate) use table::{Link, Table};
pub(crate) use used::used;
