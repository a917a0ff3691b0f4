//! Giving back the space of places that hold nothing any more.

use super::{
    Overlay,
    commit::Journal,
    format::{BLOCK, GROUP_BLOCKS, GROUPS_START, State, groups, page_place, place},
    guard,
};
use std::{io, sync::atomic::Ordering};

/// After so many bytes were written it is looked whether there is much to give back.
const LOOK_EVERY: u64 = 8 << 20;
/// Less than this is not worth the work.
const WORTH_IT: u64 = 16 << 20;
/// Blocks that are looked at while nobody can write.
const AT_ONCE: u64 = 1024;

impl Overlay {
    /// Looks now and then whether old content takes much space, and gives it back.
    pub(super) fn reclaim_sometimes(&self, journal: &mut Journal) -> io::Result<()> {
        if journal.since_reclaim < LOOK_EVERY {
            return Ok(());
        }
        journal.since_reclaim = 0;
        let present = self.present.load(Ordering::Relaxed) * BLOCK as u64;
        let expected = GROUPS_START + present + journal.pages.len() as u64 * 2 * BLOCK as u64;
        let quota = self.quota.load(Ordering::Relaxed);
        // Without a quota it is measured by what is there.
        let measure = if quota == u64::MAX { present } else { quota };
        let excess = self.storage.allocated()?.saturating_sub(expected);
        if excess > WORTH_IT.max(measure / 8) {
            self.reclaim(journal)?;
        }
        Ok(())
    }

    /// Gives back every place that no durable state and no unflushed write speaks of.
    pub(super) fn reclaim(&self, journal: &Journal) -> io::Result<()> {
        for group in 0..groups(self.disk_size) {
            let start = place(group * GROUP_BLOCKS, State::A);
            let end = page_place(group + 1, 0);
            if self.storage.next_data(start, end)? >= end {
                continue;
            }
            let mut block = group * GROUP_BLOCKS;
            while block < (group + 1) * GROUP_BLOCKS {
                let stop = block + AT_ONCE;
                self.reclaim_blocks(journal, block, stop)?;
                block = stop;
            }
        }
        Ok(())
    }

    fn reclaim_blocks(&self, journal: &Journal, first: u64, stop: u64) -> io::Result<()> {
        // Nobody writes to a place while it is looked whether it is free. Who reads is in a place
        // that a state speaks of, and holds off those who would change that.
        let _gate = guard(self.gate.write());
        let maps = guard(self.maps.lock());
        for copy in [State::A, State::B] {
            let is_free =
                |block: u64| journal.durable.get(block) != copy && !maps.dirty.contains_key(&block);
            let mut block = first;
            while block < stop {
                if !is_free(block) {
                    block += 1;
                    continue;
                }
                let start = block;
                while block < stop && is_free(block) {
                    block += 1;
                }
                let from = place(start, copy);
                let length = (block - start) * BLOCK as u64;
                if self.storage.next_data(from, from + length)? < from + length {
                    self.storage.punch(from, length)?;
                }
            }
        }
        Ok(())
    }
}
