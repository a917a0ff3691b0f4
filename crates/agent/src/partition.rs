//! The device files of partitions, as the kernel numbers them.

use crate::blkdev;
use rustix::fs::{CWD, FileType, Mode, OFlags, major, makedev, minor, mknodat, open, stat};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A device file of a partition of our own making: `/dev` has one only where something keeps it. It is
/// removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Node(PathBuf);

impl Node {
    /// Partition `number` of `disk`, which begins at byte `start` and has `size` bytes; the disk itself
    /// for the number 0. Where the kernel has read the table in another way, or not at all, it is told.
    ///
    /// # Errors
    /// Where the kernel does not take that, or `disk` is no block device.
    pub(crate) fn of(disk: &Path, number: u32, start: u64, size: u64) -> io::Result<Self> {
        let found = stat(disk)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::BlockDevice {
            return Err(io::Error::other("it is a file, and no block device"));
        }
        let mut numbers = found.st_rdev;
        if number > 0 {
            let (high, low) = (major(numbers), minor(numbers));
            let folder = format!("/sys/dev/block/{high}:{low}");
            let folder = Path::new(&folder);
            let known = find(folder, start)?;
            if known.as_ref().is_none_or(|known| known.size != size) {
                blkdev::tell_partition(
                    fs::File::open(disk)?,
                    number,
                    start,
                    size,
                    known.is_some(),
                )?;
            }
            let known = find(folder, start)?.filter(|known| known.size == size);
            let gone = || io::Error::other("the kernel does not know it, although it was told");
            numbers = known.ok_or_else(gone)?.device;
        }
        let name = format!(
            "bugler-{}-{}-{}",
            std::process::id(),
            major(numbers),
            minor(numbers)
        );
        let path = std::env::temp_dir().join(name);
        let mode = Mode::RUSR | Mode::WUSR;
        // One of an agent that was killed.
        let _ = fs::remove_file(&path);
        mknodat(CWD, &path, FileType::BlockDevice, mode, numbers)?;
        let node = Self(path);
        // Where the folder does not allow devices this says so.
        open(&node.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(node)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A partition as the kernel has it.
struct Known {
    device: u64,
    /// In bytes.
    size: u64,
}

/// Looks through what sysfs says of a disk; there sizes and places are in units of 512 bytes.
fn find(folder: &Path, start: u64) -> io::Result<Option<Known>> {
    let number = |path: PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse().ok()
    };
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if !path.join("partition").exists() || number(path.join("start")) != Some(start / 512) {
            continue;
        }
        let device = fs::read_to_string(path.join("dev"))?;
        let device = device.trim().split_once(':');
        let device = device.and_then(|(a, b)| Some(makedev(a.parse().ok()?, b.parse().ok()?)));
        if let (Some(device), Some(size)) = (device, number(path.join("size"))) {
            let size = size.saturating_mul(512);
            return Ok(Some(Known { device, size }));
        }
    }
    Ok(None)
}
