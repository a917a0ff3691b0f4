//! The state of every block, in memory: 2 bits a block, for groups that have any.

use super::format::{GROUP_BLOCKS, STATE_BYTES, State, groups};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

const WORDS: usize = STATE_BYTES / 8;
type Group = Box<[AtomicU64; WORDS]>;

/// States that are looked at by many threads and changed by one at a time.
pub(crate) struct Table {
    groups: Vec<OnceLock<Group>>,
}

impl Table {
    pub(crate) fn new(disk_size: u64) -> Self {
        let mut all = Vec::new();
        all.resize_with(groups(disk_size) as usize, OnceLock::new);
        Self { groups: all }
    }

    /// The state of a block; a block behind the end is absent.
    pub(crate) fn get(&self, block: u64) -> State {
        let group = self.groups.get((block / GROUP_BLOCKS) as usize);
        let Some(group) = group.and_then(OnceLock::get) else {
            return State::Absent;
        };
        let within = (block % GROUP_BLOCKS) as usize;
        let word = group
            .get(within / 32)
            .map(|word| word.load(Ordering::Acquire));
        State::from_bits((word.unwrap_or_default() >> (within % 32 * 2)) as u8)
    }

    /// How many blocks from `block` on, at most `most`, lie in groups that hold nothing at all.
    pub(crate) fn empty_run(&self, block: u64, most: u64) -> u64 {
        let mut at = block;
        let end = block.saturating_add(most);
        while at < end {
            let group = self.groups.get((at / GROUP_BLOCKS) as usize);
            if group.is_some_and(|group| group.get().is_some()) {
                break;
            }
            at = (at / GROUP_BLOCKS + 1) * GROUP_BLOCKS;
        }
        at.min(end) - block
    }

    /// Changes a block's state. The caller sees to it that nobody else does meanwhile.
    pub(crate) fn set(&self, block: u64, state: State) {
        let Some(group) = self.groups.get((block / GROUP_BLOCKS) as usize) else {
            return;
        };
        if group.get().is_none() && state == State::Absent {
            return;
        }
        let group = group.get_or_init(empty_group);
        let within = (block % GROUP_BLOCKS) as usize;
        if let Some(word) = group.get(within / 32) {
            let shift = within % 32 * 2;
            let old = word.load(Ordering::Relaxed);
            let new = old & !(3 << shift) | (state as u64) << shift;
            word.store(new, Ordering::Release);
        }
    }

    /// The states of a group as a page has them; `None` where all are absent.
    pub(crate) fn page(&self, group: u64) -> Option<Box<[u8; STATE_BYTES]>> {
        let group = self.groups.get(group as usize)?.get()?;
        let mut bytes = Box::new([0; STATE_BYTES]);
        for (out, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(group.iter()) {
            *out = word.load(Ordering::Acquire).to_le_bytes();
        }
        Some(bytes)
    }

    /// Takes the states of a group from a page.
    pub(crate) fn load(&self, group: u64, states: &[u8; STATE_BYTES]) {
        let Some(room) = self.groups.get(group as usize) else {
            return;
        };
        let words = room.get_or_init(empty_group);
        for (bytes, word) in states.as_chunks::<8>().0.iter().zip(words.iter()) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Release);
        }
    }

    /// How many blocks are in this file, and how many are zero without being there.
    pub(crate) fn count(&self) -> (u64, u64) {
        let (mut present, mut zero) = (0, 0);
        for word in self
            .groups
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|g| g.iter())
        {
            let word = word.load(Ordering::Acquire);
            let (low, high) = (
                word & 0x5555_5555_5555_5555,
                word >> 1 & 0x5555_5555_5555_5555,
            );
            present += u64::from(high.count_ones());
            zero += u64::from((low & !high).count_ones());
        }
        (present, zero)
    }
}

fn empty_group() -> Group {
    Box::new([const { AtomicU64::new(0) }; WORDS])
}

/// A map from blocks. Their numbers come from a client that can only slow down its own disk, so
/// the hash is a cheap one.
pub(crate) type BlockMap<V> = HashMap<u64, V, BuildHasherDefault<BlockHasher>>;

#[derive(Default)]
pub(crate) struct BlockHasher(u64);

impl Hasher for BlockHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_kept_counted_and_carried_over() {
        let table = Table::new(100 << 20);
        for (block, state) in [
            (0, State::A),
            (1, State::B),
            (8191, State::Zero),
            (8192, State::B),
        ] {
            table.set(block, state);
            assert_eq!(table.get(block), state);
        }
        assert_eq!(table.get(2), State::Absent);
        assert_eq!(table.get(u64::MAX), State::Absent);
        assert_eq!(table.count(), (3, 1));
        assert_eq!(table.empty_run(0, 10), 0);
        assert_eq!(table.empty_run(2 * 8192 + 5, 20_000), 20_000);
        let other = Table::new(100 << 20);
        for group in 0..4 {
            if let Some(page) = table.page(group) {
                other.load(group, &page);
            }
        }
        assert_eq!(other.count(), (3, 1));
        assert_eq!(other.get(8191), State::Zero);
        assert!(table.page(2).is_none());
    }
}
