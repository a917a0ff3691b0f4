//! A file in memory whose power can be cut: what was not synced is then lost in part, by sectors, in
//! any order.

use super::storage::Storage;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

/// A sparse file. Clones are the same file.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    length: u64,
    /// What reads see.
    now: BTreeMap<u64, Sector>,
    /// What the disk has.
    durable: BTreeMap<u64, Sector>,
    /// What each sector was given since the last sync.
    since_sync: BTreeMap<u64, Vec<Sector>>,
    /// Writes and syncs until everything fails, as when the power goes.
    fuse: Option<u64>,
}

impl Content {
    fn put(&mut self, sector: u64, bytes: Sector) {
        // Zeros in a hole leave it one, as far as anybody can tell.
        if bytes == [0; SECTOR as usize] && !self.now.contains_key(&sector) {
            return;
        }
        self.now.insert(sector, bytes);
        self.since_sync.entry(sector).or_default().push(bytes);
    }

    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Puts whole or parts of sectors.
    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % SECTOR) as usize;
            let length = rest.len().min(SECTOR as usize - within);
            let (now, behind) = rest.split_at(length);
            let mut sector = self
                .now
                .get(&(at / SECTOR))
                .copied()
                .unwrap_or([0; SECTOR as usize]);
            if let Some(room) = sector.get_mut(within..within + length) {
                room.copy_from_slice(now);
            }
            self.put(at / SECTOR, sector);
            at += length as u64;
            rest = behind;
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes bytes behind everybody's back.
    pub(super) fn damage(&self, offset: u64, data: &[u8]) {
        let mut content = self.lock();
        content.write(offset, data);
        content.since_sync.clear();
        content.durable = content.now.clone();
    }

    /// After so many writes and syncs, every further one fails.
    #[cfg(test)]
    pub(super) fn burn_after(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// The file as the disk has it after the power was cut: of each sector that was written since the
    /// last sync, one of the contents that it had meanwhile, by `choose(how many there are)`.
    #[cfg(test)]
    pub(super) fn after_cut(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        let content = self.lock();
        let mut left = content.durable.clone();
        for (&sector, versions) in &content.since_sync {
            let chosen = choose(versions.len() + 1);
            if let Some(bytes) = chosen.checked_sub(1).and_then(|at| versions.get(at)) {
                left.insert(sector, *bytes);
            }
        }
        Self(Arc::new(Mutex::new(Content {
            length: content.length,
            now: left.clone(),
            durable: left,
            ..Content::default()
        })))
    }

    /// The file as the next process finds it after this one was killed: nothing is lost.
    #[cfg(test)]
    pub(super) fn after_kill(&self) -> Self {
        self.after_cut(|versions| versions - 1)
    }
}

impl Storage for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let content = self.lock();
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > content.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        let sectors = offset / SECTOR..offset.saturating_add(buf.len() as u64).div_ceil(SECTOR);
        for (&sector, bytes) in content.now.range(sectors) {
            let start = sector * SECTOR;
            let skipped = offset.saturating_sub(start) as usize;
            let to = start.saturating_sub(offset) as usize;
            let length = (SECTOR as usize - skipped).min(buf.len() - to);
            let part = bytes.get(skipped..skipped + length).unwrap_or_default();
            if let Some(room) = buf.get_mut(to..to + length) {
                room.copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.lock();
        if content.burn().is_err() {
            // A part of it arrives.
            content.write(offset, data.get(..data.len() / 2).unwrap_or_default());
            return Err(io::Error::other("the power is off"));
        }
        content.write(offset, data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.lock();
        content.burn()?;
        for (sector, versions) in std::mem::take(&mut content.since_sync) {
            if let Some(bytes) = versions.last() {
                content.durable.insert(sector, *bytes);
            }
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut content = self.lock();
        content.burn()?;
        let sectors = offset / SECTOR..offset.saturating_add(length) / SECTOR;
        let there: Vec<u64> = content
            .now
            .range(sectors)
            .map(|(&sector, _)| sector)
            .collect();
        for sector in there {
            content.put(sector, [0; SECTOR as usize]);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<u64> {
        let content = self.lock();
        let found = content.now.range(offset / SECTOR..).next();
        Ok(found.map_or(end, |(&sector, _)| (sector * SECTOR).max(offset).min(end)))
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        self.lock().length = length;
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().length)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64 * SECTOR)
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}
