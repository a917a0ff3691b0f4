//! What is to be fetched, and where it goes: the manifest, with equal chunks put together.

use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, Manifest};
use std::ops::Range;

/// A content that is fetched once and written to every place that it has.
///
/// The numbers are positions in [`Plan::places`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    first: u32,
    count: u32,
}

/// The contents that are missing on the disk, in the order of their first place.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Chunks that are to be written, equal ones next to each other, each with its length.
    places: Vec<(ChunkRef, u32)>,
    groups: Vec<Group>,
}

impl Plan {
    /// Plans every chunk of `manifest` for which `is_right(position in its list)` is false.
    pub(crate) fn new(manifest: &Manifest, is_right: impl Fn(usize) -> bool) -> Self {
        let missing = manifest.chunks.iter().enumerate();
        let missing = missing.filter(|&(n, _)| !is_right(n));
        let mut places: Vec<(ChunkRef, u32)> = missing
            .map(|(_, chunk)| (*chunk, manifest.chunk_len(chunk.index)))
            .collect();
        // The length belongs to the key: a manifest can claim that the short chunk at the end of
        // the disk has the content of a whole one, and then one of both claims is wrong.
        places.sort_unstable_by_key(|(chunk, len)| (chunk.hash, *len, chunk.index));
        let mut groups: Vec<Group> = Vec::new();
        for (n, (chunk, len)) in (0u32..).zip(&places) {
            let same = |group: &&mut Group| {
                places
                    .get(group.first as usize)
                    .is_some_and(|(c, l)| (c.hash, *l) == (chunk.hash, *len))
            };
            match groups.last_mut().filter(same) {
                Some(group) => group.count += 1,
                None => groups.push(Group { first: n, count: 1 }),
            }
        }
        let index = |group: &Group| places.get(group.first as usize).map(|(c, _)| c.index);
        groups.sort_unstable_by_key(index);
        Self { places, groups }
    }

    /// How many different contents there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The places of content number `n`; all have the same hash and length.
    fn of(&self, n: usize) -> &[(ChunkRef, u32)] {
        let group = self.groups.get(n);
        group.map_or(&[], |g| {
            let range = g.first as usize..(g.first + g.count) as usize;
            self.places.get(range).unwrap_or(&[])
        })
    }

    /// Name and length in bytes of content number `n`; `None` behind the last one.
    pub(crate) fn content(&self, n: usize) -> Option<(ChunkHash, u32)> {
        self.of(n).first().map(|(chunk, len)| (chunk.hash, *len))
    }

    /// Where content number `n` belongs: offsets on the disk in bytes, ascending.
    pub(crate) fn offsets(&self, n: usize) -> impl Iterator<Item = u64> {
        self.of(n).iter().map(|(chunk, _)| chunk.offset())
    }
}

/// The parts of the disk that the manifest does not list, in bytes, ascending, as long as
/// possible: they must read as zero.
pub(crate) fn zero_ranges(manifest: &Manifest) -> impl Iterator<Item = Range<u64>> {
    let ends = manifest.chunks.iter().map(ChunkRef::offset);
    let ends = ends.chain([manifest.disk_size]);
    let behind = |chunk: &ChunkRef| chunk.offset() + u64::from(CHUNK_SIZE);
    let starts = [0].into_iter().chain(manifest.chunks.iter().map(behind));
    starts
        .zip(ends)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest(disk_size: u64, chunks: &[(u32, u8)]) -> Manifest {
        let chunks = chunks.iter().map(|&(index, hash)| ChunkRef {
            index,
            stored_len: 1,
            hash: ChunkHash([hash; 32]),
        });
        Manifest {
            disk_size,
            sector_size: 512,
            chunks: chunks.collect(),
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn equal_chunks_are_fetched_once() {
        let manifest = manifest(6 * MIB + 512, &[(0, 9), (1, 5), (3, 9), (4, 1), (6, 9)]);
        let plan = Plan::new(&manifest, |n| n == 3);
        let all: Vec<_> = (0..plan.len())
            .map(|n| {
                (
                    plan.content(n).unwrap(),
                    plan.offsets(n).collect::<Vec<_>>(),
                )
            })
            .collect();
        let name = |n| ChunkHash([n; 32]);
        assert_eq!(
            all,
            [
                ((name(9), 1 << 20), vec![0, 3 * MIB]),
                ((name(5), 1 << 20), vec![MIB]),
                // The same name on a chunk of another length is another content.
                ((name(9), 512), vec![6 * MIB]),
            ]
        );
        assert_eq!(plan.content(3), None);
    }

    #[test]
    fn ranges_that_are_zero() {
        let ranges = |size, chunks: &[(u32, u8)]| -> Vec<(u64, u64)> {
            let manifest = manifest(size, chunks);
            zero_ranges(&manifest).map(|r| (r.start, r.end)).collect()
        };
        assert_eq!(ranges(3 * MIB, &[]), [(0, 3 * MIB)]);
        assert_eq!(ranges(2 * MIB, &[(0, 1), (1, 1)]), []);
        assert_eq!(
            ranges(6 * MIB + 512, &[(1, 1), (2, 1), (4, 1)]),
            [(0, MIB), (3 * MIB, 4 * MIB), (5 * MIB, 6 * MIB + 512)]
        );
        assert_eq!(ranges(MIB + 512, &[(1, 1)]), [(0, MIB)]);
    }

    proptest! {
        /// Places and zero ranges together cover the disk, each byte once.
        #[test]
        fn every_byte_has_one_owner(
            listed in proptest::collection::btree_map(0u32..24, 0u8..4, 0..24),
            tail in 0u64..2048,
        ) {
            let size = 23 * MIB + (tail + 1) * 512;
            let chunks: Vec<_> = listed.into_iter().collect();
            let manifest = manifest(size, &chunks);
            let plan = Plan::new(&manifest, |_| false);
            let mut pieces: Vec<Range<u64>> = zero_ranges(&manifest).collect();
            for n in 0..plan.len() {
                let (_, len) = plan.content(n).unwrap();
                pieces.extend(plan.offsets(n).map(|at| at..at + u64::from(len)));
            }
            pieces.sort_by_key(|piece| piece.start);
            let mut at = 0;
            for piece in pieces {
                prop_assert_eq!(piece.start, at);
                at = piece.end;
            }
            prop_assert_eq!(at, size);
        }
    }
}
