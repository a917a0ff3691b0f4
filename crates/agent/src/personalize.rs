//! What a machine gets of its own once its disk holds the image: the last partition and its filesystem
//! grow to the end of the disk, and the image's identity is replaced.
//!
//! ```text
//!  disk proved ──> grow ──────────────────> identity ───────────────────────────> read again
//!                  table, then filesystem   files of the root filesystem, GUIDs
//! ```
//!
//! Nothing of this is undone when it is interrupted: the task is not over then, the next attempt finds
//! what differs from the image, writes the image there, and does all of this again.
//!
//! Filesystems are mounted by the kernel ([`crate::mounted`]); FAT is grown by code of our own. Nothing
//! of the image is executed.

mod error;
mod fat;
mod grow;
mod guids;
mod identity;
mod keys;
mod mbr;
mod root;
mod table;
mod text;

pub use error::PersonalizeError;
pub use fat::fuzz as fuzz_fat;
pub use text::fuzz as fuzz_text;

use crate::log::Log;
use crate::mounted::{Mounted, Purpose};
use crate::partition::Node;
use crate::stop::Stop;
use bugler_fsread::{Content, Part};
use bugler_model::Identity;
use std::path::Path;

/// The disk of a task, and what its steps need.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Where it is.
    disk: &'a Path,
    /// Size of its sectors in bytes.
    sector_size: u32,
    log: &'a Log,
    halt: &'a Stop,
}

/// Grows the last partition of `disk` where `grow` says so, and writes `identity`. Nothing else has the
/// disk open.
///
/// # Errors
/// [`PersonalizeError`].
pub fn run(
    disk: &Path,
    sector_size: u32,
    grow: bool,
    identity: Option<&Identity>,
    log: &Log,
    halt: &Stop,
) -> Result<(), PersonalizeError> {
    let place = Place {
        disk,
        sector_size,
        log,
        halt,
    };
    if grow {
        grow::run(place)?;
    }
    match identity {
        Some(identity) => identity::run(place, identity),
        None => Ok(()),
    }
}

impl Place<'_> {
    /// A partition for people.
    fn name(&self, part: &Part) -> String {
        let disk = self.disk.display();
        match part.number {
            0 => disk.to_string(),
            number => format!("partition {number} of {disk}"),
        }
    }

    fn check_halt(&self) -> Result<(), PersonalizeError> {
        if self.halt.is_set() {
            return Err(PersonalizeError::Halted);
        }
        Ok(())
    }

    /// Mounts a partition; `kind` is the kernel's name of its filesystem.
    fn mount(
        &self,
        part: &Part,
        kind: &str,
        options: &[(&str, &str)],
        purpose: Purpose,
    ) -> std::io::Result<Mounted> {
        crate::modules::for_filesystem(kind, self.log);
        let node = Node::of(self.disk, part.number, part.start, part.size)?;
        Mounted::open(node.path(), kind, options, purpose)
    }
}

/// The kernel's name of a filesystem that the agent mounts.
fn kernel_name(content: Content) -> Option<&'static str> {
    match content {
        // Its driver has ext2 and ext3 as well.
        Content::Ext { .. } => Some("ext4"),
        Content::Fat { .. } => Some("vfat"),
        Content::Xfs => Some("xfs"),
        Content::Btrfs => Some("btrfs"),
        _ => None,
    }
}
