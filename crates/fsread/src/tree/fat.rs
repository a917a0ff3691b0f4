//! The files on a FAT volume.

use super::kinds::{Entry, Extent, FileKind, Modified, Node, Steps, TreeError};
use crate::ReadAt;
use crate::fat::{FolderEntry, Geometry, Kind, Link, Table, entries};
use std::ops::Range;

/// Longest folder that is read, in bytes: what FAT allows.
const MAX_FOLDER: u64 = 2 << 20;
/// Bytes of the table that are read at once.
const PIECE: u64 = 4096;

/// A FAT volume.
pub(super) struct Reader {
    geometry: Geometry,
}

/// How a file or folder is found again.
#[derive(Clone, Debug)]
pub(super) enum FatNode {
    /// The root folder of FAT12 and FAT16, which has a place of its own.
    FixedRoot,
    /// A chain of clusters, which begins with this one; 0 for none.
    Chain(u32),
}

impl Reader {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self { geometry }
    }

    pub(super) fn bits(&self) -> u8 {
        self.geometry.kind.bits()
    }

    pub(super) fn root(&self) -> Entry {
        let node = match self.geometry.kind {
            Kind::Fat12 | Kind::Fat16 => FatNode::FixedRoot,
            Kind::Fat32 => FatNode::Chain(self.geometry.root_cluster),
        };
        entry("", FileKind::Folder, 0, None, node)
    }

    /// What is in a folder.
    pub(super) fn list(
        &self,
        volume: &dyn ReadAt,
        folder: &FatNode,
        steps: &mut Steps,
    ) -> Result<Vec<Entry>, TreeError> {
        let mut bytes = vec![];
        match *folder {
            FatNode::FixedRoot => {
                let root = &self.geometry.root;
                // At most 65535 entries of 32 bytes.
                bytes.resize((root.end - root.start) as usize, 0);
                volume.read_at(root.start, &mut bytes)?;
            }
            FatNode::Chain(first) => {
                self.chain(volume, first, steps, &mut |piece| {
                    if piece.offset + piece.length > MAX_FOLDER + self.geometry.cluster {
                        return Err(damaged("a folder has more than 2 MiB"));
                    }
                    let start = bytes.len();
                    bytes.resize(start + piece.length as usize, 0);
                    let part = bytes.get_mut(start..).unwrap_or_default();
                    volume.read_at(piece.place, part)?;
                    Ok(true)
                })?;
            }
        }
        Ok(entries(&bytes)
            .into_iter()
            .map(|found| self.entry(found))
            .collect())
    }

    fn entry(&self, found: FolderEntry) -> Entry {
        let (kind, size) = match found.is_folder {
            true => (FileKind::Folder, 0),
            false => (FileKind::File, u64::from(found.size)),
        };
        // The upper half means something else in FAT12 and FAT16.
        let first = match self.geometry.kind {
            Kind::Fat32 => found.cluster,
            Kind::Fat12 | Kind::Fat16 => found.cluster & 0xffff,
        };
        let modified = found.modified.map(|seconds| Modified {
            seconds,
            nanoseconds: 0,
        });
        entry(&found.name, kind, size, modified, FatNode::Chain(first))
    }

    /// Visits where the bytes in `range` of a file lie; pieces may begin before it.
    pub(super) fn pieces(
        &self,
        volume: &dyn ReadAt,
        file: &FatNode,
        range: Range<u64>,
        steps: &mut Steps,
        visit: &mut dyn FnMut(Extent) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let FatNode::Chain(first) = *file else {
            return Ok(());
        };
        let mut known = 0;
        self.chain(volume, first, steps, &mut |piece| {
            known = piece.offset + piece.length;
            visit(piece)?;
            Ok(known < range.end)
        })?;
        if known < range.end {
            return Err(damaged("a file is shorter than its entry says"));
        }
        Ok(())
    }

    /// Visits the clusters of a chain, until `visit` has enough.
    fn chain(
        &self,
        volume: &dyn ReadAt,
        first: u32,
        steps: &mut Steps,
        visit: &mut dyn FnMut(Extent) -> Result<bool, TreeError>,
    ) -> Result<(), TreeError> {
        let mut table = Table::new(volume, &self.geometry, PIECE);
        let (mut cluster, mut offset, mut links) = (first, 0, 0);
        if !self.geometry.has(first) {
            return Err(damaged("a chain of clusters leads out of it"));
        }
        loop {
            steps.take()?;
            links += 1;
            if links > self.geometry.clusters {
                return Err(damaged("a chain of clusters has no end"));
            }
            let bytes = self.geometry.bytes_of(cluster);
            let piece = Extent {
                offset,
                length: self.geometry.cluster,
                place: bytes.start,
            };
            if !visit(piece)? {
                return Ok(());
            }
            offset += self.geometry.cluster;
            cluster = match table.link(cluster)? {
                Link::Next(next) => next,
                Link::End => return Ok(()),
                Link::Free | Link::Bad | Link::Wrong(_) => {
                    return Err(damaged(
                        "a chain of clusters leads to one that is not in use",
                    ));
                }
            };
        }
    }
}

fn entry(
    name: &str,
    kind: FileKind,
    size: u64,
    modified: Option<Modified>,
    node: FatNode,
) -> Entry {
    Entry {
        name: name.into(),
        kind,
        size,
        mode: None,
        owner: None,
        modified,
        target: None,
        number: None,
        links: None,
        device: None,
        node: Node::Fat(node),
    }
}

fn damaged(what: &str) -> TreeError {
    TreeError::Damaged(what.into())
}
