//! Why a deploy ends.

use super::check::ChoiceError;
use crate::api::ApiError;
use crate::disk::DiskError;
use crate::personalize::PersonalizeError;
use crate::signature::SignatureError;
use bugler_protocol::manifest::{ChunkHash, ManifestError};
use std::path::PathBuf;

/// Why an image was not written, or not proved.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// An operator ended it. The disk is left as it is.
    #[error("the task was cancelled; the disk is left as it is")]
    Cancelled,
    /// No disk can take the image.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The disk is smaller than the image, and what is used of the image does not fit either.
    #[error("{choice}; a smaller disk would have to hold what is used of it: {why}")]
    TooSmall {
        /// Which disks there are, and how much is missing.
        choice: String,
        /// How much is used, or why that cannot be told.
        why: String,
    },
    /// The server did not give what was asked for, and will not.
    #[error("cannot get {what} from the server")]
    Server {
        /// The manifest or the chunks.
        what: String,
        /// What came back.
        #[source]
        source: ApiError,
    },
    /// The manifest's bytes are not those that the task names.
    #[error(
        "the manifest that the server sent is damaged: its BLAKE3 is {found}, the task names \
         {wanted}; check the image with `bugler image verify`"
    )]
    ManifestHash {
        /// Its name in the task.
        wanted: String,
        /// What its bytes hash to.
        found: ChunkHash,
    },
    /// The manifest was not signed by this machine's server.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The manifest cannot be read.
    #[error("the image's manifest {hash} cannot be used; check it with `bugler image verify`")]
    Manifest {
        /// Its name.
        hash: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// The server has not got a chunk.
    #[error(
        "the server cannot give chunk {hash}, which belongs at byte {offset} of the disk: it is \
         missing or damaged in its store; check the image with `bugler image verify`"
    )]
    MissingChunk {
        /// Its name.
        hash: ChunkHash,
        /// Where on the disk it belongs, in bytes.
        offset: u64,
    },
    /// The server sent something else under a chunk's name, twice.
    #[error(
        "chunk {hash}, which belongs at byte {offset} of the disk, came damaged twice ({detail}) \
         and was not written; check the image with `bugler image verify`"
    )]
    DamagedChunk {
        /// Its name.
        hash: ChunkHash,
        /// Where on the disk it belongs, in bytes.
        offset: u64,
        /// What came instead.
        detail: String,
    },
    /// The server was not told that writing begins, so it does not.
    #[error(
        "the server does not take the report that writing begins; nothing was written; see its \
         log, then deploy again"
    )]
    NotAnnounced {
        /// What came back.
        #[source]
        source: ApiError,
    },
    /// The disk refused an operation.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The disk holds the image, and what was to be changed of it then was not.
    #[error(transparent)]
    Personalize(#[from] PersonalizeError),
    /// The disk is not what the inventory said of it a moment ago.
    #[error("{} is {found} now; the image needs {needed}", path.display())]
    Changed {
        /// The disk.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What the image needs.
        needed: String,
    },
    /// What was read back is not what was written.
    #[error(
        "{} does not hold what was written: byte {offset} and the {len} bytes from there {what}; \
         the disk is failing, or something else writes to it", path.display()
    )]
    Verify {
        /// The disk.
        path: PathBuf,
        /// Where the difference lies, in bytes: the start of the piece that was compared.
        offset: u64,
        /// Length of that piece in bytes.
        len: u64,
        /// In which way it is wrong.
        what: &'static str,
    },
}
