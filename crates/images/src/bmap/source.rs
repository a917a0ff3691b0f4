//! Reading of an image what its block map names, and checking it.

use super::{
    BmapError, hex,
    parse::{Bmap, Mapped},
};
use crate::{
    disk::index_of,
    error::AddError,
    format::Format,
    source::{Source, Stream},
};
use bugler_protocol::manifest::CHUNK_SIZE;
use sha2::{Digest, Sha256};
use std::{fs::File, io, os::unix::fs::FileExt};

/// Where the blocks are: asked for from front to back, each once.
pub(crate) enum Blocks<'a> {
    /// A raw file: what is not asked for is not read.
    File(File),
    /// What is unpacked from something: what is not asked for is passed over.
    Stream(Stream<'a>),
}

impl Blocks<'_> {
    /// Fills `buffer` from `offset`; `size` is that of the image.
    fn read(&mut self, offset: u64, buffer: &mut [u8], size: u64) -> Result<(), AddError> {
        let short = |actual| {
            AddError::Bmap(BmapError::Size {
                expected: size,
                actual,
            })
        };
        match self {
            Self::File(file) => {
                file.read_exact_at(buffer, offset)
                    .map_err(|source| match source.kind() {
                        io::ErrorKind::UnexpectedEof => {
                            short(file.metadata().map_or(0, |m| m.len()))
                        }
                        _ => AddError::Read {
                            read_bytes: offset,
                            source,
                        },
                    })
            }
            Self::Stream(stream) => {
                stream.skip_to(offset)?;
                if stream.unpacked(buffer)? < buffer.len() {
                    return Err(short(stream.disk_bytes()));
                }
                Ok(())
            }
        }
    }

    /// The image's size, when everything that was wanted has been read.
    fn size(&mut self) -> Result<u64, AddError> {
        match self {
            Self::File(file) => {
                let meta = file.metadata().map_err(|source| AddError::Read {
                    read_bytes: 0,
                    source,
                })?;
                Ok(meta.len())
            }
            // To its end: the archive's own checks stand there.
            Self::Stream(stream) => {
                stream.skip_to(u64::MAX)?;
                Ok(stream.disk_bytes())
            }
        }
    }
}

/// Gives the chunks that a block map names content of.
pub(crate) struct BmapSource<'a> {
    blocks: Blocks<'a>,
    bmap: Bmap,
    /// The range that is read next, or that has been begun.
    range: usize,
    /// How far it has been read.
    position: u64,
    hasher: Sha256,
    read: u64,
}

impl<'a> BmapSource<'a> {
    pub(crate) fn new(blocks: Blocks<'a>, bmap: Bmap) -> Self {
        Self {
            blocks,
            bmap,
            range: 0,
            position: 0,
            hasher: Sha256::new(),
            read: 0,
        }
    }

    /// Reads what the current range has before `end`, into `chunk`, which begins at `start`. Whether
    /// the range ends there.
    fn read_part(&mut self, chunk: &mut [u8], start: u64, end: u64) -> Result<bool, AddError> {
        let Some(mapped) = self.bmap.ranges.get(self.range) else {
            return Ok(false);
        };
        let from = self.position.max(mapped.bytes.start);
        let to = mapped.bytes.end.min(end);
        if from >= to {
            return Ok(false);
        }
        let place = (from - start) as usize..(to - start) as usize;
        let part = chunk.get_mut(place).unwrap_or_default();
        self.blocks.read(from, part, self.bmap.image_size)?;
        self.read += part.len() as u64;
        self.position = to;
        if mapped.checksum.is_some() {
            self.hasher.update(part);
        }
        if to < mapped.bytes.end {
            return Ok(false);
        }
        check(
            mapped,
            self.hasher.finalize_reset().into(),
            self.bmap.block_size,
        )?;
        self.range += 1;
        Ok(true)
    }
}

fn check(mapped: &Mapped, found: [u8; 32], block_size: u64) -> Result<(), AddError> {
    match mapped.checksum {
        Some(wanted) if wanted != found => Err(AddError::Bmap(BmapError::Range {
            range: mapped.bytes.clone(),
            block_size,
            wanted: hex(&wanted),
            found: hex(&found),
        })),
        _ => Ok(()),
    }
}

impl Source for BmapSource<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError> {
        let size = self.bmap.image_size;
        let Some(mapped) = self.bmap.ranges.get(self.range) else {
            let actual = self.blocks.size()?;
            if actual != size {
                let expected = size;
                return Err(AddError::Bmap(BmapError::Size { expected, actual }));
            }
            self.position = size;
            return Ok(None);
        };
        let chunk_size = u64::from(CHUNK_SIZE);
        let first = self.position.max(mapped.bytes.start);
        let start = first / chunk_size * chunk_size;
        let end = (start + chunk_size).min(size);
        buffer.clear();
        buffer.resize((end - start) as usize, 0);
        while self.read_part(buffer, start, end)? {}
        self.position = self.position.max(end);
        Ok(Some(index_of(start / chunk_size)?))
    }

    fn disk_bytes(&self) -> u64 {
        self.position
    }

    fn read_bytes(&self) -> u64 {
        match &self.blocks {
            Blocks::File(_) => self.read,
            Blocks::Stream(stream) => stream.read_bytes(),
        }
    }

    fn format(&self) -> Format {
        match &self.blocks {
            Blocks::File(_) => Format::Raw,
            Blocks::Stream(stream) => stream.format(),
        }
    }
}
