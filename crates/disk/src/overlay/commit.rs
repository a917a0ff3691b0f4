//! Making what was written durable: transactions and checkpoints.

use super::{
    Dirty, Maps, Overlay,
    format::{
        self, Entry, GROUP_BLOCKS, Header, JOURNAL_LEN, JOURNAL_START, MAX_ENTRIES, MAX_RUN, State,
        encode_page, encode_tx, page_place, tx_len,
    },
    guard,
    storage::Storage,
    table::{BlockMap, Table},
};
use crate::DeviceError;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, MutexGuard},
};

/// What the disk is known to hold, and where the next transaction goes.
pub(super) struct Journal {
    /// As in the file's first copy.
    pub(super) header: Header,
    /// The states that are durable: pages and journal together.
    pub(super) durable: Table,
    /// Bytes of the journal that are in use.
    pub(super) used: u64,
    /// Number of the next transaction.
    pub(super) sequence: u64,
    /// Groups that the journal speaks of.
    pub(super) changed: BTreeMap<u64, ()>,
    /// Of each group that has a page: the copy that is current, and its checksum.
    pub(super) pages: BTreeMap<u64, (u8, u64)>,
    /// Highest generation that any page in the file has.
    pub(super) highest: u64,
    /// Bytes that were made durable since space was last looked at.
    pub(super) since_reclaim: u64,
}

impl Journal {
    /// Makes entries durable, and with them what they speak of.
    fn append(&mut self, storage: &dyn Storage, entries: &[Entry], sync: bool) -> io::Result<()> {
        for entries in entries.chunks(MAX_ENTRIES) {
            if self.used + tx_len(entries.len()) > JOURNAL_LEN {
                self.checkpoint(storage, sync)?;
            }
            let header = &self.header;
            let bytes = encode_tx(&header.id, header.generation, self.sequence, entries);
            storage.write_at(JOURNAL_START + self.used, &bytes)?;
            if sync {
                storage.sync()?;
            }
            self.used += bytes.len() as u64;
            self.sequence += 1;
            for entry in entries {
                self.note(entry);
            }
        }
        Ok(())
    }

    /// Takes an entry into account.
    pub(super) fn note(&mut self, entry: &Entry) {
        for block in entry.block..entry.block.saturating_add(entry.run) {
            self.durable.set(block, entry.state);
            if block == entry.block || block.is_multiple_of(GROUP_BLOCKS) {
                self.changed.insert(block / GROUP_BLOCKS, ());
            }
        }
    }

    /// Writes the pages of changed groups, and begins the journal again.
    pub(super) fn checkpoint(&mut self, storage: &dyn Storage, sync: bool) -> io::Result<()> {
        let mut header = self.header.clone();
        // Above that of a page which a checkpoint left that did not come to its end.
        header.generation = self.highest.max(header.generation) + 1;
        let mut written = Vec::with_capacity(self.changed.len());
        for &group in self.changed.keys() {
            let Some(states) = self.durable.page(group) else {
                continue;
            };
            let old = self.pages.get(&group).copied();
            let copy = old.map_or(0, |(copy, _)| copy ^ 1);
            let (bytes, sum) = encode_page(&header.id, group, header.generation, &states);
            storage.write_at(page_place(group, copy), &bytes)?;
            let before = old.map_or(0, |(_, sum)| sum);
            header.table_sum = header.table_sum.wrapping_sub(before).wrapping_add(sum);
            written.push((group, (copy, sum)));
        }
        self.highest = header.generation;
        if sync {
            storage.sync()?;
        }
        write_header(storage, &header, sync)?;
        self.pages.extend(written);
        self.header = header;
        self.changed.clear();
        self.used = 0;
        self.sequence = 0;
        Ok(())
    }
}

/// Writes both copies of the header, one after the other. The second becomes durable with whatever is
/// synced next.
pub(super) fn write_header(storage: &dyn Storage, header: &Header, sync: bool) -> io::Result<()> {
    let bytes = header.encode();
    storage.write_at(0, &bytes)?;
    if sync {
        storage.sync()?;
    }
    storage.write_at(format::BLOCK as u64, &bytes)
}

impl Overlay {
    /// Makes durable all that was written before. Many who ask at once are served by one commit.
    pub(super) fn flush_all(&self) -> Result<(), DeviceError> {
        let mut maps = guard(self.maps.lock());
        maps.check()?;
        let wanted = match (maps.dirty.is_empty(), maps.committing.is_empty()) {
            (true, true) => return Ok(()),
            // All there is belongs to the commit that runs.
            (true, false) => maps.started,
            (false, _) => maps.started + 1,
        };
        loop {
            if maps.ended >= wanted {
                return maps.check();
            }
            if maps.started > maps.ended {
                let running = maps.started;
                maps = self.wait_for(maps, running)?;
                continue;
            }
            maps.started += 1;
            drop(maps);
            let result = self.commit();
            maps = guard(self.maps.lock());
            maps.committing = Arc::default();
            maps.ended = maps.started;
            if let Err(error) = &result {
                // The kernel forgets what it could not write: a second flush would succeed, and
                // prove nothing.
                maps.fail(format!(
                    "what was written could not be made durable: {error}"
                ));
            }
            self.ended.notify_all();
            result.map_err(DeviceError::io("flush the overlay"))?;
        }
    }

    /// Waits for the end of a commit.
    pub(super) fn wait_for<'a>(
        &self,
        maps: MutexGuard<'a, Maps>,
        commit: u64,
    ) -> Result<MutexGuard<'a, Maps>, DeviceError> {
        let maps = guard(self.ended.wait_while(maps, |maps| maps.ended < commit));
        maps.check()?;
        Ok(maps)
    }

    fn commit(&self) -> io::Result<()> {
        let batch = {
            // Nobody is in the middle of writing a block that is taken along.
            let _gate = guard(self.gate.write());
            let mut maps = guard(self.maps.lock());
            maps.committing = Arc::new(std::mem::take(&mut maps.dirty));
            Arc::clone(&maps.committing)
        };
        let entries = entries(&batch, &self.table);
        let mut journal = guard(self.journal.lock());
        if let Err(DeviceError::Io { source, .. }) = guard(self.maps.lock()).check() {
            return Err(source);
        }
        let storage = &*self.storage;
        journal.append(storage, &entries, self.durable)?;
        journal.since_reclaim += batch.len() as u64 * format::BLOCK as u64;
        self.reclaim_sometimes(&mut journal)
    }

    /// Writes pages and header, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// Those of [`flush`](crate::BlockDevice::flush).
    pub fn checkpoint(&self) -> Result<(), DeviceError> {
        self.flush_all()?;
        let mut journal = guard(self.journal.lock());
        guard(self.maps.lock()).check()?;
        if journal.used == 0 {
            return Ok(());
        }
        let written = journal.checkpoint(&*self.storage, self.durable);
        drop(journal);
        if let Err(error) = &written {
            let what = format!("a checkpoint could not be written: {error}");
            guard(self.maps.lock()).fail(what);
        }
        written.map_err(DeviceError::io("write a checkpoint of the overlay"))
    }

    /// Changes how much the overlay may hold, in bytes. What it holds already it keeps.
    ///
    /// # Errors
    /// Those of [`flush`](crate::BlockDevice::flush).
    pub fn set_quota(&self, quota: u64) -> Result<(), DeviceError> {
        let mut journal = guard(self.journal.lock());
        guard(self.maps.lock()).check()?;
        journal.header.quota = quota;
        let written = journal.checkpoint(&*self.storage, self.durable);
        drop(journal);
        if let Err(error) = &written {
            let what = format!("a new quota could not be written: {error}");
            guard(self.maps.lock()).fail(what);
        }
        written.map_err(DeviceError::io("write the overlay's quota"))?;
        self.quota
            .store(quota, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// What a transaction says of a batch: by block, runs of zeros as one.
fn entries(batch: &BlockMap<Dirty>, table: &Table) -> Vec<Entry> {
    let mut blocks: Vec<_> = batch
        .iter()
        .map(|(&block, dirty)| (block, dirty.sum))
        .collect();
    blocks.sort_unstable();
    let mut entries: Vec<Entry> = Vec::with_capacity(blocks.len());
    for (block, sum) in blocks {
        let state = table.get(block);
        match entries.last_mut() {
            Some(last)
                if state == State::Zero
                    && last.state == state
                    && last.block + last.run == block
                    && last.run < MAX_RUN =>
            {
                last.run += 1;
            }
            _ => entries.push(Entry {
                block,
                run: 1,
                state,
                sum: if state.is_present() { sum } else { 0 },
            }),
        }
    }
    entries
}
