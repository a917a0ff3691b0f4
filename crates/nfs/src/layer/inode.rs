//! A file, as it is kept.

use crate::kinds::{Attributes, Kind, Time};
use crate::tree::Node;

/// Whether a number is that of a file of the shared tree.
pub(super) fn is_shared(id: u64) -> bool {
    id & 1 == 0
}

/// A file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    /// Bytes that its own content takes.
    pub(super) used: u64,
    pub(super) device: (u32, u32),
    pub(super) accessed: Time,
    pub(super) modified: Time,
    pub(super) changed: Time,
    /// Of a folder: the one that it is in; 0 where the shared tree knows.
    pub(super) parent: u64,
    /// Whether its content is in the layer.
    pub(super) own: bool,
    /// Of a symbolic link that was made here: where it points to.
    pub(super) target: Option<Vec<u8>>,
    /// What an exclusive CREATE was told.
    pub(super) verifier: Option<[u8; 8]>,
}

impl Inode {
    /// One of the shared tree.
    pub(super) fn of_node(id: u64, node: &Node) -> Self {
        Self {
            id,
            kind: node.kind,
            mode: node.mode,
            user: node.user,
            group: node.group,
            links: node.links,
            size: node.size,
            used: 0,
            device: node.device,
            accessed: node.modified,
            modified: node.modified,
            changed: node.modified,
            parent: 0,
            own: false,
            target: None,
            verifier: None,
        }
    }

    pub(super) fn attributes(&self) -> Attributes {
        Attributes {
            id: self.id,
            kind: self.kind,
            mode: self.mode,
            links: self.links,
            user: self.user,
            group: self.group,
            size: self.size,
            used: match self.own {
                true => self.used,
                false => self
                    .size
                    .checked_next_multiple_of(4096)
                    .unwrap_or(self.size),
            },
            device: self.device,
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
        }
    }
}
