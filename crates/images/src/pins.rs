//! What garbage collection must not touch, though no live image names it (yet).
//!
//! Two things keep content: a *pin* on a chunk, which an add takes before it looks whether the
//! chunk is there, and a *hold* on a manifest, which keeps the manifest and all its chunks. While
//! a collection is under way, what is released goes on being kept until that collection ends,
//! because it may already have been decided what is live.

use crate::store::Inner;
use bugler_protocol::manifest::ChunkHash;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// All pins and holds of a store.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    /// How many adds in progress build on a chunk.
    pins: HashMap<ChunkHash, u32>,
    /// How many users a manifest has.
    holds: HashMap<ChunkHash, u32>,
    /// Present while a collection is under way: what has been released since it began.
    released: Option<Released>,
}

#[derive(Debug, Default)]
struct Released {
    chunks: HashSet<ChunkHash>,
    manifests: HashSet<ChunkHash>,
}

impl Keep {
    /// Begins a collection; false where one is under way already.
    pub(crate) fn begin(&mut self) -> bool {
        let idle = self.released.is_none();
        if idle {
            self.released = Some(Released::default());
        }
        idle
    }

    /// Ends the collection.
    pub(crate) fn end(&mut self) {
        self.released = None;
    }

    /// Whether an add builds on this chunk, or has since the collection began.
    pub(crate) fn keeps_chunk(&self, chunk: &ChunkHash) -> bool {
        self.pins.contains_key(chunk)
            || self
                .released
                .as_ref()
                .is_some_and(|r| r.chunks.contains(chunk))
    }

    /// The manifests that are held, or have been since the collection began.
    pub(crate) fn manifests(&self) -> HashSet<ChunkHash> {
        let released = self.released.iter().flat_map(|r| &r.manifests);
        self.holds.keys().chain(released).copied().collect()
    }

    /// Whether no more than one add builds on this chunk.
    pub(crate) fn is_pinned_once(&self, chunk: &ChunkHash) -> bool {
        self.pins.get(chunk).is_none_or(|count| *count == 1)
    }

    /// Takes one off the count; true where that was the last.
    fn drop_one(counts: &mut HashMap<ChunkHash, u32>, key: &ChunkHash) -> bool {
        let Some(count) = counts.get_mut(key) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
            return true;
        }
        false
    }
}

/// Locks, whatever became of the thread that held the lock before: no lock here is held while
/// half a change has been made.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps one manifest and all its chunks from garbage collection for as long as this lives.
///
/// A deploy holds the manifest that it reads from; a finished add holds the manifest that it made,
/// so that it can be entered into the registry before any collection takes it for garbage.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    manifest: ChunkHash,
}

impl Hold {
    pub(crate) fn new(inner: &Arc<Inner>, manifest: ChunkHash) -> Self {
        *lock(&inner.keep).holds.entry(manifest).or_default() += 1;
        Self {
            inner: Arc::clone(inner),
            manifest,
        }
    }

    /// Which manifest.
    #[must_use]
    pub fn manifest(&self) -> ChunkHash {
        self.manifest
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut keep = lock(&self.inner.keep);
        if Keep::drop_one(&mut keep.holds, &self.manifest)
            && let Some(released) = &mut keep.released
        {
            released.manifests.insert(self.manifest);
        }
    }
}

/// The chunks of one add or capture, with the lengths of their frames.
pub(crate) struct Pins {
    inner: Arc<Inner>,
    /// `None` until the frame's length is known.
    chunks: Mutex<HashMap<ChunkHash, Option<u32>>>,
}

impl Pins {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            chunks: Mutex::default(),
        }
    }

    /// Pins a chunk; false where this add has it already.
    pub(crate) fn pin(&self, chunk: ChunkHash) -> bool {
        let mut chunks = lock(&self.chunks);
        if chunks.contains_key(&chunk) {
            return false;
        }
        chunks.insert(chunk, None);
        *lock(&self.inner.keep).pins.entry(chunk).or_default() += 1;
        true
    }

    /// Notes how long the frame of a pinned chunk is; true where that was not known yet, else it
    /// stays as it was.
    pub(crate) fn set_len(&self, chunk: ChunkHash, stored_len: u32) -> bool {
        let mut chunks = lock(&self.chunks);
        match chunks.get_mut(&chunk) {
            Some(length @ None) => {
                *length = Some(stored_len);
                true
            }
            _ => false,
        }
    }

    /// How long the frame of a pinned chunk is.
    pub(crate) fn len(&self, chunk: &ChunkHash) -> Option<u32> {
        lock(&self.chunks).get(chunk).copied().flatten()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let chunks = std::mem::take(&mut *lock(&self.chunks));
        let mut keep = lock(&self.inner.keep);
        for chunk in chunks.into_keys() {
            if Keep::drop_one(&mut keep.pins, &chunk)
                && let Some(released) = &mut keep.released
            {
                released.chunks.insert(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChunkStore;

    /// What a collection decided to be garbage can be pinned, used and released by an add before
    /// the collection comes to remove it.
    #[test]
    fn what_is_released_during_a_collection_is_kept_until_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let inner = ChunkStore::open(dir.path()).unwrap().inner;
        let (chunk, manifest) = (ChunkHash([1; 32]), ChunkHash([2; 32]));
        let keeps = || {
            let keep = lock(&inner.keep);
            (
                keep.keeps_chunk(&chunk),
                keep.manifests().contains(&manifest),
            )
        };
        let use_both = || {
            let (pins, hold) = (Pins::new(&inner), Hold::new(&inner, manifest));
            assert!(pins.pin(chunk));
            assert_eq!(keeps(), (true, true));
            drop((pins, hold));
        };
        use_both();
        assert_eq!(keeps(), (false, false));
        assert!(lock(&inner.keep).begin());
        assert_eq!(keeps(), (false, false));
        use_both();
        assert_eq!(keeps(), (true, true));
        lock(&inner.keep).end();
        assert_eq!(keeps(), (false, false));
    }

    #[test]
    fn a_chunk_is_pinned_until_its_last_add_ends() {
        let dir = tempfile::tempdir().unwrap();
        let inner = ChunkStore::open(dir.path()).unwrap().inner;
        let chunk = ChunkHash([1; 32]);
        let (first, second) = (Pins::new(&inner), Pins::new(&inner));
        assert!(first.pin(chunk));
        assert!(!first.pin(chunk), "twice by one add");
        assert!(lock(&inner.keep).is_pinned_once(&chunk));
        assert!(second.pin(chunk));
        assert!(!lock(&inner.keep).is_pinned_once(&chunk));
        drop(first);
        assert!(lock(&inner.keep).keeps_chunk(&chunk));
        drop(second);
        assert!(!lock(&inner.keep).keeps_chunk(&chunk));
    }
}
