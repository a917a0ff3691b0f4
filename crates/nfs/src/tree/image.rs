//! The ext filesystem in an image.

use super::{Listing, Node, Tree, TreeFault};
use crate::kinds::{Kind, Time};
use bugler_fsread::ReadAt;
use bugler_fsread::tree::{Entry, FileKind, Filesystem, Volume};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are read at once where a filesystem keeps its tables: as many as the reader of files
/// asks for, at the same places.
const PIECE: u64 = 32 << 10;
/// How many of these are kept: 16 MiB.
const PIECES: usize = 512;
/// How many files are known without looking.
const ENTRIES: usize = 16_384;
/// How many names of folders are kept, in all folders together.
const NAMES: usize = 262_144;

/// The tree of an ext2, ext3 or ext4 volume. What was read of its tables and folders is kept, up to
/// some 40 MB, and shared by all who read.
pub struct ImageTree<S> {
    source: Kept<S>,
    root: u64,
    known: Mutex<Known>,
}

/// What was looked up.
#[derive(Default)]
struct Known {
    entries: HashMap<u64, Arc<Entry>>,
    listings: HashMap<u64, Listing>,
    names: usize,
}

impl<S: ReadAt + Send + Sync + 'static> ImageTree<S> {
    /// Opens the volume that begins at the first byte of `source`.
    ///
    /// # Errors
    /// Where it is no ext volume, was not unmounted cleanly (its journal is not replayed, so files
    /// could be torn) or cannot be read.
    pub fn open(source: S) -> Result<Self, TreeFault> {
        let source = Kept {
            source,
            pieces: Mutex::default(),
        };
        let volume = Volume::open(&source)?;
        let root = match volume.filesystem() {
            Filesystem::Ext { .. } => volume.entry("")?.number,
            Filesystem::Fat { .. } => None,
        };
        if let Some(note) = volume.notes().first() {
            return Err(TreeFault::Unsupported(format!(
                "the filesystem cannot be a shared root: {note}; unmount it cleanly or run e2fsck, and \
                 add the image again"
            )));
        }
        drop(volume);
        let root = root.ok_or_else(|| {
            TreeFault::Unsupported("a FAT volume cannot be a root: ext2, ext3 and ext4 can".into())
        })?;
        Ok(Self {
            source,
            root,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, number: u64) -> Result<Option<Arc<Entry>>, TreeFault> {
        if let Some(entry) = self.known().entries.get(&number) {
            return Ok(Some(entry.clone()));
        }
        let volume = Volume::open(&self.source)?;
        let Some(entry) = volume.by_number(number)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut known = self.known();
        if known.entries.len() >= ENTRIES {
            known.entries.clear();
        }
        known.entries.insert(number, entry.clone());
        Ok(Some(entry))
    }

    fn there(&self, number: u64) -> Result<Arc<Entry>, TreeFault> {
        let found = self.entry(number)?;
        found.ok_or_else(|| TreeFault::Unsupported(format!("the image has no file {number}")))
    }
}

impl<S: ReadAt + Send + Sync + 'static> Tree for ImageTree<S> {
    fn root(&self) -> u64 {
        self.root
    }

    fn node(&self, number: u64) -> Result<Option<Node>, TreeFault> {
        Ok(self.entry(number)?.map(|entry| node(&entry)))
    }

    fn list(&self, folder: u64) -> Result<Listing, TreeFault> {
        if let Some(listing) = self.known().listings.get(&folder) {
            return Ok(listing.clone());
        }
        let entry = self.there(folder)?;
        let names = Volume::open(&self.source)?.numbers(&entry)?;
        let names = names.into_iter();
        let listing: Listing = names
            .map(|(name, number)| (name.into_encoded_bytes().into_boxed_slice(), number))
            .collect();
        let mut known = self.known();
        if known.names + listing.len() > NAMES {
            known.listings.clear();
            known.names = 0;
        }
        // A folder that is empty takes room too.
        known.names += listing.len() + 1;
        known.listings.insert(folder, listing.clone());
        Ok(listing)
    }

    fn parent(&self, folder: u64) -> Result<u64, TreeFault> {
        let entry = self.there(folder)?;
        Ok(Volume::open(&self.source)?.parent(&entry)?)
    }

    fn target(&self, link: u64) -> Result<Vec<u8>, TreeFault> {
        let entry = self.there(link)?;
        let target = entry.target.clone();
        let target = target
            .ok_or_else(|| TreeFault::Unsupported(format!("file {link} is no symbolic link")))?;
        Ok(target.into_encoded_bytes())
    }

    fn read(&self, file: u64, offset: u64, count: usize) -> Result<Vec<u8>, TreeFault> {
        let entry = self.there(file)?;
        let mut bytes = Vec::with_capacity(count.min(1 << 20));
        let end = offset.saturating_add(count as u64);
        Volume::open(&self.source)?.read_range(&entry, offset..end, &mut bytes)?;
        Ok(bytes)
    }
}

fn node(entry: &Entry) -> Node {
    let (user, group) = entry.owner.unwrap_or_default();
    let modified = entry.modified.map_or_else(Time::default, |time| {
        Time::from_nanoseconds(
            time.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(time.nanoseconds.into()),
        )
    });
    Node {
        kind: match entry.kind {
            FileKind::File => Kind::File,
            FileKind::Folder => Kind::Folder,
            FileKind::Symlink => Kind::Symlink,
            FileKind::CharDevice => Kind::CharDevice,
            FileKind::BlockDevice => Kind::BlockDevice,
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
        },
        mode: entry.mode.unwrap_or(0o755).into(),
        links: entry.links.unwrap_or(1).max(1),
        user,
        group,
        size: match entry.kind {
            FileKind::Folder => 4096,
            _ => entry.size,
        },
        device: entry.device.unwrap_or_default(),
        modified,
    }
}

/// A source, and what was last read of it in small parts.
struct Kept<S> {
    source: S,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    pieces: HashMap<u64, (u64, Arc<[u8]>)>,
    clock: u64,
}

impl<S: ReadAt> ReadAt for Kept<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let begin = offset - offset % PIECE;
        let size = self.source.size();
        let end = begin.saturating_add(PIECE).min(size);
        // Contents are read in larger parts; a source that has them unpacked keeps them itself.
        if offset.saturating_add(buf.len() as u64) > end {
            return self.source.read_at(offset, buf);
        }
        let within = offset - begin;
        let lock = || self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = lock();
        kept.clock += 1;
        let now = kept.clock;
        if let Some((used, piece)) = kept.pieces.get_mut(&begin) {
            *used = now;
            return piece.read_at(within, buf);
        }
        drop(kept);
        let mut bytes = vec![0; (end - begin) as usize];
        self.source.read_at(begin, &mut bytes)?;
        let piece: Arc<[u8]> = bytes.into();
        let mut kept = lock();
        if kept.pieces.len() >= PIECES {
            // The older half goes, so that not every new piece has to look for the oldest.
            let mut ages: Vec<u64> = kept.pieces.values().map(|piece| piece.0).collect();
            let middle = ages.len() / 2;
            let (_, &mut limit, _) = ages.select_nth_unstable(middle);
            kept.pieces.retain(|_, piece| piece.0 > limit);
        }
        kept.pieces.insert(begin, (now, piece.clone()));
        piece.read_at(within, buf)
    }

    fn size(&self) -> u64 {
        self.source.size()
    }
}
