//! The ioctls of block devices and of ext4 (`linux/fs.h`, `fs/ext4/ext4.h`) that rustix does not wrap.
//! Commands that go to the device itself are in [`passthrough`].
#![allow(unsafe_code)]

pub mod passthrough;

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Setter, ioctl, opcode};
use std::io;

const BLKRRPART: rustix::ioctl::Opcode = opcode::none(0x12, 95);
const BLKZEROOUT: rustix::ioctl::Opcode = opcode::none(0x12, 127);
const BLKPG: rustix::ioctl::Opcode = opcode::none(0x12, 105);
const BLKDISCARD: rustix::ioctl::Opcode = opcode::none(0x12, 119);
const BLKSECDISCARD: rustix::ioctl::Opcode = opcode::none(0x12, 125);
const EXT4_IOC_RESIZE_FS: rustix::ioctl::Opcode = opcode::write::<u64>(b'f', 16);

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

/// BLKDISCARD, or BLKSECDISCARD where `secure`: tells the device that the bytes from `start` on, `len`
/// of them, are not needed any more. What they read as afterwards is the device's matter.
///
/// # Errors
/// What the kernel answers: `EOPNOTSUPP` where the device cannot, `ENOTTY` where `disk` is no block
/// device.
pub fn discard(disk: impl AsFd, start: u64, len: u64, secure: bool) -> io::Result<()> {
    let range = [start, len];
    // SAFETY: as BLKZEROOUT, both read two u64, start and length, from their argument (blkdev_ioctl)
    // and write none of our memory; the descriptor is borrowed for the call.
    Ok(unsafe {
        if secure {
            ioctl(disk, Setter::<BLKSECDISCARD, [u64; 2]>::new(range))
        } else {
            ioctl(disk, Setter::<BLKDISCARD, [u64; 2]>::new(range))
        }
    }?)
}

/// EXT4_IOC_RESIZE_FS: makes the mounted ext filesystem that `folder` belongs to `blocks` blocks large.
///
/// # Errors
/// What the kernel answers; `ENOTTY` where it is no filesystem of the ext4 driver.
pub fn resize_ext4(folder: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads one u64 from its argument (ext4_ioctl, "copy_from_user(
    // &n_blocks_count, (__u64 __user *)arg, sizeof(__u64))") and writes none of our memory.
    let argument = unsafe { Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks) };
    // SAFETY: see above; the descriptor is borrowed for the call.
    Ok(unsafe { ioctl(folder, argument) }?)
}

/// `struct blkpg_partition` (`linux/blkpg.h`): bytes, and a number from 1. Both names are unused.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    data_length: i32,
    data: *const BlkpgPartition,
}

/// BLKPG: tells the kernel of partition `number` from 1, which begins at byte `start` and has `length`
/// bytes: that it is there, or, where `is_known`, how large it is now. Nothing is written to the disk.
///
/// # Errors
/// What the kernel answers: `EBUSY` where it overlaps another.
pub fn tell_partition(
    disk: impl AsFd,
    number: u32,
    start: u64,
    length: u64,
    is_known: bool,
) -> io::Result<()> {
    const BLKPG_ADD_PARTITION: i32 = 1;
    const BLKPG_RESIZE_PARTITION: i32 = 3;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    let partition = BlkpgPartition {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(length).map_err(io::Error::other)?,
        number,
        names: [0; 128],
    };
    let argument = BlkpgArgument {
        operation: if is_known {
            BLKPG_RESIZE_PARTITION
        } else {
            BLKPG_ADD_PARTITION
        },
        flags: 0,
        data_length: size_of::<BlkpgPartition>() as i32,
        data: &raw const partition,
    };
    // SAFETY: BLKPG reads a struct blkpg_ioctl_arg, which BlkpgArgument is, and through its pointer a
    // struct blkpg_partition, which lives until the call is over; it writes none of our memory.
    let argument = unsafe { Setter::<BLKPG, BlkpgArgument>::new(argument) };
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
    fn a_regular_file_is_refused_by_all() {
        let file = tempfile::tempfile().unwrap();
        let error = zero_out(&file, 0, 512).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        assert_eq!(reread_partitions(&file), Err(Errno::NOTTY));
        assert_eq!(size_of::<BlkpgPartition>(), 152);
        let error = tell_partition(&file, 1, 0, 512, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        for secure in [false, true] {
            let error = discard(&file, 0, 512, secure).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        }
    }
}
