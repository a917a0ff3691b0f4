//! Giving an image back.

use crate::{
    error::StoreError,
    pins::Hold,
    store::{ChunkReader, ChunkStore},
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, Manifest};
use std::io::{self, Read, Seek, SeekFrom, Write};
use zstd::bulk::Compressor;

const CHUNK: u64 = CHUNK_SIZE as u64;
static ZEROS: [u8; CHUNK_SIZE as usize] = [0; CHUNK_SIZE as usize];

/// How an image is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// The bytes of the disk, zeros included.
    Raw,
    /// RFC 8878: one frame for each chunk, as it is stored, so that it costs no compression.
    Zstd,
}

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

    /// Writes the whole image to `out`, every byte checked; gives how many bytes were written.
    /// After an error `out` has the beginning of the image, and nothing that is wrong.
    ///
    /// # Errors
    /// Those of `out`; those of the store as an [`io::Error`] around a [`StoreError`].
    pub fn export(
        &self,
        manifest: &ChunkHash,
        out: &mut dyn Write,
        format: ExportFormat,
    ) -> io::Result<u64> {
        let (_hold, manifest) = self.hold(manifest).map_err(io::Error::other)?;
        let mut reader = self.chunk_reader().map_err(io::Error::other)?;
        let mut packer = Compressor::new(1)?;
        let zero_frame = packer.compress(&ZEROS)?;
        let mut listed = manifest.chunks.iter().peekable();
        let mut written = 0;
        let count = manifest.disk_size.div_ceil(CHUNK);
        for index in (0..count).filter_map(|index| u32::try_from(index).ok()) {
            let here = listed.next_if(|chunk| chunk.index == index);
            let length = manifest.chunk_len(index) as usize;
            if let Some(chunk) = here {
                reader
                    .read_sized(&chunk.hash, length)
                    .map_err(io::Error::other)?;
            }
            let partial_zeros;
            let bytes = match (format, here) {
                (ExportFormat::Raw, Some(_)) => &reader.content,
                (ExportFormat::Zstd, Some(_)) => &reader.frame,
                (ExportFormat::Raw, None) => ZEROS.get(..length).unwrap_or(&ZEROS),
                (ExportFormat::Zstd, None) if length == ZEROS.len() => &zero_frame,
                (ExportFormat::Zstd, None) => {
                    partial_zeros = packer.compress(ZEROS.get(..length).unwrap_or(&ZEROS))?;
                    &partial_zeros
                }
            };
            out.write_all(bytes)?;
            written += bytes.len() as u64;
        }
        out.flush()?;
        Ok(written)
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
