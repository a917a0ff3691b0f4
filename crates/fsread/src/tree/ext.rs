//! The files on an ext volume (the kernel's `Documentation/filesystems/ext4/`, `inodes.rst`,
//! `ifork.rst`, `directory.rst`).

mod folder;
mod inode;
mod map;

use super::kinds::{Entry, Extent, FileKind, Modified, Node, Steps, TreeError};
use super::walk::too_many_entries;
use super::{MAX_ENTRIES, cache::Cached};
use crate::ReadAt;
use crate::bytes::u32_at;
use crate::ext::{Descriptors, Superblock, incompat};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

pub(super) use inode::Inode;

/// Inode of the root folder.
const ROOT: u32 = 2;
/// Longest target of a symbolic link, in bytes.
const MAX_TARGET: u64 = 4096;
/// Largest folder that is read, in bytes.
const MAX_FOLDER: u64 = 256 << 20;

/// An ext volume.
pub(super) struct Reader {
    superblock: Superblock,
}

impl Reader {
    pub(super) fn new(superblock: Superblock) -> Result<Self, TreeError> {
        if superblock.has_incompat(incompat::JOURNAL_DEV) {
            return Err(TreeError::Unsupported(
                "the volume is the journal of another one and has no files".into(),
            ));
        }
        Ok(Self { superblock })
    }

    pub(super) fn version(&self) -> u8 {
        self.superblock.version()
    }

    /// Whether something is left in the journal.
    pub(super) fn needs_recovery(&self) -> bool {
        self.superblock.has_incompat(incompat::RECOVER)
    }

    pub(super) fn root(&self, volume: &Cached<'_>) -> Result<Entry, TreeError> {
        let root = self.entry(volume, b"", ROOT, &mut Steps::new(1024))?;
        if root.kind != FileKind::Folder {
            return Err(TreeError::Damaged("its root is no folder".into()));
        }
        Ok(root)
    }

    /// What is in a folder.
    pub(super) fn list(
        &self,
        volume: &Cached<'_>,
        folder: &Inode,
        steps: &mut Steps,
    ) -> Result<Vec<Entry>, TreeError> {
        let mut names: Vec<(Vec<u8>, u32)> = vec![];
        self.names(volume, folder, steps, &mut |name, number| {
            if names.len() == MAX_ENTRIES {
                return Err(too_many_entries());
            }
            names.push((name.to_vec(), number));
            Ok(true)
        })?;
        // Inodes of neighbours are mostly neighbours.
        names.sort_unstable_by_key(|(_, number)| *number);
        let entries = names.iter();
        entries
            .map(|(name, number)| self.entry(volume, name, *number, steps))
            .collect()
    }

    /// The entry of that name in a folder.
    pub(super) fn find(
        &self,
        volume: &Cached<'_>,
        folder: &Inode,
        name: &[u8],
        steps: &mut Steps,
    ) -> Result<Option<Entry>, TreeError> {
        let mut found = None;
        self.names(volume, folder, steps, &mut |have, number| {
            if have == name {
                found = Some(number);
            }
            Ok(found.is_none())
        })?;
        found
            .map(|number| self.entry(volume, name, number, steps))
            .transpose()
    }

    /// Visits where the bytes in `range` of a file lie; pieces may begin before it and end behind it.
    pub(super) fn pieces(
        &self,
        volume: &dyn ReadAt,
        file: &Inode,
        range: Range<u64>,
        steps: &mut Steps,
        visit: &mut dyn FnMut(Extent) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let block = self.superblock.block;
        let blocks = range.start / block..range.end.div_ceil(block);
        map::blocks(volume, &self.superblock, file, blocks, steps, &mut |run| {
            visit(Extent {
                offset: run.first * block,
                length: run.count * block,
                place: run.block * block,
            })
        })
    }

    /// The entry of an inode; its name is empty. `None` where no file has it.
    pub(super) fn by_number(
        &self,
        volume: &Cached<'_>,
        number: u32,
        steps: &mut Steps,
    ) -> Result<Option<Entry>, TreeError> {
        if number == 0 || number > self.superblock.inodes {
            return Ok(None);
        }
        let inode = self.inode(volume, number)?;
        if inode.kind().is_none() || inode.links() == 0 {
            return Ok(None);
        }
        self.entry(volume, b"", number, steps).map(Some)
    }

    /// The inode of the folder that this one is in.
    pub(super) fn parent(
        &self,
        volume: &Cached<'_>,
        folder: &Inode,
        steps: &mut Steps,
    ) -> Result<u32, TreeError> {
        folder.check_readable()?;
        if let Some(content) = folder.inline()? {
            return Ok(u32_at(&content, 0));
        }
        let mut bytes = vec![0; self.superblock.block as usize];
        let first = 0..self.superblock.block.min(folder.size());
        self.pieces(volume, folder, first, steps, &mut |piece| {
            Ok(volume.read_at(piece.place, &mut bytes)?)
        })?;
        folder::parent(&bytes)
    }

    /// Visits the names in a folder and their inodes, without the folder itself and its parent, until
    /// `visit` has enough.
    pub(super) fn names(
        &self,
        volume: &Cached<'_>,
        folder: &Inode,
        steps: &mut Steps,
        visit: &mut folder::Visit<'_>,
    ) -> Result<(), TreeError> {
        folder.check_readable()?;
        let has_types = self.superblock.has_incompat(incompat::FILETYPE);
        if let Some(parts) = folder.inline_folder()? {
            for part in parts {
                if !folder::names(&part, has_types, visit)? {
                    return Ok(());
                }
            }
            return Ok(());
        }
        if folder.size() > MAX_FOLDER {
            return Err(too_many_entries());
        }
        let mut bytes = vec![0; self.superblock.block as usize];
        let mut goes_on = true;
        self.pieces(volume, folder, 0..folder.size(), steps, &mut |piece| {
            let mut place = piece.place;
            while goes_on && place < piece.place + piece.length {
                volume.read_at(place, &mut bytes)?;
                goes_on = folder::names(&bytes, has_types, visit)?;
                place += self.superblock.block;
            }
            Ok(())
        })
    }

    fn entry(
        &self,
        volume: &Cached<'_>,
        name: &[u8],
        number: u32,
        steps: &mut Steps,
    ) -> Result<Entry, TreeError> {
        let inode = self.inode(volume, number)?;
        let kind = inode.kind().ok_or_else(|| {
            TreeError::Damaged(format!(
                "{} is inode {number}, which is of no kind",
                OsStr::from_bytes(name).display()
            ))
        })?;
        let target = match kind {
            FileKind::Symlink => Some(self.target(volume, &inode, steps)?),
            _ => None,
        };
        let size = match kind {
            FileKind::File | FileKind::Symlink => inode.size(),
            _ => 0,
        };
        let modified = inode.modified();
        Ok(Entry {
            name: OsStr::from_bytes(name).to_owned(),
            kind,
            size,
            mode: Some(inode.permissions()),
            owner: Some(inode.owner()),
            modified: Some(Modified {
                seconds: modified.0,
                nanoseconds: modified.1,
            }),
            target: target.map(|target| OsStr::from_bytes(&target).to_owned()),
            number: Some(number.into()),
            links: Some(inode.links()),
            device: inode.device(),
            node: Node::Ext(Box::new(inode)),
        })
    }

    /// Where a symbolic link points to.
    fn target(
        &self,
        volume: &Cached<'_>,
        inode: &Inode,
        steps: &mut Steps,
    ) -> Result<Vec<u8>, TreeError> {
        // An encrypted one is shown, and leads nowhere.
        if inode.check_readable().is_err() {
            return Ok(b"(encrypted)".to_vec());
        }
        if let Some(target) = inode.short_target() {
            return Ok(target.to_vec());
        }
        let mut target = match inode.inline()? {
            Some(target) => target,
            None if inode.size() > MAX_TARGET => {
                return Err(TreeError::Damaged("a symbolic link is too long".into()));
            }
            None => {
                let mut target = vec![0; inode.size() as usize];
                self.pieces(volume, inode, 0..inode.size(), steps, &mut |piece| {
                    let (start, rest) = (piece.offset as usize, target.len() as u64);
                    let length = piece.length.min(rest.saturating_sub(piece.offset)) as usize;
                    match target.get_mut(start..start + length) {
                        Some(part) => Ok(volume.read_at(piece.place, part)?),
                        None => Ok(()),
                    }
                })?;
                target
            }
        };
        if let Some(end) = target.iter().position(|byte| *byte == 0) {
            target.truncate(end);
        }
        Ok(target)
    }

    /// The inode of that number.
    fn inode(&self, volume: &Cached<'_>, number: u32) -> Result<Inode, TreeError> {
        let sb = &self.superblock;
        if number == 0 || number > sb.inodes {
            return Err(TreeError::Damaged(format!("there is no inode {number}")));
        }
        let index = u64::from(number - 1);
        let group = Descriptors::new(volume, sb).get(index / sb.inodes_per_group)?;
        let at = index % sb.inodes_per_group * sb.inode_size;
        if group.inode_table.saturating_add(at / sb.block) >= sb.blocks {
            return Err(TreeError::Damaged(format!(
                "inode {number} lies outside of it"
            )));
        }
        let mut bytes = vec![0; sb.inode_size as usize];
        volume.read_at(group.inode_table * sb.block + at, &mut bytes)?;
        Ok(Inode::parse(
            number,
            &bytes,
            sb.has_incompat(incompat::LARGEDIR),
        ))
    }
}
