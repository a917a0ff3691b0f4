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
//!   [`read_chunk_frame`](ChunkStore::read_chunk_frame), which serves the stored frame as it is to
//!   an agent that checks it.
//! - Garbage collection, adds and reads run side by side: see [`Collector`] and [`Hold`].
//!
//! Everything here blocks: call it from a thread that may.

mod add;
mod error;
mod format;
mod gc;
mod pins;
mod pipeline;
mod raw;
mod source;
mod stage;
mod store;
mod verify;

pub use add::{AddOptions, AddPhase, AddProgress, Added, DEFAULT_LEVEL, DEFAULT_MAX_DISK_SIZE};
pub use error::{AddError, StoreError};
pub use format::Format;
pub use gc::{Collector, GcReport};
pub use pins::Hold;
pub use raw::{ExportFormat, RawReader};
pub use store::{ChunkStore, Usage};
pub use verify::{ChunkState, Damage};
