//! Which chunks a manifest names, for the question that every chunk request asks.

use bugler_images::{ChunkStore, StoreError};
use bugler_protocol::manifest::ChunkHash;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Most manifests that are remembered.
const MAX_MANIFESTS: usize = 16;

/// Most chunks that the remembered manifests may name together (32 MiB of hashes), but for the
/// latest one, which is always kept.
const MAX_CHUNKS: usize = 1 << 20;

/// The chunks of one manifest.
#[derive(Debug)]
pub(crate) struct ChunkSet(Vec<ChunkHash>);

impl ChunkSet {
    pub(crate) fn contains(&self, hash: &ChunkHash) -> bool {
        self.0.binary_search(hash).is_ok()
    }
}

/// The chunk sets of the manifests that were asked for last, latest last.
#[derive(Default)]
pub(crate) struct Manifests(Mutex<Vec<(ChunkHash, Arc<ChunkSet>)>>);

impl Manifests {
    /// The chunks that this manifest names. Those who ask for one that is being read wait for it,
    /// so that it is read once.
    pub(crate) async fn chunks(
        &self,
        images: &Arc<ChunkStore>,
        manifest: ChunkHash,
    ) -> Result<Arc<ChunkSet>, StoreError> {
        let mut known = self.0.lock().await;
        if let Some(at) = known.iter().position(|(hash, _)| *hash == manifest) {
            let entry = known.remove(at);
            let set = entry.1.clone();
            known.push(entry);
            return Ok(set);
        }
        let images = images.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut hashes: Vec<ChunkHash> = images
                .manifest(&manifest)?
                .chunks
                .iter()
                .map(|chunk| chunk.hash)
                .collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes.shrink_to_fit();
            Ok(hashes)
        });
        // A task that panicked or was cut off at shutdown knows nothing of the manifest.
        let hashes = read
            .await
            .unwrap_or(Err(StoreError::NoManifest(manifest)))?;
        let set = Arc::new(ChunkSet(hashes));
        known.push((manifest, set.clone()));
        let total = |known: &[(ChunkHash, Arc<ChunkSet>)]| -> usize {
            known.iter().map(|(_, set)| set.0.len()).sum()
        };
        while known.len() > 1 && (known.len() > MAX_MANIFESTS || total(&known) > MAX_CHUNKS) {
            known.remove(0);
        }
        Ok(set)
    }
}
