//! The ioctls of block devices (`linux/fs.h`) that rustix does not wrap.
#![allow(unsafe_code)]

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Setter, ioctl, opcode};
use std::io;

const BLKRRPART: rustix::ioctl::Opcode = opcode::none(0x12, 95);
const BLKZEROOUT: rustix::ioctl::Opcode = opcode::none(0x12, 127);

/// BLKZEROOUT: makes the bytes from `start` on, `len` of them, read as zero. The kernel lets the
/// device do it where the device can, and writes zeroes where it cannot; either way they are
/// zeroes afterwards. Both numbers are multiples of the sector size.
///
/// # Errors
/// What the kernel answers; `ENOTTY` where `disk` is no block device.
pub fn zero_out(disk: impl AsFd, start: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64, start and length, from its argument (blkdev_ioctl,
    // "copy_from_user(range, (void __user *)arg, sizeof(range))") and writes none of our memory.
    let argument = unsafe { Setter::<BLKZEROOUT, [u64; 2]>::new([start, len]) };
    // SAFETY: see above; the descriptor is borrowed for the call.
    Ok(unsafe { ioctl(disk, argument) }?)
}

/// BLKRRPART: makes the kernel read the partition table again.
///
/// # Errors
/// What the kernel answers: `EBUSY` while a partition is in use.
pub fn reread_partitions(disk: impl AsFd) -> Result<(), Errno> {
    // SAFETY: BLKRRPART takes no argument.
    let argument = unsafe { NoArg::<BLKRRPART>::new() };
    // SAFETY: see above; the descriptor is borrowed for the call.
    unsafe { ioctl(disk, argument) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_refused_by_both() {
        let file = tempfile::tempfile().unwrap();
        let error = zero_out(&file, 0, 512).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        assert_eq!(reread_partitions(&file), Err(Errno::NOTTY));
    }
}
