//! An image as bytes that can be read at any place, for whoever looks into it.

use crate::{
    error::StoreError,
    pins::{Hold, lock},
    store::{ChunkReader, ChunkStore},
};
use bugler_fsread::ReadAt;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, Manifest};
use std::{collections::VecDeque, io, sync::Mutex};

/// Unpacked chunks that are kept: 8 MiB. Filesystems go to and fro between few places.
const KEPT: usize = 8;

/// An image, open for reading at any place. It is kept from garbage collection for as long as this
/// lives. Every chunk is checked against its name when it is unpacked; one that is damaged is an
/// error of the read.
pub struct ImageReader {
    _hold: Hold,
    manifest: Manifest,
    cache: Mutex<Cache>,
}

struct Cache {
    reader: ChunkReader,
    /// The chunks that were read last, the latest at the end.
    kept: VecDeque<(u32, Vec<u8>)>,
}

impl ChunkStore {
    /// Opens an image for reading at any place.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest).
    pub fn open_reader(&self, manifest: &ChunkHash) -> Result<ImageReader, StoreError> {
        let (hold, manifest) = self.hold(manifest)?;
        Ok(ImageReader {
            _hold: hold,
            manifest,
            cache: Mutex::new(Cache {
                reader: self.chunk_reader()?,
                kept: VecDeque::with_capacity(KEPT),
            }),
        })
    }
}

impl ImageReader {
    /// What the image is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Fills `buf` with what lies in the chunk `index` from `within`.
    fn read_chunk(&self, index: u32, within: usize, buf: &mut [u8]) -> io::Result<()> {
        let chunks = &self.manifest.chunks;
        let found = chunks.binary_search_by_key(&index, |chunk| chunk.index);
        let Some(chunk) = found.ok().and_then(|at| chunks.get(at)) else {
            // What is not listed reads as zero.
            buf.fill(0);
            return Ok(());
        };
        let mut cache = lock(&self.cache);
        if let Some(at) = cache.kept.iter().position(|(kept, _)| *kept == index) {
            if let Some(hit) = cache.kept.remove(at) {
                cache.kept.push_back(hit);
            }
        } else {
            let length = self.manifest.chunk_len(index) as usize;
            let read = cache.reader.read_sized(&chunk.hash, length);
            read.map_err(io::Error::other)?;
            let mut content = match cache.kept.len() {
                KEPT.. => cache.kept.pop_front().map(|(_, old)| old),
                _ => None,
            }
            .unwrap_or_default();
            content.clear();
            content.extend_from_slice(&cache.reader.content);
            cache.kept.push_back((index, content));
        }
        let content = cache.kept.back().map(|(_, content)| content.as_slice());
        let bytes = content
            .and_then(|content| content.get(within..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for ImageReader {
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.manifest.disk_size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = u64::from(CHUNK_SIZE);
        while !buf.is_empty() {
            let within = offset % size;
            // Both fit: a disk has fewer than 2^32 chunks, and a chunk 2^20 bytes.
            let index = u32::try_from(offset / size).map_err(io::Error::other)?;
            let left = usize::try_from(size - within).map_err(io::Error::other)?;
            let within = usize::try_from(within).map_err(io::Error::other)?;
            let length = left.min(buf.len());
            let (now, rest) = buf.split_at_mut(length);
            self.read_chunk(index, within, now)?;
            buf = rest;
            offset += length as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.manifest.disk_size
    }
}

impl std::fmt::Debug for ImageReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageReader")
            .field("manifest", &self._hold.manifest())
            .finish_non_exhaustive()
    }
}
