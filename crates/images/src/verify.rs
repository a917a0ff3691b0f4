//! Finding damage.

use crate::{
    error::StoreError,
    store::{ChunkReader, ChunkStore},
};
use bugler_protocol::manifest::{ChunkHash, ChunkRef, Manifest};
use std::collections::HashMap;

/// What a chunk was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// It holds what its name says.
    Good,
    /// There is no such chunk.
    Missing,
    /// It did not hold what its name says, and has been moved away.
    Damaged {
        /// What was found.
        detail: String,
    },
}

/// A chunk of an image that cannot be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its place on the disk, in chunks.
    pub index: u32,
    /// Its place on the disk, in bytes.
    pub offset: u64,
    /// Its name.
    pub hash: ChunkHash,
    /// What was found, for a person.
    pub detail: String,
}

impl ChunkStore {
    /// Reads a chunk and checks it against its name; one that is damaged is moved away. To be
    /// asked when an agent says that it was sent something else than it asked for.
    ///
    /// # Errors
    /// [`StoreError::Io`] where it cannot be read, which says nothing about it.
    pub fn check_chunk(&self, hash: &ChunkHash) -> Result<ChunkState, StoreError> {
        check(&mut self.chunk_reader()?, hash, None)
    }

    /// As [`check_chunk`](Self::check_chunk); gives the bytes that were read for it as well.
    ///
    /// # Errors
    /// Those of [`check_chunk`](Self::check_chunk).
    pub fn measure_chunk(&self, hash: &ChunkHash) -> Result<(ChunkState, u64), StoreError> {
        let mut reader = self.chunk_reader()?;
        let state = check(&mut reader, hash, None)?;
        Ok((state, reader.frame.len() as u64))
    }

    /// As [`measure_chunk`](Self::measure_chunk), for a chunk at its place in an image: one of another
    /// length than that place has is damage as well.
    ///
    /// # Errors
    /// Those of [`check_chunk`](Self::check_chunk).
    pub fn measure_place(
        &self,
        manifest: &Manifest,
        chunk: &ChunkRef,
    ) -> Result<(ChunkState, u64), StoreError> {
        let mut reader = self.chunk_reader()?;
        let length = manifest.chunk_len(chunk.index) as usize;
        let state = check(&mut reader, &chunk.hash, Some(length))?;
        Ok((state, reader.frame.len() as u64))
    }

    /// Whether there is a file for a chunk, which is not read. A chunk that was found damaged has none.
    #[must_use]
    pub fn has_chunk(&self, hash: &ChunkHash) -> bool {
        self.inner.chunk_path(hash).is_file()
    }

    /// Reads every chunk of an image and checks it; gives those that are not what they should be,
    /// in the disk's order, and moves them away. `progress` is called after each chunk with how
    /// many have been checked and how many there are; `false` ends it early, with what was found
    /// so far. The image is kept from garbage collection meanwhile.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest), and [`StoreError::Io`].
    pub fn verify(
        &self,
        manifest: &ChunkHash,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<Vec<Damage>, StoreError> {
        let (_hold, manifest) = self.hold(manifest)?;
        let mut reader = self.chunk_reader()?;
        let mut damage = Vec::new();
        // A chunk that stands in several places is read once; a damaged one is missing after.
        let mut states = HashMap::new();
        let total = manifest.chunks.len() as u64;
        for (chunk, done) in manifest.chunks.iter().zip(1..) {
            let length = manifest.chunk_len(chunk.index) as usize;
            let state = match states.get(&(chunk.hash, length)) {
                Some(state) => ChunkState::clone(state),
                None => check(&mut reader, &chunk.hash, Some(length))?,
            };
            let detail = match &state {
                ChunkState::Good => None,
                ChunkState::Missing => Some("it is missing".to_owned()),
                ChunkState::Damaged { detail } => Some(detail.clone()),
            };
            states.insert((chunk.hash, length), state);
            damage.extend(detail.map(|detail| Damage {
                index: chunk.index,
                offset: chunk.offset(),
                hash: chunk.hash,
                detail,
            }));
            if !progress(done, total) {
                break;
            }
        }
        Ok(damage)
    }
}

fn check(
    reader: &mut ChunkReader,
    hash: &ChunkHash,
    length: Option<usize>,
) -> Result<ChunkState, StoreError> {
    let read = match length {
        Some(length) => reader.read_sized(hash, length),
        None => reader.read(hash),
    };
    match read {
        Ok(()) => Ok(ChunkState::Good),
        Err(StoreError::NoChunk(_)) => Ok(ChunkState::Missing),
        Err(StoreError::DamagedChunk { detail, .. }) => Ok(ChunkState::Damaged { detail }),
        Err(error) => Err(error),
    }
}
