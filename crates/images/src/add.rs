//! Taking an image in.

use crate::{
    disk::{DiskSource, RawFile, VirtualDisk},
    error::{AddError, StoreError},
    format::{Format, foreign, gpt_sector_size},
    pins::{Hold, Pins},
    pipeline::Workshop,
    qcow2::{self, BackingFiles},
    source::{Source, Stream, is_zero},
    sparse::{self, SparseInput},
    stage::Stage,
    store::ChunkStore,
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, MAX_DISK_SIZE, Manifest};
use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Largest disk that an image may make when nothing else is said, in bytes: 16 TiB. Zeros cost
/// nothing; what bounds the rest is the room in the store.
pub const DEFAULT_MAX_DISK_SIZE: u64 = 16 << 40;

/// The zstd level of stored chunks when nothing else is said.
pub const DEFAULT_LEVEL: i32 = 2;

/// Longest qcow2 image that is taken from a stream, in bytes: 256 GiB. It is kept in a file beside
/// the chunks while it is read, because its parts stand in any order.
const MAX_SPOOL: u64 = 256 << 30;

/// Sector size of an image without a GPT when nothing else is said.
const DEFAULT_SECTOR_SIZE: u32 = 512;

/// How an image is to be added. `AddOptions::default()` suits most.
pub struct AddOptions<'a> {
    /// Logical sector size of the disks that the image is for: 512, 1024, 2048 or 4096. `None`
    /// takes it from where the image's GPT stands, and 512 where it has none.
    pub sector_size: Option<u32>,
    /// How many bytes of input must come, where the sender announced it: the only way to notice
    /// that a raw image was cut off.
    pub expected_bytes: Option<u64>,
    /// Largest disk that the image may make, in bytes; at most [`MAX_DISK_SIZE`] counts.
    pub max_disk_size: u64,
    /// zstd level of the chunks, 1 to 19.
    pub level: i32,
    /// Called from the adding thread after every chunk, so up to some thousand times a second.
    pub progress: Option<&'a mut dyn FnMut(&AddProgress)>,
    /// Set it, from any thread, to give up. It is looked at whenever input is asked for; an input
    /// that blocks for ever must be ended by its owner.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for AddOptions<'_> {
    fn default() -> Self {
        Self {
            sector_size: None,
            expected_bytes: None,
            max_disk_size: DEFAULT_MAX_DISK_SIZE,
            level: DEFAULT_LEVEL,
            progress: None,
            cancel: None,
        }
    }
}

/// What an add is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddPhase {
    /// Reading the input and storing chunks.
    #[default]
    Reading,
    /// Everything has been read; it is being made durable.
    Syncing,
}

/// How far an add is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddProgress {
    /// What it is busy with.
    pub phase: AddPhase,
    /// Bytes of input read, as they came: compressed, where the input is.
    pub read_bytes: u64,
    /// Bytes of the disk that they made, zeros and holes included.
    pub disk_bytes: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Chunks that the store, or this image at another place, had already.
    pub dup_chunks: u64,
}

/// An image that is in the store, durable.
#[derive(Debug)]
pub struct Added {
    /// BLAKE3 of the manifest: the name of the image's content.
    pub manifest: ChunkHash,
    /// Keeps the image from garbage collection: let go of it when the registry has it.
    pub hold: Hold,
    /// How the input was packed.
    pub format: Format,
    /// Size of the disk in bytes, padding included.
    pub disk_size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Bytes of the disk that are not zero, counted in whole chunks.
    pub used_bytes: u64,
    /// Bytes that its chunks take in the store, each place counted.
    pub stored_bytes: u64,
    /// Zero bytes that were added because the input ended within a sector; below the sector size.
    pub padding: u32,
    /// The counts at the end.
    pub progress: AddProgress,
}

impl ChunkStore {
    /// Adds an image that comes as a stream: raw, as .gz, .xz, .zst or .bz2 of one or several
    /// members, as qcow2, or as a sparse stream (see [`LocalImage`](crate::LocalImage)), told by its
    /// content. Memory is bounded but for the manifest's 40 bytes for each MiB that is not zero. A
    /// qcow2 image is kept in a file of the store's folder until it has been read; one that needs a
    /// backing file is refused: what comes from elsewhere names no file of this machine.
    ///
    /// An input whose length is no multiple of the sector size is padded with zeros to the end of
    /// the sector. The same content added twice makes the same manifest.
    ///
    /// # Errors
    /// [`AddError`]. Nothing of the image is left in the store then.
    pub fn add(&self, input: impl Read, mut options: AddOptions<'_>) -> Result<Added, AddError> {
        options.check()?;
        let stream = Stream::open(input, options.expected_bytes, options.cancel)?;
        self.add_stream(stream, &mut options)
    }

    /// Adds an image from a file, or from a device or pipe that has a path. Of a raw file with
    /// holes only the data is read. The file must not change meanwhile; that its length does is
    /// noticed.
    ///
    /// # Errors
    /// As [`add`](Self::add), and [`AddError::Open`].
    pub fn add_file(
        &self,
        path: impl AsRef<Path>,
        mut options: AddOptions<'_>,
    ) -> Result<Added, AddError> {
        options.check()?;
        let path = path.as_ref();
        let open = |source| AddError::Open {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        if !meta.is_file() {
            return self.add(file, options);
        }
        if options
            .expected_bytes
            .is_some_and(|expected| expected != meta.len())
        {
            return Err(AddError::Length {
                expected: options.expected_bytes.unwrap_or_default(),
                actual: meta.len(),
            });
        }
        options.expected_bytes = Some(meta.len());
        let stream = Stream::open(&file, options.expected_bytes, options.cancel)?;
        let format = stream.format();
        let disk: Box<dyn VirtualDisk> = match format {
            Format::Raw => {
                drop(stream);
                Box::new(RawFile::new(file, meta.len()))
            }
            Format::Qcow2 => {
                drop(stream);
                qcow2::open(file, path, qcow2::name_of(path), BackingFiles::Refused)?
            }
            _ => return self.add_stream(stream, &mut options),
        };
        let mut source = DiskSource::new(disk, format, options.cancel);
        self.add_source(&mut source, &mut options)
    }

    fn add_stream(
        &self,
        mut stream: Stream<'_>,
        options: &mut AddOptions<'_>,
    ) -> Result<Added, AddError> {
        match stream.format() {
            Format::Sparse => self.add_source(&mut sparse::Decoder::open(stream)?, options),
            Format::Qcow2 => {
                let (file, length) = self.spool(stream, options)?;
                let name = "the qcow2 image that was sent".to_owned();
                let disk = qcow2::open(file, Path::new(""), name, BackingFiles::Refused)?;
                let source = DiskSource::new(disk, Format::Qcow2, options.cancel);
                self.add_source(&mut source.spooled(length), options)
            }
            _ => self.add_source(&mut stream, options),
        }
    }

    /// Keeps what cannot be read from front to back in a file that has no name any more; gives its
    /// length.
    fn spool(
        &self,
        mut stream: Stream<'_>,
        options: &mut AddOptions<'_>,
    ) -> Result<(File, u64), AddError> {
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.inner.dir.join(format!("tmp/spool-{serial}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("make the file", &path))?;
        fs::remove_file(&path).map_err(StoreError::io("unlink", &path))?;
        let mut progress = AddProgress::default();
        let mut buffer = vec![0; CHUNK_SIZE as usize];
        loop {
            let length = stream.fill(&mut buffer)?;
            let part = buffer.get(..length).unwrap_or_default();
            if part.is_empty() {
                return Ok((file, progress.read_bytes));
            }
            let at = progress.read_bytes;
            progress.read_bytes += length as u64;
            if progress.read_bytes > MAX_SPOOL {
                return Err(AddError::TooLong { limit: MAX_SPOOL });
            }
            // Zeros are left as a hole.
            if !is_zero(part) || length < buffer.len() {
                let written = file.write_all_at(part, at);
                if let Err(source) = written.map_err(StoreError::io("write", &path)) {
                    drop(file);
                    return Err(self.no_room(AddError::Store(source), at));
                }
            } else {
                let grown = file.set_len(progress.read_bytes);
                grown.map_err(StoreError::io("lengthen", &path))?;
            }
            if let Some(report) = &mut options.progress {
                report(&progress);
            }
        }
    }

    /// Makes what a full disk says more useful. `written` bytes have been removed again.
    fn no_room(&self, error: AddError, written: u64) -> AddError {
        match error {
            AddError::Store(source) if source.is_full() => AddError::NoRoom {
                dir: self.inner.dir.clone(),
                written,
                free: self.inner.space().map_or(0, |(free, _)| free),
                source,
            },
            error => error,
        }
    }

    fn add_source(
        &self,
        source: &mut dyn Source,
        options: &mut AddOptions<'_>,
    ) -> Result<Added, AddError> {
        let mut stage = None;
        let added = Stage::new(&self.inner)
            .map_err(AddError::from)
            .and_then(|new| self.add_staged(stage.insert(new), source, options));
        let written = stage.as_ref().map_or(0, Stage::written);
        // Whatever came of it: what is still staged goes, before the free space is measured.
        drop(stage);
        added.map_err(|error| self.no_room(error, written))
    }

    fn add_staged(
        &self,
        stage: &Stage,
        source: &mut dyn Source,
        options: &mut AddOptions<'_>,
    ) -> Result<Added, AddError> {
        let pins = Pins::new(&self.inner);
        let limit = options.max_disk_size.min(MAX_DISK_SIZE);
        let cancel = options.cancel;
        let mut sector_size = options.sector_size;
        let is_cancelled = || cancel.is_some_and(|flag| flag.load(Ordering::Relaxed));
        let mut look = |index: u32, content: &mut Vec<u8>| {
            if is_cancelled() {
                return Err(AddError::Cancelled);
            }
            let end = u64::from(index) * u64::from(CHUNK_SIZE) + content.len() as u64;
            if end > limit {
                return Err(AddError::TooLarge { limit });
            }
            if index == 0 {
                if let Some((what, hint)) = foreign(content) {
                    return Err(AddError::NotADisk { what, hint });
                }
                sector_size = sector_size.or_else(|| gpt_sector_size(content));
            }
            let sector_size = sector_size.unwrap_or(DEFAULT_SECTOR_SIZE) as usize;
            content.resize(content.len().next_multiple_of(sector_size), 0);
            Ok(())
        };
        let mut report = |now: &AddProgress| {
            if let Some(report) = &mut options.progress {
                report(now);
            }
        };
        let workshop = Workshop {
            inner: &self.inner,
            stage,
            pins: &pins,
            level: options.level,
        };
        let (mut chunks, mut progress) = workshop.run(source, &mut look, &mut report)?;
        // The end of the input is where the last look was.
        if is_cancelled() {
            return Err(AddError::Cancelled);
        }
        if progress.disk_bytes == 0 {
            return Err(AddError::Empty {
                read_bytes: progress.read_bytes,
            });
        }
        // A hole at the end is passed over without a look.
        if progress.disk_bytes > limit {
            return Err(AddError::TooLarge { limit });
        }
        progress.phase = AddPhase::Syncing;
        report(&progress);
        chunks.sort_unstable();
        let sector_size = sector_size.unwrap_or(DEFAULT_SECTOR_SIZE);
        let disk_size = progress.disk_bytes.next_multiple_of(sector_size.into());
        let manifest = Manifest {
            disk_size,
            sector_size,
            chunks: chunks
                .into_iter()
                .map(|(index, hash)| ChunkRef {
                    index,
                    stored_len: pins.len(&hash).unwrap_or_default(),
                    hash,
                })
                .collect(),
        };
        let bytes = manifest.encode();
        let hash = ChunkHash(*blake3::hash(&bytes).as_bytes());
        let hold = stage.commit(hash, &bytes)?;
        Ok(Added {
            manifest: hash,
            hold,
            format: source.format(),
            disk_size,
            sector_size,
            used_bytes: manifest.used_bytes(),
            stored_bytes: manifest.stored_bytes(),
            padding: u32::try_from(disk_size - progress.disk_bytes).unwrap_or_default(),
            progress,
        })
    }
}

impl AddOptions<'_> {
    fn check(&self) -> Result<(), AddError> {
        match self.sector_size {
            None | Some(512 | 1024 | 2048 | 4096) => {}
            Some(other) => return Err(AddError::SectorSize(other)),
        }
        if !(1..=19).contains(&self.level) {
            return Err(AddError::Level(self.level));
        }
        Ok(())
    }
}

impl std::fmt::Debug for AddOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddOptions")
            .field("sector_size", &self.sector_size)
            .field("expected_bytes", &self.expected_bytes)
            .field("max_disk_size", &self.max_disk_size)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}
