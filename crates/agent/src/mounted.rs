//! A filesystem of a disk, mounted where nobody else sees it.
//!
//! It hangs on a descriptor and has no place in the tree of folders (`fsopen(2)`, `fsmount(2)`), so it
//! is gone when the descriptor is closed, and when the agent is killed. Nothing in it is executed.
//! Paths are resolved inside of it: a link to `/etc/x` means the `/etc/x` of the image, and no link
//! leads out (`openat2(2)`, `RESOLVE_IN_ROOT`).

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fchmod, fchown,
    fgetxattr, fsetxattr, fstat, fsync, mkdirat, openat, openat2, readlinkat, renameat, statat,
    syncfs, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{Gid, Uid};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Links that are followed before a path counts as a circle.
const MAX_LINKS: usize = 16;

/// How often a path is resolved before the kernel's "try again" counts as an error.
const OPEN_ATTEMPTS: u32 = 1000;

/// Name of a file while it is written. It takes the place of the old one when it is durable.
const UNFINISHED: &str = ".bugler-unfinished";

/// The label of SELinux: a file without one is kept from the programs that need it.
const LABEL: &str = "security.selinux";

/// What a filesystem is mounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
}

/// A mounted filesystem.
#[derive(Debug)]
pub(crate) struct Mounted {
    root: OwnedFd,
    /// Closed last: with it the mount goes.
    _mount: OwnedFd,
}

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl Mounted {
    /// Mounts what is on the block device `node`. An option without a value is a flag.
    ///
    /// # Errors
    /// What the kernel answers: `ENODEV` where it does not know this kind of filesystem.
    pub(crate) fn open(
        node: &Path,
        kind: &str,
        options: &[(&str, &str)],
        purpose: Purpose,
    ) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", node)?;
        for &(key, value) in options {
            if value.is_empty() {
                fsconfig_set_flag(context.as_fd(), key)?;
            } else {
                fsconfig_set_string(context.as_fd(), key, value)?;
            }
        }
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        if purpose == Purpose::Read {
            fsconfig_set_flag(context.as_fd(), "ro")?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        fsconfig_create(context.as_fd())?;
        let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, ".", flags, Mode::empty())?;
        Ok(Self {
            root,
            _mount: mount,
        })
    }

    /// The uppermost folder.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Has everything written to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.root)?)
    }

    fn open_in(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = match path.trim_matches('/') {
            "" => ".",
            path => path,
        };
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A `..` on the way is answered with EAGAIN when anything on the machine is mounted or renamed
        // at that moment, because the kernel cannot then tell whether it led out (openat2(2)).
        for _ in 1..OPEN_ATTEMPTS {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                result => return result,
            }
        }
        openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// What `path` leads to, through links; `None` where there is nothing.
    pub(crate) fn kind_of(&self, path: &str) -> io::Result<Option<FileType>> {
        match self.open_in(path, OFlags::PATH) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(fstat(found)?.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether `path` leads to a regular file.
    pub(crate) fn is_file(&self, path: &str) -> io::Result<bool> {
        Ok(self.kind_of(path)? == Some(FileType::RegularFile))
    }

    /// Whether `path` leads to a folder.
    pub(crate) fn is_folder(&self, path: &str) -> io::Result<bool> {
        Ok(self.kind_of(path)? == Some(FileType::Directory))
    }

    /// Whether `path` itself is a regular file and no link to one.
    pub(crate) fn is_plain_file(&self, path: &str) -> io::Result<bool> {
        match self.open_in(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => Ok(is_kind(&fstat(found)?, FileType::RegularFile)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The regular file that `path` leads to, of at most `limit` bytes; `None` where there is none.
    pub(crate) fn read(&self, path: &str, limit: u64) -> io::Result<Option<Found>> {
        if !self.is_file(path)? {
            return Ok(None);
        }
        let file = File::from(self.open_in(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let mut content = Vec::new();
        (&file).take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            let why = format!("it is larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let mode = fstat(&file)?.st_mode & 0o7777;
        Ok(Some(Found { content, mode }))
    }

    /// What is in the folder `path`: names with their kinds, by name; nothing where there is none.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<(String, FileType)>> {
        let folder = match self.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            // A name that is no UTF-8 is none that is looked for.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            found.push((name.to_owned(), kind));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Size in bytes of the file that `path` leads to.
    pub(crate) fn size_of(&self, path: &str) -> io::Result<u64> {
        let found = fstat(self.open_in(path, OFlags::PATH)?)?;
        Ok(u64::try_from(found.st_size).unwrap_or(0))
    }

    /// The folder and the name that `path` leads to at last: links are followed, also where they lead
    /// to nothing yet.
    fn place(&self, path: &str) -> io::Result<(OwnedFd, String)> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let trimmed = path.trim_matches('/');
            let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
            if matches!(name, "" | "." | "..") {
                let why = format!("{path} cannot be the name of a file");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let folder = self.open_in(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let is_link = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => is_kind(&stat, FileType::Symlink),
                Err(Errno::NOENT) => false,
                Err(error) => return Err(error.into()),
            };
            if !is_link {
                return Ok((folder, name.to_owned()));
            }
            let target = readlinkat(&folder, name, Vec::new())?;
            let target = target
                .to_str()
                .map_err(|_| io::Error::other("a link leads to a name that is no UTF-8"))?;
            path = if target.starts_with('/') {
                target.to_owned()
            } else {
                format!("{parent}/{target}")
            };
        }
        Err(Errno::LOOP.into())
    }

    /// Puts `content` where `path` leads, all of it or nothing: what was there stays until the new file
    /// is durable. It belongs to root; the label of the file before it, or of the folder, is kept.
    pub(crate) fn write(&self, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        let like = self.label_of(&folder, &name);
        match unlinkat(&folder, UNFINISHED, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&folder, UNFINISHED, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(content)?;
        own(&file, mode)?;
        if let Some(label) = like {
            label_as(&file, &label)?;
        }
        fsync(&file)?;
        renameat(&folder, UNFINISHED, &folder, &name)?;
        Ok(fsync(&folder)?)
    }

    /// The label of `name` in `folder`, or of the folder itself; `None` where there are none.
    fn label_of(&self, folder: &OwnedFd, name: &str) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let old = openat(folder, name, flags, Mode::empty()).ok();
        old.as_ref()
            .and_then(read_label)
            .or_else(|| read_label(folder))
    }

    /// Removes the file, or the link, of this name.
    pub(crate) fn remove(&self, folder: &str, name: &str) -> io::Result<()> {
        let folder = self.open_in(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        unlinkat(&folder, name, AtFlags::empty())?;
        Ok(fsync(&folder)?)
    }

    /// Makes the folder `path`, and those above it, where they are not there.
    pub(crate) fn make_folders(&self, path: &str) -> io::Result<()> {
        let mut so_far = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let above = so_far.clone();
            so_far.push('/');
            so_far.push_str(name);
            if self.kind_of(&so_far)?.is_some() {
                continue;
            }
            let folder = self.open_in(&above, OFlags::RDONLY | OFlags::DIRECTORY)?;
            mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
            let new = self.open_in(&so_far, OFlags::RDONLY | OFlags::DIRECTORY)?;
            own(&new, 0o755)?;
            if let Some(label) = read_label(&folder) {
                label_as(&new, &label)?;
            }
            fsync(&folder)?;
        }
        Ok(())
    }
}

fn is_kind(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// FAT knows no owners, and says so.
fn own(file: impl AsFd, mode: u32) -> io::Result<()> {
    match fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT)) {
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    match fchmod(&file, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn read_label(file: impl AsFd) -> Option<Vec<u8>> {
    let mut label = vec![0; 512];
    let length = fgetxattr(file, LABEL, &mut label[..]).ok()?;
    label.truncate(length);
    (!label.is_empty()).then_some(label)
}

fn label_as(file: impl AsFd, label: &[u8]) -> io::Result<()> {
    match fsetxattr(file, LABEL, label, XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
