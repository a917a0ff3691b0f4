//! Why a machine did not get what is its own.

use crate::disk::DiskError;
use bugler_fsread::SurveyError;
use std::io;
use std::path::PathBuf;

/// Why the disk holds the image, and not yet what was to be changed of it.
#[derive(Debug, thiserror::Error)]
pub enum PersonalizeError {
    /// The task was ended meanwhile.
    #[error("the task was ended while the machine was given its own identity")]
    Halted,
    /// The disk refused an operation.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is on the disk could not be looked at.
    #[error("cannot look at what is on {}", disk.display())]
    Survey {
        /// The disk.
        disk: PathBuf,
        /// What is wrong.
        #[source]
        source: SurveyError,
    },
    /// The partition table cannot be changed.
    #[error("cannot change the partition table of {}: {why}", disk.display())]
    Table {
        /// The disk.
        disk: PathBuf,
        /// Why not.
        why: String,
    },
    /// A filesystem cannot be used.
    #[error("cannot {action} the {kind} filesystem of {part}")]
    Filesystem {
        /// What was tried.
        action: &'static str,
        /// Its kind.
        kind: String,
        /// Where it is.
        part: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A filesystem cannot be grown.
    #[error(
        "{part} has grown, but its {kind} filesystem cannot: {why}; deploy without growing, or make \
         the image's filesystem one that can"
    )]
    CannotGrow {
        /// Where it is.
        part: String,
        /// Its kind.
        kind: String,
        /// Why not.
        why: String,
    },
    /// No partition holds a system that an identity can be written into.
    #[error(
        "no partition of {} holds the root filesystem of a system (etc/os-release or etc/hostname, and \
         usr): {why}; deploy without an identity", disk.display()
    )]
    NoRoot {
        /// The disk.
        disk: PathBuf,
        /// What was looked at, and why it is none.
        why: String,
    },
    /// More than one does.
    #[error(
        "several partitions of {} hold the root filesystem of a system: {parts}; which one is meant \
         cannot be told; nothing was changed", disk.display()
    )]
    SeveralRoots {
        /// The disk.
        disk: PathBuf,
        /// Which.
        parts: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} /{path} on {part}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file in its filesystem.
        path: String,
        /// The filesystem.
        part: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what was written.
    #[error(
        "/{path} on {part} does not hold what was written into it; the disk is failing, or something \
         else writes to it"
    )]
    NotHeld {
        /// The file in its filesystem.
        path: String,
        /// The filesystem.
        part: String,
    },
    /// A part of the identity cannot be given.
    #[error("cannot give the machine {what}: {why}; nothing was changed")]
    Refused {
        /// Which part.
        what: &'static str,
        /// Why not.
        why: String,
    },
}
