//! Contents of files, as files of the host.

use super::LayerError;
use rustix::fs::{FlockOperation, flock};
use std::collections::{HashSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files that are kept open.
const OPEN: usize = 16;
/// Folders that contents are spread over.
const SPREAD: u64 = 256;

/// What a device keeps is nobody else's: users of the server do not read its `/etc/shadow` here.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// The contents of a layer.
pub(super) struct Content {
    data: PathBuf,
    durable: bool,
    /// The one that was used last is at the end.
    open: VecDeque<(u64, File)>,
    /// Files whose name may not be durable yet.
    fresh: HashSet<u64>,
    /// Keeps others away from the layer.
    lock: File,
}

impl Drop for Content {
    fn drop(&mut self) {
        // To close the file is not enough: a process that this one is just starting has it open too, until
        // its program runs (flock(2)). Where it fails, that is how long it takes.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Content {
    pub(super) fn open(folder: &Path, durable: bool) -> Result<Self, LayerError> {
        let data = folder.join("data");
        make_folder(&data).map_err(fault("made", &data))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(PRIVATE_FILE)
            .open(&path);
        let lock = lock.map_err(fault("opened", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LayerError::InUse(folder.into())),
            Err(error) => return Err(fault("locked", &path)(error.into())),
        }
        Ok(Self {
            data,
            durable,
            open: VecDeque::new(),
            fresh: HashSet::new(),
            lock,
        })
    }

    fn folder_of(&self, id: u64) -> PathBuf {
        self.data.join(format!("{:02x}", id / 2 % SPREAD))
    }

    fn path_of(&self, id: u64) -> PathBuf {
        self.folder_of(id).join(format!("{id:x}"))
    }

    /// Removes what no file has: left by a process that ended in the middle.
    pub(super) fn sweep(
        &mut self,
        is_known: &mut dyn FnMut(u64) -> rusqlite::Result<bool>,
    ) -> Result<(), LayerError> {
        let parts = fs::read_dir(&self.data).map_err(fault("listed", &self.data))?;
        for part in parts {
            let folder = part.map_err(fault("listed", &self.data))?.path();
            let entries = fs::read_dir(&folder).map_err(fault("listed", &folder))?;
            for entry in entries {
                let path = entry.map_err(fault("listed", &folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let id = name.and_then(|name| u64::from_str_radix(name, 16).ok());
                if let Some(id) = id
                    && !is_known(id)?
                {
                    fs::remove_file(&path).map_err(fault("removed", &path))?;
                }
            }
        }
        Ok(())
    }

    /// The open file of a content, at the end of those that are open. One that is opened now is no
    /// longer than `size` afterwards. `None`: there is none, and `make` is false.
    fn file(&mut self, id: u64, size: u64, make: bool) -> io::Result<Option<&File>> {
        if let Some(at) = self.open.iter().position(|open| open.0 == id) {
            if let Some(open) = self.open.remove(at) {
                self.open.push_back(open);
            }
            return Ok(self.open.back().map(|open| &open.1));
        }
        let path = self.path_of(id);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !make {
                    return Ok(None);
                }
                self.fresh.insert(id);
                let folder = self.folder_of(id);
                if !folder.is_dir() {
                    make_folder(&folder)?;
                    if self.durable {
                        File::open(&self.data)?.sync_all()?;
                    }
                }
                options.create(true).mode(PRIVATE_FILE).open(&path)?
            }
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() > size {
            file.set_len(size)?;
        }
        if self.open.len() == OPEN {
            self.open.pop_front();
        }
        self.open.push_back((id, file));
        Ok(self.open.back().map(|open| &open.1))
    }

    fn made(&mut self, id: u64, size: u64) -> io::Result<&File> {
        let file = self.file(id, size, true)?;
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Fills `buf`, which ends at or before the file's length. What was never written reads as zero.
    pub(super) fn read(
        &mut self,
        id: u64,
        size: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let Some(file) = self.file(id, size, false)? else {
            buf.fill(0);
            return Ok(());
        };
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buf[done..].fill(0);
        Ok(())
    }

    /// Writes, and gives the bytes that the content takes now. `size` is the length before.
    pub(super) fn write(
        &mut self,
        id: u64,
        size: u64,
        offset: u64,
        data: &[u8],
    ) -> io::Result<u64> {
        let file = self.made(id, size)?;
        file.write_all_at(data, offset)?;
        Ok(file.metadata()?.blocks() * 512)
    }

    /// Makes a content durable.
    pub(super) fn sync(&mut self, id: u64, size: u64) -> io::Result<()> {
        if !self.durable {
            return Ok(());
        }
        if let Some(file) = self.file(id, size, false)? {
            file.sync_data()?;
        }
        if self.fresh.contains(&id) {
            File::open(self.folder_of(id))?.sync_all()?;
            self.fresh.remove(&id);
        }
        Ok(())
    }

    /// Cuts what is behind `size`.
    pub(super) fn truncate(&mut self, id: u64, size: u64) -> io::Result<()> {
        let Some(file) = self.file(id, size, false)? else {
            return Ok(());
        };
        match file.metadata()?.len() > size {
            true => file.set_len(size),
            false => Ok(()),
        }
    }

    /// Bytes that a content takes.
    pub(super) fn used(&mut self, id: u64, size: u64) -> io::Result<u64> {
        match self.file(id, size, false)? {
            Some(file) => Ok(file.metadata()?.blocks() * 512),
            None => Ok(0),
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> io::Result<()> {
        self.open.retain(|open| open.0 != id);
        self.fresh.remove(&id);
        match fs::remove_file(self.path_of(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Size of the host's filesystem and what of it is free, in bytes.
    pub(super) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.data)?;
        Ok((
            stat.f_blocks.saturating_mul(stat.f_frsize),
            stat.f_bavail.saturating_mul(stat.f_frsize),
        ))
    }
}

/// Makes a folder and those above it, where they are not there.
fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_FOLDER).create(path)
}

fn fault(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayerError {
    let path = path.to_owned();
    move |source| LayerError::Io { what, path, source }
}
