//! The registry in one SQLite file.
//!
//! Changes go through one thread with group commit ([`writer`]), what packets ask for is answered
//! from memory ([`memory`]), everything else by a few reading connections ([`readers`]). Leases are
//! in files of their own beside it ([`leaselog`](crate::leaselog)). Each of
//! the other rooms is one kind of thing, as functions on a transaction or a connection.

mod devices;
mod events;
mod exports;
mod fault;
mod identity;
mod images;
mod leases;
mod memory;
mod operations;
mod patch;
mod policy;
mod power;
mod readers;
mod register;
mod resolve;
mod rows;
mod schema;
mod sessions;
mod tasks;
#[cfg(test)]
mod tests;
mod turns;
mod writer;

use crate::StoreError;
use crate::leaselog::{Changes, LeaseLog};
use bugler_model::Event;
use fault::Fault;
use memory::{Effect, Memory};
use readers::Readers;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio::sync::broadcast;
use writer::{Submitter, Writer, WriterParts};

/// How many events a listener can be behind before it misses some.
const LISTENER_BACKLOG: usize = 4096;

/// How much is kept of what could grow for ever. The oldest goes first.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// MAC addresses of one device.
    macs: usize,
    /// Devices of which only packets were seen.
    strangers: usize,
    /// Sessions of one device.
    sessions: usize,
    /// Tasks that have ended.
    ended_tasks: usize,
    /// Events.
    events: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            macs: 32,
            strangers: 10_000,
            sessions: 50,
            ended_tasks: 10_000,
            events: 100_000,
        }
    }
}

/// The registry in one SQLite file. One server at a time has it open.
///
/// Every operation may be given up half way (its future dropped): it then has happened whole or
/// not at all.
pub struct SqliteStore {
    /// Dropped first: it sends to the writer, and its files stand under the writer's lock.
    leases: LeaseLog,
    memory: Arc<Memory>,
    writer: Writer,
    readers: Arc<Readers>,
    events: broadcast::Sender<Arc<Event>>,
    limits: Limits,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the registry at `path`; makes it where there is none, and upgrades it where an
    /// earlier version wrote it (a copy of what was there is kept beside it, as
    /// `<path>.version-<n>`). The folder must be there. Blocks for as long as that takes.
    ///
    /// Beside the file there are `<path>.lock`, which keeps a second server away, SQLite's `-wal`
    /// and `-shm`, and the leases: `<path>-leases` and `<path>-leases.<n>`.
    ///
    /// # Errors
    /// [`StoreError::Database`] where the file cannot be made or read, is no registry, is of a
    /// later version, or is in use by another server; its source says which, and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), Limits::default())
    }

    fn open_with(path: &Path, limits: Limits) -> Result<Self, StoreError> {
        let path: Arc<Path> = path.into();
        let (sql, lock) = schema::open(&path)?;
        let memory = Arc::new(Memory::default());
        memory.apply(&everything(&sql).map_err(|fault| fault.during("read its devices", &path))?);
        let earlier =
            leases::earlier(&sql).map_err(|fault| fault.during("read its leases", &path))?;
        let imports = !earlier.is_empty();
        let told = Arc::new(OnceLock::<Submitter>::new());
        let teller = told.clone();
        let tell = Box::new(move |changes: Changes| {
            if let Some(writer) = teller.get() {
                let now = operations::wall_clock();
                writer.submit(move |tx| leases::tell(tx, &changes, now));
            }
        });
        let lease_log = LeaseLog::open(&path, earlier, tell)?;
        if imports {
            leases::forget_earlier(&sql)
                .map_err(|fault| fault.during("move its leases to their own file", &path))?;
        }
        let (events, _) = broadcast::channel(LISTENER_BACKLOG);
        let parts = WriterParts {
            path: path.clone(),
            sql,
            memory: memory.clone(),
            events: events.clone(),
            limits,
            lock,
        };
        let writer = Writer::start(parts).map_err(|source| StoreError::Database {
            operation: "start its writer thread",
            source: Box::new(source),
        })?;
        // Nothing is told before the first commit.
        drop(told.set(writer.submitter()));
        Ok(Self {
            leases: lease_log,
            memory,
            writer,
            readers: Arc::new(Readers::new(path)),
            events,
            limits,
        })
    }

    /// Finishes what was begun, writes what was kept in memory, and lets go of the file. Every
    /// later operation that needs the file fails with [`StoreError::Closed`].
    ///
    /// Dropping the store does the same, blocking the thread that drops it.
    pub async fn close(&self) {
        self.readers.close();
        self.writer.refuse();
        self.leases.close().await;
        self.writer.close().await;
    }

    /// How many transactions have been committed since the registry was opened. Operations that
    /// arrive together share one.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }
}

/// All that memory answers for, as the disk has it.
fn everything(sql: &rusqlite::Connection) -> Result<Vec<Effect>, Fault> {
    let mut effects = Vec::new();
    effects.extend(
        devices::all(sql)?
            .into_iter()
            .map(|d| Effect::Device(Arc::new(d))),
    );
    effects.extend(
        sessions::all_open(sql)?
            .into_iter()
            .map(|session| Effect::OpenSession(session.device, Some(Arc::new(session)))),
    );
    effects.extend(
        sessions::agent_tokens(sql)?
            .into_iter()
            .map(|(token, auth)| Effect::AgentToken(token, auth)),
    );
    effects.extend(
        tasks::all_open(sql)?
            .into_iter()
            .map(|task| Effect::Task(Box::new(task))),
    );
    effects.push(Effect::Policy(Arc::new(policy::read(sql)?)));
    Ok(effects)
}
