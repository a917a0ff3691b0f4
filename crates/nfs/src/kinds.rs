//! What all of the crate speaks of: kinds of files, attributes, who asks, and how a call ends.

/// What a file is (`ftype3`, RFC 1813, 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// A file with content.
    File = 1,
    /// A folder.
    Folder = 2,
    /// A device that is read and written by the block.
    BlockDevice = 3,
    /// A device that is read and written by the byte.
    CharDevice = 4,
    /// A symbolic link.
    Symlink = 5,
    /// A socket.
    Socket = 6,
    /// A named pipe.
    Fifo = 7,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Folder,
            3 => Self::BlockDevice,
            4 => Self::CharDevice,
            5 => Self::Symlink,
            6 => Self::Socket,
            7 => Self::Fifo,
            _ => return None,
        })
    }

    /// Whether it has a major and a minor number.
    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, Self::BlockDevice | Self::CharDevice)
    }
}

/// A point in time since 1970, UTC (`nfstime3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds.
    pub seconds: u32,
    /// And nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

impl Time {
    /// Out of nanoseconds since 1970; what is before it is 1970.
    #[must_use]
    pub fn from_nanoseconds(all: i64) -> Self {
        let all = all.max(0);
        Self {
            seconds: u32::try_from(all / 1_000_000_000).unwrap_or(u32::MAX),
            nanoseconds: (all % 1_000_000_000) as u32,
        }
    }

    /// This time, or the one after `before` where this is not later.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        match self > before {
            true => self,
            false => Self::from_nanoseconds(before.as_nanoseconds() + 1),
        }
    }

    /// As nanoseconds since 1970.
    #[must_use]
    pub fn as_nanoseconds(self) -> i64 {
        i64::from(self.seconds) * 1_000_000_000 + i64::from(self.nanoseconds.min(999_999_999))
    }
}

/// What is known of a file (`fattr3`, RFC 1813, 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number, which it keeps for as long as it is there.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Permissions, with the bits for setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// How many names it has.
    pub links: u32,
    /// Number of its user.
    pub user: u32,
    /// Number of its group.
    pub group: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that it takes.
    pub used: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// When it was last read, as far as a client has told.
    pub accessed: Time,
    /// When its content was last changed.
    pub modified: Time,
    /// When its content or its attributes were last changed.
    pub changed: Time,
}

/// Who asks (`authsys_parms`, RFC 5531, appendix A). The kernel of the client says so, and is believed:
/// an export belongs to one device, and its root is root there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credential {
    /// Number of the user; 0 may do everything.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
    /// Numbers of at most 16 further groups.
    pub groups: Vec<u32>,
}

impl Credential {
    /// Root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Whoever does not say who it is.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            user: 65534,
            group: 65534,
            groups: vec![],
        }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Whether it is in that group.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.group == group || self.groups.contains(&group)
    }
}

/// When a write may be acknowledged (`stable_how`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stability {
    /// As soon as it can be read; COMMIT makes it durable.
    Unstable = 0,
    /// When the content is durable.
    Data = 1,
    /// When content and attributes are durable.
    File = 2,
}

impl Stability {
    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unstable,
            1 => Self::Data,
            2 => Self::File,
            _ => return None,
        })
    }
}

/// A time to be set (`set_atime`, `set_mtime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// It stays.
    #[default]
    Keep,
    /// The server's time.
    Now,
    /// This one.
    To(Time),
}

/// Attributes to be set (`sattr3`); what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permissions.
    pub mode: Option<u32>,
    /// User.
    pub user: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// When it was last read.
    pub accessed: SetTime,
    /// When its content was last changed.
    pub modified: SetTime,
}

/// How a call ends that does not go well (`nfsstat3`, RFC 1813, 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Status {
    /// Only the owner or root may.
    #[error("only the owner may do this")]
    NotOwner = 1,
    /// There is no such name.
    #[error("there is no such file or folder")]
    NoEntry = 2,
    /// The server's disk, or the image, cannot be read or written.
    #[error("an error of the server's storage")]
    Io = 5,
    /// The permissions do not allow it.
    #[error("permission denied")]
    Access = 13,
    /// The name is taken.
    #[error("the file exists")]
    Exists = 17,
    /// It is no folder.
    #[error("not a folder")]
    NotFolder = 20,
    /// It is a folder.
    #[error("a folder")]
    IsFolder = 21,
    /// The call makes no sense for this file.
    #[error("invalid argument")]
    Invalid = 22,
    /// It would be longer than a file can be.
    #[error("the file would be too large")]
    TooLarge = 27,
    /// The server's disk is full.
    #[error("no space is left on the server")]
    NoSpace = 28,
    /// It has as many names as it can have.
    #[error("too many links")]
    TooManyLinks = 31,
    /// The name is longer than 255 bytes.
    #[error("the name is too long")]
    NameTooLong = 63,
    /// The folder is not empty.
    #[error("the folder is not empty")]
    NotEmpty = 66,
    /// The layer is as large as it may be.
    #[error("the layer has reached its limit")]
    Quota = 69,
    /// The file is no longer there, or belongs to another export.
    #[error("the file is gone")]
    Stale = 70,
    /// The handle is none of this server's.
    #[error("not a file handle of this server")]
    BadHandle = 10001,
    /// The file has changed since.
    #[error("the file has changed since")]
    NotSync = 10002,
    /// There is no such thing here.
    #[error("not supported")]
    NotSupported = 10004,
    /// The answer does not fit into what the client takes.
    #[error("the client takes too little for the answer")]
    TooSmall = 10005,
    /// Something is wrong with the server.
    #[error("a fault of the server")]
    Fault = 10006,
    /// The client is to ask again, in some seconds.
    #[error("not now")]
    Later = 10008,
    /// A file of that kind cannot be made.
    #[error("a file of this kind cannot be made")]
    BadKind = 10007,
}
