//! Reads partition tables and filesystems, and never writes: what of a disk is in use, and the
//! files on it.
//!
//! Disks come from anywhere, so nothing on them is trusted: every number is checked before it is
//! used, every walk has a bound, and what is kept in memory does not grow with what a field says.

mod bytes;
mod checksum;
mod content;
mod ext;
mod fat;
mod fuzz;
mod ntfs;
mod probe;
mod ranges;
mod seekable;
mod source;
mod survey;
mod swap;
mod table;
#[cfg(test)]
mod testing;
pub mod tree;
mod usage;

pub use content::{Content, Reading};
pub use fuzz::fuzz_survey;
pub use ranges::Ranges;
pub use seekable::Seekable;
pub use source::{ReadAt, Window};
pub use survey::{
    Part, Survey, SurveyError, SurveyOptions, Table, Unclean, survey, survey_partition,
};
