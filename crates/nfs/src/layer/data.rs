//! Contents: read, written, made durable.

use super::attributes::{MAX_SIZE, lose_privileges};
use super::error::Told;
use super::inode::Inode;
use super::rights::{need_read, need_write};
use super::{Layer, MAX_DIRTY, Status};
use crate::kinds::{Credential, Kind, Stability, Time};

/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;

impl Layer {
    /// The bytes of a file from `offset`, at most `count`, and whether they end where it ends.
    ///
    /// # Errors
    /// [`Status::Invalid`] where it is no file, [`Status::Access`], [`Status::Io`].
    pub fn read(
        &mut self,
        who: &Credential,
        id: u64,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), Status> {
        let inode = self.load_file(id)?;
        need_read(who, &inode)?;
        let count = u64::from(count).min(inode.size.saturating_sub(offset));
        let is_end = offset.saturating_add(count) >= inode.size;
        if count == 0 {
            return Ok((vec![], is_end));
        }
        if inode.own {
            self.settle_content(id)?;
            let mut bytes = vec![0; count as usize];
            let read = self.content.read(id, inode.size, offset, &mut bytes);
            read.told("reading a content")?;
            return Ok((bytes, is_end));
        }
        let bytes = self.tree.read(id / 2, offset, count as usize);
        let bytes = bytes.told("reading a file of the shared tree")?;
        match bytes.len() as u64 == count {
            true => Ok((bytes, is_end)),
            false => Err(Status::Io),
        }
    }

    /// Writes into a file, and makes it longer where needed; durable as far as `stability` says.
    ///
    /// # Errors
    /// [`Status::Invalid`] where it is no file, [`Status::Access`], [`Status::TooLarge`],
    /// [`Status::Quota`], [`Status::NoSpace`], [`Status::Io`]: some of it may have been written then.
    pub fn write(
        &mut self,
        who: &Credential,
        id: u64,
        offset: u64,
        data: &[u8],
        stability: Stability,
        now: Time,
    ) -> Result<(), Status> {
        let mut inode = self.load_file(id)?;
        need_write(who, &inode)?;
        let length = data.len() as u64;
        let end = offset.checked_add(length);
        let end = end.filter(|end| *end <= MAX_SIZE).ok_or(Status::TooLarge)?;
        if length == 0 {
            return Ok(());
        }
        self.settle_content(id)?;
        if !inode.own {
            let size = inode.size;
            self.take_over(&mut inode, size)?;
            self.dirty.insert(id, inode.clone());
        }
        self.need_room(&inode, offset, length)?;
        let written = self.content.write(id, inode.size, offset, data);
        let used = written.told("writing a content")?;
        self.used = self.used.saturating_sub(inode.used) + used;
        inode.used = used;
        inode.size = inode.size.max(end);
        let stamp = self.stamp(now).after(inode.changed);
        (inode.modified, inode.changed) = (stamp, stamp);
        if !who.is_root() {
            lose_privileges(&mut inode);
        }
        if self.dirty.len() >= MAX_DIRTY {
            self.write_down()?;
        }
        self.dirty.insert(id, inode);
        match stability {
            Stability::Unstable => Ok(()),
            Stability::Data | Stability::File => self.commit(id),
        }
    }

    /// Makes durable what was written into a file, together with the next
    /// [`settle`](Self::settle).
    ///
    /// # Errors
    /// [`Status::Io`]: nothing is known then of what was written since the last time.
    pub fn commit(&mut self, id: u64) -> Result<(), Status> {
        let inode = self.load_file(id)?;
        if !inode.own {
            return Ok(());
        }
        let synced = self.content.sync(id, inode.size);
        synced.told("making a content durable")?;
        match self.dirty.contains_key(&id) {
            true => self.change(|layer| layer.store(&inode)),
            false => Ok(()),
        }
    }

    fn load_file(&self, id: u64) -> Result<Inode, Status> {
        let inode = self.load(id)?;
        match inode.kind {
            Kind::File => Ok(inode),
            _ => Err(Status::Invalid),
        }
    }

    /// Copies the first `length` bytes of a file of the shared tree into the layer.
    pub(super) fn take_over(&mut self, inode: &mut Inode, length: u64) -> Result<(), Status> {
        if self
            .quota
            .is_some_and(|quota| self.taken() + length > quota)
        {
            return Err(Status::Quota);
        }
        let number = inode.id / 2;
        // What a copy that was given up has left is not part of this one.
        self.content.remove(inode.id).told("copying a file")?;
        let mut at = 0;
        while at < length {
            let count = PIECE.min(length - at);
            let bytes = self.tree.read(number, at, count as usize);
            let bytes = bytes.told("copying a file of the shared tree")?;
            if bytes.len() as u64 != count {
                return Err(Status::Io);
            }
            // Holes stay holes.
            if bytes.iter().any(|byte| *byte != 0) {
                let copied = self.content.write(inode.id, at, at, &bytes);
                if let Err(status) = copied.told("copying a file of the shared tree") {
                    let _ = self.content.remove(inode.id);
                    return Err(status);
                }
            }
            at += count;
        }
        // Before a row can say that the content is here.
        self.content.sync(inode.id, length).told("copying a file")?;
        let used = self.content.used(inode.id, length);
        inode.used = used.told("copying a file")?;
        inode.own = true;
        self.used += inode.used;
        Ok(())
    }

    /// Whether a write may take more room. Over what is there already it may in any case.
    fn need_room(&self, inode: &Inode, offset: u64, length: u64) -> Result<(), Status> {
        let Some(quota) = self.quota else {
            return Ok(());
        };
        let is_filled = inode.used >= inode.size && offset + length <= inode.size;
        match is_filled || self.taken() + length <= quota {
            true => Ok(()),
            false => Err(Status::Quota),
        }
    }
}
