//! What an add has written, before it counts.
//!
//! An add writes its chunks into a folder of its own under `tmp/`. Nobody else looks there, so
//! giving up is removing the folder. Committing makes them durable first, then moves them to where
//! they are found, makes that durable too, and moves the manifest last.
//!
//! A capture does the same in a folder under `captures/`, which stays when the server ends, so that
//! a machine need not send again what it had sent.

use crate::{
    error::StoreError,
    pins::{Hold, lock},
    store::{Inner, make_dir},
};
use bugler_protocol::manifest::ChunkHash;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The folder of one add or capture. Dropping it removes what is still in it, unless it stays.
pub(crate) struct Stage {
    inner: Arc<Inner>,
    dir: PathBuf,
    /// The folder, open from before the first write: a sync reports the write errors that have
    /// happened since (Linux 5.8 and later, syncfs(2)).
    handle: File,
    chunks: Mutex<Vec<ChunkHash>>,
    written: AtomicU64,
    /// Whether the folder outlives this.
    stays: AtomicBool,
}

impl Stage {
    pub(crate) fn new(inner: &Arc<Inner>) -> Result<Self, StoreError> {
        let serial = inner.serial.fetch_add(1, Ordering::Relaxed);
        let dir = inner.dir.join(format!("tmp/add-{serial}"));
        fs::create_dir(&dir).map_err(StoreError::io("make the folder", &dir))?;
        Self::at(inner, dir, false)
    }

    /// The folder of a capture, with what is in it from before. It stays until it is
    /// [given up](Self::give_up) or committed.
    pub(crate) fn of_capture(inner: &Arc<Inner>, dir: PathBuf) -> Result<Self, StoreError> {
        make_dir(&dir)?;
        let read = |error| StoreError::io("read the folder", &dir)(error);
        for entry in fs::read_dir(&dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_none_or(|name| name.parse::<ChunkHash>().is_err()) {
                // Half a chunk, or the manifest of a commit that was cut off.
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Self::at(inner, dir, true)
    }

    fn at(inner: &Arc<Inner>, dir: PathBuf, stays: bool) -> Result<Self, StoreError> {
        let handle = File::open(&dir).map_err(StoreError::io("open the folder", &dir))?;
        Ok(Self {
            inner: Arc::clone(inner),
            dir,
            handle,
            chunks: Mutex::default(),
            written: AtomicU64::new(0),
            stays: AtomicBool::new(stays),
        })
    }

    /// Writes one chunk's frame. Each chunk once.
    pub(crate) fn put(&self, hash: ChunkHash, frame: &[u8]) -> Result<(), StoreError> {
        self.write(&self.dir.join(hash.to_string()), frame)?;
        lock(&self.chunks).push(hash);
        Ok(())
    }

    /// Writes one chunk's frame, under its name only once it is whole, and in the place of one that
    /// is there. Two threads may put the same chunk; it must be [noted](Self::note) once.
    pub(crate) fn put_whole(&self, hash: ChunkHash, frame: &[u8]) -> Result<(), StoreError> {
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.join(format!("part-{serial}"));
        let path = self.path(&hash);
        self.write(&part, frame)
            .and_then(|()| {
                fs::rename(&part, &path).map_err(StoreError::io("put the chunk in place as", &path))
            })
            .inspect_err(|_| {
                // It goes with the folder, if not now.
                let _ = fs::remove_file(&part);
            })
    }

    /// Counts a chunk that is in the folder among those to be committed.
    pub(crate) fn note(&self, hash: ChunkHash) {
        lock(&self.chunks).push(hash);
    }

    /// Leaves chunks out of what is to be committed; they go with the folder.
    pub(crate) fn retain(&self, wanted: impl FnMut(&ChunkHash) -> bool) {
        lock(&self.chunks).retain(wanted);
    }

    /// Where a chunk is until it is committed.
    pub(crate) fn path(&self, hash: &ChunkHash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    /// The folder goes with this, whoever's it is.
    pub(crate) fn give_up(&self) {
        self.stays.store(false, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Makes the manifest and everything that was [`put`](Self::put) part of the store. Where that
    /// fails, everything is as it was.
    pub(crate) fn commit(&self, hash: ChunkHash, manifest: &[u8]) -> Result<Hold, StoreError> {
        // Before anything moves: a full disk shows here, and not halfway through.
        let staged = self.dir.join("manifest");
        // A capture can be committed again after it could not be.
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", staged)(error));
            }
            _ => {}
        }
        self.write(&staged, manifest)?;
        self.sync()?;
        let hold = Hold::new(&self.inner, hash);
        let _placing = lock(&self.inner.placing);
        let mut placed = Vec::new();
        let done = self
            .place(&mut placed)
            .and_then(|()| self.sync())
            .and_then(|()| self.place_manifest(&staged, hash));
        if let Err(error) = done {
            self.take_back(&placed);
            return Err(error);
        }
        Ok(hold)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(StoreError::io("make the file", path))?;
        file.write_all(bytes)
            .map_err(StoreError::io("write", path))?;
        // Starts writing it out, so that the sync at the end has less to wait for. What is still
        // being written stays cached (posix_fadvise(2) drops clean pages only).
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        self.written
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// One sync of the filesystem costs less than one of each of thousands of files.
    fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.handle)
            .map_err(io::Error::from)
            .map_err(StoreError::io("make durable", &self.dir))
    }

    /// Moves the chunks to where they are found; `placed` gets those that were not there before.
    /// One that is there already is damaged, or is the same: another add can have been faster.
    fn place(&self, placed: &mut Vec<ChunkHash>) -> Result<(), StoreError> {
        for hash in lock(&self.chunks).iter() {
            let from = self.dir.join(hash.to_string());
            let to = self.inner.chunk_path(hash);
            let is_new = !to.exists();
            fs::rename(&from, &to).map_err(StoreError::io("put the chunk in place as", &to))?;
            if is_new {
                placed.push(*hash);
            }
        }
        Ok(())
    }

    fn place_manifest(&self, staged: &Path, hash: ChunkHash) -> Result<(), StoreError> {
        let path = self.inner.manifest_path(&hash);
        let was_there = path.exists();
        fs::rename(staged, &path).map_err(StoreError::io("put the manifest in place as", &path))?;
        let synced = File::open(self.inner.dir.join("manifests")).and_then(|dir| dir.sync_all());
        synced.map_err(|error| {
            if !was_there && let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "could not take the manifest back");
            }
            StoreError::io("make durable", &path)(error)
        })
    }

    /// Removes chunks that were put in place, except those that another add builds on by now.
    fn take_back(&self, placed: &[ChunkHash]) {
        let keep = lock(&self.inner.keep);
        for hash in placed.iter().filter(|hash| keep.is_pinned_once(hash)) {
            // Garbage collection finds what stays.
            if let Err(error) = fs::remove_file(self.inner.chunk_path(hash)) {
                tracing::warn!(%hash, %error, "could not take the chunk back");
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.stays.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            // The next start empties tmp/, and a capture's folder goes with its task.
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove the folder");
        }
    }
}
