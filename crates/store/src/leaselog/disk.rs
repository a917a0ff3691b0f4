//! The files of the lease log.
//!
//! | File | What |
//! |---|---|
//! | `<registry>-leases` | every lease, as of some moment: written whole, then renamed |
//! | `<registry>-leases.<n>` | what was committed since, in order; the last one is being written |
//!
//! A log file is made with all of its blocks written, zero, so that a commit changes nothing but
//! data: the flush is then one, without the file system's own journal.

use super::format::{self, FILE_HEADER};
use bugler_model::Lease;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of records in one frame of a snapshot.
const SNAPSHOT_FRAME: usize = 64 << 10;

/// Why the lease files do not give leases.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The system says no.
    #[error("{}: {what}", path.display())]
    Io {
        path: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// It holds something else than it should.
    #[error(
        "{}: it is damaged, or was written by a later version: restore a copy, or move it away; \
         then leases are forgotten, and addresses are probed before they are given out again",
        path.display()
    )]
    Damaged { path: PathBuf },
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { path, what, source }
}

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    snapshot: PathBuf,
}

impl Place {
    pub(super) fn beside(registry: &Path) -> Self {
        let mut name = registry.as_os_str().to_owned();
        name.push("-leases");
        Self {
            snapshot: name.into(),
        }
    }

    pub(super) fn log(&self, number: u32) -> PathBuf {
        let mut name = self.snapshot.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }

    /// The numbers of the log files that are there, in order.
    pub(super) fn logs(&self) -> Result<Vec<u32>, DiskError> {
        let failed = || io_error(&self.snapshot, "its folder cannot be listed");
        let folder = match self.snapshot.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let base = self.snapshot.file_name().unwrap_or_default();
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let number: Option<u32> = name
                .to_str()
                .zip(base.to_str())
                .and_then(|(name, base)| name.strip_prefix(base)?.strip_prefix('.'))
                .and_then(|number| number.parse().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Every lease of the snapshot and of these log files, by address.
    pub(super) fn read(&self, logs: &[u32]) -> Result<BTreeMap<u32, Lease>, DiskError> {
        let mut leases = BTreeMap::new();
        match fs::read(&self.snapshot) {
            Ok(bytes) => {
                let contents = format::read(&bytes)
                    .filter(|contents| contents.whole == bytes.len())
                    .ok_or_else(|| DiskError::Damaged {
                        path: self.snapshot.clone(),
                    })?;
                leases.extend(by_address(contents.leases));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&self.snapshot, "it cannot be read")(error)),
        }
        for &number in logs {
            let path = self.log(number);
            let bytes = fs::read(&path).map_err(io_error(&path, "it cannot be read"))?;
            // A file that was being made when the machine stopped holds nothing.
            let Some(contents) = format::read(&bytes) else {
                if bytes.iter().any(|byte| *byte != 0) {
                    return Err(DiskError::Damaged { path });
                }
                continue;
            };
            if contents.torn {
                tracing::info!(
                    path = %path.display(),
                    kept = contents.leases.len(),
                    "leases: the last commit had not been acknowledged and is left out"
                );
            }
            leases.extend(by_address(contents.leases));
        }
        Ok(leases)
    }

    /// Writes a snapshot, then removes the log files that it replaces. Durable when it returns.
    pub(super) fn compact(
        &self,
        leases: &BTreeMap<u32, Lease>,
        logs: &[u32],
    ) -> Result<u64, DiskError> {
        let mut bytes = format::file_header(0).to_vec();
        let mut sequence = 0;
        let mut start = None;
        for lease in leases.values() {
            let begun = *start.get_or_insert_with(|| format::begin_frame(&mut bytes));
            format::put(&mut bytes, lease);
            if bytes.len() - begun >= SNAPSHOT_FRAME {
                sequence += 1;
                format::end_frame(&mut bytes, begun, 0, sequence);
                start = None;
            }
        }
        if let Some(begun) = start {
            format::end_frame(&mut bytes, begun, 0, sequence + 1);
        }
        let mut new = self.snapshot.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let failed = || io_error(&new, "it cannot be written");
        let mut file = create(&new).map_err(failed())?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        fs::rename(&new, &self.snapshot)
            .and_then(|()| self.sync_folder())
            .map_err(io_error(&self.snapshot, "it cannot be replaced"))?;
        // In order: what is left after a crash is the younger part, and still right.
        for &number in logs {
            let path = self.log(number);
            fs::remove_file(&path).map_err(io_error(&path, "it cannot be removed"))?;
        }
        Ok(bytes.len() as u64)
    }

    /// Makes a log file with room for this many bytes of frames.
    pub(super) fn create_log(&self, number: u32, room: usize) -> Result<LogFile, DiskError> {
        let path = self.log(number);
        let failed = || io_error(&path, "it cannot be made");
        let file = create(&path).map_err(failed())?;
        let mut bytes = vec![0; FILE_HEADER + room];
        if let Some(header) = bytes.get_mut(..FILE_HEADER) {
            header.copy_from_slice(&format::file_header(number));
        }
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.sync_folder())
            .map_err(failed())?;
        Ok(LogFile {
            path,
            file,
            number,
            sequence: 0,
            end: FILE_HEADER,
            size: bytes.len(),
        })
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self.snapshot.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn by_address(leases: Vec<Lease>) -> impl Iterator<Item = (u32, Lease)> {
    leases
        .into_iter()
        .map(|lease| (lease.address.to_bits(), lease))
}

/// The log file that is being written.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    pub(super) number: u32,
    sequence: u32,
    end: usize,
    size: usize,
}

impl LogFile {
    /// Whether a frame of this length fits behind the others.
    pub(super) fn has_room(&self, frame: usize) -> bool {
        self.end + frame <= self.size
    }

    /// Bytes of it that are in use.
    pub(super) fn written(&self) -> u64 {
        self.end as u64
    }

    /// Its number and the sequence of the next frame, for [`format::end_frame`].
    pub(super) fn next(&self) -> (u32, u32) {
        (self.number, self.sequence + 1)
    }

    /// Writes the next frame. Durable when it returns.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), DiskError> {
        let at = self.end as u64;
        self.file
            .write_all_at(frame, at)
            .and_then(|()| self.file.sync_data())
            .map_err(io_error(&self.path, "it cannot be written"))?;
        self.end += frame.len();
        self.sequence += 1;
        Ok(())
    }
}
