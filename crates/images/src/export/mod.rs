//! Giving an image out, in the formats of others.
//!
//! Where every byte of the result comes from can be computed from the manifest and the lengths of the
//! stored frames, for every format. So nothing is written anywhere first, the length is known at the
//! start, and any range can be asked for.

mod qcow2;
mod zstd;

use crate::{
    bmap,
    error::StoreError,
    pins::Hold,
    store::{ChunkReader, ChunkStore, Inner},
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, Manifest};
use std::{
    borrow::Cow,
    fs,
    io::{self, Write},
    ops::Range,
    sync::Arc,
};

pub(crate) const CHUNK: u64 = CHUNK_SIZE as u64;
pub(crate) static ZEROS: [u8; CHUNK_SIZE as usize] = [0; CHUNK_SIZE as usize];

/// How an image is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// The bytes of the disk, zeros included.
    Raw,
    /// RFC 8878: one frame for each chunk, as it is stored, so that it costs no compression.
    Zstd,
    /// qcow2, version 3, with a cluster for each chunk; what is zero is left out.
    Qcow2,
    /// The same with compressed clusters: each is a chunk's frame as it is stored. QEMU reads it
    /// from version 5.1 on.
    Qcow2Zstd,
}

impl ExportFormat {
    fn has_frames(self) -> bool {
        matches!(self, Self::Zstd | Self::Qcow2Zstd)
    }
}

/// An image in one format, kept from garbage collection.
#[derive(Debug)]
pub struct Export {
    inner: Arc<Inner>,
    manifest: Manifest,
    format: ExportFormat,
    layout: Layout,
    size: u64,
    tag: String,
    _hold: Hold,
}

#[derive(Debug)]
enum Layout {
    Raw,
    Zstd(zstd::Frames),
    Qcow2(qcow2::File),
}

/// Where a part of an [`Export`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which bytes of the export; not empty, at most 1 MiB and 8 KiB.
    pub range: Range<u64>,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Zeros,
    /// As long as the piece.
    Made(Vec<u8>),
    /// A chunk of so many bytes, and zeros up to the piece's end.
    Chunk(ChunkHash, u32),
    /// A chunk's frame of so many bytes, and zeros up to the piece's end. The chunk's own length is
    /// the last number.
    Frame(ChunkHash, u32, u32),
}

impl Piece {
    fn new(start: u64, length: u64, content: Content) -> Self {
        Self {
            range: start..start + length,
            content,
        }
    }

    /// The chunk that has to be read for it.
    #[must_use]
    pub fn chunk(&self) -> Option<ChunkHash> {
        match self.content {
            Content::Chunk(hash, _) | Content::Frame(hash, ..) => Some(hash),
            Content::Zeros | Content::Made(_) => None,
        }
    }

    /// Its bytes, where no chunk has to be read for them.
    #[must_use]
    pub fn made(&self) -> Option<Cow<'static, [u8]>> {
        match &self.content {
            Content::Zeros => {
                let length = self.range.end - self.range.start;
                Some(Cow::Borrowed(ZEROS.get(..length as usize)?))
            }
            Content::Made(bytes) => Some(Cow::Owned(bytes.clone())),
            Content::Chunk(..) | Content::Frame(..) => None,
        }
    }
}

impl ChunkStore {
    /// Prepares to give an image out. For formats of compressed chunks it looks up how long each
    /// chunk's file is.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest); of reading a chunk.
    pub fn open_export(
        &self,
        manifest: &ChunkHash,
        format: ExportFormat,
    ) -> Result<Export, StoreError> {
        let (hold, content) = self.hold(manifest)?;
        let lengths = if format.has_frames() {
            frame_lengths(&self.inner, &content)?
        } else {
            Vec::new()
        };
        let mut reader = self.chunk_reader()?;
        let pack = StoreError::io("pack zeros for", &self.inner.dir);
        let layout = match format {
            ExportFormat::Raw => Layout::Raw,
            ExportFormat::Zstd => {
                Layout::Zstd(zstd::Frames::new(&content, &lengths).map_err(pack)?)
            }
            ExportFormat::Qcow2 => Layout::Qcow2(qcow2::File::plain(&content)),
            ExportFormat::Qcow2Zstd => {
                let tail = last_cluster(&mut reader, &content).map_err(|error| match error {
                    Tail::Read(error) => error,
                    Tail::Pack(error) => pack(error),
                })?;
                Layout::Qcow2(qcow2::File::packed(&content, &lengths, tail))
            }
        };
        let size = match &layout {
            Layout::Raw => content.disk_size,
            Layout::Zstd(frames) => frames.size(),
            Layout::Qcow2(file) => file.size(),
        };
        let mut tag = format!("{manifest}-{format:?}").to_lowercase();
        if format.has_frames() {
            // The same content can have been packed anew, and then it is as long as before by chance
            // only.
            let mut hasher = blake3::Hasher::new();
            for length in &lengths {
                hasher.update(&length.to_le_bytes());
            }
            tag += &format!("-{:.16}", hasher.finalize().to_hex());
        }
        Ok(Export {
            inner: Arc::clone(&self.inner),
            manifest: content,
            format,
            layout,
            size,
            tag,
            _hold: hold,
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
        let export = self
            .open_export(manifest, format)
            .map_err(io::Error::other)?;
        let mut reader = self.chunk_reader().map_err(io::Error::other)?;
        let mut at = 0;
        while at < export.size {
            let piece = export.piece(at);
            let bytes = export.read_with(&mut reader, &piece);
            out.write_all(&bytes.map_err(io::Error::other)?)?;
            at = piece.range.end;
        }
        out.flush()?;
        Ok(at)
    }

    /// The image's block map, version 2.0 with SHA-256, as bmaptool takes it. Every chunk is read.
    /// `progress` is told how many chunks have been read, and of how many; it gives false to end it,
    /// and then there is no block map.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest) and [`read_chunk`](Self::read_chunk).
    pub fn block_map(
        &self,
        manifest: &ChunkHash,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<String>, StoreError> {
        let (_hold, manifest) = self.hold(manifest)?;
        let mut reader = self.chunk_reader()?;
        let mut writer = bmap::Writer::new(manifest.disk_size);
        let total = manifest.chunks.len() as u64;
        for (chunk, done) in manifest.chunks.iter().zip(0..) {
            if !progress(done, total) {
                return Ok(None);
            }
            let length = manifest.chunk_len(chunk.index) as usize;
            reader.read_sized(&chunk.hash, length)?;
            writer.take(chunk.offset(), &reader.content);
        }
        Ok(Some(writer.finish()))
    }
}

impl Export {
    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// In which format it is.
    #[must_use]
    pub fn format(&self) -> ExportFormat {
        self.format
    }

    /// A text that is another one whenever a byte is: for HTTP's `ETag`, without quotes.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What the image is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The piece that has the byte at `offset`, which must be below [`size`](Self::size).
    #[must_use]
    pub fn piece(&self, offset: u64) -> Piece {
        match &self.layout {
            Layout::Raw => self.raw_piece(offset),
            Layout::Zstd(frames) => frames.piece(&self.manifest, offset),
            Layout::Qcow2(file) => file.piece(&self.manifest, offset),
        }
    }

    /// The pieces that have the bytes of `range`, which must lie within.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end.min(self.size) {
                return None;
            }
            let piece = self.piece(at);
            at = piece.range.end.max(at + 1);
            Some(piece)
        })
    }

    /// The bytes of a piece, checked.
    ///
    /// # Errors
    /// Those of [`read_chunk`](ChunkStore::read_chunk).
    pub fn read(&self, piece: &Piece) -> Result<Cow<'static, [u8]>, StoreError> {
        match piece.made() {
            Some(bytes) => Ok(bytes),
            None => self.read_with(&mut ChunkReader::new(&self.inner)?, piece),
        }
    }

    fn read_with(
        &self,
        reader: &mut ChunkReader,
        piece: &Piece,
    ) -> Result<Cow<'static, [u8]>, StoreError> {
        let mut bytes = match piece.content {
            Content::Zeros | Content::Made(_) => return Ok(piece.made().unwrap_or_default()),
            Content::Chunk(hash, length) => {
                reader.read_sized(&hash, length as usize)?;
                std::mem::take(&mut reader.content)
            }
            Content::Frame(hash, frame, length) => {
                reader.read_sized(&hash, length as usize)?;
                if reader.frame.len() != frame as usize {
                    return Err(StoreError::Repacked(hash));
                }
                std::mem::take(&mut reader.frame)
            }
        };
        let length = piece.range.end - piece.range.start;
        bytes.resize(length as usize, 0);
        Ok(bytes.into())
    }

    fn raw_piece(&self, offset: u64) -> Piece {
        let index = offset / CHUNK;
        let start = index * CHUNK;
        let length = (self.size - start).min(CHUNK);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let chunks = &self.manifest.chunks;
        let listed = chunks.binary_search_by_key(&index, |chunk| chunk.index);
        let content = match listed.ok().and_then(|at| chunks.get(at)) {
            Some(chunk) => Content::Chunk(chunk.hash, length as u32),
            None => Content::Zeros,
        };
        Piece::new(start, length, content)
    }
}

/// How long the frames are that the chunks are stored as.
fn frame_lengths(inner: &Inner, manifest: &Manifest) -> Result<Vec<u32>, StoreError> {
    let length = |hash: &ChunkHash| {
        let path = inner.chunk_path(hash);
        match fs::metadata(&path) {
            Ok(meta) => Ok(u32::try_from(meta.len()).unwrap_or(u32::MAX)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoChunk(*hash))
            }
            Err(error) => Err(StoreError::io("look at the chunk", path)(error)),
        }
    };
    manifest.chunks.iter().map(|c| length(&c.hash)).collect()
}

/// Why the last cluster could not be made.
enum Tail {
    Read(StoreError),
    Pack(io::Error),
}

/// The disk's last chunk, packed as a whole one, where it is shorter than that: a cluster of qcow2
/// always is whole.
fn last_cluster(reader: &mut ChunkReader, manifest: &Manifest) -> Result<Option<Vec<u8>>, Tail> {
    let Some(last) = manifest.chunks.last() else {
        return Ok(None);
    };
    let length = manifest.chunk_len(last.index) as usize;
    if length == CHUNK as usize {
        return Ok(None);
    }
    reader.read_sized(&last.hash, length).map_err(Tail::Read)?;
    let mut content = std::mem::take(&mut reader.content);
    content.resize(CHUNK as usize, 0);
    ::zstd::bulk::compress(&content, crate::DEFAULT_LEVEL)
        .map(Some)
        .map_err(Tail::Pack)
}
