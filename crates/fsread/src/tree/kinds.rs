//! What the reader of files speaks of.

use super::ext::Inode;
use super::fat::FatNode;
use std::ffi::OsString;
use std::io;

/// The kind of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// FAT.
    Fat {
        /// 12, 16 or 32.
        bits: u8,
    },
    /// ext.
    Ext {
        /// 2, 3 or 4.
        version: u8,
    },
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A device that is read and written by the byte.
    CharDevice,
    /// A device that is read and written by the block.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Modified {
    /// Seconds since 1970, UTC. FAT keeps local time and does not say of where: it is given as if it
    /// were UTC.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

/// A file or folder.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name; empty for the root of the volume.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file, or of the target of a symbolic link; 0 for all else.
    pub size: u64,
    /// Permissions, with the bits for setuid, setgid and sticky: 12 bits. FAT has none.
    pub mode: Option<u16>,
    /// Numbers of its user and its group. FAT has none.
    pub owner: Option<(u32, u32)>,
    /// When its content was last changed, where that is known.
    pub modified: Option<Modified>,
    /// Where a symbolic link points to.
    pub target: Option<OsString>,
    /// Number of its inode, for [`Volume::by_number`](super::Volume::by_number). FAT has none.
    pub number: Option<u64>,
    /// How many names it has. FAT does not count them.
    pub links: Option<u32>,
    /// Major and minor number of a device; `None` for all else.
    pub device: Option<(u32, u32)>,
    pub(super) node: Node,
}

/// Bytes of a file that follow each other on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first of them, counted in the file.
    pub offset: u64,
    /// How many.
    pub length: u64,
    /// The first of them, counted in the volume.
    pub place: u64,
}

/// Why files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The source cannot be read.
    #[error("the volume cannot be read")]
    Io(#[from] io::Error),
    /// It is of a kind that is not read, or uses something that is not; with the words for the
    /// operator.
    #[error("{0}")]
    Unsupported(String),
    /// It is damaged.
    #[error("the volume is damaged: {0}")]
    Damaged(String),
    /// There is no such file or folder.
    #[error("there is no {} on the volume", .0.display())]
    NotFound(OsString),
    /// The path is that of something else, or leads through it.
    #[error("{} is no folder", .0.display())]
    NotAFolder(OsString),
    /// Only files have content.
    #[error("{} is no file", .0.display())]
    NotAFile(OsString),
    /// Symbolic links lead to each other.
    #[error("{} leads through more than 40 symbolic links", .0.display())]
    TooManyLinks(OsString),
    /// The file is longer than the caller takes.
    #[error("{} has {size} bytes; at most {limit} are read", name.display())]
    TooLarge {
        /// Its name.
        name: OsString,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// There is more of something than is kept in memory.
    #[error("there are more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are taken.
        limit: u64,
    },
    /// What was read cannot be passed on.
    #[error("what was read cannot be written")]
    Write(#[source] io::Error),
}

/// How a volume finds a file again.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Fat(FatNode),
    Ext(Box<Inode>),
}

impl Node {
    /// The content, where it is kept with the node.
    pub(super) fn inline(&self) -> Result<Option<Vec<u8>>, TreeError> {
        match self {
            Self::Fat(_) => Ok(None),
            Self::Ext(inode) => inode.inline(),
        }
    }
}

/// How many blocks and links may still be looked at: a volume that is damaged can lead around for ever.
#[derive(Debug)]
pub(super) struct Steps(u64);

impl Steps {
    pub(super) fn new(count: u64) -> Self {
        Self(count)
    }

    /// One more.
    pub(super) fn take(&mut self) -> Result<(), TreeError> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            TreeError::Damaged("its files and folders lead around, or share their blocks".into())
        })?;
        Ok(())
    }
}
