//! The sparse stream: how `bugler image add` sends an image of which only parts have content. Chunks
//! that are zero throughout are left out.
//!
//! # Bytes, version 1
//!
//! Little-endian throughout.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 8 | magic `BGLSPRS1` |
//! | 8 | 8 | size of the disk in bytes |
//! | 16 | | records, by ascending index: index `u32`, length `u32`, content |
//! | | 8 | the end: index `0xffffffff`, length 0 |
//!
//! A chunk is [`CHUNK_SIZE`] bytes long, the disk's last one as long as the disk has bytes for it.
//! A stream without its end was cut off.

use crate::{
    disk::index_of,
    error::AddError,
    format::Format,
    source::{Source, fill, is_zero},
};
use bugler_protocol::manifest::{CHUNK_SIZE, MAX_DISK_SIZE};

/// What a sparse stream begins with.
pub(crate) const MAGIC: [u8; 8] = *b"BGLSPRS1";

const END: u32 = u32::MAX;

/// Length of the chunk at `index` on a disk of `size` bytes; `None` behind its end.
fn chunk_len(index: u32, size: u64) -> Option<u32> {
    let start = u64::from(index) * u64::from(CHUNK_SIZE);
    let left = size.checked_sub(start).filter(|left| *left > 0)?;
    Some(u32::try_from(left).map_or(CHUNK_SIZE, |left| left.min(CHUNK_SIZE)))
}

/// Writes a source as a sparse stream, as far as it is asked for.
pub(crate) struct Encoder<S> {
    source: S,
    size: u64,
    chunk: Vec<u8>,
    out: Vec<u8>,
    given: usize,
    ended: bool,
}

impl<S: Source> Encoder<S> {
    /// `size` is that of the disk, which the source must have in the end.
    pub(crate) fn new(source: S, size: u64) -> Self {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&size.to_le_bytes());
        Self {
            source,
            size,
            chunk: Vec::new(),
            out,
            given: 0,
            ended: false,
        }
    }

    /// Bytes of the disk that have been passed.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.source.disk_bytes()
    }

    /// Copies the next bytes into `buffer`; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, AddError> {
        while self.given == self.out.len() {
            if self.ended {
                return Ok(0);
            }
            self.advance()?;
        }
        let rest = self.out.get(self.given..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        self.given += length;
        Ok(length)
    }

    fn advance(&mut self) -> Result<(), AddError> {
        self.out.clear();
        self.given = 0;
        let (index, content) = match self.source.next(&mut self.chunk)? {
            Some(_) if is_zero(&self.chunk) => return Ok(()),
            Some(index) => (index, self.chunk.as_slice()),
            None => {
                let actual = self.source.disk_bytes();
                if actual != self.size {
                    let expected = self.size;
                    return Err(AddError::Length { expected, actual });
                }
                self.ended = true;
                (END, &[][..])
            }
        };
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&index.to_le_bytes());
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(content);
        Ok(())
    }
}

/// Reads a sparse stream.
pub(crate) struct Decoder<R> {
    input: R,
    size: u64,
    read: u64,
    /// Index that the next record must have at least.
    next: u32,
    position: u64,
}

/// Bytes of a sparse stream, from where errors can be explained.
pub(crate) trait SparseInput {
    /// Reads until `buffer` is full or the input ends; gives how much came.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, AddError>;
}

impl SparseInput for &[u8] {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, AddError> {
        fill(self, buffer).map_err(|source| AddError::Read {
            read_bytes: 0,
            source,
        })
    }
}

impl<R: SparseInput> Decoder<R> {
    pub(crate) fn open(input: R) -> Result<Self, AddError> {
        let mut decoder = Self {
            input,
            size: 0,
            read: 0,
            next: 0,
            position: 0,
        };
        let magic = decoder.array::<8>()?;
        if magic != MAGIC {
            return Err(decoder.wrong("it does not begin like one"));
        }
        decoder.size = u64::from_le_bytes(decoder.array()?);
        if decoder.size > MAX_DISK_SIZE {
            return Err(AddError::TooLarge {
                limit: MAX_DISK_SIZE,
            });
        }
        Ok(decoder)
    }

    fn wrong(&self, what: &'static str) -> AddError {
        AddError::Sparse {
            what,
            read_bytes: self.read,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AddError> {
        let mut bytes = [0; N];
        self.exact(&mut bytes)?;
        Ok(bytes)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), AddError> {
        let length = self.input.fill(buffer)?;
        self.read += length as u64;
        if length < buffer.len() {
            return Err(self.wrong("it is cut off"));
        }
        Ok(())
    }
}

impl<R: SparseInput> Source for Decoder<R> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<u32>, AddError> {
        let index = u32::from_le_bytes(self.array()?);
        let length = u32::from_le_bytes(self.array()?);
        if index == END {
            if length != 0 || self.input.fill(&mut [0])? != 0 {
                return Err(self.wrong("there is something behind its end"));
            }
            self.position = self.size;
            return Ok(None);
        }
        if index < self.next {
            return Err(self.wrong("a chunk is out of order"));
        }
        if chunk_len(index, self.size) != Some(length) {
            return Err(self.wrong("a chunk does not fit on its disk"));
        }
        buffer.resize(length as usize, 0);
        self.exact(buffer)?;
        self.next = index_of(u64::from(index) + 1)?;
        self.position = u64::from(index) * u64::from(CHUNK_SIZE) + u64::from(length);
        Ok(Some(index))
    }

    fn disk_bytes(&self) -> u64 {
        self.position
    }

    fn read_bytes(&self) -> u64 {
        self.read
    }

    fn format(&self) -> Format {
        Format::Sparse
    }
}

/// Reads any bytes as a sparse stream, for the fuzzer.
#[doc(hidden)]
pub fn fuzz_sparse(bytes: &[u8]) {
    let Ok(mut decoder) = Decoder::open(bytes) else {
        return;
    };
    let mut buffer = Vec::new();
    let mut last = None;
    while let Ok(Some(index)) = decoder.next(&mut buffer) {
        assert!(last < Some(index), "indices ascend");
        last = Some(index);
    }
}
