//! What an add has written, before it counts.
//!
//! An add writes its chunks into a folder of its own under `tmp/`. Nobody else looks there, so
//! giving up is removing the folder. Committing makes them durable first, then moves them to where
//! they are found, makes that durable too, and moves the manifest last.

use crate::{
    error::StoreError,
    pins::{Hold, lock},
    store::Inner,
};
use bugler_protocol::manifest::ChunkHash;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// The folder of one add. Dropping it removes what is still in it.
pub(crate) struct Stage {
    inner: Arc<Inner>,
    dir: PathBuf,
    /// The folder, open from before the first write: a sync reports the write errors that have
    /// happened since (Linux 5.8 and later, syncfs(2)).
    handle: File,
    chunks: Mutex<Vec<ChunkHash>>,
    written: AtomicU64,
}

impl Stage {
    pub(crate) fn new(inner: &Arc<Inner>) -> Result<Self, StoreError> {
        let serial = inner.serial.fetch_add(1, Ordering::Relaxed);
        let dir = inner.dir.join(format!("tmp/add-{serial}"));
        fs::create_dir(&dir).map_err(StoreError::io("make the folder", &dir))?;
        let handle = File::open(&dir).map_err(StoreError::io("open the folder", &dir))?;
        Ok(Self {
            inner: Arc::clone(inner),
            dir,
            handle,
            chunks: Mutex::default(),
            written: AtomicU64::new(0),
        })
    }

    /// Writes one chunk's frame. Each chunk once.
    pub(crate) fn put(&self, hash: ChunkHash, frame: &[u8]) -> Result<(), StoreError> {
        self.write(&self.dir.join(hash.to_string()), frame)?;
        lock(&self.chunks).push(hash);
        Ok(())
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
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            // The next start empties tmp/.
            tracing::warn!(dir = %self.dir.display(), %error, "could not remove the folder");
        }
    }
}
