//! Names: looked up, listed, made.

use super::attributes::Change;
use super::database::{FIRST_COOKIE, Named};
use super::error::Told;
use super::inode::{Inode, is_shared};
use super::rights::{Right, SETGID, need, need_names};
use super::{Layer, Status};
use crate::kinds::{Credential, Kind, SetAttributes, Time};
use crate::packet::How;

/// Longest name, in bytes.
pub(super) const MAX_NAME: usize = 255;
/// Most names of a file.
const MAX_LINKS: u32 = 65_000;
/// The cookies before those of names: of the folder itself and of its parent.
const HERE: u64 = 1;
const PARENT: u64 = 2;

/// What is to be made, beside files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum New<'a> {
    /// A folder.
    Folder,
    /// A symbolic link, and where it points to.
    Symlink(&'a [u8]),
    /// A device with its major and minor number, a socket or a named pipe.
    Special(Kind, u32, u32),
}

/// An entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where the next listing goes on behind this one. It stays the same for as long as the entry is
    /// there, whatever else comes and goes.
    pub cookie: u64,
    /// The file.
    pub id: u64,
    /// Its name here.
    pub name: &'a [u8],
}

/// A name that a file can be given.
pub(super) fn check_name(name: &[u8]) -> Result<(), Status> {
    match name {
        b"" => Err(Status::Invalid),
        b"." | b".." => Err(Status::Exists),
        name if name.len() > MAX_NAME => Err(Status::NameTooLong),
        name if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(Status::Invalid),
        _ => Ok(()),
    }
}

impl Layer {
    /// The file of a name in a folder.
    ///
    /// # Errors
    /// [`Status::NoEntry`], [`Status::NotFolder`], [`Status::Access`], [`Status::NameTooLong`].
    pub fn lookup(&self, who: &Credential, folder: u64, name: &[u8]) -> Result<u64, Status> {
        let folder = self.load_folder(folder)?;
        need(who, &folder, Right::Execute)?;
        match name {
            b"." => Ok(folder.id),
            b".." => self.parent(&folder),
            name if name.len() > MAX_NAME => Err(Status::NameTooLong),
            name => self.find(folder.id, name)?.ok_or(Status::NoEntry),
        }
    }

    /// Where a symbolic link points to.
    ///
    /// # Errors
    /// [`Status::Invalid`] where it is none.
    pub fn read_link(&self, id: u64) -> Result<Vec<u8>, Status> {
        let inode = self.load(id)?;
        match (inode.kind, inode.target) {
            (Kind::Symlink, Some(target)) => Ok(target),
            (Kind::Symlink, None) => {
                let target = self.tree.target(id / 2);
                target.told("reading a symbolic link of the shared tree")
            }
            _ => Err(Status::Invalid),
        }
    }

    /// Visits what is in a folder from behind `cookie` on, until `visit` has enough; 0 for all. The
    /// folder itself and its parent come first.
    ///
    /// # Errors
    /// [`Status::NotFolder`], [`Status::Access`].
    pub fn list(
        &self,
        who: &Credential,
        folder: u64,
        cookie: u64,
        visit: &mut dyn FnMut(Found<'_>) -> bool,
    ) -> Result<(), Status> {
        let inode = self.load_folder(folder)?;
        need(who, &inode, Right::Read)?;
        for (at, name) in [(HERE, &b"."[..]), (PARENT, b"..")] {
            let id = match at {
                HERE => folder,
                _ => self.parent(&inode)?,
            };
            let found = Found {
                cookie: at,
                id,
                name,
            };
            if cookie < at && !visit(found) {
                return Ok(());
            }
        }
        let has_names = self.database.has_names(folder).told("listing a folder")?;
        if is_shared(folder) && cookie < FIRST_COOKIE {
            let below = self.tree.list(folder / 2);
            let below = below.told("listing a folder of the shared tree")?;
            let first = cookie.saturating_sub(PARENT) as usize;
            for (at, (name, number)) in below.iter().enumerate().skip(first) {
                if has_names {
                    let row = self.database.name(folder, name).told("listing a folder")?;
                    if row.is_some() {
                        continue;
                    }
                }
                let found = Found {
                    cookie: PARENT + 1 + at as u64,
                    id: number * 2,
                    name,
                };
                if !visit(found) {
                    return Ok(());
                }
            }
        }
        if !has_names {
            return Ok(());
        }
        let names = self
            .database
            .names(folder, cookie, &mut |cookie, id, name| {
                visit(Found { cookie, id, name })
            });
        names.told("listing a folder")
    }

    /// Makes a file, and gives its number.
    ///
    /// # Errors
    /// [`Status::Exists`] as [`How`] says; else those of [`make`](Self::make).
    pub fn create(
        &mut self,
        who: &Credential,
        folder: u64,
        name: &[u8],
        how: How,
        now: Time,
    ) -> Result<u64, Status> {
        let (set, verifier) = match how {
            How::Unchecked(set) | How::Guarded(set) => (set, None),
            How::Exclusive(verifier) => {
                let set = SetAttributes {
                    mode: Some(0),
                    ..SetAttributes::default()
                };
                (set, Some(verifier))
            }
        };
        if let Some(id) = self.existing(who, folder, name)? {
            let inode = self.load(id)?;
            return match how {
                How::Unchecked(set) if inode.kind == Kind::File => {
                    let only_size = SetAttributes {
                        size: set.size,
                        ..SetAttributes::default()
                    };
                    if set.size.is_some() {
                        self.set_attributes(who, id, &only_size, None, now)?;
                    }
                    Ok(id)
                }
                How::Exclusive(verifier) if inode.verifier == Some(verifier) => Ok(id),
                _ => Err(Status::Exists),
            };
        }
        self.add(who, folder, name, Kind::File, &set, now, &mut |inode| {
            inode.own = true;
            inode.size = set.size.unwrap_or(0);
            inode.verifier = verifier;
        })
    }

    /// Makes anything but a file, and gives its number.
    ///
    /// # Errors
    /// [`Status::Exists`], [`Status::NotFolder`], [`Status::Access`], [`Status::NameTooLong`],
    /// [`Status::NotOwner`] where a device is made by another than root, [`Status::Quota`].
    pub fn make(
        &mut self,
        who: &Credential,
        folder: u64,
        name: &[u8],
        new: New<'_>,
        set: &SetAttributes,
        now: Time,
    ) -> Result<u64, Status> {
        if self.existing(who, folder, name)?.is_some() {
            return Err(Status::Exists);
        }
        let kind = match new {
            New::Folder => Kind::Folder,
            New::Symlink(target) if target.is_empty() || target.contains(&0) => {
                return Err(Status::Invalid);
            }
            New::Symlink(_) => Kind::Symlink,
            New::Special(kind, ..) if kind.is_device() && !who.is_root() => {
                return Err(Status::NotOwner);
            }
            New::Special(kind, ..) => kind,
        };
        self.add(who, folder, name, kind, set, now, &mut |inode| match new {
            New::Folder => {
                inode.links = 2;
                inode.size = 4096;
                inode.parent = folder;
            }
            New::Symlink(target) => {
                inode.size = target.len() as u64;
                inode.target = Some(target.to_vec());
            }
            New::Special(kind, major, minor) if kind.is_device() => {
                inode.device = (major, minor);
            }
            New::Special(..) => {}
        })
    }

    /// Gives a file a further name.
    ///
    /// # Errors
    /// [`Status::Exists`], [`Status::NotFolder`], [`Status::Access`]; [`Status::IsFolder`], as folders
    /// have one name; [`Status::TooManyLinks`].
    pub fn link(
        &mut self,
        who: &Credential,
        id: u64,
        folder: u64,
        name: &[u8],
        now: Time,
    ) -> Result<(), Status> {
        let mut inode = self.load(id)?;
        if self.existing(who, folder, name)?.is_some() {
            return Err(Status::Exists);
        }
        let mut folder = self.load_folder(folder)?;
        need_names(who, &folder)?;
        match inode.kind {
            Kind::Folder => return Err(Status::IsFolder),
            _ if inode.links >= MAX_LINKS => return Err(Status::TooManyLinks),
            _ => {}
        }
        self.room()?;
        let stamp = self.stamp(now);
        self.change(|layer| {
            inode.links += 1;
            inode.changed = stamp.after(inode.changed);
            layer.store(&inode)?;
            layer.set_name(folder.id, name, id)?;
            layer.touch(&mut folder, stamp)
        })
    }

    /// What has this name, for whoever wants to make it.
    fn existing(&self, who: &Credential, folder: u64, name: &[u8]) -> Result<Option<u64>, Status> {
        let folder = self.load_folder(folder)?;
        check_name(name)?;
        need(who, &folder, Right::Execute)?;
        self.find(folder.id, name)
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        who: &Credential,
        folder: u64,
        name: &[u8],
        kind: Kind,
        set: &SetAttributes,
        now: Time,
        finish: &mut dyn FnMut(&mut Inode),
    ) -> Result<u64, Status> {
        let mut folder = self.load_folder(folder)?;
        need_names(who, &folder)?;
        if folder.links >= MAX_LINKS && kind == Kind::Folder {
            return Err(Status::TooManyLinks);
        }
        self.room()?;
        let stamp = self.stamp(now);
        self.change(|layer| {
            let id = layer.database.next_id().told("giving a number")?;
            let gives_group = folder.mode & SETGID != 0;
            let mut inode = Inode {
                id,
                kind,
                mode: match kind {
                    Kind::Folder => 0o755,
                    Kind::Symlink => 0o777,
                    _ => 0o644,
                },
                user: who.user,
                group: if gives_group { folder.group } else { who.group },
                links: 1,
                size: 0,
                used: 0,
                device: (0, 0),
                accessed: stamp,
                modified: stamp,
                changed: stamp,
                parent: 0,
                own: false,
                target: None,
                verifier: None,
            };
            finish(&mut inode);
            let without_size = SetAttributes { size: None, ..*set };
            Change::new(who, &without_size, stamp).apply_to_new(&mut inode);
            if gives_group && kind == Kind::Folder {
                inode.mode |= SETGID;
            }
            layer.store(&inode)?;
            layer.set_name(folder.id, name, id)?;
            if kind == Kind::Folder {
                folder.links += 1;
            }
            layer.touch(&mut folder, stamp)?;
            Ok(id)
        })
    }

    /// Refuses to make more, where the layer is as large as it may be.
    pub(super) fn room(&self) -> Result<(), Status> {
        match self.quota {
            Some(quota) if self.taken() >= quota => Err(Status::Quota),
            _ => Ok(()),
        }
    }

    pub(super) fn find(&self, folder: u64, name: &[u8]) -> Result<Option<u64>, Status> {
        match self.database.name(folder, name).told("looking up a name")? {
            Some(Named::File(id)) => Ok(Some(id)),
            Some(Named::Removed) => Ok(None),
            None => self.find_below(folder, name),
        }
    }

    pub(super) fn find_below(&self, folder: u64, name: &[u8]) -> Result<Option<u64>, Status> {
        if !is_shared(folder) {
            return Ok(None);
        }
        let found = self.tree.find(folder / 2, name);
        let found = found.told("looking up a name in the shared tree")?;
        Ok(found.map(|number| number * 2))
    }

    pub(super) fn parent(&self, folder: &Inode) -> Result<u64, Status> {
        match (folder.parent, is_shared(folder.id)) {
            (0, true) => {
                let parent = self.tree.parent(folder.id / 2);
                let parent = parent.told("looking up a folder's parent in the shared tree")?;
                Ok(parent * 2)
            }
            (parent, _) => Ok(parent),
        }
    }

    pub(super) fn set_name(&mut self, folder: u64, name: &[u8], id: u64) -> Result<(), Status> {
        let set = self.database.set_name(folder, name, id);
        set.told("writing a name's row")
    }

    /// A folder has changed what is in it.
    pub(super) fn touch(&mut self, folder: &mut Inode, stamp: Time) -> Result<(), Status> {
        folder.changed = stamp.after(folder.changed);
        folder.modified = folder.changed;
        self.store(folder)
    }
}
