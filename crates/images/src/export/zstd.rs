//! A disk as one zstd frame for each chunk, stored ones and those of zeros.

use super::{CHUNK, Content, Piece, ZEROS};
use bugler_protocol::manifest::Manifest;
use std::io;
use zstd::bulk::compress;

/// Level at which zeros are packed: they are small at any.
const LEVEL: i32 = 1;

/// Frames of zeros that are given at a time, at most.
const RUN: u64 = 256;

/// Where each frame begins.
#[derive(Debug)]
pub(super) struct Frames {
    /// Of each listed chunk: where its frame begins, and how long it is.
    stored: Vec<(u64, u32)>,
    /// The frame of a chunk of zeros.
    zeros: Vec<u8>,
    /// That of the disk's last chunk, which may be shorter.
    last_zeros: Vec<u8>,
    size: u64,
}

impl Frames {
    /// `lengths` are those of the listed chunks' frames.
    pub(super) fn new(manifest: &Manifest, lengths: &[u32]) -> io::Result<Self> {
        let zeros = compress(&ZEROS, LEVEL)?;
        let count = manifest.disk_size.div_ceil(CHUNK);
        let last = manifest.disk_size - count.saturating_sub(1) * CHUNK;
        let last_zeros = compress(ZEROS.get(..last as usize).unwrap_or(&ZEROS), LEVEL)?;
        let (mut at, mut index) = (0, 0);
        let mut stored = Vec::with_capacity(lengths.len());
        for (chunk, length) in manifest.chunks.iter().zip(lengths) {
            at += (u64::from(chunk.index) - index) * zeros.len() as u64;
            stored.push((at, *length));
            at += u64::from(*length);
            index = u64::from(chunk.index) + 1;
        }
        if index < count {
            at += (count - index - 1) * zeros.len() as u64 + last_zeros.len() as u64;
        }
        Ok(Self {
            stored,
            zeros,
            last_zeros,
            size: at,
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn piece(&self, manifest: &Manifest, offset: u64) -> Piece {
        let behind = self.stored.partition_point(|(start, _)| *start <= offset);
        let before = behind.checked_sub(1).and_then(|at| {
            let (start, length) = self.stored.get(at)?;
            Some((*start, *length, manifest.chunks.get(at)?))
        });
        // Where the zeros begin: in the file, and as the index of a chunk.
        let (from, index) = match before {
            Some((start, length, chunk)) if offset < start + u64::from(length) => {
                let content = Content::Frame(chunk.hash, length, manifest.chunk_len(chunk.index));
                return Piece::new(start, length.into(), content);
            }
            Some((start, length, chunk)) => (start + u64::from(length), u64::from(chunk.index) + 1),
            None => (0, 0),
        };
        let count = manifest.disk_size.div_ceil(CHUNK);
        let next = manifest.chunks.get(behind);
        let end = next.map_or(count - 1, |chunk| u64::from(chunk.index));
        let one = self.zeros.len() as u64;
        let passed = (offset - from) / one;
        let start = from + passed * one;
        let left = end.saturating_sub(index + passed);
        if left == 0 || offset >= from + (end - index) * one {
            let start = from + (end.saturating_sub(index)) * one;
            let content = Content::Made(self.last_zeros.clone());
            return Piece::new(start, self.last_zeros.len() as u64, content);
        }
        let frames = left.min(RUN);
        Piece::new(
            start,
            frames * one,
            Content::Made(self.zeros.repeat(frames as usize)),
        )
    }
}
