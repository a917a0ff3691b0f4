//! Which bytes of an ext volume are in use.

use super::group::{Descriptor, Descriptors, copies};
use super::superblock::{NotExt, Superblock, compat, incompat, ro_compat};
use crate::bytes::u32_at;
use crate::checksum::crc32c;
use crate::usage::{Gather, Unusable, Usage};
use crate::{Ranges, ReadAt};
use std::ops::Range;

/// Most bytes of bitmaps that are read at once.
const PIECE: u64 = 256 << 10;
/// Most ranges of metadata out of its order that are kept, before they are sorted: 16 MiB.
const MOST_STRAY: usize = 1 << 20;
/// `mmp_seq` of a volume that no host uses (`ext4/mmp.rst`).
const MMP_CLEAN: u32 = 0xff4d_4d50;
const MMP_MAGIC: u32 = 0x004d_4d50;

/// What the block bitmaps call used, the boot block, and all metadata at fixed places: superblocks,
/// group descriptors, bitmaps and tables of inodes. Where a bitmap was never written, that metadata is
/// what it would say. The journal is a file like others, so the bitmaps have it.
///
/// # Errors
/// Where the volume cannot be read, does not fit its checksums or contradicts itself; where its journal
/// lies on another device; where it has features that are not known.
pub(crate) fn used(volume: &dyn ReadAt) -> Result<Usage, Unusable> {
    let sb = Superblock::read(volume).map_err(|error| match error {
        NotExt::Io(error) => Unusable::Io(error),
        NotExt::Other | NotExt::Says(_) => Unusable::Damaged(error.to_string()),
    })?;
    if sb.compat & compat::HAS_JOURNAL != 0 && sb.journal_inode == 0 {
        return Err(Unusable::Damaged(
            "its journal is on another device, and may hold what is not here yet".into(),
        ));
    }
    let clean = clean(volume, &sb)?;
    let mut walk = Walk {
        volume,
        sb: &sb,
        used: Gather::new(),
        stray: Vec::new(),
        bitmaps: Vec::new(),
        bitmaps_at: 0,
    };
    walk.used.add(0..sb.first_data_block * sb.block);
    let mut descriptors = Descriptors::new(volume, &sb);
    let mut ahead = Descriptors::new(volume, &sb);
    for group in 0..sb.groups() {
        let descriptor = descriptors.get(group)?;
        walk.group(group, &descriptor, &mut ahead)?;
    }
    Ok(Usage {
        used: walk.finish(),
        clean,
    })
}

/// Whether the volume was closed: otherwise its bitmaps can be behind its journal, or wrong.
fn clean(volume: &dyn ReadAt, sb: &Superblock) -> Result<Result<(), String>, Unusable> {
    if sb.has_incompat(incompat::RECOVER) {
        return Ok(Err(
            "its journal is to be replayed: it is mounted, or was not unmounted".into(),
        ));
    }
    if sb.state & 1 == 0 {
        return Ok(Err("it is mounted, or was not unmounted".into()));
    }
    if sb.state & 2 != 0 {
        return Ok(Err("errors were found in it: it wants e2fsck".into()));
    }
    if sb.has_incompat(incompat::MMP) && sb.mmp_block != 0 {
        if sb.mmp_block >= sb.blocks {
            return Err(damaged("its block of mount protection is not in it"));
        }
        let mut block = [0; 8];
        volume.read_at(sb.mmp_block * sb.block, &mut block)?;
        if u32_at(&block, 0) != MMP_MAGIC || u32_at(&block, 4) != MMP_CLEAN {
            return Ok(Err(
                "its mount protection says that a host uses it, or e2fsck".into(),
            ));
        }
    }
    Ok(Ok(()))
}

fn damaged(what: impl std::fmt::Display) -> Unusable {
    Unusable::Damaged(format!("the ext volume is damaged: {what}"))
}

struct Walk<'a> {
    volume: &'a dyn ReadAt,
    sb: &'a Superblock,
    used: Gather,
    /// Metadata before what was gathered, which the bitmaps do not have.
    stray: Vec<Range<u64>>,
    /// Bitmaps that were read, and the block of the first of them.
    bitmaps: Vec<u8>,
    bitmaps_at: u64,
}

impl Walk<'_> {
    /// Gathers one group.
    fn group(
        &mut self,
        group: u64,
        descriptor: &Descriptor,
        ahead: &mut Descriptors<'_>,
    ) -> Result<(), Unusable> {
        let sb = self.sb;
        if !descriptor.is_sound {
            return Err(damaged(format!(
                "the descriptor of group {group} does not fit its checksum"
            )));
        }
        let own = [
            copies(sb, group),
            descriptor.block_bitmap..descriptor.block_bitmap.saturating_add(1),
            descriptor.inode_bitmap..descriptor.inode_bitmap.saturating_add(1),
            descriptor.inode_table
                ..descriptor
                    .inode_table
                    .saturating_add(sb.inode_table_blocks()),
        ];
        let inside = |blocks: &Range<u64>| {
            blocks.is_empty() || (blocks.start >= sb.first_data_block && blocks.end <= sb.blocks)
        };
        // A place at the very end of all numbers would make an empty range of them.
        let places = [
            descriptor.block_bitmap,
            descriptor.inode_bitmap,
            descriptor.inode_table,
        ];
        if !own.iter().all(inside) || places.iter().any(|&place| place >= sb.blocks) {
            return Err(damaged(format!(
                "metadata of group {group} would lie outside of it"
            )));
        }
        let blocks = sb.group_blocks(group);
        let clusters = ((blocks.end - blocks.start) * sb.block).div_ceil(sb.cluster);
        let free = if descriptor.is_uninitialised {
            // Whole clusters, as a bitmap would have them.
            let mut in_group = Ranges::new();
            let per_cluster = sb.cluster / sb.block;
            for metadata in &own {
                let start = metadata.start.max(blocks.start);
                let end = metadata.end.min(blocks.end);
                if start < end {
                    let down = (start - blocks.start) / per_cluster;
                    let up = (end - blocks.start).div_ceil(per_cluster);
                    in_group.insert(down..up);
                }
            }
            for range in in_group.as_slice() {
                self.take(&blocks, range.clone());
            }
            clusters - in_group.bytes().min(clusters)
        } else {
            self.read_bitmap(group, descriptor, ahead)?;
            let at = ((descriptor.block_bitmap - self.bitmaps_at) * sb.block) as usize;
            let bitmaps = std::mem::take(&mut self.bitmaps);
            let bitmap = bitmaps
                .get(at..at + sb.block as usize)
                .ok_or_else(|| damaged(format!("the bitmap of group {group} is not there")))?;
            let free = self.bitmap(group, descriptor, bitmap, clusters)?;
            self.bitmaps = bitmaps;
            free
        };
        if free != descriptor.free {
            return Err(damaged(format!(
                "the bitmap of group {group} has {free} free clusters, and its descriptor {}",
                descriptor.free
            )));
        }
        for metadata in own {
            let bytes = metadata.start * sb.block..metadata.end * sb.block;
            if !self.used.covers(bytes.clone()) {
                self.stray(bytes);
            }
        }
        Ok(())
    }

    /// Has the block bitmap of a group in `bitmaps`, with those of the next groups where they follow
    /// it, as with `FLEX_BG`.
    fn read_bitmap(
        &mut self,
        group: u64,
        descriptor: &Descriptor,
        ahead: &mut Descriptors<'_>,
    ) -> Result<(), Unusable> {
        let sb = self.sb;
        let at = descriptor.block_bitmap;
        let have = self.bitmaps.len() as u64 / sb.block;
        if (self.bitmaps_at..self.bitmaps_at + have).contains(&at) {
            return Ok(());
        }
        let mut count = 1;
        while (count + 1) * sb.block <= PIECE && group + count < sb.groups() {
            let next = ahead.get(group + count)?;
            if next.is_uninitialised
                || next.block_bitmap != at + count
                || next.block_bitmap >= sb.blocks
            {
                break;
            }
            count += 1;
        }
        // Nothing of it counts as read before all of it was.
        self.bitmaps.clear();
        let mut bytes = vec![0; (count * sb.block) as usize];
        self.volume.read_at(at * sb.block, &mut bytes)?;
        (self.bitmaps, self.bitmaps_at) = (bytes, at);
        Ok(())
    }

    /// Gathers what a bitmap calls used, and counts what it calls free.
    fn bitmap(
        &mut self,
        group: u64,
        descriptor: &Descriptor,
        bitmap: &[u8],
        clusters: u64,
    ) -> Result<u64, Unusable> {
        let sb = self.sb;
        if sb.has_ro_compat(ro_compat::METADATA_CSUM) {
            let length = (sb.blocks_per_group * sb.block / sb.cluster / 8) as usize;
            let sum = crc32c(sb.checksum_seed, bitmap.get(..length).unwrap_or(bitmap));
            let (wanted, kept) = descriptor.bitmap_checksum;
            if sum & kept != wanted & kept {
                return Err(damaged(format!(
                    "the bitmap of group {group} does not fit its checksum"
                )));
            }
        }
        let blocks = sb.group_blocks(group);
        let mut taken = 0;
        for run in runs(bitmap, clusters) {
            taken += run.end - run.start;
            self.take(&blocks, run);
        }
        Ok(clusters - taken)
    }

    /// Adds clusters of the group with these blocks, counted from its first one.
    fn take(&mut self, blocks: &Range<u64>, clusters: Range<u64>) {
        let begin = blocks.start * self.sb.block;
        let end = (begin + clusters.end * self.sb.cluster).min(blocks.end * self.sb.block);
        self.used.add(begin + clusters.start * self.sb.cluster..end);
    }

    fn stray(&mut self, bytes: Range<u64>) {
        match self.stray.last_mut() {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => self.stray.push(bytes),
        }
        if self.stray.len() >= MOST_STRAY {
            self.stray = in_order(std::mem::take(&mut self.stray))
                .as_slice()
                .to_vec();
        }
    }

    fn finish(self) -> Ranges {
        let used = self.used.finish();
        if self.stray.is_empty() {
            return used;
        }
        let mut all = self.stray;
        all.extend_from_slice(used.as_slice());
        in_order(all)
    }
}

/// Gathers ranges that come in any order.
fn in_order(mut ranges: Vec<Range<u64>>) -> Ranges {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut gather = Gather::new();
    let mut end = 0;
    for range in ranges {
        gather.add(range.start.max(end)..range.end);
        end = end.max(range.end);
    }
    gather.finish()
}

/// The runs of ones among the first `count` bits, rising; the lowest bit of a byte comes first.
fn runs(bitmap: &[u8], count: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    // Where the next bit of this value is, from `at`.
    let find = move |mut at: u64, value: bool| {
        while at < count {
            let index = (at / 64 * 8) as usize;
            let mut word = [0; 8];
            let rest = bitmap.get(index..).unwrap_or_default();
            let length = rest.len().min(8);
            word[..length].copy_from_slice(&rest[..length]);
            let word = u64::from_le_bytes(word);
            let wanted = if value { word } else { !word } >> (at % 64);
            if wanted != 0 {
                return (at + u64::from(wanted.trailing_zeros())).min(count);
            }
            at = at / 64 * 64 + 64;
        }
        count
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = find(at, true);
        if start >= count {
            return None;
        }
        at = find(start, false);
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_ones(bitmap in prop::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..40), count in 0u64..330) {
            let count = count.min(bitmap.len() as u64 * 8);
            let runs: Vec<_> = runs(&bitmap, count).collect();
            let ones: Vec<u64> = (0..count).filter(|&bit| bitmap[bit as usize / 8] >> (bit % 8) & 1 == 1).collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), ones);
        }

        #[test]
        fn ranges_in_any_order_are_the_same_bytes(list in prop::collection::vec((0u64..100, 0u64..20), 0..20)) {
            let list: Vec<_> = list.iter().map(|&(start, length)| start..start + length).collect();
            prop_assert_eq!(in_order(list.clone()), list.into_iter().collect::<Ranges>());
        }
    }
}
