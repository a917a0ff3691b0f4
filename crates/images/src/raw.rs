//! An image as one would read it from the disk.

use crate::{
    error::StoreError,
    export::{CHUNK, ZEROS},
    pins::Hold,
    store::{ChunkReader, ChunkStore},
};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use std::io::{self, Read, Seek, SeekFrom};

impl ChunkStore {
    /// The image as one would read it from the disk, every byte checked. It keeps the image from
    /// garbage collection.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest).
    pub fn open_raw(&self, manifest: &ChunkHash) -> Result<RawReader, StoreError> {
        let (hold, manifest) = self.hold(manifest)?;
        Ok(RawReader {
            chunks: self.chunk_reader()?,
            manifest,
            _hold: hold,
            position: 0,
            loaded: None,
        })
    }
}

/// An image as one would read it from the disk. See [`ChunkStore::open_raw`].
///
/// Errors of the store come as an [`io::Error`] around a [`StoreError`].
pub struct RawReader {
    chunks: ChunkReader,
    manifest: Manifest,
    _hold: Hold,
    position: u64,
    /// Index of the chunk that `chunks` holds.
    loaded: Option<u32>,
}

impl RawReader {
    /// What the image is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The content of the chunk at `index`, which must lie on the disk.
    fn chunk(&mut self, index: u32) -> io::Result<&[u8]> {
        let length = self.manifest.chunk_len(index) as usize;
        let listed = self
            .manifest
            .chunks
            .binary_search_by_key(&index, |c| c.index);
        let Some(chunk) = listed.ok().and_then(|at| self.manifest.chunks.get(at)) else {
            return Ok(ZEROS.get(..length).unwrap_or(&ZEROS));
        };
        if self.loaded != Some(index) {
            self.loaded = None;
            self.chunks
                .read_sized(&chunk.hash, length)
                .map_err(io::Error::other)?;
            self.loaded = Some(index);
        }
        Ok(&self.chunks.content)
    }
}

impl Read for RawReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.manifest.disk_size.saturating_sub(self.position);
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let (index, within) = (self.position / CHUNK, self.position % CHUNK);
        // A disk has at most 2^26 chunks, and the position lies on it.
        let index = u32::try_from(index).map_err(io::Error::other)?;
        let content = self.chunk(index)?;
        let rest = content.get(within as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for RawReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.manifest.disk_size.checked_add_signed(by),
        };
        self.position = position.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "seek to before the beginning of the image",
            )
        })?;
        Ok(self.position)
    }
}

impl std::fmt::Debug for RawReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawReader")
            .field("position", &self.position)
            .field("disk_size", &self.manifest.disk_size)
            .finish_non_exhaustive()
    }
}
