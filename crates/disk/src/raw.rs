//! A disk in a plain file, or a block device of this computer: no layers.

use crate::{BlockDevice, DeviceError, Durability, Extent, device::check};
use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::{Errno, ReadWriteFlags},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::Path,
};

/// A disk whose bytes are those of a file.
#[derive(Debug)]
pub struct RawDevice {
    file: File,
    size: u64,
    read_only: bool,
}

impl RawDevice {
    /// Opens a file or block device. A length that is no multiple of 512 is rounded down.
    ///
    /// # Errors
    /// [`DeviceError::Io`].
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Io {
            action: "open the disk",
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        // Unlike the metadata's length, this is right for block devices too.
        let end =
            rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?;
        Ok(Self {
            file,
            size: end / 512 * 512,
            read_only,
        })
    }

    fn check_write(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        if self.read_only {
            return Err(DeviceError::ReadOnly);
        }
        check(offset, length, self.size)
    }

    fn settle(&self, durability: Durability) -> Result<(), DeviceError> {
        match durability {
            Durability::Cached => Ok(()),
            Durability::Durable => self.flush(),
        }
    }
}

impl BlockDevice for RawDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        check(offset, buf.len() as u64, self.size)?;
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(DeviceError::io("read the disk"))
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DeviceError> {
        check(offset, buf.len() as u64, self.size)?;
        read_now(&self.file, offset, buf).map_err(DeviceError::io("read the disk"))
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DeviceError> {
        self.check_write(offset, data.len() as u64)?;
        let written = self.file.write_all_at(data, offset);
        written.map_err(DeviceError::io("write the disk"))?;
        self.settle(durability)
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Result<bool, DeviceError> {
        // Into the page cache, as every write to a file.
        self.write(offset, data, Durability::Cached).map(|()| true)
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        self.check_write(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                write_zeros(&self.file, offset, length)
                    .map_err(DeviceError::io("write zeros to the disk"))?;
            }
            Err(error) => return Err(DeviceError::io("write zeros to the disk")(error.into())),
        }
        self.settle(durability)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.check_write(offset, length)?;
        let start = offset.next_multiple_of(4096);
        let end = offset.saturating_add(length) / 4096 * 4096;
        if start >= end {
            return Ok(());
        }
        let punched = punch(&self.file, start, end - start);
        punched.map_err(DeviceError::io("discard a part of the disk"))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if self.read_only {
            return Ok(());
        }
        let synced = self.file.sync_data();
        synced.map_err(DeviceError::io("flush the disk"))
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, DeviceError> {
        check(offset, length, self.size)?;
        let end = offset.saturating_add(length);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < limit {
            let (stop, hole) = extent(&self.file, at, end);
            extents.push(Extent {
                length: stop - at,
                hole,
                zero: hole,
            });
            at = stop;
        }
        Ok(extents)
    }
}

/// Whether there is a hole at a byte before `end`, and where what is there ends.
pub(crate) fn extent(file: &File, at: u64, end: u64) -> (u64, bool) {
    // A filesystem that knows nothing of holes has data everywhere.
    let data = next_data(file, at, end).unwrap_or(at).min(end);
    if data > at {
        return (data, true);
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(end);
    (hole.min(end).max(at.saturating_add(1)), false)
}

/// The first byte from `offset` that is in no hole; `end` where there is none.
pub(crate) fn next_data(file: &File, offset: u64, end: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(end),
        Err(error) => Err(error.into()),
    }
}

/// Reads what the kernel has in memory; `false` where that is not all of it.
pub(crate) fn read_now(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
    let wanted = buf.len();
    let mut slices = [IoSliceMut::new(buf)];
    match rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(length) => Ok(length == wanted),
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the space of a range back; it reads as zero afterwards.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => write_zeros(file, offset, length),
        Err(error) => Err(error.into()),
    }
}

/// For filesystems that have no call for it.
fn write_zeros(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    let zeros = [0; 64 << 10];
    while length > 0 {
        let now = length.min(zeros.len() as u64);
        // It is at most 64 KiB.
        file.write_all_at(zeros.get(..now as usize).unwrap_or(&zeros), offset)?;
        offset += now;
        length -= now;
    }
    Ok(())
}
