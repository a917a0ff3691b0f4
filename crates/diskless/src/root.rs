//! The system in an image: which partition is its root, and which kernel it starts.
//!
//! What is read is what the machine itself would see: the image with the machine's own layer on top, so
//! that a kernel that the machine has upgraded takes effect at its next boot.

use crate::version;
use bugler_fsread::tree::{Entry, FileKind, TreeError, Volume};
use bugler_fsread::{Content, Part, ReadAt, SurveyOptions, Window, survey};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// Largest kernel or initramfs that is read, in bytes.
const MAX_BOOT_FILE: u64 = 512 << 20;
/// Most bytes of kernel modules that are copied: Debian's have about 400 MB.
const MAX_MODULES: u64 = 2 << 30;
/// Most files and folders of kernel modules.
const MAX_MODULE_FILES: u64 = 50_000;

/// Modules that nothing needs on the way to a root; left out, because they are half of all bytes.
const NOT_FOR_ROOTS: [&str; 6] = [
    "sound",
    "drivers/gpu",
    "drivers/media",
    "drivers/iio",
    "drivers/staging",
    "drivers/infiniband",
];

/// Why a machine cannot run from an image.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be read.
    #[error("the image cannot be read")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No partition has a system.
    #[error(
        "no partition of the image has a system on ext ({0}): a root has etc and sbin/init. Other \
         filesystems are not read here"
    )]
    NoRoot(String),
    /// The system has no kernel.
    #[error(
        "there is no kernel in the image: neither /vmlinuz nor /boot/vmlinuz-VERSION leads to a file; \
         install one in it (Debian: linux-image-amd64)"
    )]
    NoKernel,
    /// There is a kernel without its modules.
    #[error("the image has the kernel {0} and no /lib/modules/{0}: its drivers are missing")]
    NoModules(String),
    /// The image has no initramfs of its own.
    #[error(
        "the image has the kernel {0} and no initramfs of its own for it: let the agent start it"
    )]
    NoInitramfs(String),
    /// A file of it cannot be taken out.
    #[error("{path} of the image: {source}")]
    File {
        /// Its path in the image.
        path: String,
        /// What came back.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It cannot be kept here.
    #[error("could not write {path}: {source}", path = path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// The root of a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPlace {
    /// Its partition's number; 0 for an image without a partition table.
    pub part: u32,
    /// Its filesystem, as Linux calls it.
    pub kind: &'static str,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// A system that can be started.
pub struct System<'a> {
    source: &'a dyn ReadAt,
    /// Where its root is.
    pub place: RootPlace,
    /// Its other partitions with files: `/boot` may be one of them.
    others: Vec<Part>,
}

impl<'a> System<'a> {
    /// Looks for the one system on a disk.
    ///
    /// # Errors
    /// [`RootError::NoRoot`], and where the disk cannot be read.
    pub fn find(source: &'a dyn ReadAt, sector_size: u32) -> Result<Self, RootError> {
        let found = survey(source, sector_size, &SurveyOptions::default())
            .map_err(|error| RootError::Read(error.into()))?;
        let mut looked = Vec::new();
        let mut place = None;
        let mut others = Vec::new();
        for part in found.parts {
            let readable = matches!(part.content, Content::Ext { .. } | Content::Fat { .. });
            let is_root = match part.content {
                Content::Ext { .. } => is_root(source, &part),
                _ => Ok(false),
            };
            looked.push(match &is_root {
                Ok(_) => format!("{}: {}", part.number, part.content),
                Err(error) => format!("{}: {}, {error}", part.number, part.content),
            });
            match is_root {
                Ok(true) if place.is_none() => {
                    place = Some(RootPlace {
                        part: part.number,
                        kind: "ext4",
                        start: part.start,
                        size: part.size,
                    });
                }
                _ if readable => others.push(part),
                _ => {}
            }
        }
        let looked = if looked.is_empty() {
            "it has none".to_owned()
        } else {
            looked.join("; ")
        };
        let place = place.ok_or(RootError::NoRoot(looked))?;
        Ok(Self {
            source,
            place,
            others,
        })
    }

    /// Copies the kernel that the system starts, and its modules, into a folder: `vmlinuz` and
    /// `VERSION/`.
    ///
    /// # Errors
    /// Where there is none, or it cannot be copied.
    pub fn kernel(&self) -> Result<Kernel, RootError> {
        let root = Window::new(self.source, self.place.start, self.place.size);
        let volume = Volume::open(&root).map_err(read)?;
        if let Some(kernel) = kernel_of(&volume, &["/boot", "/"], "/vmlinuz")? {
            return Ok(kernel);
        }
        // `/boot` may be a partition of its own.
        for part in &self.others {
            let window = Window::new(self.source, part.start, part.size);
            if let Ok(volume) = Volume::open(&window)
                && let Some(kernel) = kernel_of(&volume, &["/"], "/vmlinuz")?
            {
                return Ok(kernel);
            }
        }
        Err(RootError::NoKernel)
    }

    /// The system's own initramfs for a kernel.
    ///
    /// # Errors
    /// [`RootError::NoInitramfs`], and where it cannot be read.
    pub fn initramfs(&self, version: &str) -> Result<Vec<u8>, RootError> {
        let names = [
            format!("initrd.img-{version}"),
            format!("initramfs-{version}.img"),
            format!("initrd-{version}"),
        ];
        let root = (self.place.start, self.place.size, "/boot");
        let others = self.others.iter().map(|part| (part.start, part.size, ""));
        for (start, size, folder) in std::iter::once(root).chain(others) {
            let window = Window::new(self.source, start, size);
            let Ok(volume) = Volume::open(&window) else {
                continue;
            };
            for name in &names {
                let path = format!("{folder}/{name}");
                if let Ok(entry) = volume.entry(&path) {
                    return content(&volume, &entry, &path);
                }
            }
        }
        Err(RootError::NoInitramfs(version.to_owned()))
    }

    /// Copies the modules of a kernel into `to`, a folder that is not there yet.
    ///
    /// # Errors
    /// [`RootError::NoModules`], and where they cannot be copied.
    pub fn copy_modules(&self, version: &str, to: &Path) -> Result<(), RootError> {
        let root = Window::new(self.source, self.place.start, self.place.size);
        let volume = Volume::open(&root).map_err(read)?;
        let folder = format!("/lib/modules/{version}");
        match volume.entry(&folder) {
            Ok(entry) if entry.kind == FileKind::Folder => {}
            _ => return Err(RootError::NoModules(version.to_owned())),
        }
        let mut copy = Copying {
            volume: &volume,
            bytes: MAX_MODULES,
            files: MAX_MODULE_FILES,
        };
        copy.folder(&folder, to, "")
    }
}

/// A kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its version as `uname -r` tells it.
    pub version: String,
    /// Its file.
    pub image: Vec<u8>,
}

fn read(error: TreeError) -> RootError {
    RootError::Read(error.into())
}

fn is_root(source: &dyn ReadAt, part: &Part) -> Result<bool, TreeError> {
    let window = Window::new(source, part.start, part.size);
    let volume = Volume::open(&window)?;
    let has = |path: &str| match volume.link_entry(path) {
        Ok(_) => Ok(true),
        Err(TreeError::NotFound(_) | TreeError::NotAFolder(_)) => Ok(false),
        Err(error) => Err(error),
    };
    // `sbin` may be a link; what `init` leads to is the system's business.
    Ok(has("/etc")? && (has("/sbin/init")? || has("/usr/sbin/init")? || has("/init")?))
}

/// The kernel of a volume: the one that `link` leads to where its name tells the version, else the
/// newest in the folders.
fn kernel_of(
    volume: &Volume<'_>,
    folders: &[&str],
    link: &str,
) -> Result<Option<Kernel>, RootError> {
    let mut found: Vec<(String, String)> = Vec::new();
    if let Ok(entry) = volume.link_entry(link)
        && let Some(target) = entry.target.as_ref().and_then(|target| target.to_str())
        && let Some(version) = version_in(target.rsplit('/').next().unwrap_or_default())
        && volume.entry(link).is_ok()
    {
        found.push((version.to_owned(), link.to_owned()));
    }
    if found.is_empty() {
        for folder in folders {
            let Ok(entries) = volume.list(folder) else {
                continue;
            };
            for entry in entries {
                let Some(name) = entry.name.to_str() else {
                    continue;
                };
                if let Some(version) = version_in(name) {
                    let path = format!("{}/{name}", folder.trim_end_matches('/'));
                    found.push((version.to_owned(), path));
                }
            }
        }
        found.sort_by(|a, b| version::compare(&a.0, &b.0));
    }
    let Some((version, path)) = found.pop() else {
        return Ok(None);
    };
    let entry = volume.entry(&path).map_err(|error| file(&path, error))?;
    let image = content(volume, &entry, &path)?;
    Ok(Some(Kernel { version, image }))
}

/// The version in the name of a kernel's file, where it can be the name of a folder.
fn version_in(name: &str) -> Option<&str> {
    let version = name.strip_prefix("vmlinuz-")?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._+-~".contains(&b);
    let fits = (1..=64).contains(&version.len())
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.bytes().all(good);
    fits.then_some(version)
}

fn file(path: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RootError {
    RootError::File {
        path: path.to_owned(),
        source: error.into(),
    }
}

fn content(volume: &Volume<'_>, entry: &Entry, path: &str) -> Result<Vec<u8>, RootError> {
    let mut bytes = Vec::new();
    volume
        .read(entry, &mut bytes, MAX_BOOT_FILE)
        .map_err(|error| file(path, error))?;
    Ok(bytes)
}

/// Copies a tree of files. Links and all else but files and folders are left out: the kernel's index of
/// modules names files.
struct Copying<'a, 'b> {
    volume: &'a Volume<'b>,
    bytes: u64,
    files: u64,
}

impl Copying<'_, '_> {
    fn folder(&mut self, path: &str, to: &Path, within: &str) -> Result<(), RootError> {
        let write = |source| RootError::Write {
            path: to.to_owned(),
            source,
        };
        fs::create_dir(to).map_err(write)?;
        for entry in self.volume.list(path).map_err(|error| file(path, error))? {
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            let path = format!("{path}/{name}");
            let within = format!("{within}/{name}");
            let to = to.join(name);
            let left = self.files.checked_sub(1);
            self.files = left.ok_or_else(|| file(&path, "there are too many kernel modules"))?;
            match entry.kind {
                FileKind::Folder => {
                    let unneeded = within.strip_prefix("/kernel/");
                    if unneeded.is_none_or(|name| !NOT_FOR_ROOTS.contains(&name)) {
                        self.folder(&path, &to, &within)?;
                    }
                }
                FileKind::File => self.file(&entry, &path, &to)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry, path: &str, to: &Path) -> Result<(), RootError> {
        let write = |source| RootError::Write {
            path: to.to_owned(),
            source,
        };
        let left = self.bytes.checked_sub(entry.size);
        self.bytes = left.ok_or_else(|| file(path, "its kernel modules are too large"))?;
        let mut out = BufWriter::new(File::create(to).map_err(write)?);
        self.volume
            .read(entry, &mut out, self.bytes.saturating_add(entry.size))
            .map_err(|error| file(path, error))?;
        io::Write::flush(&mut out).map_err(write)
    }
}
