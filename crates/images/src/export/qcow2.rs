//! A disk as a qcow2 file: QEMU's docs/interop/qcow2.txt. Clusters are as large as chunks, so that
//! each chunk is a cluster, and its frame a compressed one.
//!
//! ```text
//! cluster 0    header
//!         1    refcount table
//!         2 .. refcount blocks
//!         ..   L1 table
//!         ..   L2 tables, for those parts of the disk that have content
//!         ..   content: a cluster each, or compressed ones, each at a sector
//! ```

use super::{CHUNK, Content, Piece};
use bugler_protocol::manifest::{ChunkRef, Manifest};
use std::ops::Range;

const CLUSTER: u64 = CHUNK;
const CLUSTER_BITS: u32 = CHUNK.trailing_zeros();
const SECTOR: u64 = 512;
const HEADER_LEN: u32 = 112;

/// Entries of an L2 table.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Entries of a refcount block, of 16 bits.
const REFCOUNTS: u64 = CLUSTER / 2;

/// "Refcount is exactly one", and "compressed".
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where the number of sectors stands in the descriptor of a compressed cluster.
const SECTORS_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);

/// Incompatible feature: the compression type is given.
const FEATURE_COMPRESSION_TYPE: u64 = 1 << 3;
const COMPRESSION_ZSTD: u8 = 1;

/// Where everything is.
#[derive(Debug)]
pub(super) struct File {
    /// First cluster of the L1 table; before it are the refcount blocks from cluster 2 on.
    l1: u64,
    /// Which parts of the disk have an L2 table: one each, from the cluster behind the L1 table on.
    tables: Vec<u64>,
    /// First cluster of the content.
    data: u64,
    /// Clusters of the file.
    clusters: u64,
    size: u64,
    /// Of compressed clusters, in the order of the manifest: where each begins, and how long it is.
    packed: Option<Vec<(u64, u32)>>,
    /// The last compressed cluster, where it is not a chunk's frame.
    tail: Option<Vec<u8>>,
}

impl File {
    pub(super) fn plain(manifest: &Manifest) -> Self {
        let content = manifest.chunks.len() as u64 * CLUSTER;
        Self::lay_out(manifest, content)
    }

    /// `lengths` are those of the listed chunks' frames; `tail` is the last one, where it had to be
    /// made.
    pub(super) fn packed(manifest: &Manifest, lengths: &[u32], tail: Option<Vec<u8>>) -> Self {
        let mut lengths = lengths.to_vec();
        if let (Some(last), Some(tail)) = (lengths.last_mut(), &tail) {
            *last = u32::try_from(tail.len()).unwrap_or(u32::MAX);
        }
        let room = |length: &u32| u64::from(*length).next_multiple_of(SECTOR);
        let mut file = Self::lay_out(manifest, lengths.iter().map(room).sum());
        let mut at = file.data * CLUSTER;
        let place = |length: &u32| {
            let start = at;
            at += room(length);
            (start, *length)
        };
        file.packed = Some(lengths.iter().map(place).collect());
        file.tail = tail;
        file
    }

    /// `content` is how many bytes the content takes.
    fn lay_out(manifest: &Manifest, content: u64) -> Self {
        let mut tables: Vec<u64> = manifest.chunks.iter().map(table_of).collect();
        tables.dedup();
        let others = 3 + tables.len() as u64 + content.div_ceil(CLUSTER);
        // They count themselves as well.
        let mut blocks = 1;
        while (others + blocks).div_ceil(REFCOUNTS) > blocks {
            blocks += 1;
        }
        let l1 = 2 + blocks;
        let data = l1 + 1 + tables.len() as u64;
        Self {
            l1,
            data,
            tables,
            clusters: others + blocks,
            size: data * CLUSTER + content,
            packed: None,
            tail: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn piece(&self, manifest: &Manifest, offset: u64) -> Piece {
        let cluster = offset / CLUSTER;
        if cluster < self.data {
            let content = Content::Made(self.table(manifest, cluster));
            return Piece::new(cluster * CLUSTER, CLUSTER, content);
        }
        let chunk = |at: usize| manifest.chunks.get(at);
        let nothing = Piece::new(offset, 1, Content::Zeros);
        match &self.packed {
            None => {
                let at = (cluster - self.data) as usize;
                chunk(at).map_or(nothing, |chunk| {
                    let length = manifest.chunk_len(chunk.index);
                    let content = Content::Chunk(chunk.hash, length);
                    Piece::new(cluster * CLUSTER, CLUSTER, content)
                })
            }
            Some(packed) => {
                let at = packed.partition_point(|(start, _)| *start <= offset);
                let at = at.saturating_sub(1);
                let (Some((start, length)), Some(chunk)) = (packed.get(at), chunk(at)) else {
                    return nothing;
                };
                let room = u64::from(*length).next_multiple_of(SECTOR);
                let content = match &self.tail {
                    Some(tail) if at + 1 == packed.len() => {
                        let mut tail = tail.clone();
                        tail.resize(room as usize, 0);
                        Content::Made(tail)
                    }
                    _ => Content::Frame(chunk.hash, *length, manifest.chunk_len(chunk.index)),
                };
                Piece::new(*start, room, content)
            }
        }
    }

    /// The content of a cluster in front of the data.
    fn table(&self, manifest: &Manifest, cluster: u64) -> Vec<u8> {
        let mut bytes = match cluster {
            0 => self.header(manifest),
            1 => be((2..self.l1).map(|block| block * CLUSTER)),
            _ if cluster < self.l1 => self.refcounts((cluster - 2) * REFCOUNTS),
            _ if cluster == self.l1 => {
                let count = manifest.disk_size.div_ceil(CLUSTER * L2_ENTRIES);
                be(
                    (0..count).map(|part| match self.tables.binary_search(&part) {
                        Ok(at) => ((self.l1 + 1 + at as u64) * CLUSTER) | COPIED,
                        Err(_) => 0,
                    }),
                )
            }
            _ => {
                let table = self.tables.get((cluster - self.l1 - 1) as usize);
                self.l2(manifest, table.copied().unwrap_or_default())
            }
        };
        bytes.resize(CLUSTER as usize, 0);
        bytes
    }

    fn header(&self, manifest: &Manifest) -> Vec<u8> {
        let (features, compression) = match self.packed {
            Some(_) => (FEATURE_COMPRESSION_TYPE, COMPRESSION_ZSTD),
            None => (0, 0),
        };
        let l1_entries = manifest.disk_size.div_ceil(CLUSTER * L2_ENTRIES);
        let mut bytes = crate::qcow2::MAGIC.to_vec();
        let mut put = |number: &[u8]| bytes.extend_from_slice(number);
        put(&3u32.to_be_bytes());
        // No backing file: offset, and length of its name.
        put(&[0; 12]);
        put(&CLUSTER_BITS.to_be_bytes());
        put(&manifest.disk_size.to_be_bytes());
        // No encryption.
        put(&[0; 4]);
        put(&u32::try_from(l1_entries).unwrap_or(u32::MAX).to_be_bytes());
        put(&(self.l1 * CLUSTER).to_be_bytes());
        put(&CLUSTER.to_be_bytes());
        put(&1u32.to_be_bytes());
        // No snapshots: number, offset.
        put(&[0; 12]);
        put(&features.to_be_bytes());
        // No compatible and no autoclear features.
        put(&[0; 16]);
        // Refcounts of 2^4 bits.
        put(&4u32.to_be_bytes());
        put(&HEADER_LEN.to_be_bytes());
        put(&[compression, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn l2(&self, manifest: &Manifest, part: u64) -> Vec<u8> {
        let mut entries = vec![0; L2_ENTRIES as usize];
        for at in chunks_of(manifest, part) {
            let Some(chunk) = manifest.chunks.get(at) else {
                continue;
            };
            let place = match &self.packed {
                None => ((self.data + at as u64) * CLUSTER) | COPIED,
                Some(packed) => packed.get(at).map_or(0, |(start, length)| {
                    let sectors = u64::from(*length).div_ceil(SECTOR);
                    COMPRESSED | (sectors - 1) << SECTORS_SHIFT | start
                }),
            };
            let entry = entries.get_mut((u64::from(chunk.index) % L2_ENTRIES) as usize);
            if let Some(entry) = entry {
                *entry = place;
            }
        }
        be(entries.into_iter())
    }

    /// The refcounts of the clusters from `first` on: a plain one has 1, and one with compressed
    /// clusters as many as there are parts of them in it.
    fn refcounts(&self, first: u64) -> Vec<u8> {
        let last = (first + REFCOUNTS).min(self.clusters);
        let count = |cluster: u64| match &self.packed {
            Some(packed) if cluster >= self.data => {
                let (start, end) = (cluster * CLUSTER, (cluster + 1) * CLUSTER);
                let begun = packed.partition_point(|(at, _)| *at < end);
                let ended = packed.partition_point(|(at, length)| {
                    at + u64::from(*length).next_multiple_of(SECTOR) <= start
                });
                u16::try_from(begun - ended).unwrap_or(u16::MAX)
            }
            _ => 1,
        };
        (first..last)
            .flat_map(|at| count(at).to_be_bytes())
            .collect()
    }
}

/// Which L2 table, of those that the whole disk could have, a chunk belongs to.
fn table_of(chunk: &ChunkRef) -> u64 {
    u64::from(chunk.index) / L2_ENTRIES
}

/// Places in the manifest of the chunks that belong to one L2 table.
fn chunks_of(manifest: &Manifest, part: u64) -> Range<usize> {
    let chunks = &manifest.chunks;
    let from = chunks.partition_point(|chunk| table_of(chunk) < part);
    from..chunks.partition_point(|chunk| table_of(chunk) <= part)
}

fn be(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_be_bytes).collect()
}
