//! A qcow2 file and its backing files, as one disk.

use super::{
    MAGIC, Qcow2Error,
    header::BackingName,
    layer::{Kind, Layer},
};
use crate::{
    disk::{Extent, RawFile, VirtualDisk},
    error::AddError,
};
use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Longest chain, in files.
const MAX_CHAIN: usize = 32;

/// Which backing files may be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BackingFiles<'a> {
    /// None: the file came from somebody else.
    Refused,
    /// Those that stand in the folder of the file that names them, or below it; and these, which
    /// take the place of what the first files of the chain name, in order.
    Beside(&'a [PathBuf]),
}

/// How errors call a file.
pub(crate) fn name_of(path: &Path) -> String {
    format!("the qcow2 image {}", path.display())
}

/// Opens the disk in `file`. `path` is where it is, for backing files; `name` is for errors.
///
/// # Errors
/// [`AddError::Qcow2`].
pub(crate) fn open(
    file: File,
    path: &Path,
    name: String,
    backing: BackingFiles<'_>,
) -> Result<Box<dyn VirtualDisk>, AddError> {
    let mut opener = Opener {
        given: match backing {
            BackingFiles::Refused => None,
            BackingFiles::Beside(given) => Some(given.iter()),
        },
        seen: Vec::new(),
    };
    let disk = opener.open(file, path, name.clone())?;
    if let Some(path) = opener.given.and_then(|mut given| given.next()) {
        return Err(AddError::Qcow2 {
            name,
            source: Qcow2Error::NotNeeded { path: path.clone() },
        });
    }
    Ok(Box::new(disk))
}

struct Opener<'a> {
    given: Option<std::slice::Iter<'a, PathBuf>>,
    /// Device and inode of the files so far.
    seen: Vec<(u64, u64)>,
}

impl Opener<'_> {
    fn open(&mut self, file: File, path: &Path, name: String) -> Result<Chained, AddError> {
        let wrong = |source| AddError::Qcow2 {
            name: name.clone(),
            source,
        };
        let meta = file.metadata().map_err(|source| AddError::Open {
            path: path.to_path_buf(),
            source,
        })?;
        let identity = (meta.dev(), meta.ino());
        let what = if self.seen.contains(&identity) {
            Some("goes round in a circle")
        } else if self.seen.len() >= MAX_CHAIN {
            Some("is longer than 32 files")
        } else {
            None
        };
        if let Some(what) = what {
            let path = path.to_path_buf();
            return Err(wrong(Qcow2Error::Chain { what, path }));
        }
        self.seen.push(identity);
        let layer = Layer::new(file).map_err(wrong)?;
        let below = match layer.header().backing.clone() {
            None => None,
            Some(backing) => Some(self.open_backing(&backing, path).map_err(
                |error| match error {
                    Refusal::Here(source) => wrong(source),
                    Refusal::Below(error) => error,
                },
            )?),
        };
        Ok(Chained { layer, below, name })
    }

    fn open_backing(
        &mut self,
        backing: &BackingName,
        path: &Path,
    ) -> Result<Box<dyn VirtualDisk>, Refusal> {
        let name = || backing.name.clone();
        let Some(given) = &mut self.given else {
            return Err(Refusal::Here(Qcow2Error::NeedsBacking { name: name() }));
        };
        let place = match given.next() {
            Some(given) => given.clone(),
            None => {
                let within = Path::new(&backing.name);
                let stays = within
                    .components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
                if !stays {
                    return Err(Refusal::Here(Qcow2Error::BackingElsewhere { name: name() }));
                }
                path.parent().unwrap_or(Path::new("")).join(within)
            }
        };
        let unopened = |source| {
            let path = place.clone();
            Refusal::Here(Qcow2Error::BackingOpen { path, source })
        };
        let mut file = File::open(&place).map_err(unopened)?;
        let meta = file.metadata().map_err(unopened)?;
        if !meta.is_file() {
            let odd = std::io::Error::other("it is not a regular file");
            return Err(unopened(odd));
        }
        let mut start = [0; MAGIC.len()];
        let looks_so = match file.read_exact(&mut start) {
            Ok(()) => start == MAGIC,
            // Shorter than that.
            Err(_) => false,
        };
        match backing.format.as_deref() {
            Some("qcow2") => self.open(file, &place, name_of(&place)).map_or_else(
                |error| Err(Refusal::Below(error)),
                |below| Ok(Box::new(below) as Box<dyn VirtualDisk>),
            ),
            None if looks_so => Err(Refusal::Here(Qcow2Error::BackingGuess { path: place })),
            Some("raw") | None => Ok(Box::new(RawFile::new(file, meta.len()))),
            Some(other) => Err(Refusal::Here(Qcow2Error::BackingFormat {
                format: other.to_owned(),
            })),
        }
    }
}

/// Whose fault it is that a backing file is not opened.
enum Refusal {
    /// That of the file that names it.
    Here(Qcow2Error),
    /// Its own, or of one further down.
    Below(AddError),
}

/// A file and what is below it.
struct Chained {
    layer: Layer<File>,
    name: String,
    below: Option<Box<dyn VirtualDisk>>,
}

impl Chained {
    fn wrong(&self) -> impl Fn(Qcow2Error) -> AddError + use<> {
        let name = self.name.clone();
        move |source| AddError::Qcow2 {
            name: name.clone(),
            source,
        }
    }
}

impl VirtualDisk for Chained {
    fn size(&self) -> u64 {
        self.layer.size()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent, AddError> {
        let stretch = self.layer.map(offset).map_err(self.wrong())?;
        let (is_data, end) = match (stretch.kind, &mut self.below) {
            (Kind::Plain(_) | Kind::Packed { .. }, _) => (true, stretch.end),
            (Kind::Absent, Some(below)) if offset < below.size() => {
                let extent = below.extent(offset)?;
                (extent.is_data, extent.end.min(stretch.end))
            }
            (Kind::Zero | Kind::Absent, _) => (false, stretch.end),
        };
        Ok(Extent { is_data, end })
    }

    fn read_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), AddError> {
        while !buffer.is_empty() {
            let stretch = self.layer.map(offset).map_err(self.wrong())?;
            let length = (stretch.end - offset).min(buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(length as usize);
            let from_below = match (&stretch.kind, &mut self.below) {
                (Kind::Absent, Some(below)) => {
                    // A backing file that is shorter reads as zero behind its end.
                    let there = below.size().saturating_sub(offset).min(length);
                    let (there, behind) = part.split_at_mut(there as usize);
                    below.read_at(offset, there)?;
                    behind.fill(0);
                    true
                }
                _ => false,
            };
            if !from_below {
                let read = self.layer.read(&stretch, offset, part);
                read.map_err(self.wrong())?;
            }
            offset += length;
            buffer = rest;
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), AddError> {
        self.below
            .as_mut()
            .map_or(Ok(()), |below| below.check_end())
    }
}
