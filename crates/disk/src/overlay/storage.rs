//! Where an overlay's bytes are kept: a file, or in tests memory that can lose its power.

use crate::raw;
use std::{fs::File, io, os::unix::fs::FileExt, os::unix::fs::MetadataExt};

/// What an overlay asks of a file.
pub(crate) trait Storage: Send + Sync + 'static {
    /// Fills `buf`; holes read as zero, the end of the file is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills `buf` if no disk has to be waited for.
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;

    /// Writes; later reads see it. Durable only after `sync`, and until then in any order.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes every write durable that returned before this was called.
    fn sync(&self) -> io::Result<()>;

    /// Gives space back; the range reads as zero afterwards.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;

    /// The first byte from `offset` that is in no hole, at most `end`.
    fn next_data(&self, offset: u64, end: u64) -> io::Result<u64>;

    /// Makes it longer, with a hole.
    fn extend(&self, length: u64) -> io::Result<()>;

    /// Length in bytes, holes too.
    fn length(&self) -> io::Result<u64>;

    /// Bytes that it takes on the disk.
    fn allocated(&self) -> io::Result<u64>;

    /// Lets go of the lock that keeps others away, where there is one.
    fn unlock(&self) -> io::Result<()>;
}

impl Storage for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        raw::read_now(self, offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        raw::punch(self, offset, length)
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<u64> {
        Ok(raw::next_data(self, offset, end)?.min(end))
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }
}
