//! Files by the numbers of their inodes, for whoever must find one again without its path.

use super::kinds::{Entry, FileKind, Node, TreeError};
use super::{Backend, MAX_ENTRIES, Volume, walk::too_many_entries};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

impl Volume<'_> {
    /// The file or folder whose inode has this number, with an empty name; `None` where no file has
    /// it, and on FAT. Symbolic links are shown as such.
    ///
    /// # Errors
    /// Where the inode is damaged or cannot be read.
    pub fn by_number(&self, number: u64) -> Result<Option<Entry>, TreeError> {
        match (&self.backend, u32::try_from(number)) {
            (Backend::Ext(ext), Ok(number)) => {
                ext.by_number(&self.source, number, &mut self.steps())
            }
            _ => Ok(None),
        }
    }

    /// The names in a folder with the numbers of their inodes, sorted by name. The inodes are not
    /// looked at.
    ///
    /// # Errors
    /// Where it is no folder of an ext volume, has more than 2^18 entries, is damaged or cannot be
    /// read.
    pub fn numbers(&self, folder: &Entry) -> Result<Vec<(OsString, u64)>, TreeError> {
        let (ext, inode) = self.ext_folder(folder)?;
        let mut names = vec![];
        ext.names(
            &self.source,
            inode,
            &mut self.steps(),
            &mut |name, number| {
                if names.len() == MAX_ENTRIES {
                    return Err(too_many_entries());
                }
                names.push((OsStr::from_bytes(name).to_owned(), u64::from(number)));
                Ok(true)
            },
        )?;
        names.sort();
        Ok(names)
    }

    /// The number of the inode of the folder that `folder` is in; the root is in itself.
    ///
    /// # Errors
    /// Where it is no folder of an ext volume, is damaged or cannot be read.
    pub fn parent(&self, folder: &Entry) -> Result<u64, TreeError> {
        let (ext, inode) = self.ext_folder(folder)?;
        let parent = ext.parent(&self.source, inode, &mut self.steps())?;
        Ok(parent.into())
    }

    fn ext_folder<'e>(
        &self,
        folder: &'e Entry,
    ) -> Result<(&super::ext::Reader, &'e super::ext::Inode), TreeError> {
        match (&self.backend, &folder.node) {
            (Backend::Ext(ext), Node::Ext(inode)) if folder.kind == FileKind::Folder => {
                Ok((ext, inode))
            }
            (Backend::Fat(_), _) => Err(TreeError::Unsupported(
                "files of a FAT volume have no numbers".into(),
            )),
            _ => Err(TreeError::NotAFolder(folder.name.clone())),
        }
    }
}
