//! Why a capture ends.

use crate::api::ApiError;
use crate::deploy::check::ChoiceError;
use crate::disk::DiskError;
use bugler_fsread::SurveyError;
use bugler_protocol::manifest::ManifestError;
use std::io;

/// Why no image was taken. The disk is never changed, and what was sent already becomes no image.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// An operator ended it.
    #[error("the task was cancelled; no image was made")]
    Cancelled,
    /// Which disk is meant cannot be told.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// Something else has the disk, and may write to it.
    #[error(
        "{disk} is in use: a partition of it is mounted, or it is part of something else; an image \
         of a disk that changes meanwhile would be no image of any moment: unmount it, then \
         capture again"
    )]
    InUse {
        /// The disk.
        disk: String,
    },
    /// The disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What is on the disk cannot be found out.
    #[error("cannot find out what is in use on {disk}")]
    Survey {
        /// The disk.
        disk: String,
        /// What came back.
        #[source]
        source: SurveyError,
    },
    /// Filesystems that are not clean, which the task wants refused.
    #[error(
        "{disk} is not taken: {why}; let its own system shut it down cleanly, or capture without \
         `--unclean refuse`"
    )]
    Unclean {
        /// The disk.
        disk: String,
        /// Which partitions, and why.
        why: String,
    },
    /// There is no such partition.
    #[error("{disk} has no partition {number}; it has {parts}")]
    NoPartition {
        /// The disk.
        disk: String,
        /// What was asked for.
        number: u32,
        /// What there is.
        parts: String,
    },
    /// A sector cannot be read.
    #[error(
        "cannot read sector {lba} of {disk} (byte {offset}, sectors of {sector_size} bytes): the \
         disk is failing, and nothing is guessed in its place; no image was made. Rescue what can \
         be read with other tools, or capture a partition that lies elsewhere"
    )]
    Read {
        /// The disk.
        disk: String,
        /// The first sector that cannot be read, counted from 0.
        lba: u64,
        /// The same in bytes.
        offset: u64,
        /// Size of a sector in bytes.
        sector_size: u32,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// No image can be of a disk like this.
    #[error("{disk} cannot become an image")]
    Manifest {
        /// The disk.
        disk: String,
        /// Which rule it breaks.
        #[source]
        source: ManifestError,
    },
    /// The server did not take what was sent, and will not.
    #[error("the server does not take {what}")]
    Server {
        /// The question, the chunks or the manifest.
        what: &'static str,
        /// What came back.
        #[source]
        source: ApiError,
    },
    /// Chunks that were sent are missing at the server, again and again.
    #[error(
        "{count} chunks that were sent are still missing at the server after {rounds} rounds; see \
         its log, check the network for damage, then capture again"
    )]
    Unstored {
        /// How many.
        count: usize,
        /// How often they were sent.
        rounds: usize,
    },
}
