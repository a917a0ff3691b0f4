//! The manifest: which chunks make an image, and where on the disk they belong.
//!
//! A disk is cut into chunks of [`CHUNK_SIZE`] bytes, counted from its first byte. A chunk that is
//! zero throughout is not listed: what is not listed **must read as zero** once the image has been
//! written. The last chunk of a disk is shorter where its size is no multiple of [`CHUNK_SIZE`].
//!
//! # Bytes, version 1
//!
//! Little-endian throughout.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 4 | magic `BGLM` |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | flags, 0 |
//! | 8 | 8 | size of the disk in bytes |
//! | 16 | 4 | logical sector size in bytes |
//! | 20 | 4 | chunk size in bytes, [`CHUNK_SIZE`] |
//! | 24 | 4 | number of entries |
//! | 28 | 40 each | entries, by ascending index: index `u32`, length of the stored zstd frame `u32`, BLAKE3 of the content `[u8; 32]` |
//!
//! There is one encoding for each manifest, so that BLAKE3 of these bytes, in hex, is the name of
//! the image's content. The callers hash; this crate does not.

use serde::{Deserialize, Serialize};

/// Size of every chunk but the last one of a disk, in bytes: 1 MiB.
pub const CHUNK_SIZE: u32 = 1 << 20;

/// Largest disk that a manifest can describe, in bytes: 64 TiB.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

/// Longest zstd frame that a chunk may be stored as, in bytes. What cannot be compressed grows
/// by less than one part in 200; a frame that is longer than this is nobody's honest chunk.
pub const MAX_FRAME_LEN: u32 = CHUNK_SIZE + 8192;

/// Smallest and largest logical sector size, in bytes; between them only powers of two.
const SECTOR_SIZES: std::ops::RangeInclusive<u32> = 512..=4096;

const MAGIC: [u8; 4] = *b"BGLM";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 28;
const ENTRY_LEN: usize = 40;

/// BLAKE3 of something: a chunk's content, or a manifest's bytes. Text form is 64 lower-case hex
/// digits; upper-case ones are refused, so that a name has one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkHash(pub [u8; 32]);

/// Why a text is not a [`ChunkHash`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a BLAKE3 hash: it should be 64 lower-case hex digits, this has {length} characters")]
pub struct ChunkHashError {
    /// Length of the text in characters.
    length: usize,
}

impl std::fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkHash({self})")
    }
}

impl std::str::FromStr for ChunkHash {
    type Err = ChunkHashError;

    fn from_str(text: &str) -> Result<Self, ChunkHashError> {
        let error = || ChunkHashError {
            length: text.chars().count(),
        };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(error());
        }
        let mut hash = [0; 32];
        for (byte, &[high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(high).ok_or_else(error)? << 4 | digit(low).ok_or_else(error)?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for ChunkHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChunkHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One chunk of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its place: the disk's bytes from `index * CHUNK_SIZE`.
    pub index: u32,
    /// Length in bytes of the zstd frame that held it in the store when the manifest was made; 1
    /// to [`MAX_FRAME_LEN`]. For planning and progress only: a damaged frame is replaced by one
    /// that holds the same content, perhaps of another length.
    pub stored_len: u32,
    /// BLAKE3 of its content, uncompressed.
    pub hash: ChunkHash,
}

impl ChunkRef {
    /// Where on the disk it begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.index) * u64::from(CHUNK_SIZE)
    }
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Size of the disk in bytes: a multiple of `sector_size`, above zero, at most
    /// [`MAX_DISK_SIZE`].
    pub disk_size: u64,
    /// Logical sector size in bytes: 512, 1024, 2048 or 4096.
    pub sector_size: u32,
    /// The chunks that are not zero, by strictly ascending index.
    pub chunks: Vec<ChunkRef>,
}

/// Why bytes, or a [`Manifest`] put together by hand, are not a good manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes do not begin like a manifest.
    #[error("not a manifest: it does not begin with \"BGLM\"")]
    Magic,
    /// Written by a newer Bugler.
    #[error("manifest of version {0} with flags {1:#06x}; this program reads version 1, flags 0")]
    Version(u16, u16),
    /// Another chunk size than this program's.
    #[error("manifest with chunks of {0} bytes; this program knows 1048576 only")]
    ChunkSize(u32),
    /// Longer or shorter than the number of its entries says.
    #[error("manifest of {actual} bytes where its header asks for {expected}")]
    Length {
        /// The length that the header and its count ask for.
        expected: u64,
        /// The length there is.
        actual: u64,
    },
    /// A disk size of zero, above the limit, or with half a sector.
    #[error("manifest of a disk of {disk_size} bytes with sectors of {sector_size}")]
    DiskSize {
        /// Size of the disk in bytes.
        disk_size: u64,
        /// Sector size in bytes.
        sector_size: u32,
    },
    /// A sector size that no disk has.
    #[error("manifest with sectors of {0} bytes; 512, 1024, 2048 and 4096 are known")]
    SectorSize(u32),
    /// A chunk that does not come after the one before it.
    #[error("manifest lists chunk {0} out of order")]
    Order(u32),
    /// A chunk behind the end of the disk.
    #[error("manifest lists chunk {0}, which lies behind the end of the disk")]
    BeyondDisk(u32),
    /// A chunk whose stored length cannot be true.
    #[error("manifest says that chunk {index} is stored in {stored_len} bytes")]
    StoredLength {
        /// Which chunk.
        index: u32,
        /// What is said of it.
        stored_len: u32,
    },
}

impl Manifest {
    /// The manifest's bytes. Those of a manifest that [`check`](Self::check) refuses are
    /// refused by [`decode`](Self::decode) as well.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.chunks.len() * ENTRY_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u16.to_le_bytes());
        out.extend_from_slice(&self.disk_size.to_le_bytes());
        out.extend_from_slice(&self.sector_size.to_le_bytes());
        out.extend_from_slice(&CHUNK_SIZE.to_le_bytes());
        // The largest disk has 2^26 chunks. A list that does not fit the field is refused by
        // `decode`, because its length is then wrong.
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.index.to_le_bytes());
            out.extend_from_slice(&chunk.stored_len.to_le_bytes());
            out.extend_from_slice(&chunk.hash.0);
        }
        out
    }

    /// Reads a manifest's bytes. Takes memory in proportion to their length, whatever they say.
    ///
    /// # Errors
    /// [`ManifestError`] for everything that [`encode`](Self::encode) of a good manifest does not
    /// make.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut fields = Fields(bytes);
        if fields.take::<4>()? != MAGIC {
            return Err(ManifestError::Magic);
        }
        let (version, flags) = (
            u16::from_le_bytes(fields.take()?),
            u16::from_le_bytes(fields.take()?),
        );
        if (version, flags) != (VERSION, 0) {
            return Err(ManifestError::Version(version, flags));
        }
        let wrong_length = |expected| ManifestError::Length {
            expected,
            actual: bytes.len() as u64,
        };
        if bytes.len() < HEADER_LEN {
            return Err(wrong_length(HEADER_LEN as u64));
        }
        let disk_size = u64::from_le_bytes(fields.take()?);
        let sector_size = u32::from_le_bytes(fields.take()?);
        let chunk_size = u32::from_le_bytes(fields.take()?);
        if chunk_size != CHUNK_SIZE {
            return Err(ManifestError::ChunkSize(chunk_size));
        }
        let count = u32::from_le_bytes(fields.take()?);
        let (entries, rest) = fields.0.as_chunks::<ENTRY_LEN>();
        if entries.len() as u64 != u64::from(count) || !rest.is_empty() {
            return Err(wrong_length(
                HEADER_LEN as u64 + u64::from(count) * ENTRY_LEN as u64,
            ));
        }
        let chunks = entries
            .iter()
            .map(|entry| {
                let mut fields = Fields(entry);
                Ok(ChunkRef {
                    index: u32::from_le_bytes(fields.take()?),
                    stored_len: u32::from_le_bytes(fields.take()?),
                    hash: ChunkHash(fields.take()?),
                })
            })
            .collect::<Result<_, ManifestError>>()?;
        let manifest = Self {
            disk_size,
            sector_size,
            chunks,
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what the fields' descriptions say.
    ///
    /// # Errors
    /// [`ManifestError`] naming the first rule that is broken.
    pub fn check(&self) -> Result<(), ManifestError> {
        let Self {
            disk_size,
            sector_size,
            ref chunks,
        } = *self;
        if !SECTOR_SIZES.contains(&sector_size) || !sector_size.is_power_of_two() {
            return Err(ManifestError::SectorSize(sector_size));
        }
        if disk_size == 0
            || disk_size > MAX_DISK_SIZE
            || !disk_size.is_multiple_of(sector_size.into())
        {
            return Err(ManifestError::DiskSize {
                disk_size,
                sector_size,
            });
        }
        let mut next = 0;
        for chunk in chunks {
            if u64::from(chunk.index) < next {
                return Err(ManifestError::Order(chunk.index));
            }
            if chunk.offset() >= disk_size {
                return Err(ManifestError::BeyondDisk(chunk.index));
            }
            if chunk.stored_len == 0 || chunk.stored_len > MAX_FRAME_LEN {
                return Err(ManifestError::StoredLength {
                    index: chunk.index,
                    stored_len: chunk.stored_len,
                });
            }
            next = u64::from(chunk.index) + 1;
        }
        Ok(())
    }

    /// Length in bytes of the content of the chunk at `index`, listed or not: [`CHUNK_SIZE`], less
    /// for the last one of the disk, 0 behind it.
    #[must_use]
    pub fn chunk_len(&self, index: u32) -> u32 {
        let offset = u64::from(index) * u64::from(CHUNK_SIZE);
        let left = self.disk_size.saturating_sub(offset);
        u32::try_from(left).map_or(CHUNK_SIZE, |left| left.min(CHUNK_SIZE))
    }

    /// Bytes of the disk that the listed chunks cover.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let lengths = self.chunks.iter().map(|c| self.chunk_len(c.index));
        lengths.map(u64::from).sum()
    }

    /// Bytes that the listed chunks take in a store, each place counted: a content that stands in
    /// two places counts twice, though it is stored once.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|c| u64::from(c.stored_len)).sum()
    }
}

/// Takes fields of fixed size off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(ManifestError::Length {
                expected: HEADER_LEN as u64,
                actual: self.0.len() as u64,
            })?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests;
