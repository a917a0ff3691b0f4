//! What of an image is on the disk already: found by reading the disk, and by nothing else.
//!
//! Of a disk that was compared, what is right is not fetched, not written and, since it was just
//! read and hashed, not read back. That holds for the zeroes of the image as well, and for a
//! partition table that an earlier deploy has fitted to the size of this disk.

use super::error::DeployError;
use super::gpt::Gpt;
use super::plan::zero_ranges;
use super::readback::{ZERO_BUDGET, hash, in_parallel, sample, undo};
use super::writer::{Patch, read_table};
use crate::disk::{AlignedBuf, Target, is_zero};
use crate::progress::Tracker;
use crate::stop::Stop;
use bugler_protocol::manifest::{CHUNK_SIZE, Manifest};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was found on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Existing {
    /// For each chunk of the manifest's list, whether the disk has it; empty for one that was not
    /// compared.
    right: Vec<bool>,
    /// What has to be zeroed, rising; `None` for a disk that was not compared: everything that the
    /// manifest does not list.
    to_zero: Option<Vec<Range<u64>>>,
    /// What an earlier deploy has changed of the image's partition table, and still is as it should
    /// be.
    pub(crate) fitted: Vec<Patch>,
}

impl Existing {
    /// Of a disk that was not compared.
    pub(crate) fn unknown() -> Self {
        Self::default()
    }

    /// Whether the chunk at this position of the manifest's list is on the disk.
    pub(crate) fn has(&self, position: usize) -> bool {
        self.right.get(position) == Some(&true)
    }

    /// How many chunks are on the disk.
    pub(crate) fn count(&self) -> usize {
        self.right.iter().filter(|&&right| right).count()
    }

    /// What has to be zeroed. `None` where the disk was not compared: everything that the manifest
    /// does not list.
    pub(crate) fn to_zero(&self) -> Option<&[Range<u64>]> {
        self.to_zero.as_deref()
    }

    /// Whether the disk has all of the image.
    pub(crate) fn is_all(&self, manifest: &Manifest) -> bool {
        self.to_zero.as_ref().is_some_and(Vec::is_empty) && self.count() == manifest.chunks.len()
    }
}

/// Compares a disk with an image: reads everything that the manifest lists, and what must be zero.
/// `fitted` is what is [known](fitted) of its partition table.
///
/// Of more than [`ZERO_BUDGET`] of zeroes, the first are looked at one by one, and the rest counts as
/// not zero, since a disk of terabytes zeroes faster than it is read. But where everything else is
/// right, the rest is judged by a sample, as [`verify`](super::readback::verify) judges it.
pub(crate) fn compare(
    target: &Target,
    manifest: &Manifest,
    fitted: Vec<Patch>,
    tracker: &Tracker,
    stop: &Stop,
) -> Result<Existing, DeployError> {
    target.forget_cache();
    let mut pieces = Vec::new();
    let mut rest = Vec::new();
    let mut budget = ZERO_BUDGET;
    for range in zero_ranges(manifest) {
        let mut at = range.start;
        while let Some((start, end)) = target.next_data(at, range.end)? {
            let split = end.min(start.saturating_add(budget));
            budget -= split - start;
            pieces.extend(cut(start..split));
            push(&mut rest, split..end);
            at = end;
        }
    }
    let chunks = &manifest.chunks;
    let right: Vec<AtomicBool> = (0..chunks.len() + pieces.len())
        .map(|_| AtomicBool::new(false))
        .collect();
    in_parallel(right.len(), stop, |n, buffer| {
        let is_right = if let Some(chunk) = chunks.get(n) {
            let content = &mut buffer[..manifest.chunk_len(chunk.index) as usize];
            target.read_at(content, chunk.offset())?;
            undo(&fitted, chunk.offset(), content);
            let is_right = hash(content) == chunk.hash;
            if is_right {
                tracker.add_skipped(content.len() as u64);
            }
            is_right
        } else if let Some(piece) = pieces.get(n - chunks.len()) {
            reads_as_zero(target, piece, &fitted, buffer)?
        } else {
            true
        };
        if let Some(flag) = right.get(n) {
            flag.store(is_right, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let mut right: Vec<bool> = right.into_iter().map(AtomicBool::into_inner).collect();
    let zero = right.split_off(chunks.len());
    let mut to_zero = Vec::new();
    for (piece, _) in pieces.into_iter().zip(zero).filter(|(_, zero)| !zero) {
        push(&mut to_zero, piece);
    }
    let mut found = Existing {
        right,
        to_zero: None,
        fitted,
    };
    let all_right = to_zero.is_empty() && found.count() == chunks.len();
    if !all_right || !sample_is_zero(target, &rest, &found.fitted, stop)? {
        rest.into_iter().for_each(|range| push(&mut to_zero, range));
    }
    found.to_zero = Some(to_zero);
    found.keep_table_whole(manifest, tracker);
    Ok(found)
}

impl Existing {
    /// A partition table is right as a whole or not at all: where a chunk that it reaches into has to
    /// be written, all of them are, and it is fitted to the disk again.
    fn keep_table_whole(&mut self, manifest: &Manifest, tracker: &Tracker) {
        let overlaps = |range: &Range<u64>, patch: &Patch| {
            let end = patch.offset + patch.after.len() as u64;
            range.start < end && patch.offset < range.end
        };
        let touched = |range: &Range<u64>| self.fitted.iter().any(|patch| overlaps(range, patch));
        let place = |index: u32| {
            let start = u64::from(index) * u64::from(CHUNK_SIZE);
            start..start + u64::from(manifest.chunk_len(index))
        };
        let chunks: Vec<usize> = (manifest.chunks.iter().enumerate())
            .filter(|(_, chunk)| touched(&place(chunk.index)))
            .map(|(n, _)| n)
            .collect();
        let to_zero = self.to_zero.get_or_insert_default();
        if chunks.iter().all(|&n| self.right.get(n) == Some(&true)) && !to_zero.iter().any(touched)
        {
            return;
        }
        for n in chunks {
            if let (Some(right), Some(chunk)) = (self.right.get_mut(n), manifest.chunks.get(n))
                && std::mem::take(right)
            {
                tracker.take_back_skipped(manifest.chunk_len(chunk.index).into());
            }
        }
        for range in zero_ranges(manifest) {
            for patch in &self.fitted {
                let end = patch.offset + patch.after.len() as u64;
                let inside = range.start.max(patch.offset)..range.end.min(end);
                if !inside.is_empty() {
                    to_zero.push(inside);
                }
            }
        }
        to_zero.sort_unstable_by_key(|range| range.start);
        self.fitted.clear();
    }
}

fn reads_as_zero(
    target: &Target,
    piece: &Range<u64>,
    fitted: &[Patch],
    buffer: &mut [u8],
) -> Result<bool, DeployError> {
    let content = &mut buffer[..usize::try_from(piece.end - piece.start).unwrap_or(0)];
    target.read_at(content, piece.start)?;
    undo(fitted, piece.start, content);
    Ok(is_zero(content))
}

fn sample_is_zero(
    target: &Target,
    ranges: &[Range<u64>],
    fitted: &[Patch],
    stop: &Stop,
) -> Result<bool, DeployError> {
    let pieces = sample(ranges, ZERO_BUDGET);
    let all_zero = AtomicBool::new(true);
    in_parallel(pieces.len(), stop, |n, buffer| {
        if let Some(piece) = pieces.get(n)
            && all_zero.load(Ordering::Relaxed)
            && !reads_as_zero(target, piece, fitted, buffer)?
        {
            all_zero.store(false, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(all_zero.into_inner())
}

/// What an earlier deploy changed of the image's table to fit it to this disk, where the table is
/// just as it would change it now; nothing where it is not, or nothing had to be changed.
///
/// What the image had there is computed from what is there: a table that fills the image is a
/// table that fills this disk, with other sizes. Where the image's differs from that, the chunk's
/// hash shows it, and the chunk is written. `image_size` is the size in bytes that the image's own
/// table is made for.
pub(crate) fn fitted(
    target: &Target,
    sector_size: u32,
    image_size: u64,
) -> Result<Vec<Patch>, DeployError> {
    let Some((start, entries)) = read_table(target, sector_size)? else {
        return Ok(Vec::new());
    };
    let sector = sector_size as usize;
    let (Some(mbr), Ok(Some(gpt))) = (start.get(..sector), Gpt::read(&start, sector_size)) else {
        return Ok(Vec::new());
    };
    if target.size() / u64::from(sector_size) == image_size / u64::from(sector_size)
        || !gpt.fills(target.size())
    {
        return Ok(Vec::new());
    }
    let Ok(original) = gpt.fit(mbr, &entries, image_size) else {
        return Ok(Vec::new());
    };
    // The way back and forth again must lead to what is there.
    let (Some(mbr), Ok(Some(gpt))) = (
        original.primary.get(..sector),
        Gpt::read(&original.primary, sector_size),
    ) else {
        return Ok(Vec::new());
    };
    let Ok(now) = gpt.fit(mbr, &entries, target.size()) else {
        return Ok(Vec::new());
    };
    let (offset, backup) = now.backup;
    let mut there = AlignedBuf::new(backup.len());
    target.read_at(&mut there, offset)?;
    if now.primary != start[..] || there[..] != backup {
        return Ok(Vec::new());
    }
    let mut before = vec![0; backup.len()];
    // On a smaller disk the image's own backup is left out; see `fit`.
    if image_size < target.size() {
        let image_backup = Patch {
            offset: original.backup.0,
            before: original.backup.1,
            after: Vec::new(),
        };
        undo(&[image_backup], offset, &mut before);
    }
    Ok(vec![
        Patch {
            offset,
            before,
            after: backup,
        },
        Patch {
            offset: 0,
            before: original.primary,
            after: start.to_vec(),
        },
    ])
}

/// Pieces of at most a chunk.
fn cut(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(CHUNK_SIZE as usize)
        .map(move |start| start..end.min(start + u64::from(CHUNK_SIZE)))
}

/// Adds a range that lies behind those that are there.
fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Access;
    use bugler_protocol::manifest::ChunkRef;

    const MIB: u64 = 1 << 20;

    fn file(size: u64, bytes: &[(u64, u8)]) -> (tempfile::NamedTempFile, Target) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let target = Target::open(file.path(), Access::Write).unwrap();
        for &(at, byte) in bytes {
            target.write_at(&[byte], at).unwrap();
        }
        (file, target)
    }

    fn manifest(target: &Target, size: u64, chunks: &[u32]) -> Manifest {
        let chunks = chunks.iter().map(|&index| {
            let mut content = vec![0; MIB as usize];
            target
                .read_at(&mut content, u64::from(index) * MIB)
                .unwrap();
            ChunkRef {
                index,
                stored_len: 1,
                hash: hash(&content),
            }
        });
        Manifest {
            disk_size: size,
            sector_size: 512,
            chunks: chunks.collect(),
        }
    }

    fn compared(target: &Target, manifest: &Manifest) -> Existing {
        let (tracker, stop) = (Tracker::new(), Stop::new());
        compare(target, manifest, Vec::new(), &tracker, &stop).unwrap()
    }

    #[test]
    fn what_is_right_and_what_is_zero_is_found() {
        let (_file, target) = file(8 * MIB, &[(0, 1), (2 * MIB + 5, 2)]);
        let manifest = manifest(&target, 8 * MIB, &[0, 2]);
        let found = compared(&target, &manifest);
        assert!(found.is_all(&manifest) && found.has(0) && found.has(1));
        target.write_at(&[9], 2 * MIB).unwrap();
        for at in [4 * MIB, 5 * MIB + 7, 7 * MIB] {
            target.write_at(&[9], at).unwrap();
        }
        let found = compared(&target, &manifest);
        assert_eq!(
            (found.count(), found.has(1), found.is_all(&manifest)),
            (1, false, false)
        );
        let zeroed: u64 = found
            .to_zero()
            .unwrap()
            .iter()
            .map(|r| r.end - r.start)
            .sum();
        assert!(zeroed <= 3 * MIB, "{:?}", found.to_zero());
        for at in [4 * MIB, 5 * MIB + 7, 7 * MIB] {
            assert!(found.to_zero().unwrap().iter().any(|r| r.contains(&at)));
        }
    }

    #[test]
    fn a_disk_that_was_not_compared_has_nothing() {
        let (_file, target) = file(MIB, &[(0, 1)]);
        let manifest = manifest(&target, MIB, &[0]);
        let unknown = Existing::unknown();
        assert!(!unknown.has(0) && !unknown.is_all(&manifest) && unknown.to_zero().is_none());
    }

    #[test]
    fn pieces_are_put_together_again() {
        let mut ranges = Vec::new();
        for piece in cut(5..3 * MIB + 6).chain([4 * MIB..5 * MIB, 6 * MIB..6 * MIB]) {
            push(&mut ranges, piece);
        }
        assert_eq!(ranges, [5..3 * MIB + 6, 4 * MIB..5 * MIB]);
    }
}
