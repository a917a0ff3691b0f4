//! Calls of NFS version 3 (RFC 1813, section 3) from bytes and back, and the parts that answers are
//! made of.

mod parts;

use crate::kinds::{Kind, SetAttributes, Stability, Time};
use crate::xdr::{Reader, Writer, XdrError};
use parts::{
    folder, handle, make_node, number, place, put_place, put_set, put_time, set_attributes, time,
};

pub use parts::{
    first_handle, put_after, put_attributes, put_change, read_attributes, status_number,
};

/// Most bytes of a file handle (`NFS3_FHSIZE`).
pub const MAX_HANDLE: u32 = 64;
/// Most bytes that are read or written at once.
pub const MAX_TRANSFER: u32 = 256 << 10;
/// Longest name that is looked at, in bytes; what is longer than a name may be is told so.
const MAX_NAME: u32 = 4096;
/// Longest target of a symbolic link, in bytes.
pub const MAX_TARGET: u32 = 4096;

/// A name in a folder (`diropargs3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Handle of the folder.
    pub folder: &'a [u8],
    /// The name.
    pub name: &'a [u8],
}

/// How a file is made (`createhow3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// One that is there is taken.
    Unchecked(SetAttributes),
    /// There must be none.
    Guarded(SetAttributes),
    /// There must be none, except for the one that the same call has made before.
    Exclusive([u8; 8]),
}

/// What is made by MKNOD (`mknoddata3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A device with its major and minor number.
    Device(Kind, u32, u32),
    /// A socket or a named pipe.
    Plain(Kind),
    /// What MKNOD does not make.
    Other(Kind),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// NULL, 3.3.0.
    Null,
    /// GETATTR, 3.3.1.
    GetAttributes {
        /// Handle of the file.
        file: &'a [u8],
    },
    /// SETATTR, 3.3.2.
    SetAttributes {
        /// Handle of the file.
        file: &'a [u8],
        /// What to set.
        set: SetAttributes,
        /// Only if it was last changed then.
        guard: Option<Time>,
    },
    /// LOOKUP, 3.3.3.
    Lookup(Place<'a>),
    /// ACCESS, 3.3.4.
    Access {
        /// Handle of the file.
        file: &'a [u8],
        /// Bits of what is asked for.
        mask: u32,
    },
    /// READLINK, 3.3.5.
    ReadLink {
        /// Handle of the link.
        file: &'a [u8],
    },
    /// READ, 3.3.6.
    Read {
        /// Handle of the file.
        file: &'a [u8],
        /// First byte.
        offset: u64,
        /// How many bytes.
        count: u32,
    },
    /// WRITE, 3.3.7.
    Write {
        /// Handle of the file.
        file: &'a [u8],
        /// First byte.
        offset: u64,
        /// When it may be acknowledged.
        stability: Stability,
        /// What to write.
        data: &'a [u8],
    },
    /// CREATE, 3.3.8.
    Create(Place<'a>, How),
    /// MKDIR, 3.3.9.
    MakeFolder(Place<'a>, SetAttributes),
    /// SYMLINK, 3.3.10.
    Symlink(Place<'a>, SetAttributes, &'a [u8]),
    /// MKNOD, 3.3.11.
    MakeNode(Place<'a>, Special, SetAttributes),
    /// REMOVE, 3.3.12.
    Remove(Place<'a>),
    /// RMDIR, 3.3.13.
    RemoveFolder(Place<'a>),
    /// RENAME, 3.3.14.
    Rename {
        /// What it is called.
        from: Place<'a>,
        /// What it is to be called.
        to: Place<'a>,
    },
    /// LINK, 3.3.15.
    Link {
        /// Handle of the file.
        file: &'a [u8],
        /// Its further name.
        to: Place<'a>,
    },
    /// READDIR, 3.3.16.
    ReadFolder {
        /// Handle of the folder.
        folder: &'a [u8],
        /// The entry after which to go on; 0 for the first.
        cookie: u64,
        /// Most bytes of the answer.
        count: u32,
    },
    /// READDIRPLUS, 3.3.17.
    ReadFolderPlus {
        /// Handle of the folder.
        folder: &'a [u8],
        /// The entry after which to go on; 0 for the first.
        cookie: u64,
        /// Most bytes of names and cookies.
        names: u32,
        /// Most bytes of the answer.
        count: u32,
    },
    /// FSSTAT, 3.3.18.
    Space {
        /// Handle of the root.
        root: &'a [u8],
    },
    /// FSINFO, 3.3.19.
    Limits {
        /// Handle of the root.
        root: &'a [u8],
    },
    /// PATHCONF, 3.3.20.
    PathLimits {
        /// Handle of a file.
        file: &'a [u8],
    },
    /// COMMIT, 3.3.21.
    Commit {
        /// Handle of the file.
        file: &'a [u8],
        /// First byte.
        offset: u64,
        /// How many bytes; 0 for all that follow.
        count: u32,
    },
}

/// What a procedure is told, as an error or as `None` for one that there is not.
type Decoded<'a> = Result<Option<Call<'a>>, XdrError>;

impl<'a> Call<'a> {
    /// Reads what a procedure is told; `None` for a procedure that there is not.
    ///
    /// # Errors
    /// Where it makes no sense.
    pub fn decode(procedure: u32, arguments: &'a [u8]) -> Decoded<'a> {
        let r = &mut Reader::new(arguments);
        Ok(Some(match procedure {
            0 => Self::Null,
            1 => Self::GetAttributes { file: handle(r)? },
            2 => Self::SetAttributes {
                file: handle(r)?,
                set: set_attributes(r)?,
                guard: match r.bool("the guard of SETATTR")? {
                    true => Some(time(r)?),
                    false => None,
                },
            },
            3 => Self::Lookup(place(r)?),
            4 => Self::Access {
                file: handle(r)?,
                mask: r.u32("what access is asked for")?,
            },
            5 => Self::ReadLink { file: handle(r)? },
            6 => Self::Read {
                file: handle(r)?,
                offset: r.u64("an offset")?,
                count: r.u32("a count")?,
            },
            7 => {
                let (file, offset) = (handle(r)?, r.u64("an offset")?);
                let count = r.u32("a count")?;
                let stability = number(r, "the stability", Stability::from_number)?;
                let data = r.opaque("what is written", MAX_TRANSFER)?;
                // The count is the length of the data; where they differ, the shorter is meant.
                let data = data.get(..count as usize).unwrap_or(data);
                Self::Write {
                    file,
                    offset,
                    stability,
                    data,
                }
            }
            8 => {
                let place = place(r)?;
                let how = match r.u32("how a file is made")? {
                    0 => How::Unchecked(set_attributes(r)?),
                    1 => How::Guarded(set_attributes(r)?),
                    2 => How::Exclusive(r.fixed("the verifier of CREATE")?),
                    value => {
                        let what = "way to make a file";
                        return Err(XdrError::Value { what, value });
                    }
                };
                Self::Create(place, how)
            }
            9 => Self::MakeFolder(place(r)?, set_attributes(r)?),
            10 => {
                let (place, set) = (place(r)?, set_attributes(r)?);
                let target = r.opaque("the target of a symbolic link", MAX_TARGET)?;
                Self::Symlink(place, set, target)
            }
            11 => make_node(r)?,
            12 => Self::Remove(place(r)?),
            13 => Self::RemoveFolder(place(r)?),
            14 => Self::Rename {
                from: place(r)?,
                to: place(r)?,
            },
            15 => Self::Link {
                file: handle(r)?,
                to: place(r)?,
            },
            16 => {
                let (folder, cookie) = folder(r)?;
                let count = r.u32("a count")?;
                Self::ReadFolder {
                    folder,
                    cookie,
                    count,
                }
            }
            17 => {
                let (folder, cookie) = folder(r)?;
                Self::ReadFolderPlus {
                    folder,
                    cookie,
                    names: r.u32("a count")?,
                    count: r.u32("a count")?,
                }
            }
            18 => Self::Space { root: handle(r)? },
            19 => Self::Limits { root: handle(r)? },
            20 => Self::PathLimits { file: handle(r)? },
            21 => Self::Commit {
                file: handle(r)?,
                offset: r.u64("an offset")?,
                count: r.u32("a count")?,
            },
            _ => return Ok(None),
        }))
    }

    /// The procedure and what it is told.
    #[must_use]
    pub fn encode(&self) -> (u32, Vec<u8>) {
        let mut out = Writer::new();
        let w = &mut out;
        let procedure = match self {
            Self::Null => 0,
            Self::GetAttributes { file } => {
                w.opaque(file);
                1
            }
            Self::SetAttributes { file, set, guard } => {
                w.opaque(file);
                put_set(w, set);
                w.bool(guard.is_some());
                if let Some(guard) = guard {
                    put_time(w, *guard);
                }
                2
            }
            Self::Lookup(place) => {
                put_place(w, place);
                3
            }
            Self::Access { file, mask } => {
                w.opaque(file).u32(*mask);
                4
            }
            Self::ReadLink { file } => {
                w.opaque(file);
                5
            }
            Self::Read {
                file,
                offset,
                count,
            } => {
                w.opaque(file).u64(*offset).u32(*count);
                6
            }
            Self::Write {
                file,
                offset,
                stability,
                data,
            } => {
                w.opaque(file).u64(*offset).u32(data.len() as u32);
                w.u32(*stability as u32).opaque(data);
                7
            }
            Self::Create(place, how) => {
                put_place(w, place);
                match how {
                    How::Unchecked(set) => put_set(w.u32(0), set),
                    How::Guarded(set) => put_set(w.u32(1), set),
                    How::Exclusive(verifier) => drop(w.u32(2).raw(verifier)),
                }
                8
            }
            Self::MakeFolder(place, set) => {
                put_place(w, place);
                put_set(w, set);
                9
            }
            Self::Symlink(place, set, target) => {
                put_place(w, place);
                put_set(w, set);
                w.opaque(target);
                10
            }
            Self::MakeNode(place, special, set) => {
                put_place(w, place);
                match special {
                    Special::Device(kind, major, minor) => {
                        put_set(w.u32(*kind as u32), set);
                        w.u32(*major).u32(*minor);
                    }
                    Special::Plain(kind) => put_set(w.u32(*kind as u32), set),
                    Special::Other(kind) => drop(w.u32(*kind as u32)),
                }
                11
            }
            Self::Remove(place) => {
                put_place(w, place);
                12
            }
            Self::RemoveFolder(place) => {
                put_place(w, place);
                13
            }
            Self::Rename { from, to } => {
                put_place(w, from);
                put_place(w, to);
                14
            }
            Self::Link { file, to } => {
                put_place(w.opaque(file), to);
                15
            }
            Self::ReadFolder {
                folder,
                cookie,
                count,
            } => {
                w.opaque(folder).u64(*cookie).u64(0).u32(*count);
                16
            }
            Self::ReadFolderPlus {
                folder,
                cookie,
                names,
                count,
            } => {
                w.opaque(folder).u64(*cookie).u64(0);
                w.u32(*names).u32(*count);
                17
            }
            Self::Space { root } => {
                w.opaque(root);
                18
            }
            Self::Limits { root } => {
                w.opaque(root);
                19
            }
            Self::PathLimits { file } => {
                w.opaque(file);
                20
            }
            Self::Commit {
                file,
                offset,
                count,
            } => {
                w.opaque(file).u64(*offset).u32(*count);
                21
            }
        };
        (procedure, out.into_bytes())
    }

    /// Whether doing it twice is not the same as doing it once, so that a call that is sent again must
    /// get the first answer.
    #[must_use]
    pub fn is_once(&self) -> bool {
        matches!(
            self,
            Self::SetAttributes { .. }
                | Self::Create(..)
                | Self::MakeFolder(..)
                | Self::Symlink(..)
                | Self::MakeNode(..)
                | Self::Remove(_)
                | Self::RemoveFolder(_)
                | Self::Rename { .. }
                | Self::Link { .. }
        )
    }
}
