//! Unpacked chunks that many readers share: forty machines that run from one image unpack each of
//! its chunks once.

use crate::{
    error::StoreError,
    pins::{Hold, lock},
    store::{ChunkReader, ChunkStore},
};
use bugler_fsread::ReadAt;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, Manifest};
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// Parts of the cache with a lock of their own.
const SHARDS: usize = 8;
/// Threads that unpack ahead of readers.
const AHEAD_THREADS: usize = 2;
/// Chunks that are unpacked ahead of a sequential reader.
const AHEAD: usize = 3;
/// Chunks that wait to be unpacked ahead. Where more come, they are left to their readers.
const AHEAD_QUEUE: usize = 32;

/// Unpacked chunks of one store, up to a number of bytes. Chunks are found by their hash, so versions
/// of an image, and images, share what is alike.
#[derive(Debug)]
pub struct ChunkCache {
    inner: Arc<Inner>,
    ahead: SyncSender<(ChunkHash, usize)>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkCache")
            .field("store", &self.store)
            .field("shard_limit", &self.shard_limit)
            .finish_non_exhaustive()
    }
}

/// What a cache has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads of a chunk that was there.
    pub hits: u64,
    /// Chunks that were read from the store and unpacked.
    pub loads: u64,
    /// Of these, the ones that were unpacked before a reader asked.
    pub ahead: u64,
    /// Bytes that are kept now.
    pub bytes: u64,
}

struct Inner {
    store: ChunkStore,
    shards: [RwLock<Shard>; SHARDS],
    /// Most bytes in a shard.
    shard_limit: u64,
    readers: Mutex<Vec<ChunkReader>>,
    hits: AtomicU64,
    loads: AtomicU64,
    ahead: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    chunks: HashMap<ChunkHash, Slot>,
    /// Those that are unpacked, in the order in which they are looked at for removal.
    order: VecDeque<ChunkHash>,
    bytes: u64,
}

#[derive(Debug)]
enum Slot {
    /// Somebody unpacks it.
    Loading(Arc<Load>),
    Ready {
        content: Arc<Vec<u8>>,
        /// Read since it was looked at for removal.
        used: AtomicBool,
    },
}

/// A chunk that is being unpacked, for those who wait for it.
#[derive(Debug, Default)]
struct Load {
    done: Mutex<Option<Result<Arc<Vec<u8>>, String>>>,
    told: Condvar,
}

impl ChunkCache {
    /// A cache of at most `limit` bytes, not below 16 MiB. It takes memory as it is filled.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn new(store: &ChunkStore, limit: u64) -> io::Result<Arc<Self>> {
        let chunk = u64::from(CHUNK_SIZE);
        let inner = Arc::new(Inner {
            store: store.clone(),
            shards: Default::default(),
            shard_limit: (limit / SHARDS as u64).max(2 * chunk),
            readers: Mutex::default(),
            hits: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
        });
        let (ahead, jobs) = sync_channel(AHEAD_QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..AHEAD_THREADS {
            let (inner, jobs) = (Arc::clone(&inner), Arc::clone(&jobs));
            thread::Builder::new()
                .name("chunks-ahead".to_owned())
                .spawn(move || unpack_ahead(&inner, &jobs))?;
        }
        Ok(Arc::new(Self { inner, ahead }))
    }

    /// Opens an image for reading at any place through this cache. It is kept from garbage collection
    /// for as long as the result lives.
    ///
    /// # Errors
    /// Those of [`ChunkStore::manifest`].
    pub fn open(self: &Arc<Self>, manifest: &ChunkHash) -> Result<CachedImage, StoreError> {
        let (hold, found) = self.inner.store.hold(manifest)?;
        Ok(CachedImage {
            cache: Arc::clone(self),
            shared: Arc::new(Shared {
                _hold: hold,
                name: *manifest,
                manifest: found,
            }),
            last: AtomicU32::new(u32::MAX),
        })
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let bytes =
            |shard: &RwLock<Shard>| shard.read().unwrap_or_else(PoisonError::into_inner).bytes;
        CacheStats {
            hits: self.inner.hits.load(Ordering::Relaxed),
            loads: self.inner.loads.load(Ordering::Relaxed),
            ahead: self.inner.ahead.load(Ordering::Relaxed),
            bytes: self.inner.shards.iter().map(bytes).sum(),
        }
    }
}

fn unpack_ahead(inner: &Inner, jobs: &Mutex<Receiver<(ChunkHash, usize)>>) {
    loop {
        let job = lock(jobs).recv();
        // The cache is gone.
        let Ok((hash, length)) = job else { return };
        if inner.is_known(&hash) {
            continue;
        }
        inner.ahead.fetch_add(1, Ordering::Relaxed);
        // Whoever reads the chunk gets the error.
        let _ = inner.get(&hash, length);
    }
}

impl Inner {
    fn shard(&self, hash: &ChunkHash) -> &RwLock<Shard> {
        let number = usize::from(hash.0.first().copied().unwrap_or_default()) % SHARDS;
        self.shards.get(number).unwrap_or(&self.shards[0])
    }

    /// The chunk, where it is unpacked.
    fn peek(&self, hash: &ChunkHash) -> Option<Arc<Vec<u8>>> {
        let shard = self
            .shard(hash)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(Slot::Ready { content, used }) = shard.chunks.get(hash) else {
            return None;
        };
        if !used.load(Ordering::Relaxed) {
            used.store(true, Ordering::Relaxed);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(content))
    }

    fn is_known(&self, hash: &ChunkHash) -> bool {
        let shard = self
            .shard(hash)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.chunks.contains_key(hash)
    }

    /// The chunk, unpacked by this thread or by the one that began first.
    fn get(&self, hash: &ChunkHash, length: usize) -> io::Result<Arc<Vec<u8>>> {
        if let Some(content) = self.peek(hash) {
            return Ok(content);
        }
        let load = {
            let mut shard = self
                .shard(hash)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            match shard.chunks.get(hash) {
                Some(Slot::Ready { content, .. }) => return Ok(Arc::clone(content)),
                Some(Slot::Loading(load)) => Err(Arc::clone(load)),
                None => {
                    let load = Arc::new(Load::default());
                    shard.chunks.insert(*hash, Slot::Loading(Arc::clone(&load)));
                    Ok(load)
                }
            }
        };
        match load {
            Ok(load) => {
                // Also where unpacking panics, nobody is left waiting.
                let mut place = Placing {
                    inner: self,
                    hash,
                    load: &load,
                    result: Err("it could not be unpacked".to_owned()),
                };
                place.result = self.unpack(hash, length);
                place.result.clone()
            }
            Err(load) => {
                let done = lock(&load.done);
                let done = load.told.wait_while(done, |done| done.is_none());
                let done = done.unwrap_or_else(PoisonError::into_inner);
                done.clone()
                    .unwrap_or_else(|| Err("it was not unpacked".to_owned()))
            }
        }
        .map_err(io::Error::other)
    }

    fn unpack(&self, hash: &ChunkHash, length: usize) -> Result<Arc<Vec<u8>>, String> {
        let kept = lock(&self.readers).pop();
        let mut reader = match kept {
            Some(reader) => reader,
            None => self
                .store
                .chunk_reader()
                .map_err(|error| error.to_string())?,
        };
        reader
            .read_sized(hash, length)
            .map_err(|error| error.to_string())?;
        self.loads.fetch_add(1, Ordering::Relaxed);
        let content = Arc::new(std::mem::take(&mut reader.content));
        let mut readers = lock(&self.readers);
        if readers.len() < SHARDS {
            readers.push(reader);
        }
        Ok(content)
    }
}

/// Puts a chunk into its shard, and tells those who wait, when it is dropped.
struct Placing<'a> {
    inner: &'a Inner,
    hash: &'a ChunkHash,
    load: &'a Load,
    result: Result<Arc<Vec<u8>>, String>,
}

impl Drop for Placing<'_> {
    fn drop(&mut self) {
        let shard = self.inner.shard(self.hash);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        match &self.result {
            Ok(content) => {
                shard.make_room(content.len() as u64, self.inner.shard_limit);
                let slot = Slot::Ready {
                    content: Arc::clone(content),
                    used: AtomicBool::new(false),
                };
                shard.chunks.insert(*self.hash, slot);
                shard.order.push_back(*self.hash);
                shard.bytes += content.len() as u64;
            }
            Err(_) => {
                shard.chunks.remove(self.hash);
            }
        }
        drop(shard);
        *lock(&self.load.done) = Some(self.result.clone());
        self.load.told.notify_all();
    }
}

impl Shard {
    /// Removes what was not read for longest, roughly: what was read since the last look gets
    /// another turn.
    fn make_room(&mut self, wanted: u64, limit: u64) {
        while self.bytes + wanted > limit
            && let Some(hash) = self.order.pop_front()
        {
            match self.chunks.get(&hash) {
                Some(Slot::Ready { used, .. }) if used.swap(false, Ordering::Relaxed) => {
                    self.order.push_back(hash);
                }
                Some(Slot::Ready { content, .. }) => {
                    self.bytes -= content.len() as u64;
                    self.chunks.remove(&hash);
                }
                Some(Slot::Loading(_)) | None => {}
            }
        }
    }
}

/// An image, read through a [`ChunkCache`]. Clones share the manifest; each looks ahead for one reader.
/// Every chunk is checked against its name when it is unpacked; one that is damaged is an error of the
/// read.
#[derive(Debug)]
pub struct CachedImage {
    cache: Arc<ChunkCache>,
    shared: Arc<Shared>,
    /// Number of the chunk that was read last.
    last: AtomicU32,
}

struct Shared {
    _hold: Hold,
    name: ChunkHash,
    manifest: Manifest,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl Clone for CachedImage {
    fn clone(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            shared: Arc::clone(&self.shared),
            last: AtomicU32::new(u32::MAX),
        }
    }
}

impl CachedImage {
    /// What the image is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    /// The hash of its manifest.
    #[must_use]
    pub fn name(&self) -> &ChunkHash {
        &self.shared.name
    }

    /// How many of the `length` bytes from `offset` are alike, and whether they are known to be zero:
    /// they lie in chunks that are not listed.
    #[must_use]
    pub fn extent(&self, offset: u64, length: u64) -> (u64, bool) {
        let size = u64::from(CHUNK_SIZE);
        let end = offset.saturating_add(length);
        let chunks = &self.shared.manifest.chunks;
        let first = offset / size;
        let mut at = chunks.partition_point(|chunk| u64::from(chunk.index) < first);
        let zero = chunks
            .get(at)
            .is_none_or(|chunk| u64::from(chunk.index) != first);
        let stop = if zero {
            chunks.get(at).map_or(end, ChunkRef::offset)
        } else {
            let mut stop = first + 1;
            at += 1;
            while chunks
                .get(at)
                .is_some_and(|chunk| u64::from(chunk.index) == stop)
                && stop * size < end
            {
                stop += 1;
                at += 1;
            }
            stop * size
        };
        (stop.min(end) - offset, zero)
    }

    /// Fills `buf`, but only from chunks that are unpacked already; `false` where one is not.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] behind the end.
    pub fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.each_part(offset, buf, |chunk, _, _| {
            Ok(self.cache.inner.peek(&chunk.hash))
        })
    }

    /// Goes through the chunks of a range. `get` gives a chunk's content, or `None` to end with
    /// `false`.
    fn each_part(
        &self,
        mut offset: u64,
        mut buf: &mut [u8],
        mut get: impl FnMut(&ChunkRef, usize, usize) -> io::Result<Option<Arc<Vec<u8>>>>,
    ) -> io::Result<bool> {
        let manifest = &self.shared.manifest;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > manifest.disk_size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = u64::from(CHUNK_SIZE);
        while !buf.is_empty() {
            let within = (offset % size) as usize;
            // A disk has fewer than 2^32 chunks.
            let index = u32::try_from(offset / size).map_err(io::Error::other)?;
            let length = buf.len().min(CHUNK_SIZE as usize - within);
            let (now, rest) = buf.split_at_mut(length);
            match manifest
                .chunks
                .binary_search_by_key(&index, |chunk| chunk.index)
            {
                Ok(at) => {
                    let Some(chunk) = manifest.chunks.get(at) else {
                        break;
                    };
                    let Some(content) = get(chunk, at, manifest.chunk_len(index) as usize)? else {
                        return Ok(false);
                    };
                    let part = content.get(within..).and_then(|rest| rest.get(..length));
                    now.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                }
                // What is not listed reads as zero.
                Err(_) => now.fill(0),
            }
            buf = rest;
            offset += length as u64;
        }
        Ok(true)
    }

    /// Has the next chunks unpacked where this one follows the one that was read before.
    fn look_ahead(&self, index: u32, at: usize) {
        let last = self.last.swap(index, Ordering::Relaxed);
        // Before the first read it is the highest number, which none follows.
        if last.checked_add(1) != Some(index) {
            return;
        }
        let manifest = &self.shared.manifest;
        for chunk in manifest.chunks.iter().skip(at + 1).take(AHEAD) {
            if !self.cache.inner.is_known(&chunk.hash) {
                let job = (chunk.hash, manifest.chunk_len(chunk.index) as usize);
                // Where the queue is full, the reader will do it itself.
                let _ = self.cache.ahead.try_send(job);
            }
        }
    }
}

impl ReadAt for CachedImage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.each_part(offset, buf, |chunk, at, length| {
            self.look_ahead(chunk.index, at);
            self.cache.inner.get(&chunk.hash, length).map(Some)
        })?;
        Ok(())
    }

    fn size(&self) -> u64 {
        self.shared.manifest.disk_size
    }
}
