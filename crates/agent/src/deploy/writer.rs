//! A disk that is being written, and what has to follow the last byte.

use super::error::DeployError;
use super::gpt::{Gpt, MAX_ENTRIES_LEN, Moved};
use crate::blkdev;
use crate::disk::{Access, AlignedBuf, Target};
use crate::log::Log;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the kernel is asked to read the partition table again while it says "busy": it scans
/// for partitions by itself when a disk that was written is closed.
const REREAD_TRIES: u32 = 20;
const REREAD_PAUSE: Duration = Duration::from_millis(50);

/// A disk that is being written. It ends by [`finalize`](Self::finalize) or
/// [`abandon`](Self::abandon): a deploy that forgets both would leave data in the disk's cache and
/// a partition table for another disk, and look successful.
pub struct DiskWriter {
    target: Target,
    ended: bool,
}

/// Bytes that `finalize` changed after the image was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where, in bytes.
    pub offset: u64,
    /// What the image has there; beyond the image's end, what was there.
    pub before: Vec<u8>,
    /// What is there now.
    pub after: Vec<u8>,
}

impl DiskWriter {
    /// Opens a disk to write to it; see [`Target::open`].
    ///
    /// # Errors
    /// [`DeployError::Disk`].
    pub fn open(path: &Path) -> Result<Self, DeployError> {
        Ok(Self {
            target: Target::open(path, Access::Write)?,
            ended: false,
        })
    }

    /// The disk itself.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Gives the disk up as it is, after an error or a cancel.
    pub fn abandon(mut self) {
        self.ended = true;
    }

    /// Makes everything durable, fits a GPT to the size of the disk, and has the kernel read the
    /// partition table. Returns what it changed of the image.
    ///
    /// The backup is written and flushed before the primary header that points to it, so that a
    /// power cut in between leaves a table that is good.
    ///
    /// # Errors
    /// [`DeployError::Disk`].
    pub fn finalize(mut self, sector_size: u32, log: &Log) -> Result<Vec<Patch>, DeployError> {
        self.ended = true;
        let target = &self.target;
        target.sync()?;
        let mut patches = Vec::new();
        if let Some(moved) = plan_gpt(target, sector_size, log)? {
            let (offset, backup) = moved.backup;
            patches.push(apply(target, offset, backup)?);
            target.sync()?;
            patches.push(apply(target, 0, moved.primary)?);
            target.sync()?;
            log.line(format!(
                "moved the backup of the partition table to the end of {}, which has another size \
                 than the image's disk",
                target.path().display()
            ));
        }
        let reread = target.is_block().then(|| PathBuf::from(target.path()));
        // The kernel refuses to read the table of a disk that somebody holds exclusively.
        drop(self);
        if let Some(path) = reread {
            reread_partitions(&path, log);
        }
        Ok(patches)
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        debug_assert!(
            self.ended || std::thread::panicking(),
            "a disk that was written was neither finalized nor abandoned"
        );
    }
}

/// Whether the partition table, as the image brought it, fits this disk as it is.
///
/// # Errors
/// [`DeployError::Disk`].
pub(crate) fn table_fits(
    target: &Target,
    sector_size: u32,
    log: &Log,
) -> Result<bool, DeployError> {
    Ok(plan_gpt(target, sector_size, log)?.is_none())
}

/// The first two sectors of a disk and its partition array, where it has a GPT that can be read.
pub(crate) fn read_table(
    target: &Target,
    sector_size: u32,
) -> Result<Option<(AlignedBuf, Vec<u8>)>, DeployError> {
    if target.size() < 2 * u64::from(sector_size) {
        return Ok(None);
    }
    let mut start = AlignedBuf::new(2 * sector_size as usize);
    target.read_at(&mut start, 0)?;
    match Gpt::read(&start, sector_size) {
        Ok(Some(gpt)) if gpt.entries.end <= target.size() => {
            let entries = read_entries(target, &gpt, sector_size)?;
            Ok(Some((start, entries)))
        }
        _ => Ok(None),
    }
}

fn read_entries(target: &Target, gpt: &Gpt, sector_size: u32) -> Result<Vec<u8>, DeployError> {
    let len = (gpt.entries.end - gpt.entries.start).min(MAX_ENTRIES_LEN);
    let len = usize::try_from(len).unwrap_or(0);
    // Read in whole sectors, for O_DIRECT.
    let mut entries = AlignedBuf::new(len.next_multiple_of(sector_size as usize));
    target.read_at(&mut entries, gpt.entries.start)?;
    Ok(entries[..len].to_vec())
}

/// Reads the GPT that the image brought, and says what has to change; `None` for nothing.
fn plan_gpt(target: &Target, sector_size: u32, log: &Log) -> Result<Option<Moved>, DeployError> {
    let sector = u64::from(sector_size);
    if target.size() < 2 * sector {
        return Ok(None);
    }
    let mut start = AlignedBuf::new(2 * sector_size as usize);
    target.read_at(&mut start, 0)?;
    let leave = |why: String| {
        let path = target.path().display();
        log.line(format!(
            "the partition table of {path} is left as the image has it: {why}"
        ));
    };
    let gpt = match Gpt::read(&start, sector_size) {
        Ok(Some(gpt)) if gpt.entries.end <= target.size() => gpt,
        Ok(Some(_)) => {
            leave("its partition array lies behind the end of the disk".into());
            return Ok(None);
        }
        Ok(None) => return Ok(None),
        Err(error) => {
            leave(error.to_string());
            return Ok(None);
        }
    };
    let entries = read_entries(target, &gpt, sector_size)?;
    let mbr = &start[..sector_size as usize];
    match gpt.fill(mbr, &entries, target.size()) {
        Ok(moved) => Ok(moved),
        Err(error) => {
            leave(error.to_string());
            Ok(None)
        }
    }
}

fn apply(target: &Target, offset: u64, after: Vec<u8>) -> Result<Patch, DeployError> {
    let mut buffer = AlignedBuf::new(after.len());
    target.read_at(&mut buffer, offset)?;
    let before = buffer.to_vec();
    buffer.copy_from_slice(&after);
    target.write_at(&buffer, offset)?;
    Ok(Patch {
        offset,
        before,
        after,
    })
}

/// Has the kernel read the partition table of a disk that nobody has open exclusively. It is not an
/// error of a deploy when it fails: the machine reboots next, and reads the table then.
pub(crate) fn reread_partitions(path: &Path, log: &Log) {
    let complain = |why: String| {
        let path = path.display();
        log.line(format!(
            "the kernel could not read the partition table of {path} again: {why}; the next boot \
             will"
        ));
    };
    let disk = match std::fs::File::open(path) {
        Ok(disk) => disk,
        Err(error) => return complain(error.to_string()),
    };
    for tried in 1.. {
        match blkdev::reread_partitions(&disk) {
            Ok(()) => return,
            Err(Errno::BUSY) if tried < REREAD_TRIES => std::thread::sleep(REREAD_PAUSE),
            Err(error) => return complain(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "neither finalized nor abandoned")]
    #[cfg(debug_assertions)]
    fn a_writer_cannot_be_forgotten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        drop(DiskWriter::open(file.path()).unwrap());
    }

    #[test]
    fn a_disk_without_a_gpt_is_left_alone() {
        let log = Log::stderr();
        for size in [0, 512, 1 << 20] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size).unwrap();
            DiskWriter::open(file.path()).unwrap().abandon();
            let writer = DiskWriter::open(file.path()).unwrap();
            assert_eq!(writer.finalize(512, &log).unwrap(), []);
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        assert!(log.take(9).is_empty());
    }
}
