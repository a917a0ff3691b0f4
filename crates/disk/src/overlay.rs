//! A sparse file of the blocks that one machine wrote, over a base that many share.
//!
//! # What can be relied on
//!
//! - Each 4 KiB block reads as one whole write, or as the base: never as a mix of two writes, also
//!   not after a loss of power in the middle of one.
//! - What was written before a [`flush`](BlockDevice::flush) that returned is there after a kill and
//!   after a loss of power, and so is every durable write that returned. What was not flushed is,
//!   block by block, there or not.
//! - A write that would exceed the quota is refused as a whole piece of 1 MiB, and changes nothing in
//!   it.
//! - A file whose structures do not fit together is refused, with what does not fit; so is one that
//!   was made over another base.
//!
//! # The file, version 1
//!
//! Numbers are little-endian, checksums are XXH3 of 64 bits, blocks are of 4096 bytes.
//!
//! | Offset | Length | What |
//! |---|---|---|
//! | 0 | 4096 | header |
//! | 4096 | 4096 | header, second copy |
//! | 8192 | 1 MiB | journal |
//! | 1 MiB + 8192 | 64 MiB + 8192 each | groups, each for 32 MiB of the disk (8192 blocks) |
//!
//! A group is two pages of 4096 bytes, then a first place for each of its blocks (32 MiB), then a
//! second place for each (32 MiB). All that was never written is a hole of the file.
//!
//! **Header**: magic `BGLRLAYR`; at 8 version `u32`; 12 block size `u32`; 16 generation `u64`; 24 id
//! of the file, 16 random bytes; 40 size of the disk in bytes `u64`; 48 quota in bytes `u64`; 56 size
//! of the base in bytes `u64`; 64 what the base is, 32 bytes; 96 sum of the checksums of all current
//! pages `u64`, wrapping; 104 offset of the journal `u64`; 112 its length `u64`; 120 blocks in a group
//! `u64`; zeros; at 4088 the checksum of what stands before it.
//!
//! **Page**: magic `BGLP`; at 8 number of the group `u64`; 16 generation `u64`; 24 id of the file; 40
//! checksum of the page with zeros here; 48 the states, 2 bits a block, the first block in the lowest
//! bits: 0 the base's content, 1 zero, 2 the first place, 3 the second place; zeros. The current page
//! of a group is that with the higher generation of those that are not above the header's. A group
//! without a page is all 0.
//!
//! **Journal**: transactions from its start, each of whole blocks. Magic `BGLT`; at 4 number of entries
//! `u32`; 8 generation `u64`, the header's; 16 sequence `u64`, from 0 in each generation; 24 id of the
//! file; 40 checksum of head and entries with zeros here; 48 the entries, 16 bytes each. An entry is a
//! `u64` (bits 0-39 the block, 40-61 the length of the run less 1, 62-63 its state) and a `u64`, for
//! states 2 and 3 the checksum of the block's content.
//!
//! # How it stays whole
//!
//! **Write.** A block is never written where its durable content is: it goes to the other one of its
//! two places. Nothing on the disk speaks of that place yet.
//!
//! **Flush.** One transaction with an entry for each block that was written is appended, and then the
//! file is synced once: blocks and transaction may reach the disk in any order, because the entry has
//! the checksum of the block. From there on the other place is free.
//!
//! **Checkpoint**, when the journal is full: the pages of changed groups are written, each over the
//! older one of its two; sync; the header is written with the next generation, which makes them
//! current and the journal empty; sync; then its second copy.
//!
//! **Replay**, when the file is opened: the transactions of the header's generation in order, up to the
//! first that is torn. An entry of the last one counts only where the block has the checksum: there a
//! flush was cut off, and what the entry replaces is still whole in its own place. A transaction was
//! only ever written after the sync of the one before it, so the others are complete: the last of
//! their entries for a block must have its checksum, or the file is damaged. So it is when a
//! transaction is found behind a torn one, or when the sum over the pages is not the header's.
//! A torn header is replaced by its other copy; they are never being written at once.
//!
//! **Space.** A block's place that holds nothing any more is kept for the next write to it, which then
//! allocates nothing; when these take more than an eighth of the quota and 16 MiB, they are given back
//! to the filesystem. So a file takes its blocks, that eighth, and about 1 MiB.

mod commit;
mod error;
mod format;
mod fuzz;
mod held;
mod io;
mod memory;
mod open;
mod reclaim;
mod replay;
mod storage;
mod table;
#[cfg(test)]
mod tests;

pub use error::OverlayError;
pub use fuzz::fuzz_overlay;
pub use held::{Held, OverlayUsage};
pub use open::{OverlayInfo, OverlayOptions};

use crate::{BaseId, BaseRead, BlockDevice, DeviceError, Durability, Extent};
use commit::Journal;
use format::State;
use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};
use storage::Storage;
use table::{BlockMap, Table};

/// A disk that shows a base with what one machine wrote on top. See the [module](self).
pub struct Overlay {
    path: PathBuf,
    storage: Box<dyn Storage>,
    base: Arc<dyn BaseRead>,
    base_size: u64,
    disk_size: u64,
    /// Most bytes of blocks.
    quota: AtomicU64,
    /// Blocks that are in this file.
    present: AtomicU64,
    /// Whether a flush waits for the disk.
    durable: bool,
    /// What a read or write finds: the states after all that was written.
    table: Table,
    /// One lock for every so many MiB: a write has its region alone, reads share it.
    stripes: Vec<RwLock<()>>,
    /// Held, shared, by who writes blocks; alone by who must have none half-written.
    gate: RwLock<()>,
    maps: Mutex<Maps>,
    /// Told when a commit ends.
    ended: Condvar,
    /// Whoever commits has it.
    journal: Mutex<Journal>,
}

/// A block that was written and is not yet spoken of by a durable transaction.
#[derive(Clone, Copy, Debug)]
struct Dirty {
    /// Its state on the disk.
    durable: State,
    /// Checksum of the new content, where it has a place.
    sum: u64,
}

/// What is not durable yet.
#[derive(Default)]
struct Maps {
    dirty: BlockMap<Dirty>,
    /// Those that the running commit makes durable. They must not change meanwhile.
    committing: Arc<BlockMap<Dirty>>,
    /// Commits that began, and that ended.
    started: u64,
    ended: u64,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl Maps {
    fn check(&self) -> Result<(), DeviceError> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(DeviceError::Io {
                action: "use the overlay, which was stopped by an earlier error",
                source: std::io::Error::other(why.clone()),
            }),
        }
    }

    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    fn is_committing(&self, mut blocks: Range<u64>) -> bool {
        !self.committing.is_empty() && blocks.any(|block| self.committing.contains_key(&block))
    }
}

impl Overlay {
    /// Makes the file and opens it.
    ///
    /// # Errors
    /// [`OverlayError::Exists`], [`OverlayError::Size`], [`OverlayError::Io`].
    pub fn create(
        path: impl AsRef<Path>,
        base: Arc<dyn BaseRead>,
        options: &OverlayOptions,
    ) -> Result<Self, OverlayError> {
        open::create(path.as_ref(), base, options)
    }

    /// Opens the file, replays its journal, and changes size or quota where `options` say so.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub fn open(
        path: impl AsRef<Path>,
        base: Arc<dyn BaseRead>,
        options: &OverlayOptions,
    ) -> Result<Self, OverlayError> {
        open::open(path.as_ref(), base, options)
    }

    /// Opens the file where there is one, and makes it where there is none.
    ///
    /// # Errors
    /// [`OverlayError`].
    pub fn open_or_create(
        path: impl AsRef<Path>,
        base: Arc<dyn BaseRead>,
        options: &OverlayOptions,
    ) -> Result<Self, OverlayError> {
        match open::open(path.as_ref(), Arc::clone(&base), options) {
            Err(OverlayError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                open::create(path.as_ref(), base, options)
            }
            opened => opened,
        }
    }

    /// Looks into an overlay that nobody need have open, and changes nothing. Of one that is in use
    /// it says what was true at its last checkpoint.
    ///
    /// # Errors
    /// [`OverlayError`]; never that it is locked or over another base.
    pub fn inspect(path: impl AsRef<Path>) -> Result<OverlayInfo, OverlayError> {
        open::inspect(path.as_ref())
    }

    /// Whether an error has stopped it: of a disk that could not write, or had no room. What it could not
    /// write is lost, and whoever wrote it was told so; what was durable is in the file.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        guard(self.maps.lock()).failed.is_some()
    }

    /// Lets the file of a stopped overlay be opened again, although this one is still in use: it writes
    /// nothing any more, and must not be read either. Returns whether it is so: not where it is not
    /// stopped, or the system does not give up the lock.
    #[must_use]
    pub fn give_up(&self) -> bool {
        // Whoever is in the middle of writing blocks or a transaction comes to an end first; whoever
        // begins after that is refused.
        let _gate = guard(self.gate.write());
        let _journal = guard(self.journal.lock());
        self.is_stopped() && self.storage.unlock().is_ok()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What lies under it.
    #[must_use]
    pub fn base(&self) -> &Arc<dyn BaseRead> {
        &self.base
    }

    /// What the base is.
    #[must_use]
    pub fn base_id(&self) -> BaseId {
        self.base.id()
    }
}

impl BlockDevice for Overlay {
    fn size(&self) -> u64 {
        self.disk_size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.read_bytes(offset, buf)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DeviceError> {
        self.read_bytes_now(offset, buf)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DeviceError> {
        self.write_bytes(offset, data, durability)
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        self.zero_bytes(offset, length, true, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.zero_bytes(offset, length, false, Durability::Cached)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.flush_all()
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, DeviceError> {
        self.extents_of(offset, length, limit)
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("path", &self.path)
            .field("disk_size", &self.disk_size)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Drop for Overlay {
    /// What was written and not flushed is kept where that is possible.
    fn drop(&mut self) {
        if let Err(error) = self.flush_all() {
            tracing::warn!(path = %self.path.display(), %error, "an overlay could not be flushed when it was closed");
        }
        // To close the file is not enough: a process that this one is just starting has it open too, until
        // its program runs (flock(2)).
        if let Err(error) = self.storage.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "an overlay's lock could not be let go of");
        }
    }
}

/// A lock is taken also after a thread that had it panicked: what it guards is always whole.
fn guard<T>(taken: Result<T, PoisonError<T>>) -> T {
    taken.unwrap_or_else(PoisonError::into_inner)
}
