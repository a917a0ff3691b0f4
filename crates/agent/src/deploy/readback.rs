//! Reads what is on the disk after writing and compares it with the manifest, to prove it.

use super::error::DeployError;
use super::existing::Existing;
use super::plan::zero_ranges;
use super::writer::Patch;
use crate::disk::{AlignedBuf, Target, is_zero};
use crate::progress::Tracker;
use crate::stop::Stop;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, Manifest};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Threads that read and hash. More than processors, since each waits for the disk half the time.
const READERS: usize = 4;

/// How many bytes that must be zero are read back in all. Up to this every one of them is looked
/// at; of more, this much, spread evenly over the disk: reading back terabytes of zeroes would
/// take hours to find what a sample finds in seconds (a disk that zeroes nothing).
pub(crate) const ZERO_BUDGET: u64 = 8 << 30;

/// Proves that the disk holds the image: every listed chunk by its hash, and that the rest of the
/// image reads as zero. Where `finalize` changed something, what it wrote is compared with what
/// is there, and the chunk is hashed with what the image has in its place. What of `existing` was
/// right, and so left alone, has been read already.
pub(crate) fn verify(
    target: &Target,
    manifest: &Manifest,
    existing: &Existing,
    patches: &[Patch],
    tracker: &Tracker,
    stop: &Stop,
) -> Result<(), DeployError> {
    target.forget_cache();
    for patch in patches {
        let mut now = AlignedBuf::new(patch.after.len());
        target.read_at(&mut now, patch.offset)?;
        if now[..] != patch.after {
            return Err(wrong(target, patch.offset, now.len() as u64, TABLE));
        }
    }
    let zeroes = match existing.to_zero() {
        Some(zeroed) => sample(zeroed, ZERO_BUDGET),
        None => zero_pieces(target, manifest)?,
    };
    let chunks = manifest.chunks.len();
    in_parallel(chunks + zeroes.len(), stop, |n, buffer| {
        if let Some(chunk) = manifest.chunks.get(n) {
            if existing.has(n) {
                tracker.add_verified(manifest.chunk_len(chunk.index).into());
                return Ok(());
            }
            return verify_chunk(target, manifest, chunk, patches, tracker, buffer);
        }
        let Some(piece) = zeroes.get(n - chunks) else {
            return Ok(());
        };
        let len = piece.end - piece.start;
        let content = &mut buffer[..usize::try_from(len).unwrap_or(0)];
        target.read_at(content, piece.start)?;
        undo(patches, piece.start, content);
        if is_zero(content) {
            Ok(())
        } else {
            Err(wrong(target, piece.start, len, NOT_ZERO))
        }
    })
}

const NOT_ZERO: &str = "should read as zero and do not";
const NOT_HASH: &str = "have another BLAKE3 than the image";
const TABLE: &str = "differ from the partition table that was just written";

fn verify_chunk(
    target: &Target,
    manifest: &Manifest,
    chunk: &ChunkRef,
    patches: &[Patch],
    tracker: &Tracker,
    buffer: &mut [u8],
) -> Result<(), DeployError> {
    let len = manifest.chunk_len(chunk.index);
    let content = &mut buffer[..len as usize];
    target.read_at(content, chunk.offset())?;
    undo(patches, chunk.offset(), content);
    if hash(content) != chunk.hash {
        return Err(wrong(target, chunk.offset(), len.into(), NOT_HASH));
    }
    tracker.add_verified(len.into());
    Ok(())
}

/// Puts what the image has into `content`, read from `offset` on, wherever it was changed since.
pub(crate) fn undo(patches: &[Patch], offset: u64, content: &mut [u8]) {
    let end = offset + content.len() as u64;
    for patch in patches {
        let patch_end = patch.offset + patch.before.len() as u64;
        let (from, to) = (offset.max(patch.offset), end.min(patch_end));
        if from >= to {
            continue;
        }
        // Both differences are below the length of one of the slices.
        let range = |base: u64| (from - base) as usize..(to - base) as usize;
        if let (Some(place), Some(before)) = (
            content.get_mut(range(offset)),
            patch.before.get(range(patch.offset)),
        ) {
            place.copy_from_slice(before);
        }
    }
}

/// The pieces of at most a chunk that must read as zero and are to be looked at.
fn zero_pieces(target: &Target, manifest: &Manifest) -> Result<Vec<Range<u64>>, DeployError> {
    let mut data = Vec::new();
    for range in zero_ranges(manifest) {
        let mut at = range.start;
        while let Some((start, end)) = target.next_data(at, range.end)? {
            data.push(start..end);
            at = end;
        }
    }
    Ok(sample(&data, ZERO_BUDGET))
}

/// Cuts ranges into pieces of at most a chunk, and leaves pieces out evenly so that at most
/// `budget` bytes remain, and one piece more.
pub(crate) fn sample(ranges: &[Range<u64>], budget: u64) -> Vec<Range<u64>> {
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let every = total.div_ceil(budget.max(1)).max(1);
    let pieces = ranges.iter().flat_map(|range| {
        (range.start..range.end)
            .step_by(CHUNK_SIZE as usize)
            .map(|start| start..range.end.min(start + u64::from(CHUNK_SIZE)))
    });
    pieces
        .step_by(usize::try_from(every).unwrap_or(usize::MAX))
        .collect()
}

/// Calls `work(n, buffer)` for every `n` below `count`, on several threads, in about this order.
/// The first error ends it; so does `stop`.
pub(crate) fn in_parallel(
    count: usize,
    stop: &Stop,
    work: impl Fn(usize, &mut [u8]) -> Result<(), DeployError> + Sync,
) -> Result<(), DeployError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let run = || -> Result<(), DeployError> {
        let mut buffer = AlignedBuf::new(CHUNK_SIZE as usize);
        while !stop.is_set() && !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            work(n, &mut buffer).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS.min(count)).map(|_| scope.spawn(run)).collect();
        let results = threads.into_iter().map(super::join);
        // All threads are waited for before the first error is passed on.
        results.fold(Ok(()), Result::and)
    })?;
    if stop.is_set() {
        return Err(DeployError::Cancelled);
    }
    Ok(())
}

pub(crate) fn hash(content: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(content).as_bytes())
}

fn wrong(target: &Target, offset: u64, len: u64, what: &'static str) -> DeployError {
    DeployError::Verify {
        path: target.path().into(),
        offset,
        len,
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Access;
    use bugler_model::{Phase, TaskState};
    use proptest::prelude::*;

    #[test]
    fn what_was_changed_is_undone_where_it_overlaps() {
        let patches = [
            Patch {
                offset: 4,
                before: b"abc".to_vec(),
                after: b"ABC".to_vec(),
            },
            Patch {
                offset: 100,
                before: b"z".to_vec(),
                after: b"Z".to_vec(),
            },
        ];
        let undone = |offset, text: &str| {
            let mut content = text.as_bytes().to_vec();
            undo(&patches, offset, &mut content);
            String::from_utf8(content).unwrap()
        };
        assert_eq!(undone(0, "....ABC..."), "....abc...");
        assert_eq!(undone(0, "....AB"), "....ab");
        assert_eq!(undone(5, "BC.."), "bc..");
        assert_eq!(undone(7, "...."), "....");
        assert_eq!(undone(99, ".Z"), ".z");
    }

    const MIB: usize = 1 << 20;

    /// A file with two chunks of data, one of zeroes between them, and a manifest that says so.
    fn written() -> (tempfile::NamedTempFile, Manifest) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 3 * MIB];
        bytes[..MIB].fill(1);
        bytes[2 * MIB..].fill(2);
        std::fs::write(file.path(), &bytes).unwrap();
        let chunk = |index: u32| ChunkRef {
            index,
            stored_len: 1,
            hash: hash(&bytes[index as usize * MIB..][..MIB]),
        };
        let manifest = Manifest {
            disk_size: 3 * MIB as u64,
            sector_size: 512,
            chunks: vec![chunk(0), chunk(2)],
        };
        (file, manifest)
    }

    fn verified(
        file: &tempfile::NamedTempFile,
        manifest: &Manifest,
        patches: &[Patch],
    ) -> Result<u64, DeployError> {
        let target = Target::open(file.path(), Access::Read)?;
        let tracker = Tracker::new();
        tracker.enter(TaskState::Verifying, Phase::Verifying);
        let nothing = Existing::unknown();
        verify(&target, manifest, &nothing, patches, &tracker, &Stop::new())?;
        Ok(tracker.now().1.done)
    }

    #[test]
    fn any_byte_that_is_wrong_is_found() {
        let (file, manifest) = written();
        assert_eq!(verified(&file, &manifest, &[]).unwrap(), 2 * MIB as u64);
        let cases = [
            (0, NOT_HASH),
            (MIB - 1, NOT_HASH),
            (MIB, NOT_ZERO),
            (2 * MIB - 1, NOT_ZERO),
            (2 * MIB, NOT_HASH),
            (3 * MIB - 1, NOT_HASH),
        ];
        let good = std::fs::read(file.path()).unwrap();
        for (at, expected) in cases {
            let mut bytes = good.clone();
            bytes[at] ^= 0x80;
            std::fs::write(file.path(), bytes).unwrap();
            match verified(&file, &manifest, &[]) {
                Err(DeployError::Verify { offset, what, .. }) => {
                    assert_eq!(
                        (offset as usize, what),
                        (at / MIB * MIB, expected),
                        "byte {at}"
                    );
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_finalize_changed_must_be_there_and_counts_as_the_image() {
        let (file, manifest) = written();
        let patch = |offset: usize, before: u8| Patch {
            offset: offset as u64,
            before: vec![before; 512],
            after: vec![7; 512],
        };
        // In a chunk, and in what is zero.
        let patches = [patch(512, 1), patch(MIB + 1024, 0)];
        let error = verified(&file, &manifest, &patches).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("byte 512 and the 512 bytes from there differ from the")
        );
        let target = Target::open(file.path(), Access::Write).unwrap();
        for patch in &patches {
            target.write_at(&patch.after, patch.offset).unwrap();
        }
        target.sync().unwrap();
        assert_eq!(
            verified(&file, &manifest, &patches).unwrap(),
            2 * MIB as u64
        );
        assert!(verified(&file, &manifest, &patches[..1]).is_err());
    }

    proptest! {
        #[test]
        fn a_sample_is_everything_or_the_budget(
            lengths in proptest::collection::vec((1u64..9, 1u64..4_000_000), 0..12),
            budget in 1u64..20_000_000,
        ) {
            let mut at = 0;
            let ranges: Vec<Range<u64>> = lengths.iter().map(|(gap, len)| {
                let start = at + gap;
                at = start + len;
                start..at
            }).collect();
            let total: u64 = lengths.iter().map(|(_, len)| len).sum();
            let pieces = sample(&ranges, budget);
            let covered: u64 = pieces.iter().map(|p| p.end - p.start).sum();
            for piece in &pieces {
                prop_assert!(piece.end - piece.start <= u64::from(CHUNK_SIZE));
                prop_assert!(ranges.iter().any(|r| r.start <= piece.start && piece.end <= r.end));
            }
            if total <= budget {
                prop_assert_eq!(covered, total);
            }
            prop_assert!(total == 0 || covered > 0);
        }
    }
}
