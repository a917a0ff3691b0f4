//! The disk as the engine sees it: a block device, or a regular file that stands for one.

use super::buffer::{ALIGN, AlignedBuf};
use crate::blkdev;
use bugler_fsread::ReadAt;
use rustix::fs::{Advice, FallocateFlags, FileType, OFlags, SeekFrom, fadvise, fallocate, fstat};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A disk refused an operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DiskError {
    /// What was tried, with its place on the disk.
    pub action: String,
    /// The disk.
    pub path: PathBuf,
    /// What came back.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// Whether it was refused because something else has the disk, or a part of it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.source.raw_os_error() == Some(Errno::BUSY.raw_os_error())
    }
}

/// What a target is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be written. A block device is taken exclusively: one that is mounted, or part of
    /// something else, is refused.
    Write,
    /// To be read.
    Read,
    /// To be read while nobody else has it: a block device is taken exclusively, as for writing.
    ReadAlone,
}

/// An open disk. Everything goes past the page cache where the system lets it: a deploy would
/// push everything else out of it, and reading back through it would prove nothing.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    is_block: bool,
    size: u64,
    /// Opened with O_DIRECT; missing where the filesystem of a file cannot.
    direct: Option<File>,
    /// What offsets and lengths must be multiples of to go through `direct`, in bytes.
    align: u64,
    /// For the pieces of a file that `direct` cannot take, and for everything else.
    plain: File,
}

impl Target {
    /// Opens a disk.
    ///
    /// # Errors
    /// [`DiskError`] when it cannot be opened, is in use, or is neither a block device nor a
    /// regular file.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        Self::try_open(path, access).map_err(|source| DiskError {
            action: match access {
                Access::Write => "open for writing",
                Access::Read | Access::ReadAlone => "open for reading",
            }
            .into(),
            path: path.into(),
            source,
        })
    }

    fn try_open(path: &Path, access: Access) -> io::Result<Self> {
        let open = |flags: OFlags| {
            let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
            OpenOptions::new()
                .read(true)
                .write(access == Access::Write)
                .custom_flags(flags)
                .open(path)
        };
        let looked_at = open(OFlags::empty())?;
        let is_block = match FileType::from_raw_mode(fstat(&looked_at)?.st_mode) {
            FileType::BlockDevice => true,
            FileType::RegularFile => false,
            _ => {
                return Err(io::Error::other(
                    "it is neither a block device nor a regular file",
                ));
            }
        };
        let exclusive = if is_block && access != Access::Read {
            // Without O_CREAT this means: nobody else, a mounted filesystem included.
            OFlags::EXCL
        } else {
            OFlags::empty()
        };
        // Only this descriptor holds the claim, so that it ends with it.
        drop(looked_at);
        let plain = open(exclusive)?;
        // A second exclusive open by the same process would be refused.
        let direct = open(OFlags::DIRECT).ok();
        let size = rustix::fs::seek(&plain, SeekFrom::End(0))?;
        let align = if is_block {
            u64::from(rustix::fs::ioctl_blksszget(&plain)?)
        } else {
            ALIGN as u64
        };
        Ok(Self {
            path: path.into(),
            is_block,
            size,
            direct,
            align,
            plain,
        })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For commands to the device itself.
    pub(crate) fn file(&self) -> &File {
        &self.plain
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is a block device, not a file that stands for one.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// Logical sector size in bytes; `None` for a file, which has none.
    #[must_use]
    pub fn sector_size(&self) -> Option<u32> {
        self.is_block
            .then(|| u32::try_from(self.align).ok())
            .flatten()
    }

    /// The descriptor for this piece: O_DIRECT where offset, length and memory allow it.
    fn file_for(&self, memory: *const u8, len: usize, offset: u64) -> &File {
        let fits = |n: u64| n.is_multiple_of(self.align);
        match &self.direct {
            Some(direct)
                if fits(offset) && fits(len as u64) && memory.addr().is_multiple_of(ALIGN) =>
            {
                direct
            }
            _ => &self.plain,
        }
    }

    /// Writes all of `data` at `offset`. It is durable only after [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.file_for(data.as_ptr(), data.len(), offset)
            .write_all_at(data, offset)
            .map_err(|e| self.failed(format!("write {} bytes at byte {offset} of", data.len()), e))
    }

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// [`DiskError`], also when the disk ends first.
    pub fn read_at(&self, data: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.file_for(data.as_ptr(), data.len(), offset)
            .read_exact_at(data, offset)
            .map_err(|e| self.failed(format!("read {} bytes at byte {offset} of", data.len()), e))
    }

    /// Makes everything that was written before the call durable: fdatasync, which also flushes
    /// the cache of the device itself.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn sync(&self) -> Result<(), DiskError> {
        self.plain
            .sync_data()
            .map_err(|e| self.failed("flush".into(), e))
    }

    /// Makes `start..end` read as zero, in the cheapest way that this disk has: by the device
    /// itself (BLKZEROOUT, by the kernel where the device cannot), by a hole in a file, and by
    /// writing zeroes where neither works.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn zero(&self, start: u64, end: u64) -> Result<(), DiskError> {
        let len = end.saturating_sub(start);
        if len == 0 {
            return Ok(());
        }
        let done = if self.is_block {
            blkdev::zero_out(&self.plain, start, len)
        } else {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.plain, hole, start, len).map_err(io::Error::from)
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) if is_unsupported(&error) => self.write_zeroes(start, end),
            Err(error) => Err(self.failed(format!("zero {len} bytes at byte {start} of"), error)),
        }
    }

    fn write_zeroes(&self, start: u64, end: u64) -> Result<(), DiskError> {
        let zeroes = AlignedBuf::new(1 << 20);
        let mut at = start;
        while at < end {
            let len = (end - at).min(zeroes.len() as u64);
            self.write_at(&zeroes[..usize::try_from(len).unwrap_or(0)], at)?;
            at += len;
        }
        Ok(())
    }

    /// The first part of `start..end` that may hold something other than zeroes: all of it for a
    /// block device, the next piece that is no hole for a file.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn next_data(&self, start: u64, end: u64) -> Result<Option<(u64, u64)>, DiskError> {
        if start >= end {
            return Ok(None);
        }
        if self.is_block {
            return Ok(Some((start, end)));
        }
        let failed =
            |e: Errno| self.failed(format!("look for holes from byte {start} of"), e.into());
        let data = match rustix::fs::seek(&self.plain, SeekFrom::Data(start)) {
            Ok(data) if data < end => data,
            // Nothing but holes up to the end of the file.
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            // A filesystem that knows no holes: everything is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((start, end))),
            Err(error) => return Err(failed(error)),
        };
        let hole = rustix::fs::seek(&self.plain, SeekFrom::Hole(data)).map_err(failed)?;
        Ok(Some((data, hole.min(end))))
    }

    /// Throws what the page cache holds of it away, so that what is read comes from the disk.
    /// Best effort: it matters only where there is no O_DIRECT.
    pub fn forget_cache(&self) {
        let _ = fadvise(&self.plain, 0, None::<NonZeroU64>, Advice::DontNeed);
    }

    pub(crate) fn failed(&self, action: String, source: io::Error) -> DiskError {
        DiskError {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

/// What the readers of filesystems need. Small pieces go through the page cache.
impl ReadAt for Target {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file_for(buf.as_ptr(), buf.len(), offset)
            .read_exact_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let known = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::INVAL];
    known
        .iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_alignment_come_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10_000).unwrap();
        let target = Target::open(file.path(), Access::Write).unwrap();
        assert_eq!((target.size(), target.sector_size()), (10_000, None));
        let mut buffer = AlignedBuf::new(4096);
        buffer.fill(1);
        target.write_at(&buffer, 4096).unwrap();
        target.write_at(&buffer[..512], 512).unwrap();
        target.write_at(&buffer[1..1809], 8192).unwrap();
        target.sync().unwrap();
        let mut all = AlignedBuf::new(10_000);
        target.read_at(&mut all, 0).unwrap();
        let expected: Vec<u8> = (0..10_000)
            .map(|n| u8::from((512..1024).contains(&n) || n >= 4096))
            .collect();
        assert_eq!(&all[..], expected);

        target.zero(4096, 9_999).unwrap();
        target.write_zeroes(0, 1000).unwrap();
        target.read_at(&mut all, 0).unwrap();
        let left: Vec<usize> = (0..10_000).filter(|&n| all[n] != 0).collect();
        assert_eq!(left, (1000..1024).chain([9_999]).collect::<Vec<_>>());
    }

    #[test]
    fn holes_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(3 << 20).unwrap();
        let target = Target::open(file.path(), Access::Write).unwrap();
        assert_eq!(target.next_data(0, 3 << 20).unwrap(), None);
        target.write_at(&[1; 4096], 1 << 20).unwrap();
        target.sync().unwrap();
        let found = target.next_data(0, 3 << 20).unwrap();
        assert_eq!(found, Some((1 << 20, (1 << 20) + 4096)));
        assert_eq!(target.next_data(0, 1 << 20).unwrap(), None);
        assert_eq!(target.next_data(5, 5).unwrap(), None);
    }

    #[test]
    fn errors_name_the_disk_and_the_place() {
        let error = Target::open(Path::new("/nonexistent/disk"), Access::Read).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open for reading /nonexistent/disk"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let target = Target::open(file.path(), Access::Read).unwrap();
        let error = target.read_at(&mut [0; 512], 1024).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("read 512 bytes at byte 1024 of /")
        );
        assert!(Target::open(Path::new("/dev/null"), Access::Read).is_err());
    }
}
