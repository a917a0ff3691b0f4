//! Opening the database file: its lock, its settings, and the versions of its schema.

use super::fault::DatabaseFault;
use crate::StoreError;
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// `application_id` of a Bugler registry: "BUGR".
const APPLICATION: i32 = 0x4255_4752;

/// The steps from one version of the schema to the next: the first makes version 1 of an empty
/// file. A step that has been released is never changed.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
];

/// What was tried when a database did not open.
const OPEN: &str = "open its database";

/// Why a database was not opened, before SQLite had a word in it.
#[derive(Debug, thiserror::Error)]
enum OpenFault {
    #[error(
        "{}: it cannot be created or written: make its folder, and give the server's user write \
         access to it", path.display()
    )]
    Access {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: another server is using it{}: stop that one first", path.display(), holder)]
    InUse { path: PathBuf, holder: String },
    #[error("{}: it could not be locked", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{}: it is a database of another program: move it away, or name another state folder",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "{}: it has schema version {found}, and this server knows versions up to {known}: run the \
         newer server that wrote it, or restore a copy from before the upgrade", path.display()
    )]
    Newer {
        path: PathBuf,
        found: usize,
        known: usize,
    },
    #[error(
        "{}: its disk does not allow SQLite's write-ahead log (a network file system?): move the \
         state folder to a local disk", path.display()
    )]
    NoLog { path: PathBuf },
    #[error(
        "{}: the copy {} that is kept before an upgrade could not be made: free some space or \
         move that file away", path.display(), copy.display()
    )]
    Copy {
        path: PathBuf,
        copy: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<OpenFault> for StoreError {
    fn from(fault: OpenFault) -> Self {
        Self::Database {
            operation: OPEN,
            source: Box::new(fault),
        }
    }
}

/// Opens the writer's connection to an up-to-date database. The file is the lock: it is held for
/// as long as it is open.
pub(super) fn open(path: &Arc<Path>) -> Result<(Connection, File), StoreError> {
    open_with(path, MIGRATIONS)
}

fn open_with(path: &Arc<Path>, migrations: &[&str]) -> Result<(Connection, File), StoreError> {
    let lock = lock(path)?;
    let access = |source| OpenFault::Access {
        path: path.to_path_buf(),
        source,
    };
    let fresh = !path.exists();
    // Made here, not by SQLite: this gives the error that says why, and keeps others from reading.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(access)?;
    let sql = connect(path, migrations)?;
    if fresh && let Some(folder) = path.parent() {
        // The name of a new file is durable only once its folder is.
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(access)?;
    }
    Ok((sql, lock))
}

/// Connects, and brings the schema up to date.
fn connect(path: &Arc<Path>, migrations: &[&str]) -> Result<Connection, StoreError> {
    let fault = |error: rusqlite::Error| DatabaseFault::new(path, error).during(OPEN);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut sql = Connection::open_with_flags(path, flags).map_err(fault)?;
    sql.busy_timeout(Duration::from_secs(5)).map_err(fault)?;
    let log: String = sql
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(fault)?;
    if log != "wal" {
        return Err(OpenFault::NoLog {
            path: path.to_path_buf(),
        }
        .into());
    }
    let settings = || -> rusqlite::Result<()> {
        // FULL: a commit that was acknowledged has been flushed to the disk.
        sql.pragma_update(None, "synchronous", "FULL")?;
        sql.pragma_update(None, "cache_size", -4096)?;
        sql.pragma_update(None, "journal_size_limit", 16 << 20)?;
        sql.set_prepared_statement_cache_capacity(128);
        Ok(())
    };
    settings().map_err(fault)?;
    migrate(&mut sql, path, migrations)?;
    // Off while migrating: steps may rebuild tables that others refer to.
    sql.pragma_update(None, "foreign_keys", true)
        .map_err(fault)?;
    Ok(sql)
}

/// Takes the lock that keeps a second server away.
fn lock(path: &Path) -> Result<File, OpenFault> {
    let name = sibling(path, ".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|source| OpenFault::Access {
            path: name.clone(),
            source,
        })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Who holds it is told where it can be read; it is in use either way.
            let holder = match file.take(20).read_to_string(&mut text) {
                Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
                _ => String::new(),
            };
            return Err(OpenFault::InUse {
                path: path.to_path_buf(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => {
            return Err(OpenFault::Lock { path: name, source });
        }
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(|source| OpenFault::Access { path: name, source })?;
    Ok(file)
}

/// Brings the schema up to date, each step in a transaction of its own.
fn migrate(sql: &mut Connection, path: &Arc<Path>, migrations: &[&str]) -> Result<(), StoreError> {
    let fault = |error: rusqlite::Error| DatabaseFault::new(path, error).during(OPEN);
    let (application, version) = version(sql).map_err(fault)?;
    if application != APPLICATION
        && (application != 0 || version != 0 || !is_empty(sql).map_err(fault)?)
    {
        return Err(OpenFault::Foreign {
            path: path.to_path_buf(),
        }
        .into());
    }
    let Some(steps) = migrations.get(version..) else {
        let known = migrations.len();
        return Err(OpenFault::Newer {
            path: path.to_path_buf(),
            found: version,
            known,
        }
        .into());
    };
    if version > 0 && !steps.is_empty() {
        back_up(sql, path, version)?;
    }
    for (done, step) in (version + 1..).zip(steps) {
        let run = |sql: &mut Connection| -> rusqlite::Result<()> {
            let transaction = sql.transaction()?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", done as i64)?;
            transaction.commit()
        };
        run(sql).map_err(fault)?;
    }
    Ok(())
}

/// The program and the version that the file says it is of. A negative version is none of ours.
fn version(sql: &Connection) -> rusqlite::Result<(i32, usize)> {
    let application = sql.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = sql.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((application, usize::try_from(version).unwrap_or(usize::MAX)))
}

fn is_empty(sql: &Connection) -> rusqlite::Result<bool> {
    sql.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)",
        [],
        |row| row.get(0),
    )
}

/// Keeps a copy of the database as it was before an upgrade.
fn back_up(sql: &Connection, path: &Path, version: usize) -> Result<(), OpenFault> {
    let copy = sibling(path, &format!(".version-{version}"));
    let make = || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Under another name first: a file with the final name is a whole copy.
        let partial = sibling(path, ".partial");
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        sql.execute(
            "VACUUM INTO ?1",
            [partial.to_str().ok_or("its name is not UTF-8")?],
        )?;
        File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, &copy)?;
        Ok(())
    };
    make().map_err(|source| OpenFault::Copy {
        path: path.to_path_buf(),
        copy: copy.clone(),
        source,
    })
}

/// The file with this ending beside the database.
fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with version 1 in it, and one row.
    fn version_1(folder: &Path) -> Arc<Path> {
        let path: Arc<Path> = folder.join("registry.sqlite").into();
        let (sql, _lock) = open_with(&path, &MIGRATIONS[..1]).unwrap();
        sql.execute(
            "INSERT INTO leases VALUES (7, x'525400000001', NULL, NULL, 'bound', 0)",
            [],
        )
        .unwrap();
        path
    }

    fn leases(path: &Path) -> i64 {
        let sql = Connection::open(path).unwrap();
        sql.query_row("SELECT count(*) FROM leases", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn an_earlier_version_is_upgraded_and_a_copy_of_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = version_1(folder.path());
        let first = MIGRATIONS[0];
        let steps = [first, "DELETE FROM leases", "CREATE TABLE v3 (a)"];
        let sql = connect(&path, &steps).unwrap();
        assert_eq!(version(&sql).unwrap(), (APPLICATION, 3));
        assert_eq!(leases(&path), 0);
        let copy = folder.path().join("registry.sqlite.version-1");
        assert_eq!(leases(&copy), 1);
        assert_eq!(
            version(&Connection::open(&copy).unwrap()).unwrap(),
            (APPLICATION, 1)
        );
        drop(sql);
        // Another time there is nothing to do, and no copy is made.
        std::fs::remove_file(&copy).unwrap();
        connect(&path, &steps).unwrap();
        assert!(!copy.exists());
        assert!(!folder.path().join("registry.sqlite.partial").exists());
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = version_1(folder.path());
        let steps = [
            MIGRATIONS[0],
            "CREATE TABLE v2 (a)",
            "DELETE FROM leases; SELECT nonsense",
        ];
        connect(&path, &steps).unwrap_err();
        let sql = Connection::open(&path).unwrap();
        assert_eq!(version(&sql).unwrap(), (APPLICATION, 2));
        assert_eq!(leases(&path), 1);
        drop(sql);
        // The next attempt begins where that one ended.
        let steps = [MIGRATIONS[0], "CREATE TABLE v2 (a)", "CREATE TABLE v3 (a)"];
        assert_eq!(
            version(&connect(&path, &steps).unwrap()).unwrap(),
            (APPLICATION, 3)
        );
    }

    #[test]
    fn the_writer_flushes_every_commit() {
        let folder = tempfile::tempdir().unwrap();
        let (sql, _lock) = open(&folder.path().join("registry.sqlite").into()).unwrap();
        let setting = |name| {
            sql.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(setting("synchronous"), 2);
        assert_eq!(setting("foreign_keys"), 1);
    }

    #[test]
    fn nobody_else_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = version_1(folder.path());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0
        );
    }
}
