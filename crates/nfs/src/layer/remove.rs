//! Names: taken away, and changed.

use super::error::Told;
use super::inode::{Inode, is_shared};
use super::names::{MAX_NAME, check_name};
use super::rights::{Right, need, need_names, need_removal};
use super::{After, Layer, Status};
use crate::kinds::{Credential, Kind, Time};

/// Folders that are gone through to see whether one is inside of another.
const MAX_DEPTH: usize = 4096;

impl Layer {
    /// Takes away a name of anything but a folder. With its last name the file is gone.
    ///
    /// # Errors
    /// [`Status::NoEntry`], [`Status::IsFolder`], [`Status::Access`], [`Status::NotOwner`].
    pub fn remove(
        &mut self,
        who: &Credential,
        folder: u64,
        name: &[u8],
        now: Time,
    ) -> Result<(), Status> {
        let (mut folder, inode) = self.named(who, folder, name)?;
        need_removal(who, &folder, &inode)?;
        if inode.kind == Kind::Folder {
            return Err(Status::IsFolder);
        }
        let stamp = self.stamp(now);
        self.change(|layer| {
            layer.clear_name(folder.id, name)?;
            layer.lose_name(inode, stamp)?;
            layer.touch(&mut folder, stamp)
        })
    }

    /// Takes away a folder that is empty.
    ///
    /// # Errors
    /// [`Status::NoEntry`], [`Status::NotFolder`], [`Status::NotEmpty`], [`Status::Access`],
    /// [`Status::NotOwner`].
    pub fn remove_folder(
        &mut self,
        who: &Credential,
        folder: u64,
        name: &[u8],
        now: Time,
    ) -> Result<(), Status> {
        match name {
            b"." => return Err(Status::Invalid),
            b".." => return Err(Status::NotEmpty),
            _ => {}
        }
        let (mut folder, inode) = self.named(who, folder, name)?;
        need_removal(who, &folder, &inode)?;
        if inode.kind != Kind::Folder {
            return Err(Status::NotFolder);
        }
        self.need_empty(inode.id)?;
        let stamp = self.stamp(now);
        self.change(|layer| {
            layer.clear_name(folder.id, name)?;
            layer.lose_folder(inode)?;
            folder.links = folder.links.saturating_sub(1).max(1);
            layer.touch(&mut folder, stamp)
        })
    }

    /// Gives a file or folder another name in place of the one that it has. What has that name
    /// already is gone, if it may be replaced.
    ///
    /// # Errors
    /// [`Status::NoEntry`], [`Status::Access`], [`Status::NotOwner`]; [`Status::IsFolder`],
    /// [`Status::NotFolder`], [`Status::NotEmpty`] for what has the name already;
    /// [`Status::Invalid`] where a folder would be inside of itself.
    pub fn rename(
        &mut self,
        who: &Credential,
        (from, from_name): (u64, &[u8]),
        (to, to_name): (u64, &[u8]),
        now: Time,
    ) -> Result<(), Status> {
        if [from_name, to_name]
            .iter()
            .any(|name| matches!(*name, b"." | b".."))
        {
            return Err(Status::Invalid);
        }
        let (from, mut inode) = self.named(who, from, from_name)?;
        let to = self.load_folder(to)?;
        check_name(to_name)?;
        need_removal(who, &from, &inode)?;
        need_names(who, &to)?;
        let is_folder = inode.kind == Kind::Folder;
        let moves = from.id != to.id;
        if is_folder && moves {
            need(who, &inode, Right::Write)?;
            if self.is_inside(to.id, inode.id)? {
                return Err(Status::Invalid);
            }
        }
        let replaced = match self.find(to.id, to_name)? {
            Some(id) if id == inode.id => return Ok(()),
            Some(id) => Some(self.load(id)?),
            None => None,
        };
        if let Some(replaced) = &replaced {
            need_removal(who, &to, replaced)?;
            match (is_folder, replaced.kind == Kind::Folder) {
                (true, false) => return Err(Status::NotFolder),
                (false, true) => return Err(Status::IsFolder),
                (true, true) => self.need_empty(replaced.id)?,
                (false, false) => {}
            }
        }
        let stamp = self.stamp(now);
        self.change(|layer| {
            // Both folders may be one, so each is loaded just before it is changed.
            let mut source = layer.load_folder(from.id)?;
            layer.clear_name(source.id, from_name)?;
            if is_folder && moves {
                source.links = source.links.saturating_sub(1).max(1);
            }
            layer.touch(&mut source, stamp)?;
            let mut target = layer.load_folder(to.id)?;
            if is_folder && moves {
                target.links += 1;
            }
            match replaced {
                Some(replaced) if replaced.kind == Kind::Folder => {
                    target.links = target.links.saturating_sub(1).max(1);
                    layer.lose_folder(replaced)?;
                }
                Some(replaced) => layer.lose_name(replaced, stamp)?,
                None => {}
            }
            layer.set_name(target.id, to_name, inode.id)?;
            layer.touch(&mut target, stamp)?;
            if is_folder {
                inode.parent = target.id;
            }
            inode.changed = stamp.after(inode.changed);
            layer.store(&inode)
        })
    }

    /// A folder and the file of a name in it.
    fn named(&self, who: &Credential, folder: u64, name: &[u8]) -> Result<(Inode, Inode), Status> {
        let folder = self.load_folder(folder)?;
        need(who, &folder, Right::Execute)?;
        if name.len() > MAX_NAME {
            return Err(Status::NameTooLong);
        }
        let id = self.find(folder.id, name)?.ok_or(Status::NoEntry)?;
        let inode = self.load(id)?;
        Ok((folder, inode))
    }

    fn need_empty(&self, folder: u64) -> Result<(), Status> {
        let mut is_empty = true;
        let root = Credential::root();
        // Behind the folder itself and its parent.
        self.list(&root, folder, 2, &mut |_| {
            is_empty = false;
            false
        })?;
        match is_empty {
            true => Ok(()),
            false => Err(Status::NotEmpty),
        }
    }

    /// Whether a folder is `outer` or somewhere inside of it.
    fn is_inside(&self, folder: u64, outer: u64) -> Result<bool, Status> {
        let mut at = folder;
        for _ in 0..MAX_DEPTH {
            if at == outer {
                return Ok(true);
            }
            if at == self.root() {
                return Ok(false);
            }
            at = self.parent(&self.load_folder(at)?)?;
        }
        Err(Status::Fault)
    }

    fn clear_name(&mut self, folder: u64, name: &[u8]) -> Result<(), Status> {
        let cleared = match self.find_below(folder, name)? {
            Some(_) => self.database.white_out(folder, name),
            None => self.database.clear_name(folder, name),
        };
        cleared.told("removing a name's row")
    }

    /// A file has one name less.
    fn lose_name(&mut self, mut inode: Inode, stamp: Time) -> Result<(), Status> {
        inode.links = inode.links.saturating_sub(1);
        if inode.links > 0 {
            inode.changed = stamp.after(inode.changed);
            return self.store(&inode);
        }
        if inode.own {
            self.used = self.used.saturating_sub(inode.used);
            self.after(After::Remove(inode.id));
        }
        self.lose(inode)
    }

    fn lose_folder(&mut self, mut inode: Inode) -> Result<(), Status> {
        // The rows of removed names go with it: nobody looks below its number again.
        let cleared = self.database.clear_names(inode.id);
        cleared.told("removing the rows of names")?;
        inode.links = 0;
        self.lose(inode)
    }

    /// A file is gone. One of the shared tree keeps a row that says so.
    fn lose(&mut self, mut inode: Inode) -> Result<(), Status> {
        if is_shared(inode.id) {
            (inode.links, inode.own, inode.used) = (0, false, 0);
            (inode.target, inode.verifier) = (None, None);
            return self.store(&inode);
        }
        self.forget_dirty(inode.id);
        let removed = self.database.remove_inode(inode.id);
        removed.told("removing a file's row")
    }
}
