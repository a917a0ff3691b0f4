//! What goes wrong inside an operation, and how it is told outside.

use crate::StoreError;
use std::path::Path;
use std::sync::Arc;

/// Why an operation is given up; its savepoint is rolled back.
#[derive(Debug)]
pub(super) enum Fault {
    /// See [`StoreError::NotFound`].
    NotFound(String),
    /// See [`StoreError::Conflict`].
    Conflict(String),
    /// See [`StoreError::RulesChanged`].
    RulesChanged,
    /// SQLite, or a row that is not understood.
    Sql(Arc<rusqlite::Error>),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

impl Fault {
    /// The same, as the caller of `operation` on the database at `path` sees it.
    pub(super) fn during(self, operation: &'static str, path: &Arc<Path>) -> StoreError {
        match self {
            Self::NotFound(what) => StoreError::NotFound(what),
            Self::Conflict(what) => StoreError::Conflict(what),
            Self::RulesChanged => StoreError::RulesChanged,
            Self::Sql(error) => DatabaseFault::new(path, error).during(operation),
        }
    }
}

/// A failure of SQLite, with the file it happened on and what to do about it. Cheap to clone:
/// one failed commit answers every operation that was in it.
#[derive(Clone, Debug)]
pub(super) struct DatabaseFault {
    path: Arc<Path>,
    error: Arc<rusqlite::Error>,
}

impl DatabaseFault {
    pub(super) fn new(path: &Arc<Path>, error: impl Into<Arc<rusqlite::Error>>) -> Self {
        Self {
            path: path.clone(),
            error: error.into(),
        }
    }

    pub(super) fn during(self, operation: &'static str) -> StoreError {
        StoreError::Database {
            operation,
            source: Box::new(self),
        }
    }

    fn advice(&self) -> &'static str {
        use rusqlite::ErrorCode as Code;
        match self.error.sqlite_error_code() {
            Some(Code::DiskFull) => "its disk is full: free some space there, then try again",
            Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed) => {
                "another program holds its lock: close what has it open, then try again"
            }
            Some(Code::CannotOpen | Code::PermissionDenied | Code::ReadOnly) => {
                "it may not be written: give the server's user write access to it and its folder"
            }
            Some(Code::SystemIoFailure) => {
                "its disk reported an error: look at the kernel's log and the disk's health"
            }
            Some(Code::DatabaseCorrupt) => {
                "it is damaged: stop the server, and restore a copy or move it away"
            }
            Some(Code::NotADatabase) => {
                "it is not a registry: move it away, or name another state folder"
            }
            Some(_) => "SQLite refused",
            None => "a row in it is not understood: was it changed by hand or by another version?",
        }
    }
}

impl std::fmt::Display for DatabaseFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.advice())
    }
}

impl std::error::Error for DatabaseFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.error)
    }
}
