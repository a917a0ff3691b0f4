//! What lies under every layer: bytes that nobody writes.

use crate::{DeviceError, raw};
use bugler_fsread::ReadAt;
use std::{fmt, fs::File, io, path::Path};

/// What a base is: 32 bytes that no other base has, such as the BLAKE3 of an image's manifest. An
/// overlay keeps it, and is opened over no other base.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BaseId(pub [u8; 32]);

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseId({self})")
    }
}

/// A disk that is only read, by many at once.
pub trait BaseRead: ReadAt + Send + Sync + 'static {
    /// What it is.
    fn id(&self) -> BaseId;

    /// How many of the `length` bytes from `offset` are alike, at least 1, and whether those are
    /// known to be zero.
    fn extent(&self, offset: u64, length: u64) -> (u64, bool) {
        let _ = offset;
        (length, false)
    }

    /// Fills `buf` from `offset`, but only if no disk has to be waited for. Where it says `false`,
    /// `buf` is undefined.
    ///
    /// # Errors
    /// Those of [`ReadAt::read_at`].
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buf);
        Ok(false)
    }
}

/// A base of nothing but zeros.
#[derive(Clone, Copy, Debug)]
pub struct EmptyBase {
    /// Size in bytes.
    pub size: u64,
}

impl ReadAt for EmptyBase {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl BaseRead for EmptyBase {
    fn id(&self) -> BaseId {
        BaseId([0; 32])
    }

    fn extent(&self, _offset: u64, length: u64) -> (u64, bool) {
        (length, true)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
}

/// A raw disk image in a file that nobody changes.
#[derive(Debug)]
pub struct FileBase {
    file: File,
    size: u64,
    id: BaseId,
}

impl FileBase {
    /// Opens it. That `id` is the file's own, and changes when the file does, is the caller's to
    /// see to.
    ///
    /// # Errors
    /// [`DeviceError::Io`] where it cannot be opened.
    pub fn open(path: &Path, id: BaseId) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Io {
            action: "open the base",
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(Self { file, size, id })
    }
}

impl ReadAt for FileBase {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buf)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl BaseRead for FileBase {
    fn id(&self) -> BaseId {
        self.id
    }

    fn extent(&self, offset: u64, length: u64) -> (u64, bool) {
        let (stop, hole) = raw::extent(&self.file, offset, offset.saturating_add(length));
        (stop.saturating_sub(offset), hole)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        raw::read_now(&self.file, offset, buf)
    }
}
