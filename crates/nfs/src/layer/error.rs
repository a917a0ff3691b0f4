//! Why a layer is refused, and faults while it is served.

use crate::kinds::Status;
use crate::tree::TreeFault;
use rusqlite::ErrorCode;
use std::io;
use std::path::PathBuf;

/// Why a layer is not opened.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Another server has it open.
    #[error("the layer {} is in use by another process: stop that one first", .0.display())]
    InUse(PathBuf),
    /// It was made on something else.
    #[error(
        "the layer {} was made on {have}, not on {want}: its changes speak of files of the first. Serve \
         it on that one, or reset it", path.display()
    )]
    OtherBase {
        /// The folder.
        path: PathBuf,
        /// What it was made on.
        have: String,
        /// What it was to be opened on.
        want: String,
    },
    /// It belongs to another export.
    #[error("the layer {} belongs to another export: give each device a folder of its own", .0.display())]
    OtherExport(PathBuf),
    /// It was made by a newer server.
    #[error("the layer {} has version {version}; this server reads version 1", path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// Its database does not hold together.
    #[error("the database of the layer {} is damaged ({found}): restore or reset it", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The first thing that was found.
        found: String,
    },
    /// Its database cannot be used.
    #[error("the database of a layer cannot be used")]
    Database(#[from] rusqlite::Error),
    /// Its folder cannot be used.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// There are no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Says a fault to the operator, and gives the status for the client.
pub(super) trait Told<T> {
    fn told(self, what: &'static str) -> Result<T, Status>;
}

impl<T> Told<T> for rusqlite::Result<T> {
    fn told(self, what: &'static str) -> Result<T, Status> {
        self.map_err(|error| {
            tracing::error!(%error, "a layer's database fails while {what}");
            match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Status::NoSpace,
                _ => Status::Io,
            }
        })
    }
}

impl<T> Told<T> for io::Result<T> {
    fn told(self, what: &'static str) -> Result<T, Status> {
        self.map_err(|error| {
            tracing::error!(%error, "a layer's content fails while {what}");
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Status::NoSpace,
                io::ErrorKind::FileTooLarge => Status::TooLarge,
                _ => Status::Io,
            }
        })
    }
}

impl<T> Told<T> for Result<T, TreeFault> {
    fn told(self, what: &'static str) -> Result<T, Status> {
        self.map_err(|error| {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, why, "a shared tree fails while {what}");
            Status::Io
        })
    }
}
