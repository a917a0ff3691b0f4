//! A few connections that only read, each used by one query at a time on tokio's blocking threads.

use super::fault::Fault;
use crate::StoreError;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many queries run at once.
const READERS: usize = 4;
/// Page cache of each, in KiB; a dozen idle megabytes would be most of a small server's memory.
const CACHE_KIB: i32 = 1024;

/// See the module.
pub(super) struct Readers {
    path: Arc<Path>,
    idle: Mutex<Vec<Connection>>,
    room: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Runs a query. What was committed before it began is in its answer.
    pub(super) async fn query<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let idle = readers.idle().pop();
            let result = match idle.map_or_else(|| readers.open(), Ok) {
                Ok(sql) => {
                    let result = query(&sql);
                    if !readers.room.is_closed() {
                        readers.idle().push(sql);
                    }
                    result
                }
                Err(error) => Err(Fault::from(error)),
            };
            drop(permit);
            result.map_err(|fault| fault.during(operation, &readers.path))
        });
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down.
                Err(_) => Err(StoreError::Closed),
            },
        }
    }

    /// No more queries; those that run are finished.
    pub(super) fn close(&self) {
        self.room.close();
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = Connection::open_with_flags(&self.path, flags)?;
        sql.busy_timeout(Duration::from_secs(5))?;
        sql.pragma_update(None, "cache_size", -CACHE_KIB)?;
        sql.set_prepared_statement_cache_capacity(32);
        Ok(sql)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}
