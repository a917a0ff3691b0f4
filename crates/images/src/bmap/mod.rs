//! Block maps, as bmaptool makes and takes them: which blocks of an image have content, with the
//! checksum of each range of them.
//!
//! What a block map leaves out is not read, and is zero in the image that is made.

mod parse;
mod source;
mod write;

pub use parse::{Bmap, fuzz_bmap};
pub(crate) use source::{Blocks, BmapSource};
pub(crate) use write::Writer;

use std::ops::Range;

/// Why a block map, or an image that should be as one says, is refused.
#[derive(Debug, thiserror::Error)]
pub enum BmapError {
    /// It is no block map, or makes no sense.
    #[error("the block map is damaged: {0}; make it again with `bmaptool create`")]
    Damaged(String),
    /// A version that is not known.
    #[error("the block map is of version {0}, and 1.2 to 2.0 are known")]
    Version(String),
    /// Checksums that this program cannot check.
    #[error(
        "the block map has checksums of type {0}, and sha256 is known; make it again with \
         `bmaptool create`"
    )]
    ChecksumType(String),
    /// Its own checksum is wrong.
    #[error(
        "the block map is damaged: its checksum is {found} and should be {wanted}; fetch it again"
    )]
    OwnChecksum {
        /// As it says, in hex.
        wanted: String,
        /// As it is, in hex.
        found: String,
    },
    /// A range of the image is not what the block map says.
    #[error(
        "bytes {} to {} of the image (blocks {} to {}) are damaged: their SHA-256 is {found} and the \
         block map says {wanted}; fetch the image again, and its block map with it", range.start,
        range.end - 1, range.start / block_size, (range.end - 1) / block_size
    )]
    Range {
        /// Which bytes.
        range: Range<u64>,
        /// Bytes of one block.
        block_size: u64,
        /// As the block map says, in hex.
        wanted: String,
        /// As it is, in hex.
        found: String,
    },
    /// The image has another size.
    #[error(
        "the image has {actual} bytes and the block map is of one with {expected}: they do not \
         belong together, or the image is cut off"
    )]
    Size {
        /// As the block map says.
        expected: u64,
        /// As it is; where the image is longer, at least so much.
        actual: u64,
    },
    /// A block map for something that has none.
    #[error("a {0} image has no block map: it knows itself which parts of its disk have content")]
    Useless(crate::Format),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
