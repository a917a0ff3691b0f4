//! Block devices and their partitions, as they appear.

use super::attach::AttachError;
use crate::blkdev;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for a partition: its table is read over the network.
const PARTITION_WAIT: Duration = Duration::from_secs(20);

/// How often to look.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is something to be seen, at most for `time`.
pub(super) fn wait_for<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// The device file of partition `number` of a disk whose name ends in a digit; the disk itself for 0.
pub(super) fn partition(disk: &Path, number: u32) -> Result<PathBuf, AttachError> {
    // The kernel looks for partitions when a disk is opened for the first time.
    let open = || File::open(disk);
    let opened = wait_for(PARTITION_WAIT, || open().ok()).map_or_else(open, Ok);
    let shown = disk.display();
    let opened = opened.map_err(super::attach::kernel(format!("read {shown}")))?;
    if number == 0 {
        return Ok(disk.to_owned());
    }
    let path = PathBuf::from(format!("{shown}p{number}"));
    let is_there = || path.exists().then_some(());
    if is_there().is_none() {
        // A table that could not be read at the first time; where it was read, this changes nothing.
        let _ = blkdev::reread_partitions(&opened);
    }
    if wait_for(PARTITION_WAIT, is_there).is_some() {
        return Ok(path);
    }
    let found = beside(disk);
    let found = if found.is_empty() {
        "none: no partition table that the kernel knows was found on it".into()
    } else {
        found.join(", ")
    };
    Err(AttachError::Missing(format!(
        "{shown} has no partition {number}; it has {found}"
    )))
}

/// The names of the partitions of a disk.
fn beside(disk: &Path) -> Vec<String> {
    let (Some(folder), Some(name)) = (disk.parent(), disk.file_name()) else {
        return Vec::new();
    };
    let start = format!("{}p", name.to_string_lossy());
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(&start)).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("nbd0");
        fs::write(&disk, "").unwrap();
        assert_eq!(partition(&disk, 0).unwrap(), disk);
        let wanted = dir.path().join("nbd0p3");
        let made = wanted.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            fs::write(made, "").unwrap();
        });
        assert_eq!(partition(&disk, 3).unwrap(), wanted);
        assert_eq!(beside(&disk), ["nbd0p3"]);
    }
}
