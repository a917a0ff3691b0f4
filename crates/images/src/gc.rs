//! Garbage collection.

use crate::{
    error::StoreError,
    pins::lock,
    store::{ChunkStore, Inner, each_hash},
};
use bugler_protocol::manifest::ChunkHash;
use std::{collections::HashSet, fs, io, path::Path, sync::Arc};

/// What a garbage collection removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Chunks that nothing names, those in `damaged/` included.
    pub chunks: u64,
    /// Length of their files in bytes.
    pub bytes: u64,
    /// Manifests that no image names.
    pub manifests: u64,
}

/// A garbage collection that has begun.
///
/// The order of the steps is what makes it safe: **begin, then ask the registry which manifests
/// are live, then [`sweep`](Self::sweep)**. An image that is added between the steps, or during
/// the sweep, is kept although the registry's answer did not name it, and so is every manifest
/// that was on [`Hold`](crate::Hold) at any moment since the beginning.
///
/// There is one at a time; dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    inner: Arc<Inner>,
    store: ChunkStore,
}

impl ChunkStore {
    /// Begins a garbage collection.
    ///
    /// # Errors
    /// [`StoreError::Collecting`] while another one is under way.
    pub fn begin_gc(&self) -> Result<Collector, StoreError> {
        if !lock(&self.inner.keep).begin() {
            return Err(StoreError::Collecting);
        }
        Ok(Collector {
            inner: Arc::clone(&self.inner),
            store: self.clone(),
        })
    }
}

impl Collector {
    /// Removes every manifest but the live ones, and every chunk that no remaining manifest
    /// names. `live` must have been read after this collection began. With `dry_run` it only
    /// counts.
    ///
    /// # Errors
    /// [`StoreError::NoManifest`] and [`StoreError::DamagedManifest`] where a live manifest
    /// cannot be read: nothing is removed then, because nobody can say which chunks are its own.
    /// [`StoreError::Io`] where the folder cannot be read, or a file not removed.
    pub fn sweep(self, live: &[ChunkHash], dry_run: bool) -> Result<GcReport, StoreError> {
        let mut report = GcReport::default();
        let mut used = HashSet::new();
        for hash in live {
            used.extend(self.chunks_of(hash)?);
        }
        let held = self.drop_manifests(live, dry_run, &mut report)?;
        for hash in held {
            match self.chunks_of(&hash) {
                Ok(chunks) => used.extend(chunks),
                // Somebody asked for a manifest that is not there.
                Err(StoreError::NoManifest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.inner.each_chunk(|hash, path| {
            if used.contains(&hash) {
                return Ok(());
            }
            // The lock spans the question and the removal: an add pins first and looks second.
            let keep = lock(&self.inner.keep);
            if !keep.keeps_chunk(&hash) {
                remove(&path, dry_run, &mut report)?;
            }
            Ok(())
        })?;
        each_hash(&self.inner.dir.join("damaged"), |_, path| {
            remove(&path, dry_run, &mut report)
        })?;
        Ok(report)
    }

    fn chunks_of(&self, manifest: &ChunkHash) -> Result<HashSet<ChunkHash>, StoreError> {
        let manifest = self.store.manifest(manifest)?;
        Ok(manifest.chunks.iter().map(|chunk| chunk.hash).collect())
    }

    /// Removes the manifests that are neither live nor held; gives those that are held only.
    ///
    /// The lock spans it all: a hold that comes later finds the manifest gone.
    fn drop_manifests(
        &self,
        live: &[ChunkHash],
        dry_run: bool,
        report: &mut GcReport,
    ) -> Result<HashSet<ChunkHash>, StoreError> {
        let keep = lock(&self.inner.keep);
        let live: HashSet<_> = live.iter().copied().collect();
        let held: HashSet<_> = keep.manifests().difference(&live).copied().collect();
        each_hash(&self.inner.dir.join("manifests"), |hash, path| {
            if live.contains(&hash) || held.contains(&hash) {
                return Ok(());
            }
            report.manifests += 1;
            if dry_run {
                return Ok(());
            }
            fs::remove_file(&path).map_err(StoreError::io("remove the manifest", &path))
        })?;
        Ok(held)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        lock(&self.inner.keep).end();
    }
}

fn remove(path: &Path, dry_run: bool, report: &mut GcReport) -> Result<(), StoreError> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta
            .map_err(StoreError::io("look at the chunk", path))?
            .len(),
    };
    if !dry_run {
        fs::remove_file(path).map_err(StoreError::io("remove the chunk", path))?;
    }
    report.chunks += 1;
    report.bytes += length;
    Ok(())
}
