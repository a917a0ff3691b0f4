//! A folder of the host.

use super::{Listing, Node, Tree, TreeFault};
use crate::kinds::{Kind, Time};
use rustix::fs::{self, Dir, Mode, OFlags, Stat};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most files and folders of a tree.
const MAX_FILES: usize = 4 << 20;
/// Folders in folders, at most.
const MAX_DEPTH: usize = 256;
/// Largest number of an inode; above it are those of folders with something mounted on them.
const MAX_NUMBER: u64 = (1 << 61) - 1;
/// Files that are kept open.
const OPEN: usize = 32;

/// The tree in a folder of the host. It is walked through once, when it is opened, and what was found
/// is kept in memory: some 200 bytes for each file. It must not be changed while it is served; a file
/// that was changed or moved is an error when it is read. Numbers are those of the inodes. What is
/// mounted inside of it shows as an empty folder.
pub struct FolderTree {
    path: PathBuf,
    folder: OwnedFd,
    root: u64,
    files: HashMap<u64, Kept>,
    open: Mutex<VecDeque<(u64, Arc<File>)>>,
}

struct Kept {
    node: Node,
    /// One of its names, and where.
    parent: u64,
    name: Box<[u8]>,
    listing: Option<Listing>,
}

impl FolderTree {
    /// Walks through a folder.
    ///
    /// # Errors
    /// Where a folder below it cannot be read, or there are more than 4 million files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TreeFault> {
        let path = path.as_ref();
        let fault = |source: rustix::io::Errno| TreeFault::Folder {
            what: path.display().to_string(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = fs::open(path, flags, Mode::empty()).map_err(fault)?;
        let stat = fs::fstat(&folder).map_err(fault)?;
        let root = number(&stat)?;
        let mut tree = Self {
            path: path.to_owned(),
            folder,
            root,
            files: HashMap::new(),
            open: Mutex::default(),
        };
        tree.add(root, &stat, root, b"")?;
        let mut folders = vec![(root, PathBuf::from("."), 0)];
        while let Some((folder, path, depth)) = folders.pop() {
            if depth == MAX_DEPTH {
                return Err(TreeFault::Unsupported(format!(
                    "{} has more than {MAX_DEPTH} folders inside of each other",
                    tree.path.display()
                )));
            }
            tree.walk(folder, &path, stat.st_dev, &mut |number, name| {
                folders.push((number, path.join(OsStr::from_bytes(name)), depth + 1));
            })?;
        }
        Ok(tree)
    }

    /// How many files and folders there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.len() < 2
    }

    /// Takes up what is in a folder.
    fn walk(
        &mut self,
        folder: u64,
        path: &Path,
        device: u64,
        below: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), TreeFault> {
        let whole = self.path.join(path);
        let fault = |source: rustix::io::Errno| TreeFault::Folder {
            what: whole.display().to_string(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = fs::openat(&self.folder, path, flags, Mode::empty()).map_err(fault)?;
        let mut names = vec![];
        for entry in Dir::read_from(&opened).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let stat = fs::statat(&opened, name, fs::AtFlags::SYMLINK_NOFOLLOW).map_err(fault)?;
            let is_mount = stat.st_dev != device;
            let found = number(&stat)?;
            // Another filesystem has numbers of its own, which could be those of files here.
            let found = if is_mount { 1 << 61 | found } else { found };
            self.add(found, &stat, folder, name)?;
            names.push((name.into(), found));
            let is_folder = fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory;
            match (is_folder, is_mount) {
                (true, false) => below(found, name),
                (true, true) => {
                    if let Some(kept) = self.files.get_mut(&found) {
                        kept.listing = Some(Arc::new([]));
                    }
                }
                _ => {}
            }
        }
        names.sort();
        if let Some(kept) = self.files.get_mut(&folder) {
            kept.listing = Some(names.into());
        }
        Ok(())
    }

    fn add(&mut self, number: u64, stat: &Stat, parent: u64, name: &[u8]) -> Result<(), TreeFault> {
        if self.files.len() == MAX_FILES {
            return Err(TreeFault::Unsupported(format!(
                "{} has more than {MAX_FILES} files",
                self.path.display()
            )));
        }
        let kept = Kept {
            node: node(stat),
            parent,
            name: name.into(),
            listing: None,
        };
        self.files.entry(number).or_insert(kept);
        Ok(())
    }

    fn kept(&self, number: u64) -> Result<&Kept, TreeFault> {
        let found = self.files.get(&number);
        found.ok_or_else(|| {
            TreeFault::Unsupported(format!("{} has no file {number}", self.path.display()))
        })
    }

    /// The path of a file from the root of the tree.
    fn path_of(&self, number: u64) -> Result<PathBuf, TreeFault> {
        let mut parts = vec![];
        let mut at = number;
        while at != self.root && parts.len() <= MAX_DEPTH {
            let kept = self.kept(at)?;
            parts.push(OsStr::from_bytes(&kept.name));
            at = kept.parent;
        }
        Ok(parts.into_iter().rev().collect())
    }

    fn file(&self, number: u64) -> Result<Arc<File>, TreeFault> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = lock();
        if let Some(at) = open.iter().position(|file| file.0 == number)
            && let Some(found) = open.remove(at)
        {
            let file = found.1.clone();
            open.push_back(found);
            return Ok(file);
        }
        drop(open);
        let kept = self.kept(number)?;
        let path = self.path_of(number)?;
        let fault = |source: io::Error| TreeFault::Folder {
            what: self.path.join(&path).display().to_string(),
            source,
        };
        if kept.node.kind != Kind::File {
            return Err(fault(io::ErrorKind::InvalidInput.into()));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let beneath = fs::ResolveFlags::BENEATH | fs::ResolveFlags::NO_SYMLINKS;
        let opened = fs::openat2(&self.folder, &path, flags, Mode::empty(), beneath)
            .map_err(|error| fault(error.into()))?;
        let stat = fs::fstat(&opened).map_err(|error| fault(error.into()))?;
        if stat.st_ino != number || stat.st_size as u64 != kept.node.size {
            return Err(fault(io::Error::other(
                "it was changed while it is served; stop the devices that use it, and start the server \
                 again",
            )));
        }
        let file = Arc::new(File::from(opened));
        let mut open = lock();
        if open.len() == OPEN {
            open.pop_front();
        }
        open.push_back((number, file.clone()));
        Ok(file)
    }
}

impl Tree for FolderTree {
    fn root(&self) -> u64 {
        self.root
    }

    fn node(&self, number: u64) -> Result<Option<Node>, TreeFault> {
        Ok(self.files.get(&number).map(|kept| kept.node))
    }

    fn list(&self, folder: u64) -> Result<Listing, TreeFault> {
        let listing = self.kept(folder)?.listing.clone();
        listing.ok_or_else(|| TreeFault::Unsupported(format!("file {folder} is no folder")))
    }

    fn parent(&self, folder: u64) -> Result<u64, TreeFault> {
        Ok(self.kept(folder)?.parent)
    }

    fn target(&self, link: u64) -> Result<Vec<u8>, TreeFault> {
        let path = self.path_of(link)?;
        let target = fs::readlinkat(&self.folder, &path, vec![]);
        let target = target.map_err(|error| TreeFault::Folder {
            what: self.path.join(&path).display().to_string(),
            source: error.into(),
        })?;
        Ok(target.into_bytes())
    }

    fn read(&self, file: u64, offset: u64, count: usize) -> Result<Vec<u8>, TreeFault> {
        let size = self.kept(file)?.node.size;
        let count = (count as u64).min(size.saturating_sub(offset)) as usize;
        let opened = self.file(file)?;
        let mut bytes = vec![0; count];
        if let Err(source) = opened.read_exact_at(&mut bytes, offset) {
            let path = self.path_of(file)?;
            let what = self.path.join(path).display().to_string();
            return Err(TreeFault::Folder { what, source });
        }
        Ok(bytes)
    }
}

fn number(stat: &Stat) -> Result<u64, TreeFault> {
    match stat.st_ino {
        number @ 1..=MAX_NUMBER => Ok(number),
        number => Err(TreeFault::Unsupported(format!(
            "a file has the inode number {number}; such a filesystem cannot be a shared root"
        ))),
    }
}

fn node(stat: &Stat) -> Node {
    use fs::FileType;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Symlink,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    };
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let modified = stat.st_mtime.saturating_mul(1_000_000_000);
    Node {
        kind,
        mode: stat.st_mode & 0o7777,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        user: stat.st_uid,
        group: stat.st_gid,
        size: match kind {
            Kind::Folder => 4096,
            _ => u64::try_from(stat.st_size).unwrap_or(0),
        },
        device: match kind.is_device() {
            true => (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
            false => (0, 0),
        },
        modified: Time::from_nanoseconds(modified.saturating_add(nanoseconds)),
    }
}
