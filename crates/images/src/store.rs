//! The folder: opening it, and reading what is in it.

use crate::{
    capture::CaptureSession,
    error::StoreError,
    pins::{Hold, Keep, lock},
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, MAX_FRAME_LEN, Manifest};
use rustix::fs::FlockOperation;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak, atomic::AtomicU64},
};
use zstd::bulk::Decompressor;

/// The chunk store of one server. Clones are the same store.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    /// What garbage collection leaves alone. Taken for moments only, never across a sync.
    pub(crate) keep: Mutex<Keep>,
    /// Held while chunk files are put in place, moved away for damage, or taken back.
    pub(crate) placing: Mutex<()>,
    /// Captures that are being received, by their task's key.
    pub(crate) captures: Mutex<HashMap<String, Weak<CaptureSession>>>,
    /// For names in `tmp/`.
    pub(crate) serial: AtomicU64,
    /// Keeps others away from the folder.
    lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // To close the file is not enough: a process that this one is just starting has it open too, until
        // its program runs (flock(2)).
        if let Err(error) = rustix::fs::flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(dir = %self.dir.display(), %error, "could not let go of the lock");
        }
    }
}

/// What the store takes. See [`ChunkStore::usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Chunks, each once.
    pub chunks: u64,
    /// Length of their frames in bytes.
    pub chunk_bytes: u64,
    /// Manifests.
    pub manifests: u64,
    /// Length of the manifests in bytes.
    pub manifest_bytes: u64,
    /// Chunks that were found damaged and moved away.
    pub damaged: u64,
    /// Bytes that are free for this user on the store's filesystem.
    pub free_bytes: u64,
    /// Size of the store's filesystem in bytes.
    pub total_bytes: u64,
}

impl ChunkStore {
    /// Opens the folder, making it where it is not there, and removes what an interrupted add has
    /// left in `tmp/`. The folder is readable for its owner only: images hold keys.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another server, or another `ChunkStore`, has it open;
    /// [`StoreError::Io`] where it cannot be made or read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let dir = dir.as_ref();
        make_dir(dir)?;
        let lock = take_lock(dir)?;
        // What cannot be removed is in nobody's way: names in `tmp/` are never used twice by one
        // process, and never looked up.
        match fs::remove_dir_all(dir.join("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "could not empty tmp/");
            }
            _ => {}
        }
        for name in ["tmp", "captures", "manifests", "damaged", "chunks"] {
            make_dir(&dir.join(name))?;
        }
        for shard in 0..=u8::MAX {
            make_dir(&dir.join(format!("chunks/{shard:02x}")))?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.to_path_buf(),
                keep: Mutex::default(),
                placing: Mutex::default(),
                captures: Mutex::default(),
                serial: AtomicU64::new(0),
                lock,
            }),
        })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Reads a manifest and checks it against its name.
    ///
    /// # Errors
    /// [`StoreError::NoManifest`], [`StoreError::DamagedManifest`], [`StoreError::Io`].
    pub fn manifest(&self, hash: &ChunkHash) -> Result<Manifest, StoreError> {
        let path = self.inner.manifest_path(hash);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoManifest(*hash));
            }
            read => read.map_err(StoreError::io("read the manifest", path))?,
        };
        let damaged = |source| StoreError::DamagedManifest {
            hash: *hash,
            source,
        };
        if blake3::hash(&bytes) != hash.0 {
            return Err(damaged(None));
        }
        Manifest::decode(&bytes).map_err(|error| damaged(Some(error)))
    }

    /// Reads a manifest, as [`manifest`](Self::manifest) does, and keeps it and its chunks from
    /// garbage collection for as long as the [`Hold`] lives.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest).
    pub fn hold(&self, hash: &ChunkHash) -> Result<(Hold, Manifest), StoreError> {
        // First hold, then read: what was read after the hold began is not being collected.
        let hold = Hold::new(&self.inner, *hash);
        let manifest = self.manifest(hash)?;
        Ok((hold, manifest))
    }

    /// Reads the content of a chunk, 1 byte to [`CHUNK_SIZE`], and checks it against its name.
    ///
    /// # Errors
    /// [`StoreError::NoChunk`]; [`StoreError::DamagedChunk`], after which the chunk is missing;
    /// [`StoreError::Io`].
    pub fn read_chunk(&self, hash: &ChunkHash) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.chunk_reader()?;
        reader.read(hash)?;
        Ok(reader.content)
    }

    /// Counts what is there. Reads every folder, but no chunk.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        self.inner.each_chunk(|_, path| {
            // A chunk that went away since the folder was read is no longer used space.
            if let Ok(meta) = fs::metadata(&path) {
                usage.chunks += 1;
                usage.chunk_bytes += meta.len();
            }
            Ok(())
        })?;
        each_hash(&self.inner.dir.join("manifests"), |_, path| {
            if let Ok(meta) = fs::metadata(&path) {
                usage.manifests += 1;
                usage.manifest_bytes += meta.len();
            }
            Ok(())
        })?;
        each_hash(&self.inner.dir.join("damaged"), |_, _| {
            usage.damaged += 1;
            Ok(())
        })?;
        (usage.free_bytes, usage.total_bytes) = self.inner.space()?;
        Ok(usage)
    }

    pub(crate) fn chunk_reader(&self) -> Result<ChunkReader, StoreError> {
        ChunkReader::new(&self.inner)
    }
}

impl Inner {
    pub(crate) fn chunk_path(&self, hash: &ChunkHash) -> PathBuf {
        let name = hash.to_string();
        let shard = name.get(..2).unwrap_or_default();
        self.dir.join("chunks").join(shard).join(&name)
    }

    pub(crate) fn manifest_path(&self, hash: &ChunkHash) -> PathBuf {
        self.dir.join("manifests").join(hash.to_string())
    }

    /// Reads a chunk's file, but no more of it than a byte above [`MAX_FRAME_LEN`].
    pub(crate) fn read_frame(
        &self,
        hash: &ChunkHash,
        frame: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        if read_frame_file(&self.chunk_path(hash), frame)? {
            Ok(())
        } else {
            Err(StoreError::NoChunk(*hash))
        }
    }

    /// Notes that a chunk is damaged: moves its file to `damaged/`, unless a good one has taken
    /// its place in the meantime. Gives the error to return for what was read.
    pub(crate) fn damaged(&self, hash: &ChunkHash, detail: String) -> StoreError {
        let _placing = lock(&self.placing);
        let path = self.chunk_path(hash);
        let still_damaged = match self.read_now(hash) {
            Ok(is_good) => !is_good,
            // Gone already, or it cannot be read, and then it is better left where it is.
            Err(_) => false,
        };
        if still_damaged {
            tracing::error!(%hash, detail, "a chunk is damaged; it will not be used again");
            if let Err(error) = fs::rename(&path, self.dir.join("damaged").join(hash.to_string())) {
                tracing::error!(%hash, %error, "could not move the damaged chunk away");
            }
        }
        StoreError::DamagedChunk {
            hash: *hash,
            detail,
        }
    }

    /// Whether a chunk's file holds, at this moment, what its name says.
    fn read_now(&self, hash: &ChunkHash) -> Result<bool, StoreError> {
        let (mut frame, mut content) = (Vec::new(), Vec::new());
        self.read_frame(hash, &mut frame)?;
        let mut decompressor =
            Decompressor::new().map_err(StoreError::io("prepare to unpack", &self.dir))?;
        Ok(unpack(&mut decompressor, &frame, &mut content).is_ok()
            && blake3::hash(&content) == hash.0)
    }

    /// Bytes free for this user on the store's filesystem, and its size.
    pub(crate) fn space(&self) -> Result<(u64, u64), StoreError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(io::Error::from)
            .map_err(StoreError::io("ask for the free space of", &self.dir))?;
        Ok((
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
        ))
    }

    /// Calls back for every chunk's file.
    pub(crate) fn each_chunk(
        &self,
        mut found: impl FnMut(ChunkHash, PathBuf) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        (0..=u8::MAX).try_for_each(|shard| {
            each_hash(&self.dir.join(format!("chunks/{shard:02x}")), &mut found)
        })
    }
}

/// Calls back for every file of a folder that is named by a hash; others are nobody's business.
pub(crate) fn each_hash(
    dir: &Path,
    mut found: impl FnMut(ChunkHash, PathBuf) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let read = |error| StoreError::io("read the folder", dir)(error);
    for entry in fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        if let Some(hash) = name.to_str().and_then(|name| name.parse().ok()) {
            found(hash, entry.path())?;
        }
    }
    Ok(())
}

/// Reads a frame's file, as [`Inner::read_frame`] does; false where there is none.
fn read_frame_file(path: &Path, frame: &mut Vec<u8>) -> Result<bool, StoreError> {
    frame.clear();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(StoreError::io("open the chunk", path))?,
    };
    let length = file.metadata().map_or(0, |meta| meta.len());
    frame.reserve(usize::try_from(length.min(MAX_FRAME_LEN.into())).unwrap_or_default());
    file.take(u64::from(MAX_FRAME_LEN) + 1)
        .read_to_end(frame)
        .map_err(StoreError::io("read the chunk", path))?;
    Ok(true)
}

/// Unpacks a frame into `content`, which gets at most [`CHUNK_SIZE`] bytes whatever the frame
/// says.
pub(crate) fn unpack(
    decompressor: &mut Decompressor<'_>,
    frame: &[u8],
    content: &mut Vec<u8>,
) -> io::Result<()> {
    content.clear();
    content.reserve_exact(CHUNK_SIZE as usize);
    decompressor.decompress_to_buffer(frame, content)?;
    content.truncate(CHUNK_SIZE as usize);
    Ok(())
}

/// Reads chunks one after the other, and checks each.
pub(crate) struct ChunkReader {
    inner: Arc<Inner>,
    decompressor: Decompressor<'static>,
    /// The frame of the chunk that was read last.
    pub(crate) frame: Vec<u8>,
    /// The content of the chunk that was read last.
    pub(crate) content: Vec<u8>,
}

impl ChunkReader {
    pub(crate) fn new(inner: &Arc<Inner>) -> Result<Self, StoreError> {
        Ok(Self {
            inner: Arc::clone(inner),
            decompressor: Decompressor::new()
                .map_err(StoreError::io("prepare to unpack", &inner.dir))?,
            frame: Vec::new(),
            content: Vec::new(),
        })
    }

    /// Reads a chunk into `frame` and `content`, both empty after an error.
    pub(crate) fn read(&mut self, hash: &ChunkHash) -> Result<(), StoreError> {
        let checked = self.read_checked(hash);
        if checked.is_err() {
            self.frame.clear();
            self.content.clear();
        }
        checked
    }

    /// Reads a chunk that must be `length` bytes long at its place on the disk. One that is not
    /// is no damage of the chunk: the manifest names one that does not fit there.
    pub(crate) fn read_sized(&mut self, hash: &ChunkHash, length: usize) -> Result<(), StoreError> {
        self.read(hash)?;
        if self.content.len() == length {
            return Ok(());
        }
        Err(StoreError::DamagedChunk {
            hash: *hash,
            detail: format!(
                "it holds {} bytes where {length} belong",
                self.content.len()
            ),
        })
    }

    fn read_checked(&mut self, hash: &ChunkHash) -> Result<(), StoreError> {
        self.inner.read_frame(hash, &mut self.frame)?;
        if let Err(error) = unpack(&mut self.decompressor, &self.frame, &mut self.content) {
            let detail = format!("its {} bytes cannot be unpacked: {error}", self.frame.len());
            return Err(self.inner.damaged(hash, detail));
        }
        let found = blake3::hash(&self.content);
        if found != hash.0 {
            let detail = format!("its content has the hash {found}");
            return Err(self.inner.damaged(hash, detail));
        }
        Ok(())
    }

    /// Reads a frame that is not in its place yet into `frame` and `content`; false where it is not
    /// there, or does not hold what its name says.
    pub(crate) fn read_file(&mut self, path: &Path, hash: &ChunkHash) -> Result<bool, StoreError> {
        Ok(read_frame_file(path, &mut self.frame)?
            && self.frame.len() <= MAX_FRAME_LEN as usize
            && unpack(&mut self.decompressor, &self.frame, &mut self.content).is_ok()
            && blake3::hash(&self.content) == hash.0)
    }

    /// Whether the chunk is stored, and its file holds exactly `content`. The file's length is
    /// then that of `frame`.
    pub(crate) fn holds(&mut self, hash: &ChunkHash, content: &[u8]) -> bool {
        self.inner.read_frame(hash, &mut self.frame).is_ok()
            && self.frame.len() <= MAX_FRAME_LEN as usize
            && unpack(&mut self.decompressor, &self.frame, &mut self.content).is_ok()
            && self.content == content
    }
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(StoreError::io("make the folder", dir))
}

/// Takes the folder's lock, and leaves a note of who has it.
fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("open the lock file", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut note = String::new();
            // The note is for people only: where it cannot be read, the lock still counts.
            let read = file.take(200).read_to_string(&mut note);
            let holder = match read {
                Ok(length) if length > 0 => note.trim_end().to_owned(),
                _ => "another process".to_owned(),
            };
            return Err(StoreError::Locked {
                dir: dir.to_path_buf(),
                holder,
            });
        }
        Err(error) => return Err(StoreError::io("lock", path)(error.into())),
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let note = format!("process {} on {host}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(note.as_bytes()))
        .map_err(StoreError::io("write the lock file", path))?;
    Ok(file)
}
