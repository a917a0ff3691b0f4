//! What one device sees: the shared tree, and its own changes on top.
//!
//! ```text
//! LAYER/
//!   lock         held by the server that serves it
//!   layer.db     SQLite with a write-ahead log: files, names, the last answers
//!   data/3f/1a3f content of file 0x1a3f, for files that the device has written
//! ```
//!
//! Files have numbers. One of the shared tree has twice its number there; one that the device made has
//! an odd number, the next one each time. A number never names another file.
//!
//! | Table | A row is | |
//! |---|---|---|
//! | `inode` | a file that was made or changed here | `own`: its content is in `data/`; else it is that of the shared tree. `links` 0: one of the shared tree that is gone |
//! | `entry` | a name that was made or removed here | `inode` 0: the name is removed (a whiteout). `cookie`: its place in listings |
//! | `answer` | a call that must not be done twice | its answer, for a client that asks again; the last 256 |
//! | `meta` | one setting | version, base, export, key of handles, next number |
//!
//! A folder with an even number shows the names of that folder of the shared tree, less those that have
//! a row, and the rows. As all rows name files by number, a folder of the shared tree is renamed by two
//! rows, whatever is in it; one that is made under an old name has an odd number and begins empty, so
//! there is nothing to mark as opaque. A change of permissions, names or times copies no content; the
//! first write or truncation copies the whole file, or as much as is left of it.
//!
//! Every change of names or attributes is one transaction, together with the answer that the client
//! gets; calls that wait at the same time share one commit. Writes that may be lost
//! ([`Stability::Unstable`](crate::Stability)) change the content at once, and length and times in
//! memory until COMMIT, another call about the file, or a second without calls. COMMIT flushes the
//! content before the row, so a row never promises content that is not on disk. Content behind a
//! file's length, left by a crash, is cut off before the file is written again; content without a row
//! is removed when the layer is opened.

mod attributes;
mod content;
mod data;
mod database;
mod error;
mod inode;
mod names;
mod remove;
mod rights;

use crate::handle::{self, ExportId, HANDLE};
use crate::kinds::{Attributes, Kind, Status, Time};
use crate::tree::Tree;
use content::Content;
use database::Database;
use error::Told;
use inode::{Inode, is_shared};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub use attributes::MAX_SIZE;
pub use error::LayerError;
pub use names::{Found, New};
pub use rights::{ACCESS_ALL, Right};

/// Files whose last writes are known in memory alone, at most.
const MAX_DIRTY: usize = 1024;

/// How a layer is opened.
#[derive(Clone, Debug)]
pub struct LayerOptions {
    /// Which export it is. A layer keeps that of its first opening.
    pub export: ExportId,
    /// Names what is below it: for an image, its content's name. A layer is refused on another base,
    /// as its rows speak of files of that one.
    pub base: String,
    /// Most bytes that it may take on the server's disk, where it was not allowed more
    /// ([`Layer::grow`]); `None`: as many as there are.
    pub quota: Option<u64>,
    /// Whether what is acknowledged survives a loss of the server's power; it survives the end of the
    /// server's process in any case.
    pub durable: bool,
}

/// What a layer takes and may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What it can have in all.
    pub total: u64,
    /// What of that is free.
    pub free: u64,
}

/// A shared tree with one device's changes. All times that it is given are the server's.
pub struct Layer {
    database: Database,
    content: Content,
    tree: Arc<dyn Tree>,
    export: ExportId,
    quota: Option<u64>,
    key: [u8; 32],
    verifier: [u8; 8],
    /// Bytes of the contents in it.
    used: u64,
    /// Files with writes that may be lost.
    dirty: HashMap<u64, Inode>,
    changing: Option<Changing>,
    /// The latest time that was given to a file, in nanoseconds.
    latest: i64,
}

/// What is done in a transaction beside the database.
#[derive(Default)]
struct Changing {
    /// It must fail.
    spoiled: Option<Status>,
    /// To be put back when it fails.
    dirty: Vec<(u64, Inode)>,
    /// To be done when it went well.
    after: Vec<After>,
}

/// What is done with contents after a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Remove(u64),
    Truncate(u64, u64),
}

impl After {
    fn file(self) -> u64 {
        match self {
            Self::Remove(id) | Self::Truncate(id, _) => id,
        }
    }
}

impl Layer {
    /// Opens the layer in `folder` on `tree`; makes it where there is none.
    ///
    /// # Errors
    /// [`LayerError`]: in use, on another base, damaged, or not readable.
    pub fn open(
        folder: &Path,
        tree: Arc<dyn Tree>,
        options: &LayerOptions,
    ) -> Result<Self, LayerError> {
        let mut content = Content::open(folder, options.durable)?;
        let database = Database::open(folder, options)?;
        let used = database.used()?;
        let granted = database.granted()?;
        content.sweep(&mut |id| database.has_content(id))?;
        let mut verifier = [0; 8];
        getrandom::fill(&mut verifier).map_err(|_| LayerError::Random)?;
        Ok(Self {
            key: database.key()?,
            database,
            content,
            tree,
            export: options.export,
            quota: options.quota.map(|quota| quota.max(granted)),
            verifier,
            used,
            dirty: HashMap::new(),
            changing: None,
            latest: 0,
        })
    }

    /// Which export it is.
    #[must_use]
    pub fn export(&self) -> ExportId {
        self.export
    }

    /// The number of the root.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.tree.root() * 2
    }

    /// The handle of a file.
    #[must_use]
    pub fn handle(&self, id: u64) -> [u8; HANDLE] {
        handle::encode(self.export, id, &self.key)
    }

    /// The file of a handle.
    ///
    /// # Errors
    /// [`Status::BadHandle`] for bytes that this layer never gave out.
    pub fn file_of(&self, handle: &[u8]) -> Result<u64, Status> {
        handle::decode(handle, self.export, &self.key).ok_or(Status::BadHandle)
    }

    /// What tells a client that writes may have been lost which it has not committed: another number
    /// each time that the layer is opened.
    #[must_use]
    pub fn write_verifier(&self) -> [u8; 8] {
        self.verifier
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// [`Status::Stale`] where it is gone.
    pub fn attributes(&self, id: u64) -> Result<Attributes, Status> {
        self.load(id).map(|inode| inode.attributes())
    }

    /// What it takes and may take.
    ///
    /// # Errors
    /// Where the server's disk cannot be asked.
    pub fn space(&self) -> Result<Space, Status> {
        let (total, free) = self.content.space().told("asking for free space")?;
        Ok(match self.quota {
            None => Space { total, free },
            Some(quota) => Space {
                total: quota,
                free: quota.saturating_sub(self.taken()).min(free),
            },
        })
    }

    /// Bytes that it takes on the server's disk: contents and tables.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.used + self.database.size()
    }

    /// Has handles proven by another key, until it is opened again.
    pub(crate) fn set_key(&mut self, key: [u8; 32]) {
        self.key = key;
    }

    /// Most bytes that it may take.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// Sets most bytes that it may take, and keeps that: when it is opened again it gets no less,
    /// whatever its options say.
    ///
    /// # Errors
    /// Where the database fails; nothing has changed then.
    pub fn grow(&mut self, quota: u64) -> Result<(), Status> {
        self.change(|layer| layer.database.grant(quota).told("keeping a new limit"))?;
        self.settle()?;
        self.quota = Some(quota);
        Ok(())
    }

    /// Most bytes that the layer in `folder` was allowed by [`grow`](Self::grow), whether it is open or
    /// not; 0 where it never was.
    ///
    /// # Errors
    /// Where there is no layer, or it cannot be read.
    pub fn granted(folder: &Path) -> Result<u64, LayerError> {
        Ok(Database::granted_in(folder)?)
    }

    /// The answer that a call got which must not be done twice; `call` is a hash of all of it.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn answered(&self, call: &[u8; 32]) -> Result<Option<Vec<u8>>, Status> {
        self.database
            .answered(call)
            .told("looking for an earlier answer")
    }

    /// Keeps the answer to a call that must not be done twice, durably as soon as the change is.
    ///
    /// # Errors
    /// Where the database fails.
    pub fn remember(&mut self, call: &[u8; 32], answer: &[u8]) -> Result<(), Status> {
        self.change(|layer| {
            let kept = layer.database.remember(call, answer);
            kept.told("keeping an answer")
        })
    }

    /// Makes all changes durable since the last time, and does what was waiting for that.
    ///
    /// # Errors
    /// [`Status::NoSpace`] or [`Status::Io`]: none of them was kept, and all calls since the last time
    /// must be done again or refused.
    pub fn settle(&mut self) -> Result<(), Status> {
        let Some(changing) = self.changing.take() else {
            return Ok(());
        };
        let committed = match changing.spoiled {
            Some(status) => Err(status),
            None => self.database.commit().told("committing changes"),
        };
        if let Err(status) = committed {
            self.put_back(changing);
            return Err(status);
        }
        for after in changing.after {
            let done = match after {
                After::Remove(id) => self.content.remove(id),
                After::Truncate(id, size) => self.content.truncate(id, size),
            };
            // What is left over costs room until the layer is opened again, and is never shown.
            let _ = done.told("giving back room");
        }
        Ok(())
    }

    /// Has the next [`settle`](Self::settle) fail with this status, and keep nothing.
    pub fn spoil(&mut self, status: Status) {
        if let Some(changing) = &mut self.changing {
            changing.spoiled = Some(status);
        }
    }

    /// Writes down what is known in memory alone, and settles. Nothing is flushed for that but the
    /// database.
    ///
    /// # Errors
    /// Where the database fails; it is then still known in memory.
    pub fn write_down(&mut self) -> Result<(), Status> {
        if !self.dirty.is_empty() {
            self.change(|layer| {
                let files: Vec<u64> = layer.dirty.keys().copied().collect();
                for id in files {
                    let inode = layer.load(id)?;
                    layer.store(&inode)?;
                }
                Ok(())
            })?;
        }
        self.settle()
    }

    /// Whether anything is known in memory alone, or waits for [`settle`](Self::settle).
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.changing.is_some() || !self.dirty.is_empty()
    }

    /// Does all of `change`, or nothing of it.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, Status>,
    ) -> Result<T, Status> {
        if self.changing.is_none() {
            self.database.begin().told("beginning a change")?;
            self.changing = Some(Changing::default());
        }
        let used = self.used;
        let changing = self.changing.as_ref();
        let marks = changing.map_or((0, 0), |it| (it.dirty.len(), it.after.len()));
        self.database.mark().told("beginning a change")?;
        let done = change(self);
        let kept = match &done {
            Ok(_) => self.database.keep_to_mark(),
            Err(_) => self.database.roll_back_to_mark(),
        };
        if done.is_err()
            && let Some(mut changing) = self.changing.take()
        {
            changing.after.truncate(marks.1);
            self.put_back_from(&mut changing, marks.0);
            self.used = used;
            self.changing = Some(changing);
        }
        kept.told("ending a change")?;
        done
    }

    fn put_back(&mut self, mut changing: Changing) {
        self.database.roll_back();
        self.put_back_from(&mut changing, 0);
        // Writes have gone on meanwhile, so it is counted again.
        let Ok(mut used) = self.database.used() else {
            return;
        };
        for inode in self.dirty.values() {
            let stored = self.database.inode(inode.id);
            let stored = stored.ok().flatten().filter(|stored| stored.own);
            used = used.saturating_sub(stored.map_or(0, |stored| stored.used)) + inode.used;
        }
        self.used = used;
    }

    fn put_back_from(&mut self, changing: &mut Changing, mark: usize) {
        for (id, inode) in changing.dirty.drain(mark..).rev() {
            self.dirty.insert(id, inode);
        }
    }

    /// A file that is there.
    fn load(&self, id: u64) -> Result<Inode, Status> {
        if let Some(inode) = self.dirty.get(&id) {
            return Ok(inode.clone());
        }
        let found = match self.database.inode(id).told("reading a file's row")? {
            Some(inode) => Some(inode),
            None if is_shared(id) => {
                let node = self.tree.node(id / 2).told("reading the shared tree")?;
                node.map(|node| Inode::of_node(id, &node))
            }
            None => None,
        };
        found.filter(|inode| inode.links > 0).ok_or(Status::Stale)
    }

    fn load_folder(&self, id: u64) -> Result<Inode, Status> {
        let inode = self.load(id)?;
        match inode.kind {
            Kind::Folder => Ok(inode),
            _ => Err(Status::NotFolder),
        }
    }

    /// Writes a file's row. Only within [`change`](Self::change).
    fn store(&mut self, inode: &Inode) -> Result<(), Status> {
        self.forget_dirty(inode.id);
        let stored = self.database.store(inode);
        stored.told("writing a file's row")
    }

    fn forget_dirty(&mut self, id: u64) {
        if let Some(inode) = self.dirty.remove(&id)
            && let Some(changing) = &mut self.changing
        {
            changing.dirty.push((id, inode));
        }
    }

    /// Has something done with a content after the transaction.
    fn after(&mut self, after: After) {
        if let Some(changing) = &mut self.changing {
            changing.after.push(after);
        }
    }

    /// Settles, where something is still to be done with this content.
    fn settle_content(&mut self, id: u64) -> Result<(), Status> {
        let changing = self.changing.as_ref();
        let waits = changing.is_some_and(|it| it.after.iter().any(|after| after.file() == id));
        match waits {
            true => self.settle(),
            false => Ok(()),
        }
    }

    /// A time for a change, later than all before: clients tell changes by it.
    fn stamp(&mut self, now: Time) -> Time {
        self.latest = now.as_nanoseconds().max(self.latest + 1);
        Time::from_nanoseconds(self.latest)
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let _ = self.write_down();
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("export", &self.export)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}
