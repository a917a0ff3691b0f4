//! Receiving an image from a machine that sends only what the store lacks.
//!
//! The machine asks which chunks are [missing](CaptureSession::missing), sends those
//! ([`take`](CaptureSession::take)), and ends with the manifest ([`commit`](CaptureSession::commit)).
//! Nothing of it is an image before that. What was sent waits in a folder named by the task, which
//! outlives the server: a machine that asks again after a restart is told of nothing that it has
//! sent whole.
//!
//! A chunk counts as there only after it was read and hashed, whether the store had it or it waits
//! in the folder; from then on it is pinned, so that garbage collection leaves it alone for as long
//! as the session lives. When a session ends before its commit (the server was restarted, say),
//! its answers end with it; the commit looks at every chunk that it does not know, and names what
//! is missing.

use crate::{
    error::{CaptureError, StoreError},
    pins::{Hold, Pins, lock},
    source::is_zero,
    stage::Stage,
    store::{ChunkReader, ChunkStore, Inner, unpack},
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, MAX_FRAME_LEN, Manifest};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use zstd::{bulk::Decompressor, zstd_safe};

/// An image that a machine sends. Shared by all requests of one task; calls may come from several
/// threads. About 130 bytes of memory for each chunk that was asked about.
#[derive(Debug)]
pub struct CaptureSession {
    key: String,
    inner: Arc<Inner>,
    /// `None` once it has ended. Written for a commit, so that nothing comes in meanwhile.
    open: RwLock<Option<Open>>,
    ended: AtomicBool,
    chunks: AtomicU64,
    bytes: AtomicU64,
    /// What chunks were checked with, as many as came at once.
    spare: Mutex<Vec<Checker>>,
}

/// What an unfinished session has.
struct Open {
    stage: Stage,
    pins: Pins,
    /// Lengths of chunks that are shorter than [`CHUNK_SIZE`]: a disk has at most one, its last.
    short: Mutex<HashMap<ChunkHash, u32>>,
}

/// What became of a capture: an image in the store, durable.
#[derive(Debug)]
pub struct Captured {
    /// BLAKE3 of the manifest: the name of the image's content. Not of the bytes that the machine
    /// sent: the lengths of stored frames in it are the store's own.
    pub manifest: ChunkHash,
    /// Keeps the image from garbage collection: let go of it when the registry has it.
    pub hold: Hold,
    /// Size of the disk in bytes.
    pub disk_size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Bytes of the disk that are not zero, counted in whole chunks.
    pub used_bytes: u64,
    /// Bytes that its chunks take in the store, each place counted.
    pub stored_bytes: u64,
    /// Chunks that were received in this session.
    pub new_chunks: u64,
    /// Bytes of their frames.
    pub new_bytes: u64,
}

impl ChunkStore {
    /// Begins to receive an image, or goes on where an earlier session of this `key` stopped. The
    /// key names the task: 1 to 64 of `a-z A-Z 0-9 -`. While a session of the key is alive, the
    /// same one is given. Keep it for as long as the machine is at work: what keeps its chunks from
    /// garbage collection goes with it.
    ///
    /// # Errors
    /// [`CaptureError::Key`]; [`CaptureError::Store`] where its folder cannot be made.
    pub fn begin_capture(&self, key: &str) -> Result<Arc<CaptureSession>, CaptureError> {
        let dir = self.inner.capture_dir(key)?;
        let mut captures = lock(&self.inner.captures);
        captures.retain(|_, session| session.strong_count() > 0);
        if let Some(session) = captures.get(key).and_then(Weak::upgrade)
            && !session.ended.load(Ordering::Acquire)
        {
            return Ok(session);
        }
        let stage = Stage::of_capture(&self.inner, dir)?;
        let session = Arc::new(CaptureSession {
            key: key.to_owned(),
            inner: Arc::clone(&self.inner),
            open: RwLock::new(Some(Open {
                stage,
                pins: Pins::new(&self.inner),
                short: Mutex::default(),
            })),
            ended: AtomicBool::new(false),
            chunks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            spare: Mutex::default(),
        });
        captures.insert(key.to_owned(), Arc::downgrade(&session));
        Ok(session)
    }

    /// Gives up what was received for this key, in a session or before one, and removes it.
    ///
    /// # Errors
    /// [`CaptureError::Key`]; [`CaptureError::Store`] where the folder cannot be removed.
    pub fn discard_capture(&self, key: &str) -> Result<(), CaptureError> {
        let dir = self.inner.capture_dir(key)?;
        let session = lock(&self.inner.captures).get(key).and_then(Weak::upgrade);
        if let Some(session) = session {
            // Waits for a commit that is at work, so not under the lock.
            session.discard();
        }
        Ok(self.inner.remove_capture(key, dir)?)
    }

    /// Removes what was received for every key that has no session and that `wanted` does not want:
    /// at the server's start, and when garbage is collected, with "has an open task" as the question.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the folders cannot be listed. One that cannot be removed is left,
    /// with a line in the log.
    pub fn retain_captures(&self, mut wanted: impl FnMut(&str) -> bool) -> Result<(), StoreError> {
        let dir = self.inner.dir.join("captures");
        let read = |error| StoreError::io("read the folder", &dir)(error);
        for entry in fs::read_dir(&dir).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            let Some(key) = name.to_str().filter(|key| !wanted(key)) else {
                continue;
            };
            if let Err(error) = self.inner.remove_capture(key, dir.join(key)) {
                tracing::warn!(key, %error, "could not remove what a capture has left");
            }
        }
        Ok(())
    }
}

impl Inner {
    fn capture_dir(&self, key: &str) -> Result<PathBuf, CaptureError> {
        let good = (1..=64).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good {
            Ok(self.dir.join("captures").join(key))
        } else {
            Err(CaptureError::Key(key.to_owned()))
        }
    }

    /// Removes a capture's folder, unless a session has it.
    fn remove_capture(&self, key: &str, dir: PathBuf) -> Result<(), StoreError> {
        // Held to the end: a session that begins now finds the folder gone and makes it again.
        let captures = lock(&self.captures);
        let session = captures.get(key).and_then(Weak::upgrade);
        if session.is_some_and(|session| !session.ended.load(Ordering::Acquire)) {
            return Ok(());
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove the folder", dir)(error))
            }
            _ => Ok(()),
        }
    }
}

impl CaptureSession {
    /// The task's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Which of these chunks the machine has to send: positions in `hashes`, rising, each hash
    /// once. Reads and hashes those that are there, unless this session has done so already; one
    /// that is damaged is missing.
    ///
    /// # Errors
    /// [`CaptureError::Ended`]; [`CaptureError::Store`] where something cannot be read, which says
    /// nothing about it.
    pub fn missing(&self, hashes: &[ChunkHash]) -> Result<Vec<u32>, CaptureError> {
        let state = self.read();
        let open = state.as_ref().ok_or(CaptureError::Ended)?;
        open.missing(&self.inner, hashes)
    }

    /// Takes one chunk: a single zstd frame of at most [`MAX_FRAME_LEN`] bytes that unpacks to 1
    /// byte to [`CHUNK_SIZE`], not all of them zero. Gives its name. One that is there already is
    /// not written again.
    ///
    /// # Errors
    /// [`CaptureError::Chunk`] where it is not such a frame; [`CaptureError::Ended`];
    /// [`CaptureError::NoRoom`]; [`CaptureError::Store`].
    pub fn take(&self, frame: &[u8]) -> Result<ChunkHash, CaptureError> {
        let (hash, length) = self.check(frame)?;
        let state = self.read();
        let open = state.as_ref().ok_or(CaptureError::Ended)?;
        if open.pins.len(&hash).is_some() {
            return Ok(hash);
        }
        open.pins.pin(hash);
        let put = open.stage.put_whole(hash, frame);
        put.map_err(|error| self.explain(error))?;
        open.count(hash, frame.len(), length, true);
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(hash)
    }

    /// Ends the capture with its manifest: checks that every chunk that it names is there and as
    /// long as its place on the disk, makes them durable, and puts the manifest in place last. The
    /// lengths of stored frames in `manifest` are replaced by the store's own; everything else is
    /// kept. What was sent and is not named is removed.
    ///
    /// # Errors
    /// [`CaptureError::Manifest`]; [`CaptureError::Missing`], after which the machine can ask which,
    /// send them and commit again; [`CaptureError::Length`]; [`CaptureError::Ended`];
    /// [`CaptureError::NoRoom`] and [`CaptureError::Store`], after which everything has to be asked
    /// about again.
    pub fn commit(&self, manifest: &[u8]) -> Result<Captured, CaptureError> {
        let mut manifest = Manifest::decode(manifest)?;
        // What the session does not know is read here, while others may still be received.
        self.check_all_there(&manifest)?;
        let mut state = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let open = state.as_mut().ok_or(CaptureError::Ended)?;
        open.fit(&mut manifest)?;
        let bytes = manifest.encode();
        let hash = ChunkHash(*blake3::hash(&bytes).as_bytes());
        let named: HashSet<_> = manifest.chunks.iter().map(|chunk| chunk.hash).collect();
        open.stage.retain(|chunk| named.contains(chunk));
        let hold = match open.stage.commit(hash, &bytes) {
            Ok(hold) => hold,
            Err(error) => {
                // Chunks may have been taken back: nothing is known any more.
                open.forget(&self.inner);
                return Err(self.explain(error));
            }
        };
        open.stage.give_up();
        *state = None;
        self.ended.store(true, Ordering::Release);
        Ok(Captured {
            manifest: hash,
            hold,
            disk_size: manifest.disk_size,
            sector_size: manifest.sector_size,
            used_bytes: manifest.used_bytes(),
            stored_bytes: manifest.stored_bytes(),
            new_chunks: self.chunks.load(Ordering::Relaxed),
            new_bytes: self.bytes.load(Ordering::Relaxed),
        })
    }

    /// Gives up: removes what was received. Every later call ends in [`CaptureError::Ended`].
    /// Waits for calls that are at work.
    pub fn discard(&self) {
        let mut state = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = state.take() {
            open.stage.give_up();
        }
        self.ended.store(true, Ordering::Release);
    }

    /// Chunks received in this session, and the bytes of their frames.
    #[must_use]
    pub fn received(&self) -> (u64, u64) {
        (
            self.chunks.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }

    /// Checks a frame; gives the name and the length of what it holds.
    fn check(&self, frame: &[u8]) -> Result<(ChunkHash, usize), CaptureError> {
        let spare = lock(&self.spare).pop();
        let mut checker = match spare {
            Some(checker) => checker,
            None => Checker::new(&self.inner)?,
        };
        let checked = checker.check(frame);
        lock(&self.spare).push(checker);
        checked
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_all_there(&self, manifest: &Manifest) -> Result<(), CaptureError> {
        let state = self.read();
        let open = state.as_ref().ok_or(CaptureError::Ended)?;
        let mut unknown = manifest
            .chunks
            .iter()
            .map(|chunk| chunk.hash)
            .filter(|hash| open.pins.len(hash).is_none())
            .collect::<Vec<_>>();
        unknown.sort_unstable();
        unknown.dedup();
        let missing = open.missing(&self.inner, &unknown)?;
        match missing.first().and_then(|at| unknown.get(*at as usize)) {
            Some(first) => Err(CaptureError::Missing {
                count: missing.len() as u64,
                first: *first,
            }),
            None => Ok(()),
        }
    }

    fn explain(&self, error: StoreError) -> CaptureError {
        if !error.is_full() {
            return CaptureError::Store(error);
        }
        CaptureError::NoRoom {
            dir: self.inner.dir.clone(),
            received: self.bytes.load(Ordering::Relaxed),
            free: self.inner.space().map_or(0, |(free, _)| free),
            source: error,
        }
    }
}

impl Open {
    fn missing(&self, inner: &Arc<Inner>, hashes: &[ChunkHash]) -> Result<Vec<u32>, CaptureError> {
        let mut reader = None;
        let mut asked = HashSet::new();
        let mut missing = Vec::new();
        for (hash, position) in hashes.iter().zip(0..) {
            if self.pins.len(hash).is_some() || !asked.insert(*hash) {
                continue;
            }
            // First pin, then look: what was seen after the pin is not being collected.
            self.pins.pin(*hash);
            let reader = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(ChunkReader::new(inner)?),
            };
            if !self.find(reader, hash)? {
                missing.push(position);
            }
        }
        Ok(missing)
    }

    /// Looks for a chunk in the folder, where an earlier session may have left it, and in the store.
    fn find(&self, reader: &mut ChunkReader, hash: &ChunkHash) -> Result<bool, CaptureError> {
        let path = self.stage.path(hash);
        let staged = reader.read_file(&path, hash)?;
        let found = staged
            || match reader.read(hash) {
                Ok(()) => true,
                Err(StoreError::NoChunk(_) | StoreError::DamagedChunk { .. }) => false,
                Err(error) => return Err(error.into()),
            };
        if found {
            self.count(*hash, reader.frame.len(), reader.content.len(), staged);
        }
        Ok(found)
    }

    /// Notes that a chunk is there. The first to say so decides where it is taken from.
    fn count(&self, hash: ChunkHash, frame_len: usize, length: usize, staged: bool) {
        // Below MAX_FRAME_LEN and CHUNK_SIZE, both checked by those who read them.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if length != CHUNK_SIZE {
            lock(&self.short).insert(hash, length);
        }
        let frame_len = u32::try_from(frame_len).unwrap_or(u32::MAX);
        if self.pins.set_len(hash, frame_len) && staged {
            self.stage.note(hash);
        }
    }

    /// Checks each chunk's length against its place, and puts the frames' lengths in.
    fn fit(&self, manifest: &mut Manifest) -> Result<(), CaptureError> {
        let short = lock(&self.short);
        let places: Vec<_> = manifest
            .chunks
            .iter()
            .map(|chunk| manifest.chunk_len(chunk.index))
            .collect();
        for (chunk, place) in manifest.chunks.iter_mut().zip(places) {
            let actual = short.get(&chunk.hash).copied().unwrap_or(CHUNK_SIZE);
            if actual != place {
                return Err(CaptureError::Length {
                    hash: chunk.hash,
                    offset: chunk.offset(),
                    actual,
                    place,
                });
            }
            chunk.stored_len = self.pins.len(&chunk.hash).ok_or(CaptureError::Missing {
                count: 1,
                first: chunk.hash,
            })?;
        }
        Ok(())
    }

    fn forget(&mut self, inner: &Arc<Inner>) {
        self.pins = Pins::new(inner);
        self.stage.retain(|_| false);
        lock(&self.short).clear();
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

/// Unpacks frames of chunks, with memory of its own that is used again for each.
struct Checker {
    decompressor: Decompressor<'static>,
    content: Vec<u8>,
}

impl Checker {
    fn new(inner: &Inner) -> Result<Self, StoreError> {
        let new = Decompressor::new();
        Ok(Self {
            decompressor: new.map_err(StoreError::io("prepare to unpack", &inner.dir))?,
            content: Vec::new(),
        })
    }

    /// Unpacks what must be a single frame with a chunk in it; gives the chunk's name and length.
    fn check(&mut self, frame: &[u8]) -> Result<(ChunkHash, usize), CaptureError> {
        let refuse = |detail: String| CaptureError::Chunk {
            frame_len: frame.len() as u64,
            detail,
        };
        if frame.is_empty() || frame.len() > MAX_FRAME_LEN as usize {
            return Err(refuse(format!("1 to {MAX_FRAME_LEN} bytes are allowed")));
        }
        // A second frame behind the first would be unpacked like one.
        match zstd_safe::find_frame_compressed_size(frame) {
            Ok(length) if length == frame.len() => {}
            _ => return Err(refuse("it is not exactly one zstd frame".into())),
        }
        unpack(&mut self.decompressor, frame, &mut self.content)
            .map_err(|error| refuse(format!("it cannot be unpacked: {error}")))?;
        if is_zero(&self.content) {
            return Err(refuse("it holds nothing but zeros, or nothing".into()));
        }
        let hash = ChunkHash(*blake3::hash(&self.content).as_bytes());
        Ok((hash, self.content.len()))
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").finish_non_exhaustive()
    }
}
