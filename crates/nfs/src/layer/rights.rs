//! Who may do what. The kernel of the client leaves some of this to the server: whether names may be
//! made and removed, and attributes changed.

use super::inode::Inode;
use super::{Layer, Status};
use crate::kinds::{Credential, Kind};

/// A permission, as in the lowest 3 bits of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Right {
    /// To run a file, or to look up names in a folder.
    Execute = 1,
    /// To write.
    Write = 2,
    /// To read.
    Read = 4,
}

const READ: u32 = 0x01;
const LOOKUP: u32 = 0x02;
const MODIFY: u32 = 0x04;
const EXTEND: u32 = 0x08;
const DELETE: u32 = 0x10;
const EXECUTE: u32 = 0x20;
/// All bits that ACCESS can ask for (RFC 1813, 3.3.4).
pub const ACCESS_ALL: u32 = READ | LOOKUP | MODIFY | EXTEND | DELETE | EXECUTE;

pub(super) const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Whether the permissions of a file allow it.
pub(super) fn has(who: &Credential, inode: &Inode, right: Right) -> bool {
    if who.is_root() {
        // Root too runs only what somebody may run.
        return right != Right::Execute || inode.kind == Kind::Folder || inode.mode & 0o111 != 0;
    }
    let shift = match () {
        () if who.user == inode.user => 6,
        () if who.is_in(inode.group) => 3,
        () => 0,
    };
    inode.mode >> shift & right as u32 != 0
}

pub(super) fn need(who: &Credential, inode: &Inode, right: Right) -> Result<(), Status> {
    match has(who, inode, right) {
        true => Ok(()),
        false => Err(Status::Access),
    }
}

pub(super) fn owns(who: &Credential, inode: &Inode) -> bool {
    who.is_root() || who.user == inode.user
}

/// To read the content. The owner may in any case, as it may have opened the file before its
/// permissions were taken away; and whoever may run it.
pub(super) fn need_read(who: &Credential, inode: &Inode) -> Result<(), Status> {
    match owns(who, inode) || has(who, inode, Right::Execute) {
        true => Ok(()),
        false => need(who, inode, Right::Read),
    }
}

/// To write the content; as [`need_read`].
pub(super) fn need_write(who: &Credential, inode: &Inode) -> Result<(), Status> {
    match owns(who, inode) {
        true => Ok(()),
        false => need(who, inode, Right::Write),
    }
}

/// To make names in a folder.
pub(super) fn need_names(who: &Credential, folder: &Inode) -> Result<(), Status> {
    need(who, folder, Right::Execute)?;
    need(who, folder, Right::Write)
}

/// To take the name of a file out of a folder.
pub(super) fn need_removal(who: &Credential, folder: &Inode, file: &Inode) -> Result<(), Status> {
    need_names(who, folder)?;
    match folder.mode & STICKY != 0 && !owns(who, file) && !owns(who, folder) {
        true => Err(Status::NotOwner),
        false => Ok(()),
    }
}

impl Layer {
    /// Which bits of `mask` the permissions of a file allow.
    ///
    /// # Errors
    /// [`Status::Stale`] where it is gone.
    pub fn access(&self, who: &Credential, id: u64, mask: u32) -> Result<u32, Status> {
        let inode = self.load(id)?;
        let is_folder = inode.kind == Kind::Folder;
        let mut may = 0;
        if has(who, &inode, Right::Read) {
            may |= READ;
        }
        if has(who, &inode, Right::Write) {
            may |= MODIFY | EXTEND | if is_folder { DELETE } else { 0 };
        }
        if has(who, &inode, Right::Execute) {
            may |= if is_folder { LOOKUP } else { EXECUTE };
        }
        Ok(mask & may)
    }
}
