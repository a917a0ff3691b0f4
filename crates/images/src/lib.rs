//! The chunk store: takes disk images in, keeps them as content-addressed chunks, gives them back.
//!
//! An image is cut into disk-aligned chunks of 1 MiB. Chunks that are zero throughout are not
//! kept; every other one is named by the BLAKE3 of its content and stored once, as one zstd
//! frame, whichever images and places it appears in. What an image is made of stands in its
//! [`Manifest`](bugler_protocol::manifest::Manifest), whose own BLAKE3 is the name of the image's
//! content.
//!
//! ```text
//! <folder>/lock                 held while a ChunkStore has the folder open
//! <folder>/chunks/ab/<64 hex>   one zstd frame each, by the hash of what it holds
//! <folder>/manifests/<64 hex>   by the hash of its bytes
//! <folder>/damaged/<64 hex>     frames that did not hold what their name says
//! <folder>/tmp/                 adds in progress; emptied when the folder is opened
//! <folder>/captures/<task>/     what a machine has sent of an image that it has not finished
//! ```
//!
//! # What can be relied on
//!
//! - A manifest appears only when every chunk that it names is on disk and durable. An add that is
//!   interrupted, at whatever moment and by whatever, leaves no manifest; one that fails or is
//!   cancelled leaves no chunk either; what a crash leaves is removed when the folder is opened
//!   next, and by the next [garbage collection](Collector).
//! - Nothing here trusts a chunk that it has not read. Content is hashed before it is given out,
//!   and an add compares what is there already with what it would have written. A chunk that is
//!   found damaged is moved away, so that it is never given out again and the next add of the same
//!   content puts a good one in its place. The exception is
//!   [`open_chunk_frame`](ChunkStore::open_chunk_frame), which serves the stored frame as it is to
//!   an agent that checks it.
//! - Garbage collection, adds and reads run side by side: see [`Collector`] and [`Hold`].
//!
//! Everything here blocks: call it from a thread that may.

mod add;
mod bmap;
mod cache;
mod capture;
mod disk;
mod error;
mod export;
mod format;
mod frame;
mod gc;
mod local;
mod pins;
mod pipeline;
mod qcow2;
mod raw;
mod reader;
mod sizes;
mod source;
mod sparse;
mod stage;
mod store;
mod verify;

pub use add::{AddOptions, AddPhase, AddProgress, Added, DEFAULT_LEVEL, DEFAULT_MAX_DISK_SIZE};
pub use bmap::{Bmap, BmapError, fuzz_bmap};
pub use cache::{CacheStats, CachedImage, ChunkCache};
pub use capture::{CaptureSession, Captured};
pub use error::{AddError, CaptureError, StoreError};
pub use export::{Export, ExportFormat, Piece};
pub use format::Format;
pub use frame::FrameFile;
pub use gc::{Collector, GcReport};
pub use local::{Failure, LocalImage, LocalOptions, SparseReader};
pub use pins::Hold;
pub use qcow2::{Qcow2Error, fuzz_qcow2};
pub use raw::RawReader;
pub use reader::ImageReader;
pub use sizes::Sizes;
pub use sparse::fuzz_sparse;
pub use store::{ChunkStore, Usage};
pub use verify::{ChunkState, Damage};
