//! Every file of a volume, in an order that two volumes share.

use super::kinds::{Entry, FileKind, Node, Steps, TreeError};
use super::{MAX_ENTRIES, Volume};
use crate::ReadAt;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Folders in folders that are followed, at most.
const MAX_DEPTH: usize = 256;

/// A file or folder on the way.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Its path from the root of the volume, without a slash in front.
    pub path: PathBuf,
    /// What is known of it.
    pub entry: Entry,
    /// For a file: a number that is the same for the same places on the volume. Where it, the size
    /// and the bytes of the volume there are the same, so is the content. Content that is kept in an
    /// inode is in the number itself.
    pub identity: Option<u64>,
}

/// A folder that is being walked through.
struct Open {
    path: PathBuf,
    /// What is left of it, the last one first.
    rest: Vec<Entry>,
    /// Its inode, to see folders that contain themselves.
    number: Option<u32>,
}

impl Volume<'_> {
    /// Visits the folder `from` and everything below it, each folder before what is in it, and what is
    /// in a folder by its name: so that two walks can be compared as they go. Symbolic links are
    /// shown and not followed.
    ///
    /// # Errors
    /// Where there is no such folder, there are more than `most` files and folders in all or 2^18 in
    /// one folder and those above it, or something is damaged or cannot be read.
    pub fn walk(
        &self,
        from: impl AsRef<OsStr>,
        most: u64,
        visit: &mut dyn FnMut(&Walked) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let from = from.as_ref();
        let top = self.entry(from)?;
        if top.kind != FileKind::Folder {
            return Err(TreeError::NotAFolder(from.into()));
        }
        // Files whose content is shared, which are rare, are counted again for each of their names.
        let mut steps = Steps::new(4 * (self.source.size() / 512) + (1 << 20));
        let trimmed = from.as_bytes().split(|byte| *byte == b'/');
        let path: PathBuf = trimmed
            .filter(|part| !matches!(*part, b"" | b"."))
            .map(OsStr::from_bytes)
            .collect();
        let mut left = most;
        let mut open: Vec<Open> = vec![];
        let mut next = Some((path, top));
        loop {
            let Some((path, entry)) = next.take() else {
                let Some(folder) = open.last_mut() else {
                    return Ok(());
                };
                match folder.rest.pop() {
                    Some(entry) => next = Some((folder.path.join(&entry.name), entry)),
                    None => drop(open.pop()),
                }
                continue;
            };
            left = left.checked_sub(1).ok_or(TreeError::TooMany {
                what: "files and folders",
                limit: most,
            })?;
            let identity = match entry.kind {
                FileKind::File => Some(self.identity(&entry, &mut steps)?),
                _ => None,
            };
            let walked = Walked {
                path,
                entry,
                identity,
            };
            if visit(&walked).is_break() {
                return Ok(());
            }
            let Walked { path, entry, .. } = walked;
            if entry.kind == FileKind::Folder {
                let number = match &entry.node {
                    Node::Ext(inode) => Some(inode.number()),
                    Node::Fat(_) => None,
                };
                let loops = number.is_some() && open.iter().any(|above| above.number == number);
                if loops || open.len() == MAX_DEPTH {
                    return Err(TreeError::Damaged(format!(
                        "{} is in itself, or too deep",
                        path.display()
                    )));
                }
                let mut rest = self.list_node(&entry.node)?;
                rest.reverse();
                if open.iter().map(|above| above.rest.len()).sum::<usize>() + rest.len()
                    > MAX_ENTRIES
                {
                    return Err(too_many_entries());
                }
                open.push(Open { path, rest, number });
            }
        }
    }

    /// A number for the places of a file's bytes.
    fn identity(&self, entry: &Entry, steps: &mut Steps) -> Result<u64, TreeError> {
        let mut hash = Fnv::new();
        if let Some(content) = entry.node.inline()? {
            hash.add(&content);
            return Ok(hash.0);
        }
        self.pieces(&entry.node, 0..entry.size, steps, &mut |piece| {
            for number in [piece.offset, piece.length, piece.place] {
                hash.add(&number.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(hash.0)
    }
}

/// The hash FNV-1a with 64 bits: it stays the same from one release to the next.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The limit of what is kept of folders, as an error.
pub(super) fn too_many_entries() -> TreeError {
    TreeError::TooMany {
        what: "entries in a folder",
        limit: MAX_ENTRIES as u64,
    }
}
