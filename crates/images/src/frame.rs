//! A chunk's frame as it is stored, read part by part for whoever is sent it.

use crate::{error::StoreError, store::ChunkStore};
use bugler_protocol::manifest::{ChunkHash, MAX_FRAME_LEN};
use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

/// The zstd frame of a stored chunk, open from its beginning to its end.
#[derive(Debug)]
pub struct FrameFile {
    file: File,
    path: PathBuf,
    len: u32,
    left: u32,
}

impl ChunkStore {
    /// Opens the zstd frame of a chunk as it is stored: the cheap way to serve an agent, which
    /// checks the content before it writes it. The system begins to read it from the disk. When the
    /// receiver finds it damaged, [`check_chunk`](Self::check_chunk) finds out whether the store is
    /// to blame, and moves the chunk away if so; what is open stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NoChunk`], [`StoreError::Io`]; [`StoreError::DamagedChunk`] only where the
    /// file's length cannot be right.
    pub fn open_chunk_frame(&self, hash: &ChunkHash) -> Result<FrameFile, StoreError> {
        let path = self.inner.chunk_path(hash);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoChunk(*hash));
            }
            opened => opened.map_err(StoreError::io("open the chunk", &path))?,
        };
        let meta = file.metadata();
        let bytes = meta.map_err(StoreError::io("size the chunk", &path))?.len();
        match u32::try_from(bytes) {
            Ok(len @ 1..=MAX_FRAME_LEN) => {
                // Best effort: without it the first read waits for the disk.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed);
                Ok(FrameFile {
                    file,
                    path,
                    len,
                    left: len,
                })
            }
            _ => {
                let detail = format!("its file is {bytes} bytes long");
                Err(self.inner.damaged(hash, detail))
            }
        }
    }
}

impl FrameFile {
    /// The frame's length in bytes: 1 to [`MAX_FRAME_LEN`].
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // It never is.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How much of it has not been read, in bytes.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Adds the next `most` bytes to `part`, or what is left.
    ///
    /// # Errors
    /// [`StoreError::Io`], also where the file has become shorter.
    pub fn read_part(&mut self, most: u32, part: &mut Vec<u8>) -> Result<(), StoreError> {
        let count = most.min(self.left);
        let failed = |error| StoreError::io("read the chunk", &self.path)(error);
        let read = (&self.file).take(count.into()).read_to_end(part);
        if read.map_err(failed)? != count as usize {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= count;
        Ok(())
    }
}
