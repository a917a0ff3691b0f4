//! Why a wipe ends.

use crate::api::ApiError;
use crate::deploy::check::ChoiceError;
use crate::disk::DiskError;
use std::io;

/// Why a disk was not wiped, or not proved to be.
#[derive(Debug, thiserror::Error)]
pub enum WipeError {
    /// An operator ended it.
    #[error("the task was cancelled; what was wiped until then is gone, the rest is not")]
    Cancelled,
    /// Which disk is meant cannot be told.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// It refuses writes.
    #[error("{disk} is read-only; nothing was wiped")]
    ReadOnly {
        /// The disk.
        disk: String,
    },
    /// Something has it open.
    #[error("{disk} is in use by something on this machine; nothing was wiped")]
    InUse {
        /// The disk.
        disk: String,
    },
    /// The disk cannot do what was asked for.
    #[error("{disk} cannot {method}: {why}; nothing was wiped; take another method")]
    Unsupported {
        /// The disk.
        disk: String,
        /// What it was to do, after "cannot".
        method: &'static str,
        /// Why it cannot.
        why: String,
    },
    /// The server was not told, so nothing is wiped.
    #[error(
        "the server does not take the report that the wipe begins; nothing was wiped; see its log, \
         then order it again"
    )]
    NotAnnounced {
        /// What came back.
        #[source]
        source: ApiError,
    },
    /// The disk refused an operation.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The disk refused a command of its own erase.
    #[error("{disk} has not done {what}; what is on it is not known; take another method")]
    Refused {
        /// The disk.
        disk: String,
        /// The command.
        what: &'static str,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A sample is not as it should be.
    #[error(
        "{disk} is not wiped: byte {offset} and the {len} bytes from there {what}; it does not do \
         what it says; take another method"
    )]
    NotWiped {
        /// The disk.
        disk: String,
        /// Where the sample lies, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: usize,
        /// In which way it is wrong.
        what: &'static str,
    },
}
