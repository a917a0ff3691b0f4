//! Images on the machine of whoever adds them, where they can be read at any place: only what their
//! disks have is sent.

use crate::{
    bmap::{Blocks, Bmap, BmapError, BmapSource},
    disk::{DiskSource, RawFile, VirtualDisk},
    error::AddError,
    format::{DETECT_LEN, Format},
    qcow2::{self, BackingFiles},
    source::{Source, Stream, fill},
    sparse,
};
use std::{
    fs::{File, Metadata},
    io::{self, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// How an image file is to be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalOptions<'a> {
    /// Backing files of a qcow2 image, from the first to the last one, in place of those that the
    /// files name. Those that are not given must stand in the folder of the file that names them, or
    /// below it.
    pub backing: &'a [PathBuf],
    /// The block map of a raw or packed image: only what it names is read, and its checksums are
    /// checked.
    pub bmap: Option<&'a Bmap>,
}

/// An image file, and how it is best sent to a server.
#[derive(Debug)]
pub enum LocalImage {
    /// As it is: it is packed, or a raw file without holes, or no regular file.
    AsIs {
        /// The file, at its beginning.
        file: File,
        /// Its length in bytes; `None` for what is no regular file.
        length: Option<u64>,
    },
    /// As a sparse stream, which leaves out what the disk does not have.
    Sparse(SparseReader),
}

impl LocalImage {
    /// Opens an image file and looks at its first bytes.
    ///
    /// # Errors
    /// [`AddError::Open`]; [`AddError::Qcow2`] for a qcow2 image, or a backing file of it, that
    /// cannot be read.
    pub fn open(path: &Path, options: LocalOptions<'_>) -> Result<Self, AddError> {
        let failed = |source| AddError::Open {
            path: path.to_path_buf(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(failed(io::Error::other("it is a folder, not a disk image")));
        }
        if !meta.is_file() {
            return Ok(Self::AsIs { file, length: None });
        }
        let mut start = [0; DETECT_LEN];
        let length = fill(&mut file, &mut start).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let format = Format::detect(start.get(..length).unwrap_or_default());
        if let Some(bmap) = options.bmap {
            let blocks = match format {
                Format::Raw => {
                    check_size(bmap, meta.len())?;
                    Blocks::File(file)
                }
                Format::Qcow2 | Format::Sparse => return Err(BmapError::Useless(format).into()),
                _ => Blocks::Stream(Stream::open(file, Some(meta.len()), None)?),
            };
            let source = BmapSource::new(blocks, bmap.clone());
            return Ok(Self::Sparse(SparseReader::new(
                Box::new(source),
                bmap.image_size(),
            )));
        }
        let disk: Box<dyn VirtualDisk> = match format {
            Format::Qcow2 => {
                let backing = BackingFiles::Beside(options.backing);
                qcow2::open(file, path, qcow2::name_of(path), backing)?
            }
            Format::Raw if has_holes(&meta) => Box::new(RawFile::new(file, meta.len())),
            _ => {
                let length = Some(meta.len());
                return Ok(Self::AsIs { file, length });
            }
        };
        let size = disk.size();
        let source = DiskSource::new(disk, format, None);
        Ok(Self::Sparse(SparseReader::new(Box::new(source), size)))
    }
}

/// Looked at first, because reading the image can take long.
fn check_size(bmap: &Bmap, actual: u64) -> Result<(), AddError> {
    let expected = bmap.image_size();
    if actual == expected {
        return Ok(());
    }
    Err(BmapError::Size { expected, actual }.into())
}

fn has_holes(meta: &Metadata) -> bool {
    meta.blocks().saturating_mul(512) < meta.len()
}

/// The bytes of a sparse stream. What fails is an [`io::Error`] around an [`AddError`], and is kept
/// where [`failure`](Self::failure) finds it, because whoever reads may lose it.
pub struct SparseReader {
    encoder: sparse::Encoder<Box<dyn Source>>,
    size: u64,
    failure: Failure,
}

/// What reading an image failed with.
#[derive(Clone, Debug, Default)]
pub struct Failure(Arc<Mutex<Option<AddError>>>);

impl Failure {
    /// Takes the error, where there was one.
    #[must_use]
    pub fn take(&self) -> Option<AddError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }
}

impl SparseReader {
    fn new(source: Box<dyn Source>, size: u64) -> Self {
        Self {
            encoder: sparse::Encoder::new(source, size),
            size,
            failure: Failure::default(),
        }
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        self.size
    }

    /// How much of the disk has been passed, in bytes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.encoder.disk_bytes()
    }

    /// Where an error will be found.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }
}

impl io::Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.encoder.read(buffer).map_err(|error| {
            let text = error.to_string();
            let kept = &self.failure.0;
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::other(text)
        })
    }
}

impl std::fmt::Debug for SparseReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparseReader")
            .field("disk_size", &self.size)
            .field("disk_bytes", &self.disk_bytes())
            .finish_non_exhaustive()
    }
}
