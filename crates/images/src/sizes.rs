//! What images take in the store together, and each alone.

use crate::{error::StoreError, store::ChunkStore};
use bugler_protocol::manifest::ChunkHash;
use std::collections::{BTreeSet, HashMap};

/// How many chunks are looked at in one pass over the manifests: what bounds the memory, to about
/// 20 MiB and the largest manifest.
const CHUNKS_A_PASS: u64 = 1 << 18;

/// What one image takes in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of its chunks' frames, each chunk once.
    pub distinct: u64,
    /// Those of them that no other of the images has: what removing it alone would free.
    pub own: u64,
}

impl ChunkStore {
    /// What each of these images takes, and how much of it is in no other one; in the order of
    /// `manifests`. Two that are the same image share everything. `None` for a manifest that cannot
    /// be read. Lengths are those of the manifests; no chunk is read.
    #[must_use]
    pub fn sizes(&self, manifests: &[ChunkHash]) -> Vec<Option<Sizes>> {
        let counts: Vec<_> = manifests
            .iter()
            .map(|hash| self.manifest(hash).ok().map(|m| m.chunks.len() as u64))
            .collect();
        let total: u64 = counts.iter().flatten().sum();
        // Hashes are even over their first two bytes.
        let passes = total.div_ceil(CHUNKS_A_PASS).clamp(1, 1 << 16);
        let mut sizes: Vec<_> = counts
            .iter()
            .map(|count| count.map(|_| Sizes::default()))
            .collect();
        for pass in 0..passes {
            let mut owners: HashMap<ChunkHash, Owner> = HashMap::new();
            for (number, hash) in manifests.iter().enumerate() {
                let Some(size) = sizes.get_mut(number).and_then(Option::as_mut) else {
                    continue;
                };
                // One that went away meanwhile was removed: nobody asks for its size any more.
                let Ok(manifest) = self.manifest(hash) else {
                    continue;
                };
                let mut chunks: Vec<_> = manifest
                    .chunks
                    .iter()
                    .filter(|chunk| pass_of(&chunk.hash, passes) == pass)
                    .map(|chunk| (chunk.hash, chunk.stored_len))
                    .collect();
                drop(manifest);
                chunks.sort_unstable();
                chunks.dedup_by_key(|(hash, _)| *hash);
                for (chunk, length) in chunks {
                    size.distinct += u64::from(length);
                    owners
                        .entry(chunk)
                        .and_modify(|owner| owner.image = None)
                        .or_insert(Owner {
                            image: Some(number),
                            length,
                        });
                }
            }
            for owner in owners.into_values() {
                let size = owner.image.and_then(|number| sizes.get_mut(number));
                if let Some(Some(size)) = size {
                    size.own += u64::from(owner.length);
                }
            }
        }
        sizes
    }

    /// The next chunks that these manifests name, each once, in the order of their hashes: at most
    /// `limit` of them, behind `after`. So that all can be gone through bit by bit, and gone on with
    /// another day. Manifests that cannot be read are passed over.
    #[must_use]
    pub fn chunks_after(
        &self,
        manifests: &[ChunkHash],
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Vec<ChunkHash> {
        let mut next = BTreeSet::new();
        for manifest in manifests {
            let Ok(manifest) = self.manifest(manifest) else {
                continue;
            };
            for chunk in manifest.chunks {
                let behind = after.is_none_or(|after| chunk.hash > after);
                let full = next.len() >= limit;
                if !behind || (full && next.last().is_some_and(|last| chunk.hash > *last)) {
                    continue;
                }
                if next.insert(chunk.hash) && full {
                    next.pop_last();
                }
            }
        }
        next.into_iter().collect()
    }

    /// Which of these manifests name one of these chunks, or cannot be read: positions, rising.
    ///
    /// # Errors
    /// [`StoreError::Io`] where one cannot be read for a reason that says nothing about it.
    pub fn manifests_with(
        &self,
        manifests: &[ChunkHash],
        chunks: &BTreeSet<ChunkHash>,
    ) -> Result<Vec<usize>, StoreError> {
        let mut found = Vec::new();
        for (number, hash) in manifests.iter().enumerate() {
            let names_one = match self.manifest(hash) {
                Ok(manifest) => manifest.chunks.iter().any(|c| chunks.contains(&c.hash)),
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(_) => true,
            };
            if names_one {
                found.push(number);
            }
        }
        Ok(found)
    }
}

struct Owner {
    /// `None` for several.
    image: Option<usize>,
    length: u32,
}

/// In which of the passes a chunk is looked at.
fn pass_of(hash: &ChunkHash, passes: u64) -> u64 {
    let [first, second, ..] = hash.0;
    (u64::from(u16::from_be_bytes([first, second])) * passes) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_chunk_belongs_to_one_pass(hash in any::<[u8; 32]>(), passes in 1u64..=1 << 16) {
            prop_assert!(pass_of(&ChunkHash(hash), passes) < passes);
        }
    }
}
