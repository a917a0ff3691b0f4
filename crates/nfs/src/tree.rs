//! The shared tree below: read, never written, the same for all devices.

mod folder;
mod image;

use crate::kinds::{Kind, Time};
use std::sync::Arc;

pub use folder::FolderTree;
pub use image::ImageTree;

/// Names in a folder with the numbers of what they name, sorted by name, without the folder itself and
/// its parent.
pub type Listing = Arc<[(Box<[u8]>, u64)]>;

/// A file or folder of a shared tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions: 12 bits.
    pub mode: u32,
    /// How many names it has in the tree; of a folder, 2 and how many folders are in it.
    pub links: u32,
    /// Number of its user.
    pub user: u32,
    /// Number of its group.
    pub group: u32,
    /// Length in bytes.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// When its content was last changed.
    pub modified: Time,
}

/// Why a shared tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeFault {
    /// The filesystem of the image.
    #[error("the filesystem of the image cannot be read")]
    Image(#[from] bugler_fsread::tree::TreeError),
    /// The folder.
    #[error("{what} cannot be read: see that the server may read it, and that it is still there")]
    Folder {
        /// Its path.
        what: String,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be served as it is; with the words for the operator.
    #[error("{0}")]
    Unsupported(String),
}

/// A tree of files that does not change while it is served. Files have numbers, which they keep for
/// ever, below 2^62.
pub trait Tree: Send + Sync + 'static {
    /// The number of the root.
    fn root(&self) -> u64;

    /// What is known of a file; `None` where there is none of this number.
    ///
    /// # Errors
    /// [`TreeFault`].
    fn node(&self, number: u64) -> Result<Option<Node>, TreeFault>;

    /// What is in a folder.
    ///
    /// # Errors
    /// [`TreeFault`], also where it is no folder.
    fn list(&self, folder: u64) -> Result<Listing, TreeFault>;

    /// The folder that a folder is in; the root is in itself.
    ///
    /// # Errors
    /// [`TreeFault`], also where it is no folder.
    fn parent(&self, folder: u64) -> Result<u64, TreeFault>;

    /// Where a symbolic link points to.
    ///
    /// # Errors
    /// [`TreeFault`], also where it is no symbolic link.
    fn target(&self, link: u64) -> Result<Vec<u8>, TreeFault>;

    /// The bytes of a file from `offset`, at most `count`, fewer only at its end.
    ///
    /// # Errors
    /// [`TreeFault`], also where it is no file.
    fn read(&self, file: u64, offset: u64, count: usize) -> Result<Vec<u8>, TreeFault>;

    /// What has this name in a folder.
    ///
    /// # Errors
    /// Those of [`list`](Self::list).
    fn find(&self, folder: u64, name: &[u8]) -> Result<Option<u64>, TreeFault> {
        let names = self.list(folder)?;
        let at = names.binary_search_by(|(have, _)| have.as_ref().cmp(name));
        Ok(at.ok().and_then(|at| names.get(at)).map(|entry| entry.1))
    }
}
