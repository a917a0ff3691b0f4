//! Why an overlay cannot be made or opened.

use crate::BaseId;
use std::{io, path::PathBuf};

/// Why an overlay cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The system's answer.
    #[error("could not {action} the overlay {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// There is an overlay already, which is not written over.
    #[error("the overlay {} is there already; open it, or remove it first", .0.display())]
    Exists(PathBuf),
    /// Somebody else has it open.
    #[error(
        "the overlay {} is in use: another server, or another export of this one, has it open",
        .0.display()
    )]
    Locked(PathBuf),
    /// The file is something else.
    #[error("{} is no overlay: it does not begin with \"BGLRLAYR\"", .0.display())]
    NotAnOverlay(PathBuf),
    /// Written by a newer program.
    #[error("the overlay {} has version {version} of the format; this program reads version 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It was made over another base: what it covers would be covered wrongly.
    #[error(
        "the overlay {} was made over the base {made_over} and cannot be put over {given}: its \
         blocks only make sense over the image version that they were written on. Open it over that \
         version, make a new image of both (commit), or reset it",
        path.display()
    )]
    OtherBase {
        /// The file.
        path: PathBuf,
        /// The base that it belongs to.
        made_over: BaseId,
        /// The base that it was to be opened over.
        given: BaseId,
    },
    /// A disk cannot become smaller.
    #[error(
        "the overlay {} is a disk of {size} bytes and cannot be made smaller ({wanted} bytes were \
         asked for); reset it to begin again with another size",
        path.display()
    )]
    Shrink {
        /// The file.
        path: PathBuf,
        /// Its size as a disk, in bytes.
        size: u64,
        /// The size that was asked for, in bytes.
        wanted: u64,
    },
    /// No size for a disk.
    #[error(
        "a disk of {0} bytes is not possible: it must be a multiple of 512, at least as large as \
         its base, and at most 64 TiB"
    )]
    Size(u64),
    /// What is stored is not what was written.
    #[error(
        "the overlay {} is damaged: {what}. It is not used, and not changed: take a copy of it if \
         its content matters, then reset it",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
}
