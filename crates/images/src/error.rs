//! What can go wrong in the chunk store.

use crate::{bmap::BmapError, format::Format, qcow2::Qcow2Error};
use bugler_protocol::manifest::{ChunkHash, ManifestError};
use std::{io, path::PathBuf};

/// Why the chunk store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("could not {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Somebody else has the folder open.
    #[error(
        "the image folder {} is in use by {holder}; stop that server, or give this one a \
         state directory of its own", dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// Who has it, as far as the lock file says.
        holder: String,
    },
    /// There is no such manifest.
    #[error("no manifest {0} in the image folder; add the image again")]
    NoManifest(ChunkHash),
    /// The manifest's file is not what its name says.
    #[error("manifest {hash} is damaged; remove the image and add it again")]
    DamagedManifest {
        /// Its name.
        hash: ChunkHash,
        /// What is wrong with it; `None` where only its hash is.
        #[source]
        source: Option<ManifestError>,
    },
    /// There is no such chunk.
    #[error("chunk {0} is missing from the image folder; add the image again")]
    NoChunk(ChunkHash),
    /// The chunk's file is not what its name says; it has been moved to `damaged/`.
    #[error("chunk {hash} is damaged ({detail}); add the image again")]
    DamagedChunk {
        /// Its name.
        hash: ChunkHash,
        /// What was found.
        detail: String,
    },
    /// A chunk was damaged, and put in place again with a frame of another length, while an image was
    /// given out.
    #[error("chunk {0} was packed anew while the image was given out; ask for it again")]
    Repacked(ChunkHash),
    /// One garbage collection is under way already.
    #[error("garbage collection is running already; try again when it has finished")]
    Collecting,
}

impl StoreError {
    /// For `map_err` on what is done to `path`.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}

/// Why an image was not added. Nothing of it is left in the store.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// No byte came.
    #[error("the image is empty: nothing came after {read_bytes} bytes of input")]
    Empty {
        /// Input read: 0, or the length of an archive of nothing.
        read_bytes: u64,
    },
    /// It is a file, but not the bytes of a disk.
    #[error("this is {what}, not a disk image; {hint}")]
    NotADisk {
        /// What it looks like, with its article.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The archive ends before its end.
    #[error(
        "the {format} archive is cut off: it ends after {read_bytes} bytes in the middle of its \
         data; fetch it again"
    )]
    CutOff {
        /// What kind of archive.
        format: Format,
        /// Input read, in bytes.
        read_bytes: u64,
    },
    /// The archive cannot be unpacked.
    #[error(
        "the {format} archive is damaged, or has something else behind its end: it cannot be \
         unpacked beyond about byte {read_bytes}; fetch it again, or unpack it yourself and add \
         the raw image"
    )]
    Corrupt {
        /// What kind of archive.
        format: Format,
        /// Input read, in bytes.
        read_bytes: u64,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The archive is packed so that unpacking it takes too much memory.
    #[error(
        "unpacking the {format} archive takes more memory than the 128 MiB (zstd) or 256 MiB (xz) \
         that it is given; pack it again without --long or a large dictionary"
    )]
    Memory {
        /// What kind of archive.
        format: Format,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The input failed.
    #[error("could not read the image after {read_bytes} bytes")]
    Read {
        /// Input read, in bytes.
        read_bytes: u64,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Less or more came than was announced.
    #[error("{expected} bytes of image were announced and {actual} came; send it again")]
    Length {
        /// What was announced, in bytes.
        expected: u64,
        /// What came, in bytes. Where more came than was announced, reading stopped soon after.
        actual: u64,
    },
    /// The disk would be larger than allowed.
    #[error(
        "the image makes a disk of more than {limit} bytes, which is the limit; if that is no \
         mistake, raise the limit"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A sector size that no disk has.
    #[error("a sector size of {0} bytes is not known; use 512, 1024, 2048 or 4096")]
    SectorSize(u32),
    /// A compression level that zstd does not have.
    #[error("zstd has no compression level {0}; use 1 to 19")]
    Level(i32),
    /// The server's disk is full.
    #[error(
        "no room for the image: {} is full. What this add had written, {} MiB, is removed again, \
         and {} MiB are free now. Remove images that are not needed and collect garbage, or move \
         the state directory to a larger disk", dir.display(), written >> 20, free >> 20
    )]
    NoRoom {
        /// The image folder.
        dir: PathBuf,
        /// Bytes that the add had written.
        written: u64,
        /// Bytes free once they were removed.
        free: u64,
        /// What came back.
        #[source]
        source: StoreError,
    },
    /// The file cannot be opened.
    #[error("could not open the image {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// A qcow2 file that cannot be read, or must not be.
    #[error("could not read {name}")]
    Qcow2 {
        /// Which file.
        name: String,
        /// What is wrong.
        #[source]
        source: Qcow2Error,
    },
    /// A qcow2 file of this length cannot be kept while it is read.
    #[error(
        "the qcow2 image is longer than {limit} bytes, which is the most that is kept aside while it \
         is read; add it with `bugler image add`, which sends only what its disk has"
    )]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// A block map that cannot be read, or that the image is not as.
    #[error(transparent)]
    Bmap(#[from] BmapError),
    /// A sparse stream that makes no sense.
    #[error(
        "the sparse stream is damaged: {what} after {read_bytes} bytes; send it again, with a \
         `bugler` of the server's version"
    )]
    Sparse {
        /// What is wrong.
        what: &'static str,
        /// Input read, in bytes.
        read_bytes: u64,
    },
    /// The caller asked to stop.
    #[error("the add was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why something of a capture was refused, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A key that cannot name a folder.
    #[error("{0:?} cannot name a capture: use 1 to 64 letters, digits or '-'")]
    Key(String),
    /// The capture was committed or given up.
    #[error("this capture has ended; begin a new one")]
    Ended,
    /// What was sent is not a chunk.
    #[error("a frame of {frame_len} bytes was sent that is no chunk: {detail}; send it again")]
    Chunk {
        /// How long it was, in bytes.
        frame_len: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// The manifest is not a good one.
    #[error("the manifest of the capture is wrong")]
    Manifest(#[from] ManifestError),
    /// Chunks that the manifest names are not there.
    #[error(
        "{count} chunks of the manifest are not in the store, {first} for one; ask which are \
         missing, send those and commit again"
    )]
    Missing {
        /// How many.
        count: u64,
        /// One of them.
        first: ChunkHash,
    },
    /// A chunk has another length than its place on the disk.
    #[error(
        "chunk {hash} holds {actual} bytes and stands at byte {offset} of the disk, where {place} \
         belong; only the disk's last chunk may be short"
    )]
    Length {
        /// Its name.
        hash: ChunkHash,
        /// Its place on the disk, in bytes.
        offset: u64,
        /// Length of its content in bytes.
        actual: u32,
        /// Length of its place in bytes.
        place: u32,
    },
    /// The server's disk is full.
    #[error(
        "no room for the image: {} is full after {} MiB of it, and {} MiB are free. Remove images \
         that are not needed and collect garbage, or move the state directory to a larger disk",
        dir.display(), received >> 20, free >> 20
    )]
    NoRoom {
        /// The image folder.
        dir: PathBuf,
        /// Bytes that had been received.
        received: u64,
        /// Bytes free now.
        free: u64,
        /// What came back.
        #[source]
        source: StoreError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
