//! Attributes: changed.

use super::inode::Inode;
use super::rights::{Right, SETGID, SETUID, has, need_write, owns};
use super::{After, Layer, Status};
use crate::kinds::{Credential, Kind, SetAttributes, SetTime, Time};

/// Longest file, in bytes: that of ext4.
pub const MAX_SIZE: u64 = 16 << 40;

/// A change of attributes by somebody.
pub(super) struct Change<'a> {
    who: &'a Credential,
    set: &'a SetAttributes,
    stamp: Time,
}

impl<'a> Change<'a> {
    pub(super) fn new(who: &'a Credential, set: &'a SetAttributes, stamp: Time) -> Self {
        Self { who, set, stamp }
    }

    /// Sets what a file is made with; what its maker may not set is left out.
    pub(super) fn apply_to_new(&self, inode: &mut Inode) {
        if let Some(user) = self.set.user
            && self.who.is_root()
        {
            inode.user = user;
        }
        if let Some(group) = self.set.group
            && (self.who.is_root() || self.who.is_in(group))
        {
            inode.group = group;
        }
        if let Some(mode) = self.set.mode
            && inode.kind != Kind::Symlink
        {
            inode.mode = self.mode(inode, mode);
        }
        self.times(inode);
    }

    /// Whether it may be done.
    fn check(&self, inode: &Inode) -> Result<(), Status> {
        let (who, set) = (self.who, self.set);
        let owner = owns(who, inode);
        let changes_user = set.user.is_some_and(|user| user != inode.user);
        let takes_group = set.group.filter(|group| *group != inode.group);
        let may_group = takes_group.is_none_or(|group| owner && who.is_in(group));
        if !who.is_root() && (changes_user || !may_group) {
            return Err(Status::NotOwner);
        }
        let sets_owner = set.user.is_some() || set.group.is_some();
        let times = [set.accessed, set.modified];
        let to = times.iter().any(|time| matches!(time, SetTime::To(_)));
        if !owner && (set.mode.is_some() || sets_owner || to) {
            return Err(Status::NotOwner);
        }
        if !owner && times.contains(&SetTime::Now) && !has(who, inode, Right::Write) {
            return Err(Status::Access);
        }
        match set.size {
            Some(_) if inode.kind == Kind::Folder => Err(Status::IsFolder),
            Some(_) if inode.kind != Kind::File => Err(Status::Invalid),
            Some(size) if size > MAX_SIZE => Err(Status::TooLarge),
            Some(_) => need_write(who, inode),
            None => Ok(()),
        }
    }

    /// Sets everything but the size.
    fn apply(&self, inode: &mut Inode) {
        let set = self.set;
        if set.user.is_some() || set.group.is_some() {
            inode.user = set.user.unwrap_or(inode.user);
            inode.group = set.group.unwrap_or(inode.group);
            if inode.kind != Kind::Folder {
                lose_privileges(inode);
            }
        }
        if let Some(mode) = set.mode {
            inode.mode = self.mode(inode, mode);
        }
        self.times(inode);
    }

    /// A mode as `who` may set it: setgid is for members of the group.
    fn mode(&self, inode: &Inode, mode: u32) -> u32 {
        let may_setgid = self.who.is_root() || self.who.is_in(inode.group);
        mode & 0o7777 & if may_setgid { !0 } else { !SETGID }
    }

    fn times(&self, inode: &mut Inode) {
        let set = |time: &mut Time, to: SetTime| match to {
            SetTime::Keep => {}
            SetTime::Now => *time = self.stamp,
            // Nanoseconds that are none are taken as the last one.
            SetTime::To(to) => *time = Time::from_nanoseconds(to.as_nanoseconds()),
        };
        set(&mut inode.accessed, self.set.accessed);
        set(&mut inode.modified, self.set.modified);
    }
}

/// Takes setuid and setgid away, as a change of owner or content does; setgid without the right to
/// execute means something else and stays.
pub(super) fn lose_privileges(inode: &mut Inode) {
    inode.mode &= !SETUID;
    if inode.mode & 0o010 != 0 {
        inode.mode &= !SETGID;
    }
}

impl Layer {
    /// Sets attributes, all or none. With `guard`, only if the file was last changed then.
    ///
    /// # Errors
    /// [`Status::NotOwner`], [`Status::Access`], [`Status::NotSync`] where `guard` does not fit,
    /// [`Status::TooLarge`], [`Status::Quota`].
    pub fn set_attributes(
        &mut self,
        who: &Credential,
        id: u64,
        set: &SetAttributes,
        guard: Option<Time>,
        now: Time,
    ) -> Result<(), Status> {
        let mut inode = self.load(id)?;
        if guard.is_some_and(|guard| guard != inode.changed) {
            return Err(Status::NotSync);
        }
        let stamp = self.stamp(now).after(inode.changed);
        let change = Change::new(who, set, stamp);
        change.check(&inode)?;
        if set.size.is_some() {
            // What is still to be cut of it must not be cut after this.
            self.settle_content(id)?;
        }
        self.change(|layer| {
            if let Some(size) = set.size {
                layer.resize(&mut inode, size)?;
                inode.modified = stamp;
                if !who.is_root() {
                    lose_privileges(&mut inode);
                }
            }
            change.apply(&mut inode);
            inode.changed = stamp;
            layer.store(&inode)
        })
    }

    fn resize(&mut self, inode: &mut Inode, size: u64) -> Result<(), Status> {
        use super::error::Told;
        if !inode.own {
            if size == inode.size {
                return Ok(());
            }
            self.take_over(inode, inode.size.min(size))?;
        }
        // Whatever a crash has left behind the end must not come to light.
        let cut = self.content.truncate(inode.id, inode.size);
        cut.told("cutting a content")?;
        if size < inode.size {
            // What it gives back is counted when it is cut.
            self.after(After::Truncate(inode.id, size));
            let left = inode.used.min(size.next_multiple_of(4096));
            self.used = self.used.saturating_sub(inode.used - left);
            inode.used = left;
        }
        inode.size = size;
        Ok(())
    }
}
