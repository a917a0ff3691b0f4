//! Which blocks a file has: extents of ext4, and the indirect blocks of ext2 and ext3 (`ifork.rst`).

use super::inode::Inode;
use super::{Steps, TreeError};
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at};
use crate::ext::Superblock;
use std::ops::Range;

/// Deepest tree of extents.
const MAX_DEPTH: u16 = 5;
/// Bytes of the head of a node, and of an entry.
const ENTRY: usize = 12;
/// Marks a node.
const NODE: u16 = 0xf30a;
/// Longer extents are not written yet, and this much shorter.
const MAX_WRITTEN: u64 = 32768;
/// Blocks of a file that its inode names itself.
const DIRECT: u64 = 12;

/// Blocks that follow each other.
pub(super) struct Run {
    /// The first of them, counted in the file.
    pub(super) first: u64,
    pub(super) count: u64,
    /// The first of them, counted in the volume, where all of them are.
    pub(super) block: u64,
}

/// What is needed on the way down.
struct Walk<'a> {
    volume: &'a dyn ReadAt,
    superblock: &'a Superblock,
    /// The blocks that are asked for.
    wanted: Range<u64>,
    steps: &'a mut Steps,
    visit: &'a mut dyn FnMut(Run) -> Result<(), TreeError>,
}

/// Visits the blocks of a file that are wanted, rising; runs may begin before them and end behind them.
pub(super) fn blocks(
    volume: &dyn ReadAt,
    superblock: &Superblock,
    inode: &Inode,
    wanted: Range<u64>,
    steps: &mut Steps,
    visit: &mut dyn FnMut(Run) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    inode.check_readable()?;
    let mut walk = Walk {
        volume,
        superblock,
        wanted,
        steps,
        visit,
    };
    if inode.has_extents() {
        let depth = u16_at(inode.map(), 6);
        if depth > MAX_DEPTH {
            return Err(damaged());
        }
        // Blocks of a file are numbered with 32 bits.
        return walk.extents(inode.map(), depth, 0..1 << 32);
    }
    let numbers = inode.map().chunks_exact(4).map(|bytes| u32_at(bytes, 0));
    let mut first = 0;
    for (number, index) in numbers.zip(0..) {
        let level = if index < DIRECT {
            0
        } else {
            index - DIRECT + 1
        };
        walk.indirect(number, level as u32, first)?;
        first = first.saturating_add(walk.span(level as u32));
    }
    Ok(())
}

impl Walk<'_> {
    /// Goes through a node of the tree of extents, which is about the blocks `range` of the file.
    /// Every key is larger than the one before and in its range, so that no node can be met twice.
    fn extents(&mut self, node: &[u8], depth: u16, range: Range<u64>) -> Result<(), TreeError> {
        let count = usize::from(u16_at(node, 2));
        let fits = u16_at(node, 0) == NODE
            && u16_at(node, 6) == depth
            && count <= usize::from(u16_at(node, 4))
            && (count + 1) * ENTRY <= node.len();
        if !fits {
            return Err(damaged());
        }
        let entries = node.get(ENTRY..(count + 1) * ENTRY).unwrap_or_default();
        let key = |index: usize| {
            let place = index * ENTRY;
            (place < entries.len()).then(|| u64::from(u32_at(entries, place)))
        };
        let mut behind = range.start;
        for (index, entry) in entries.chunks_exact(ENTRY).enumerate() {
            self.steps.take()?;
            let first = u64::from(u32_at(entry, 0));
            let end = key(index + 1).unwrap_or(range.end);
            if first < behind || first >= end || end > range.end {
                return Err(damaged());
            }
            behind = end;
            if end <= self.wanted.start || first >= self.wanted.end {
                continue;
            }
            if depth == 0 {
                let length = u64::from(u16_at(entry, 4));
                let (count, is_written) = match length {
                    0..=MAX_WRITTEN => (length, true),
                    _ => (length - MAX_WRITTEN, false),
                };
                let block = u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8));
                if count == 0 || first + count > end {
                    return Err(damaged());
                }
                if is_written {
                    self.run(first, count, block)?;
                }
            } else {
                let block = u64::from(u16_at(entry, 8)) << 32 | u64::from(u32_at(entry, 4));
                let node = self.read(block)?;
                if u16_at(&node, 2) == 0 {
                    return Err(damaged());
                }
                self.extents(&node, depth - 1, first..end)?;
            }
        }
        Ok(())
    }

    /// Goes through a block that names blocks, `level` times over: 0 is one of the file itself. It is
    /// about the blocks of the file from `first`. Zero is a hole.
    fn indirect(&mut self, block: u32, level: u32, first: u64) -> Result<(), TreeError> {
        let end = first.saturating_add(self.span(level));
        if block == 0 || end <= self.wanted.start || first >= self.wanted.end {
            return Ok(());
        }
        self.steps.take()?;
        if level == 0 {
            return self.run(first, 1, u64::from(block));
        }
        let numbers = self.read(u64::from(block))?;
        let span = self.span(level - 1);
        for (bytes, index) in numbers.chunks_exact(4).zip(0..) {
            let first = first.saturating_add(span.saturating_mul(index));
            self.indirect(u32_at(bytes, 0), level - 1, first)?;
        }
        Ok(())
    }

    /// How many blocks of a file a block of that level is about.
    fn span(&self, level: u32) -> u64 {
        (self.superblock.block / 4).saturating_pow(level)
    }

    fn run(&mut self, first: u64, count: u64, block: u64) -> Result<(), TreeError> {
        if block == 0 || block.saturating_add(count) > self.superblock.blocks {
            return Err(TreeError::Damaged("a file leads out of it".into()));
        }
        (self.visit)(Run {
            first,
            count,
            block,
        })
    }

    fn read(&mut self, block: u64) -> Result<Vec<u8>, TreeError> {
        self.steps.take()?;
        if block == 0 || block >= self.superblock.blocks {
            return Err(TreeError::Damaged("a file leads out of it".into()));
        }
        let mut bytes = vec![0; self.superblock.block as usize];
        let place = block * self.superblock.block;
        self.volume.read_at(place, &mut bytes)?;
        Ok(bytes)
    }
}

fn damaged() -> TreeError {
    TreeError::Damaged("the extents of a file do not fit".into())
}
