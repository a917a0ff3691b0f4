//! The files on a FAT or ext volume, for reading.
//!
//! ```text
//! path --> resolve: folder by folder, through symbolic links --> Entry --> pieces --> bytes
//!                          |                                                |
//!                     FAT: clusters                            ext: inodes, extents, indirect blocks
//! ```
//!
//! The journal of ext is not replayed: [`Volume::notes`] says so where it holds something. Checksums of
//! inodes, folders and extents are not compared. Encrypted files are refused.

mod cache;
mod ext;
mod fat;
mod fuzz;
mod kinds;
mod numbers;
#[cfg(test)]
mod tests;
mod walk;

use crate::ReadAt;
use crate::ext::{NotExt, Superblock};
use crate::fat::{Geometry, NotFat};
use cache::Cached;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::Write;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

pub use fuzz::fuzz_tree;
pub use kinds::{Entry, Extent, FileKind, Filesystem, Modified, TreeError};
pub use walk::Walked;

use kinds::{Node, Steps};

/// Most symbolic links that are followed for one path, as in Linux.
const MAX_LINKS: u32 = 40;
/// Most entries of a folder that are listed.
const MAX_ENTRIES: usize = 1 << 18;
/// Bytes that are copied at once.
const PIECE: u64 = 256 << 10;

/// A volume whose files can be read.
pub struct Volume<'a> {
    source: Cached<'a>,
    backend: Backend,
    notes: Vec<String>,
}

enum Backend {
    Fat(fat::Reader),
    Ext(ext::Reader),
}

impl<'a> Volume<'a> {
    /// Opens the volume that begins at the first byte of `source` and is no longer than it.
    ///
    /// # Errors
    /// Where it is neither FAT nor ext, uses something that is not read here, or cannot be read.
    pub fn open(source: &'a dyn ReadAt) -> Result<Self, TreeError> {
        let ext = match Superblock::read(source) {
            Ok(superblock) => Some(superblock),
            Err(NotExt::Io(error)) => return Err(error.into()),
            Err(NotExt::Other) => None,
            Err(error @ NotExt::Says(_)) => return Err(TreeError::Unsupported(error.to_string())),
        };
        let fat = match Geometry::read(source) {
            Ok(geometry) => Ok(geometry),
            Err(NotFat::Io(error)) => return Err(error.into()),
            Err(NotFat::Says(why)) => Err(why),
        };
        let mut notes = vec![];
        let backend = match (ext, fat) {
            (Some(_), Ok(_)) => {
                return Err(TreeError::Unsupported(
                    "the volume looks like ext and like FAT".into(),
                ));
            }
            (Some(superblock), Err(_)) => {
                let reader = ext::Reader::new(superblock)?;
                if reader.needs_recovery() {
                    notes.push(
                        "its journal was not replayed: what was changed last may be missing".into(),
                    );
                }
                Backend::Ext(reader)
            }
            (None, Ok(geometry)) => {
                if geometry.state & 1 != 0 {
                    notes.push("it was not unmounted: what was changed last may be missing".into());
                }
                Backend::Fat(fat::Reader::new(geometry))
            }
            (None, Err(why)) => {
                return Err(TreeError::Unsupported(format!(
                    "the volume is neither ext nor FAT: {why}"
                )));
            }
        };
        Ok(Self {
            source: Cached::new(source),
            backend,
            notes,
        })
    }

    /// What kind it is.
    #[must_use]
    pub fn filesystem(&self) -> Filesystem {
        match &self.backend {
            Backend::Fat(fat) => Filesystem::Fat { bits: fat.bits() },
            Backend::Ext(ext) => Filesystem::Ext {
                version: ext.version(),
            },
        }
    }

    /// What one should know of what is read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What is in a folder, sorted by name, without the folder itself and its parent. Symbolic links
    /// in the path are followed; those in the folder are shown as such. The path is one from the root
    /// of the volume, with or without a slash in front.
    ///
    /// # Errors
    /// Where there is no such folder, it has more than 2^18 entries, it is damaged or cannot be read.
    pub fn list(&self, path: impl AsRef<OsStr>) -> Result<Vec<Entry>, TreeError> {
        let path = path.as_ref();
        let folder = self.resolve(path, true)?;
        if folder.kind != FileKind::Folder {
            return Err(TreeError::NotAFolder(path.into()));
        }
        self.list_node(&folder.node)
    }

    /// The file or folder of this path. Symbolic links are followed, the last one too.
    ///
    /// # Errors
    /// Where there is none, or a folder on the way is damaged or cannot be read.
    pub fn entry(&self, path: impl AsRef<OsStr>) -> Result<Entry, TreeError> {
        self.resolve(path.as_ref(), true)
    }

    /// As [`Volume::entry`]; but where the path ends at a symbolic link, the link itself.
    ///
    /// # Errors
    /// As [`Volume::entry`].
    pub fn link_entry(&self, path: impl AsRef<OsStr>) -> Result<Entry, TreeError> {
        self.resolve(path.as_ref(), false)
    }

    /// Copies a file of at most `limit` bytes, and gives its length. Holes are copied as zeros.
    ///
    /// # Errors
    /// Where it is no file or longer, before anything is written; where it is damaged, cannot be read,
    /// or `out` takes no more.
    pub fn read(&self, entry: &Entry, out: &mut dyn Write, limit: u64) -> Result<u64, TreeError> {
        if entry.size > limit {
            return Err(TreeError::TooLarge {
                name: entry.name.clone(),
                size: entry.size,
                limit,
            });
        }
        self.read_range(entry, 0..entry.size, out)?;
        Ok(entry.size)
    }

    /// Copies the bytes in `range` of a file; what lies behind its end is left out.
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub fn read_range(
        &self,
        entry: &Entry,
        range: Range<u64>,
        out: &mut dyn Write,
    ) -> Result<(), TreeError> {
        if entry.kind != FileKind::File {
            return Err(TreeError::NotAFile(entry.name.clone()));
        }
        let end = range.end.min(entry.size);
        let mut at = range.start.min(end);
        if let Some(content) = entry.node.inline()? {
            let bytes = content.get(at as usize..end as usize).unwrap_or_default();
            return out.write_all(bytes).map_err(TreeError::Write);
        }
        let mut buffer = vec![];
        let mut steps = self.steps();
        self.pieces(&entry.node, at..end, &mut steps, &mut |piece| {
            zeros(out, piece.offset - at, &mut buffer)?;
            at = piece.offset;
            let (mut place, end) = (piece.place, piece.offset + piece.length);
            while at < end {
                let length = PIECE.min(end - at);
                buffer.resize(length as usize, 0);
                self.source.read_at(place, &mut buffer)?;
                out.write_all(&buffer).map_err(TreeError::Write)?;
                at += length;
                place += length;
            }
            Ok(())
        })?;
        zeros(out, end - at, &mut buffer)
    }

    /// Where the bytes of a file lie in the volume, rising; what is between them is holes. Empty for a
    /// file whose content is in its inode.
    ///
    /// # Errors
    /// Where it is no file, lies in more than `most` pieces, is damaged or cannot be read.
    pub fn extents(&self, entry: &Entry, most: usize) -> Result<Vec<Extent>, TreeError> {
        if entry.kind != FileKind::File {
            return Err(TreeError::NotAFile(entry.name.clone()));
        }
        let mut extents = vec![];
        if entry.node.inline()?.is_some() {
            return Ok(extents);
        }
        let mut steps = self.steps();
        self.pieces(&entry.node, 0..entry.size, &mut steps, &mut |piece| {
            if extents.len() == most {
                return Err(TreeError::TooMany {
                    what: "pieces of a file",
                    limit: most as u64,
                });
            }
            extents.push(piece);
            Ok(())
        })?;
        Ok(extents)
    }

    fn resolve(&self, path: &OsStr, follow_last: bool) -> Result<Entry, TreeError> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/');
            let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
            parts.map(<[u8]>::to_vec).collect()
        };
        let mut ahead: VecDeque<Vec<u8>> = parts(path.as_bytes()).into();
        // The way from the root to where we are, without the root.
        let mut way: Vec<Entry> = vec![];
        let root = self.root()?;
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            let here = way.last().unwrap_or(&root);
            if here.kind != FileKind::Folder {
                return Err(TreeError::NotAFolder(path.into()));
            }
            if part == b".." {
                way.pop();
                continue;
            }
            let found = self.find(&here.node, &part)?;
            let found = found.ok_or_else(|| TreeError::NotFound(path.into()))?;
            match &found.target {
                Some(target) if follow_last || !ahead.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TreeError::TooManyLinks(path.into()));
                    }
                    if target.as_bytes().first() == Some(&b'/') {
                        way.clear();
                    }
                    for part in parts(target.as_bytes()).into_iter().rev() {
                        ahead.push_front(part);
                    }
                }
                _ => way.push(found),
            }
        }
        Ok(way.pop().unwrap_or(root))
    }

    fn root(&self) -> Result<Entry, TreeError> {
        match &self.backend {
            Backend::Fat(fat) => Ok(fat.root()),
            Backend::Ext(ext) => ext.root(&self.source),
        }
    }

    /// The entry of that name in a folder.
    fn find(&self, folder: &Node, name: &[u8]) -> Result<Option<Entry>, TreeError> {
        let mut steps = self.steps();
        match (&self.backend, folder) {
            (Backend::Fat(fat), Node::Fat(folder)) => {
                let entries = fat.list(&self.source, folder, &mut steps)?;
                let is_it = |entry: &Entry| entry.name.as_bytes().eq_ignore_ascii_case(name);
                Ok(entries.into_iter().find(is_it))
            }
            (Backend::Ext(ext), Node::Ext(folder)) => {
                ext.find(&self.source, folder, name, &mut steps)
            }
            _ => Ok(None),
        }
    }

    fn list_node(&self, folder: &Node) -> Result<Vec<Entry>, TreeError> {
        let mut steps = self.steps();
        let mut entries = match (&self.backend, folder) {
            (Backend::Fat(fat), Node::Fat(folder)) => fat.list(&self.source, folder, &mut steps)?,
            (Backend::Ext(ext), Node::Ext(folder)) => ext.list(&self.source, folder, &mut steps)?,
            _ => vec![],
        };
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Visits where the bytes in `range` of a file lie, rising.
    fn pieces(
        &self,
        node: &Node,
        range: Range<u64>,
        steps: &mut Steps,
        visit: &mut dyn FnMut(Extent) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        if range.is_empty() {
            return Ok(());
        }
        let mut joined = Joined::new(range.clone(), visit);
        match (&self.backend, node) {
            (Backend::Fat(fat), Node::Fat(file)) => {
                fat.pieces(&self.source, file, range, steps, &mut |piece| {
                    joined.add(piece)
                })?;
            }
            (Backend::Ext(ext), Node::Ext(file)) => {
                ext.pieces(&self.source, file, range, steps, &mut |piece| {
                    joined.add(piece)
                })?;
            }
            _ => {}
        }
        joined.finish()
    }

    /// As much work as reading one file or folder can be: each block once, and its maps.
    fn steps(&self) -> Steps {
        Steps::new(self.source.size() / 512 + 1024)
    }
}

impl std::fmt::Debug for Volume<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("filesystem", &self.filesystem())
            .finish_non_exhaustive()
    }
}

/// Writes zeros.
fn zeros(out: &mut dyn Write, mut count: u64, buffer: &mut Vec<u8>) -> Result<(), TreeError> {
    while count > 0 {
        let length = PIECE.min(count);
        buffer.clear();
        buffer.resize(length as usize, 0);
        out.write_all(buffer).map_err(TreeError::Write)?;
        count -= length;
    }
    Ok(())
}

/// Cuts pieces to a range, and joins those that follow each other.
struct Joined<'a> {
    range: Range<u64>,
    pending: Option<Extent>,
    visit: &'a mut dyn FnMut(Extent) -> Result<(), TreeError>,
}

impl<'a> Joined<'a> {
    fn new(range: Range<u64>, visit: &'a mut dyn FnMut(Extent) -> Result<(), TreeError>) -> Self {
        Self {
            range,
            pending: None,
            visit,
        }
    }

    fn add(&mut self, piece: Extent) -> Result<(), TreeError> {
        let start = piece.offset.max(self.range.start);
        let end = (piece.offset + piece.length).min(self.range.end);
        if start >= end {
            return Ok(());
        }
        let piece = Extent {
            offset: start,
            length: end - start,
            place: piece.place + (start - piece.offset),
        };
        match &mut self.pending {
            Some(last)
                if last.offset + last.length == piece.offset
                    && last.place + last.length == piece.place =>
            {
                last.length += piece.length;
                Ok(())
            }
            pending => match pending.replace(piece) {
                Some(last) => (self.visit)(last),
                None => Ok(()),
            },
        }
    }

    fn finish(self) -> Result<(), TreeError> {
        match self.pending {
            Some(last) => (self.visit)(last),
            None => Ok(()),
        }
    }
}
