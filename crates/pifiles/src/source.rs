//! A source of boot files.

use crate::boot_partition;
use bugler_boot::pi::{Layout, Request, candidates};
use bugler_fsread::tree::{FileKind, TreeError, Volume};
use bugler_fsread::{ReadAt, Seekable, Window};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// Largest file that is read out of an image, in bytes.
pub const MAX_FILE: u64 = 512 << 20;

/// A disk image.
pub trait Disk: Read + Seek + Send {}
impl<D: Read + Seek + Send> Disk for D {}

/// Opens a disk image anew, for one reader.
pub type OpenDisk = Box<dyn Fn() -> io::Result<Box<dyn Disk>> + Send + Sync>;

/// Why a source gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A folder or file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder has no kernel of Debian's for 64-bit ARM.
    #[error(
        "{} has no boot/vmlinuz-…-arm64: unpack Debian's linux-image-…-arm64 and raspi-firmware there \
         (dpkg -x FILE.deb FOLDER)", .0.display()
    )]
    NoKernel(PathBuf),
    /// The image has no boot partition.
    #[error(
        "the image {0} has no FAT partition to boot a Raspberry Pi from: choose an image of a system \
         for the Raspberry Pi"
    )]
    NoPartition(String),
    /// The image cannot be opened or read.
    #[error("cannot read the image {name}")]
    Image {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Its boot partition cannot be read.
    #[error("cannot read {path} from the boot partition of the image {name}")]
    Fat {
        /// The image's name.
        name: String,
        /// What was looked for.
        path: String,
        /// Why.
        source: TreeError,
    },
}

/// A file that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file on the server's disk, and its size in bytes.
    File(PathBuf, u64),
    /// Its content.
    Bytes(Vec<u8>),
}

impl Found {
    /// Its size in bytes: compare it with
    /// [`size_warning`](bugler_boot::pi::size_warning).
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// Where the files of a board come from.
pub enum Source {
    /// A folder that is laid out as a boot partition, or one with Debian's packages.
    Folder {
        /// Where it is.
        path: PathBuf,
        /// How it is laid out.
        layout: Layout,
    },
    /// The boot partition inside a disk image.
    Image {
        /// The image's name, for messages.
        name: String,
        /// Opens it.
        open: OpenDisk,
        /// Where the partition begins, and its length, in bytes.
        partition: (u64, u64),
    },
}

impl Source {
    /// A folder that is laid out as a boot partition is. Files of one board alone may be in a folder
    /// of their own in it: `91cdf03d/config.txt`.
    #[must_use]
    pub fn folder(path: PathBuf) -> Self {
        let layout = Layout::Folder;
        Self::Folder { path, layout }
    }

    /// A folder into which Debian's packages `raspi-firmware` and `linux-image-…-arm64` were unpacked.
    /// Of several kernels the newest is taken.
    ///
    /// # Errors
    /// Where it has no kernel.
    pub fn debian(path: PathBuf) -> Result<Self, SourceError> {
        let boot = path.join("boot");
        let entries = fs::read_dir(&boot).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SourceError::NoKernel(path.clone()),
            _ => SourceError::Io { path: boot, source },
        })?;
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let versions = names.filter_map(|name| {
            let version = name.strip_prefix("vmlinuz-")?;
            version.ends_with("-arm64").then(|| version.to_owned())
        });
        let kernel = versions.max_by_key(|version| version_key(version));
        let kernel = kernel.ok_or_else(|| SourceError::NoKernel(path.clone()))?;
        let layout = Layout::Debian { kernel };
        Ok(Self::Folder { path, layout })
    }

    /// The boot partition inside a disk image.
    ///
    /// # Errors
    /// Where the image cannot be read, or has none.
    pub fn image(name: &str, open: OpenDisk) -> Result<Self, SourceError> {
        let error = |source| SourceError::Image {
            name: name.to_owned(),
            source,
        };
        let mut disk = open().map_err(error)?;
        let partition = boot_partition(&mut disk).map_err(error)?;
        Ok(Self::Image {
            partition: partition.ok_or_else(|| SourceError::NoPartition(name.to_owned()))?,
            name: name.to_owned(),
            open,
        })
    }

    /// How it is laid out.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        match self {
            Self::Folder { layout, .. } => layout,
            Self::Image { .. } => &Layout::Folder,
        }
    }

    /// The file for a request; `None` where it has none.
    ///
    /// # Errors
    /// Where the source cannot be read, or is damaged.
    pub fn find(&self, request: &Request) -> Result<Option<Found>, SourceError> {
        for name in candidates(request, self.layout()) {
            let found = match self {
                Self::Folder { path, .. } => in_folder(path, &name)?,
                Self::Image {
                    name: image,
                    open,
                    partition: (start, length),
                } => {
                    let disk = open().and_then(Seekable::new);
                    let disk = disk.map_err(|source| SourceError::Image {
                        name: image.clone(),
                        source,
                    })?;
                    let volume = Window::new(disk, *start, *length);
                    let found = in_volume(&volume, &name);
                    found.map_err(|source| SourceError::Fat {
                        name: image.clone(),
                        path: name.clone(),
                        source,
                    })?
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path, layout } => f
                .debug_struct("Folder")
                .field("path", path)
                .field("layout", layout)
                .finish(),
            Self::Image {
                name, partition, ..
            } => f
                .debug_struct("Image")
                .field("name", name)
                .field("partition", partition)
                .finish_non_exhaustive(),
        }
    }
}

fn in_folder(folder: &Path, name: &str) -> Result<Option<Found>, SourceError> {
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(Found::File(path, metadata.len()))),
        Ok(_) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(SourceError::Io { path, source }),
    }
}

fn in_volume(volume: &dyn ReadAt, name: &str) -> Result<Option<Found>, TreeError> {
    let volume = Volume::open(volume)?;
    let entry = match volume.entry(name) {
        Ok(entry) if entry.kind == FileKind::File => entry,
        Ok(_) | Err(TreeError::NotFound(_) | TreeError::NotAFolder(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = vec![];
    volume.read(&entry, &mut content, MAX_FILE)?;
    Ok(Some(Found::Bytes(content)))
}

/// The numbers in a version, to compare: 6.1.0-37 is older than 6.12.0-5.
fn version_key(version: &str) -> Vec<u64> {
    let digits = |c: char| !c.is_ascii_digit();
    version
        .split(digits)
        .filter_map(|number| number.parse().ok())
        .collect()
}
