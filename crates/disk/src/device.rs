//! What a server of block devices (AoE, NBD) needs of a disk.

use std::io;

/// When a write may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As soon as later reads see it; [`BlockDevice::flush`] makes it durable.
    Cached,
    /// Once it would survive a loss of power (forced unit access).
    Durable,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, more than 0.
    pub length: u64,
    /// Nothing is allocated for it: a write there may need space.
    pub hole: bool,
    /// It reads as zero.
    pub zero: bool,
}

/// A block device of whole sectors of 512 bytes. Requests may come from many threads at once; what
/// overlapping requests in flight leave behind is either one's whole 4 KiB block.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size in bytes, a multiple of 512. It does not change while the device is open.
    fn size(&self) -> u64;

    /// Whether every write is refused.
    fn read_only(&self) -> bool;

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// [`DeviceError`]; `buf` is then undefined.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError>;

    /// Fills `buf` from byte `offset`, but only if no disk has to be waited for: for a caller that
    /// has other requests to answer meanwhile. Where it says `false`, `buf` is undefined.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DeviceError> {
        let _ = (offset, buf);
        Ok(false)
    }

    /// Writes `data` at byte `offset`.
    ///
    /// # Errors
    /// [`DeviceError`]; each 4 KiB block then holds either what was there or what was written.
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DeviceError>;

    /// As [`write`](Self::write) with [`Durability::Cached`], where that has not to wait for a disk;
    /// otherwise `Ok(false)`, and nothing was written.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    fn write_now(&self, _offset: u64, _data: &[u8]) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// Has `length` bytes from `offset` read as zero.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), DeviceError>;

    /// Tells that the content of `length` bytes from `offset` is no longer needed. They read as zero
    /// afterwards, where whole blocks of 4 KiB are among them.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError>;

    /// Makes every write durable that was acknowledged before this was called.
    ///
    /// # Errors
    /// [`DeviceError::Io`]; nothing is known then of what was written since the last flush.
    fn flush(&self) -> Result<(), DeviceError>;

    /// What the `length` bytes from `offset` are, as at most `limit` extents from there on; together
    /// they may be shorter than `length`, and are never empty for a range that is not.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`].
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, DeviceError>;
}

/// Why a request to a block device failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The request reaches past the end.
    #[error("{length} bytes at {offset} reach past the end of a device of {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Size of the device in bytes.
        size: u64,
    },
    /// A write to a device that takes none.
    #[error("the device is read-only")]
    ReadOnly,
    /// The machine's layer has reached its quota.
    #[error("the writable layer is full: its quota is {quota} bytes")]
    Full {
        /// Quota in bytes.
        quota: u64,
    },
    /// What is stored is not what was written.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
    /// The system's answer.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What came back.
        source: io::Error,
    },
}

impl DeviceError {
    /// For `map_err`: what was tried when the system said no.
    pub(crate) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// Whether a request lies on a device of `size` bytes.
pub(crate) fn check(offset: u64, length: u64, size: u64) -> Result<(), DeviceError> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DeviceError::OutOfRange {
            offset,
            length,
            size,
        }),
    }
}
