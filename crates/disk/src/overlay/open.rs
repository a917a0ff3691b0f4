//! Making, opening and looking at overlay files.

use super::{
    Maps, Overlay, OverlayError,
    commit::{Journal, write_header},
    format::{Header, JOURNAL_LEN, JOURNAL_START, MAX_DISK, file_len},
    replay,
    storage::Storage,
    table::Table,
};
use crate::{BaseId, BaseRead};
use rustix::{
    fs::{CWD, FlockOperation, RenameFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, RwLock, atomic::AtomicU64},
};

/// Locks of regions. More than threads that write at once, so that they seldom meet.
const STRIPES: usize = 64;

/// How an overlay is made or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayOptions {
    /// Size of the disk in bytes, a multiple of 512, at least that of the base. `None`: the size it
    /// has, and for a new one that of the base. A larger one makes the disk larger; the partition
    /// table does not know of it.
    pub size: Option<u64>,
    /// Most bytes that the machine may write, counted in blocks of 4 KiB. `None`: what it was made
    /// with, and for a new one no limit.
    pub quota: Option<u64>,
    /// Whether a flush waits until the disk has it. Without, an overlay survives a kill of the
    /// server, and may be damaged by a loss of power: for layers that are dropped anyway.
    pub durable: bool,
}

impl Default for OverlayOptions {
    fn default() -> Self {
        Self {
            size: None,
            quota: None,
            durable: true,
        }
    }
}

/// What an overlay file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayInfo {
    /// What it was made over.
    pub base: BaseId,
    /// Size of its base in bytes.
    pub base_size: u64,
    /// Size of the disk in bytes.
    pub disk_size: u64,
    /// Most bytes that it may hold; `u64::MAX` for no limit.
    pub quota: u64,
    /// Bytes that it holds, in blocks of 4 KiB. `None` while it is in use.
    pub data_bytes: Option<u64>,
    /// Bytes that the file takes on the disk of the server.
    pub file_bytes: u64,
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> OverlayError {
    move |source| OverlayError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

pub(super) fn create(
    path: &Path,
    base: Arc<dyn BaseRead>,
    options: &OverlayOptions,
) -> Result<Overlay, OverlayError> {
    if path.exists() {
        return Err(OverlayError::Exists(path.to_path_buf()));
    }
    // It gets its name when it is whole.
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let unfinished = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(io_error("make", &unfinished))?;
    let made = take_lock(&file, path).and_then(|()| {
        let overlay = create_in(Box::new(file), path, base, options)?;
        place_file(&unfinished, path)?;
        Ok(overlay)
    });
    if made.is_err() {
        // The error that is returned matters more than what is left behind by it.
        let _ = fs::remove_file(&unfinished);
    }
    made
}

fn place_file(unfinished: &Path, path: &Path) -> Result<(), OverlayError> {
    let named = rustix::fs::renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE);
    match named {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(OverlayError::Exists(path.to_path_buf())),
        // A filesystem that cannot; it was looked for before.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::rename(unfinished, path).map_err(io_error("name", path))?;
        }
        Err(error) => return Err(io_error("name", path)(error.into())),
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = File::open(dir.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
    dir.map_err(io_error("make durable the name of", path))
}

/// Makes an overlay in an empty file.
pub(super) fn create_in(
    storage: Box<dyn Storage>,
    path: &Path,
    base: Arc<dyn BaseRead>,
    options: &OverlayOptions,
) -> Result<Overlay, OverlayError> {
    let base_size = base.size();
    let disk_size = options.size.unwrap_or(base_size.next_multiple_of(512));
    check_size(disk_size, base_size)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        io_error("draw an identity for", path)(io::Error::other(error.to_string()))
    })?;
    let header = Header {
        generation: 1,
        id,
        disk_size,
        quota: options.quota.unwrap_or(u64::MAX),
        base_size,
        base: base.id(),
        table_sum: 0,
    };
    let failed = io_error("make", path);
    storage.extend(file_len(disk_size)).map_err(&failed)?;
    // The journal is written once here, so that a flush finds its space allocated.
    storage
        .write_at(JOURNAL_START, &vec![0; JOURNAL_LEN as usize])
        .map_err(&failed)?;
    write_header(&*storage, &header, false).map_err(&failed)?;
    storage.sync().map_err(&failed)?;
    let journal = Journal {
        durable: Table::new(disk_size),
        used: 0,
        sequence: 0,
        changed: BTreeMap::new(),
        pages: BTreeMap::new(),
        highest: header.generation,
        since_reclaim: 0,
        header,
    };
    Ok(assemble(storage, path, base, journal, options.durable))
}

pub(super) fn open(
    path: &Path,
    base: Arc<dyn BaseRead>,
    options: &OverlayOptions,
) -> Result<Overlay, OverlayError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io_error("open", path))?;
    take_lock(&file, path)?;
    open_in(Box::new(file), path, base, options)
}

/// Opens the overlay that a file holds.
pub(super) fn open_in(
    storage: Box<dyn Storage>,
    path: &Path,
    base: Arc<dyn BaseRead>,
    options: &OverlayOptions,
) -> Result<Overlay, OverlayError> {
    let (header, _) = replay::read_header(&*storage).map_err(|failure| failure.at(path))?;
    let given = base.id();
    if header.base != given || header.base_size != base.size() {
        return Err(OverlayError::OtherBase {
            path: path.to_path_buf(),
            made_over: header.base,
            given,
        });
    }
    let disk_size = options.size.unwrap_or(header.disk_size);
    check_size(disk_size, header.base_size)?;
    if disk_size < header.disk_size {
        return Err(OverlayError::Shrink {
            path: path.to_path_buf(),
            size: header.disk_size,
            wanted: disk_size,
        });
    }
    let mut loaded = replay::load(&*storage).map_err(|failure| failure.at(path))?;
    let journal = &mut loaded.journal;
    let quota = options.quota.unwrap_or(header.quota);
    let failed = io_error("bring up to date", path);
    let grown = disk_size > header.disk_size;
    if grown {
        storage.extend(file_len(disk_size)).map_err(&failed)?;
        let durable = Table::new(disk_size);
        for group in 0..super::format::groups(header.disk_size) {
            if let Some(states) = journal.durable.page(group) {
                durable.load(group, &states);
            }
        }
        journal.durable = durable;
    }
    if journal.used > 0 || loaded.torn > 0 {
        tracing::info!(
            path = %path.display(),
            transactions = journal.sequence,
            torn_blocks = loaded.torn,
            "replayed the journal of an overlay"
        );
    }
    if loaded.mend_header {
        tracing::warn!(path = %path.display(), "one copy of an overlay's header was damaged or old; it is written again");
    }
    if grown || quota != header.quota || journal.used > 0 || loaded.mend_header {
        journal.header.disk_size = disk_size;
        journal.header.quota = quota;
        // What a kill left unsynced must not be overtaken by the header that relies on it.
        storage.sync().map_err(&failed)?;
        journal.checkpoint(&*storage, true).map_err(&failed)?;
    }
    Ok(assemble(
        storage,
        path,
        base,
        loaded.journal,
        options.durable,
    ))
}

fn assemble(
    storage: Box<dyn Storage>,
    path: &Path,
    base: Arc<dyn BaseRead>,
    journal: Journal,
    durable: bool,
) -> Overlay {
    let header = &journal.header;
    let table = Table::new(header.disk_size);
    for group in 0..super::format::groups(header.disk_size) {
        if let Some(states) = journal.durable.page(group) {
            table.load(group, &states);
        }
    }
    let mut stripes = Vec::new();
    stripes.resize_with(STRIPES, RwLock::default);
    Overlay {
        path: path.to_path_buf(),
        storage,
        base,
        base_size: header.base_size,
        disk_size: header.disk_size,
        quota: AtomicU64::new(header.quota),
        present: AtomicU64::new(table.count().0),
        durable,
        table,
        stripes,
        gate: RwLock::default(),
        maps: Mutex::new(Maps::default()),
        ended: Condvar::new(),
        journal: Mutex::new(journal),
    }
}

fn check_size(disk_size: u64, base_size: u64) -> Result<(), OverlayError> {
    let possible = disk_size.is_multiple_of(512)
        && disk_size >= base_size
        && (512..=MAX_DISK).contains(&disk_size);
    if possible {
        Ok(())
    } else {
        Err(OverlayError::Size(disk_size))
    }
}

fn take_lock(file: &File, path: &Path) -> Result<(), OverlayError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(OverlayError::Locked(path.to_path_buf())),
        Err(error) => Err(io_error("lock", path)(error.into())),
    }
}

pub(super) fn inspect(path: &Path) -> Result<OverlayInfo, OverlayError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let (header, _) = replay::read_header(&file).map_err(|failure| failure.at(path))?;
    let unused = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
    let data_bytes = if unused {
        let loaded = replay::load(&file).map_err(|failure| failure.at(path))?;
        Some(loaded.journal.durable.count().0 * super::format::BLOCK as u64)
    } else {
        None
    };
    Ok(OverlayInfo {
        base: header.base,
        base_size: header.base_size,
        disk_size: header.disk_size,
        quota: header.quota,
        data_bytes,
        file_bytes: file.allocated().map_err(io_error("measure", path))?,
    })
}
