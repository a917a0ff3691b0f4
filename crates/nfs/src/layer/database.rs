//! The tables of a layer, as SQL.

use super::inode::Inode;
use super::{LayerError, LayerOptions};
use crate::kinds::{Kind, Time};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Answers that are kept.
const ANSWERS: i64 = 256;
/// Where listings begin with names that were made here: behind all names of the shared tree, and below
/// 2^31, which old programs can still hold.
pub(super) const FIRST_COOKIE: u64 = 1 << 30;

const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE inode (
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, mode INTEGER NOT NULL, user INTEGER NOT NULL,
    grp INTEGER NOT NULL, links INTEGER NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
    major INTEGER NOT NULL, minor INTEGER NOT NULL, accessed INTEGER NOT NULL,
    modified INTEGER NOT NULL, changed INTEGER NOT NULL, parent INTEGER NOT NULL,
    own INTEGER NOT NULL, target BLOB, verifier BLOB);
CREATE TABLE entry (
    parent INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL, cookie INTEGER NOT NULL,
    PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE INDEX entry_cookie ON entry (parent, cookie);
CREATE TABLE answer (slot INTEGER PRIMARY KEY, call BLOB NOT NULL UNIQUE, answer BLOB NOT NULL);
";

/// A name of a folder that has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It is removed.
    Removed,
    /// It names this file.
    File(u64),
}

/// The database of a layer.
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    pub(super) fn open(folder: &Path, options: &LayerOptions) -> Result<Self, LayerError> {
        let path = folder.join("layer.db");
        // Made here, as SQLite would let everybody read it; its other files take after this one.
        let made = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        if let Err(source) = made {
            let what = "opened";
            return Err(LayerError::Io { what, path, source });
        }
        let connection = Connection::open(&path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = if options.durable { "FULL" } else { "OFF" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "cache_size", -2048)?;
        connection.set_prepared_statement_cache_capacity(64);
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let database = Self { connection };
        match version {
            0 => database.make(options)?,
            1 => database.check(folder, options)?,
            version => {
                let path = folder.into();
                return Err(LayerError::Version { path, version });
            }
        }
        Ok(database)
    }

    fn make(&self, options: &LayerOptions) -> Result<(), LayerError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| LayerError::Random)?;
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        self.connection.execute_batch(TABLES)?;
        let set = "INSERT INTO meta VALUES (?, ?)";
        self.connection
            .execute(set, params!["base", options.base])?;
        self.connection
            .execute(set, params!["export", options.export.0])?;
        self.connection.execute(set, params!["key", key])?;
        self.connection.execute(set, params!["next", 0])?;
        self.connection.pragma_update(None, "user_version", 1)?;
        self.connection.execute_batch("COMMIT")?;
        Ok(())
    }

    fn check(&self, folder: &Path, options: &LayerOptions) -> Result<(), LayerError> {
        let found: String = self
            .connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))?;
        if found != "ok" {
            let path = folder.into();
            return Err(LayerError::Damaged { path, found });
        }
        let base: String = self.meta("base")?;
        if base != options.base {
            return Err(LayerError::OtherBase {
                path: folder.into(),
                have: base,
                want: options.base.clone(),
            });
        }
        match self.meta::<[u8; 16]>("export")? == options.export.0 {
            true => Ok(()),
            false => Err(LayerError::OtherExport(folder.into())),
        }
    }

    fn meta<T: rusqlite::types::FromSql>(&self, name: &str) -> rusqlite::Result<T> {
        let get = "SELECT value FROM meta WHERE name = ?";
        self.connection.query_row(get, [name], |row| row.get(0))
    }

    /// What the layer was allowed, in bytes; 0: never more than its options say.
    pub(super) fn granted(&self) -> rusqlite::Result<u64> {
        let granted: Option<i64> = self.meta("quota").optional()?;
        Ok(granted.map_or(0, |granted| u64::try_from(granted).unwrap_or(0)))
    }

    /// The same of a layer that another may have open.
    pub(super) fn granted_in(folder: &Path) -> rusqlite::Result<u64> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(folder.join("layer.db"), flags)?;
        Self { connection }.granted()
    }

    /// Only within a transaction.
    pub(super) fn grant(&self, quota: u64) -> rusqlite::Result<()> {
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        self.run(
            "INSERT OR REPLACE INTO meta VALUES ('quota', ?)",
            params![quota],
        )
    }

    pub(super) fn key(&self) -> rusqlite::Result<[u8; 32]> {
        self.meta("key")
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute(params).map(drop)
    }

    fn ask<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row(params, read).optional()
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.run("BEGIN IMMEDIATE", [])
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.run("COMMIT", [])
    }

    /// After an error SQLite may have done so itself.
    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.run("ROLLBACK", []);
        }
    }

    pub(super) fn mark(&self) -> rusqlite::Result<()> {
        self.run("SAVEPOINT call", [])
    }

    pub(super) fn keep_to_mark(&self) -> rusqlite::Result<()> {
        self.run("RELEASE call", [])
    }

    pub(super) fn roll_back_to_mark(&self) -> rusqlite::Result<()> {
        self.run("ROLLBACK TO call", [])?;
        self.run("RELEASE call", [])
    }

    /// A number that no file has had. Only within a transaction.
    pub(super) fn next_id(&self) -> rusqlite::Result<u64> {
        let next = "UPDATE meta SET value = value + 1 WHERE name = 'next' RETURNING value";
        let mut statement = self.connection.prepare_cached(next)?;
        let next: i64 = statement.query_row([], |row| row.get(0))?;
        Ok(next as u64 * 2 + 1)
    }

    pub(super) fn inode(&self, id: u64) -> rusqlite::Result<Option<Inode>> {
        let sql = "SELECT kind, mode, user, grp, links, size, used, major, minor, accessed, modified, \
                   changed, parent, own, target, verifier FROM inode WHERE id = ?";
        self.ask(sql, [id as i64], |row| read_inode(id, row))
    }

    pub(super) fn store(&self, inode: &Inode) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO inode VALUES \
                   (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let parameters = params![
            inode.id as i64,
            inode.kind as u32,
            inode.mode,
            inode.user,
            inode.group,
            inode.links,
            inode.size as i64,
            inode.used as i64,
            inode.device.0,
            inode.device.1,
            inode.accessed.as_nanoseconds(),
            inode.modified.as_nanoseconds(),
            inode.changed.as_nanoseconds(),
            inode.parent as i64,
            inode.own,
            inode.target,
            inode.verifier,
        ];
        self.run(sql, parameters)
    }

    pub(super) fn remove_inode(&self, id: u64) -> rusqlite::Result<()> {
        self.run("DELETE FROM inode WHERE id = ?", [id as i64])
    }

    pub(super) fn has_content(&self, id: u64) -> rusqlite::Result<bool> {
        let sql = "SELECT own FROM inode WHERE id = ? AND links > 0";
        let own = self.ask(sql, [id as i64], |row| row.get(0))?;
        Ok(own.unwrap_or(false))
    }

    /// Bytes of all contents.
    pub(super) fn used(&self) -> rusqlite::Result<u64> {
        let sql = "SELECT coalesce(sum(used), 0) FROM inode WHERE own AND links > 0";
        let used: Option<i64> = self.ask(sql, [], |row| row.get(0))?;
        Ok(used.unwrap_or(0) as u64)
    }

    /// Bytes of the tables.
    pub(super) fn size(&self) -> u64 {
        let ask = |name: &str| -> i64 {
            let mut statement = match self.connection.prepare_cached(name) {
                Ok(statement) => statement,
                Err(_) => return 0,
            };
            statement.query_row([], |row| row.get(0)).unwrap_or(0)
        };
        let pages = ask("PRAGMA page_count") - ask("PRAGMA freelist_count");
        pages.max(0) as u64 * 4096
    }

    pub(super) fn name(&self, folder: u64, name: &[u8]) -> rusqlite::Result<Option<Named>> {
        let sql = "SELECT inode FROM entry WHERE parent = ? AND name = ?";
        let id: Option<i64> = self.ask(sql, params![folder as i64, name], |row| row.get(0))?;
        Ok(id.map(|id| match id {
            0 => Named::Removed,
            id => Named::File(id as u64),
        }))
    }

    pub(super) fn has_names(&self, folder: u64) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM entry WHERE parent = ?)";
        let has = self.ask(sql, [folder as i64], |row| row.get(0))?;
        Ok(has.unwrap_or(false))
    }

    pub(super) fn set_name(&self, folder: u64, name: &[u8], id: u64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO entry VALUES (?1, ?2, ?3, 1 + max(?4, coalesce( \
                   (SELECT max(cookie) FROM entry WHERE parent = ?1), 0)))";
        let first = FIRST_COOKIE as i64;
        self.run(sql, params![folder as i64, name, id as i64, first])
    }

    /// The name is removed, and was in the shared tree.
    pub(super) fn white_out(&self, folder: u64, name: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO entry VALUES (?, ?, 0, 0)";
        self.run(sql, params![folder as i64, name])
    }

    pub(super) fn clear_name(&self, folder: u64, name: &[u8]) -> rusqlite::Result<()> {
        let sql = "DELETE FROM entry WHERE parent = ? AND name = ?";
        self.run(sql, params![folder as i64, name])
    }

    pub(super) fn clear_names(&self, folder: u64) -> rusqlite::Result<()> {
        self.run("DELETE FROM entry WHERE parent = ?", [folder as i64])
    }

    /// Visits the names that were made in a folder, from behind `cookie` on, until `visit` has enough.
    pub(super) fn names(
        &self,
        folder: u64,
        cookie: u64,
        visit: &mut dyn FnMut(u64, u64, &[u8]) -> bool,
    ) -> rusqlite::Result<()> {
        let sql = "SELECT cookie, inode, name FROM entry \
                   WHERE parent = ? AND cookie > ? AND inode <> 0 ORDER BY cookie";
        let mut statement = self.connection.prepare_cached(sql)?;
        let behind = cookie.max(FIRST_COOKIE).min(i64::MAX as u64) as i64;
        let mut rows = statement.query(params![folder as i64, behind])?;
        while let Some(row) = rows.next()? {
            let (cookie, id): (i64, i64) = (row.get(0)?, row.get(1)?);
            let name = row.get_ref(2)?.as_blob()?;
            if !visit(cookie as u64, id as u64, name) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn answered(&self, call: &[u8; 32]) -> rusqlite::Result<Option<Vec<u8>>> {
        let sql = "SELECT answer FROM answer WHERE call = ?";
        self.ask(sql, [call], |row| row.get(0))
    }

    pub(super) fn remember(&self, call: &[u8; 32], answer: &[u8]) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO answer (call, answer) VALUES (?, ?)";
        self.run(sql, params![call, answer])?;
        let last = self.connection.last_insert_rowid();
        let sql = "DELETE FROM answer WHERE slot <= ?";
        self.run(sql, [last.saturating_sub(ANSWERS)])
    }
}

fn read_inode(id: u64, row: &Row<'_>) -> rusqlite::Result<Inode> {
    let kind = Kind::from_number(row.get(0)?);
    let number = |at: usize| row.get::<_, i64>(at).map(|number| number as u64);
    let time = |at: usize| row.get(at).map(Time::from_nanoseconds);
    Ok(Inode {
        id,
        kind: kind.ok_or(rusqlite::Error::InvalidQuery)?,
        mode: row.get(1)?,
        user: row.get(2)?,
        group: row.get(3)?,
        links: row.get(4)?,
        size: number(5)?,
        used: number(6)?,
        device: (row.get(7)?, row.get(8)?),
        accessed: time(9)?,
        modified: time(10)?,
        changed: time(11)?,
        parent: number(12)?,
        own: row.get(13)?,
        target: row.get(14)?,
        verifier: row.get(15)?,
    })
}
