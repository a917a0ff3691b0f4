//! Leases, kept in a log of their own.
//!
//! ```text
//! commit_leases --\                       /--> answer, once the frame is on the disk
//! commit_leases ---+--> one thread: a frame, one flush
//! leases ---------/         |       |     \--> what changed hands, for the events (not waited for)
//!                           |       '- log full: the next one
//!                           v
//!                     compactor: snapshot + full logs -> snapshot
//! ```
//!
//! A lease is a row of the registry as much as a device is, but it is written with every
//! acknowledged request of every client, and nobody asks for it but the server's own start. So it
//! goes to a file that is only appended to: one write and one flush for all that came in while the
//! last flush was under way. Invariant 5 is kept by that flush, as for everything else.

mod disk;
mod format;

use crate::StoreError;
use bugler_model::{Lease, LeaseState, MacAddr};
use disk::{DiskError, LogFile, Place};
use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Room for frames in the first log file, in bytes; each next one has four times as much.
const FIRST_ROOM: usize = 256 << 10;
/// The most.
const MOST_ROOM: usize = 4 << 20;
/// Full logs that are kept before they are compacted, in bytes; more where the snapshot is large.
const COMPACT_AT: u64 = 4 << 20;

/// Changes that are told one by one at once, and in a second after that. Beyond it only their
/// number is told: nobody reads thousands of lines a second, and they would cost more than the
/// leases.
const TOLD_AT_ONCE: u32 = 2_000;
const TOLD_PER_SECOND: u32 = 100;
/// Most changes in one operation of the registry.
const TOLD_TOGETHER: usize = 256;

/// Leases that now have another holder or state than before, and how many more are not listed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) leases: Vec<Lease>,
    pub(crate) untold: u64,
}

/// Told of changes once they are durable. Must not wait.
pub(crate) type Tell = Box<dyn FnMut(Changes) + Send>;

/// Where the answer to a commit goes.
type Answer = oneshot::Sender<Result<(), StoreError>>;

enum Message {
    Commit(Vec<Lease>, Answer),
    All(oneshot::Sender<Result<Vec<Lease>, StoreError>>),
    Stop(oneshot::Sender<()>),
}

/// The way to the log's thread.
pub(crate) struct LeaseLog {
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn database(operation: &'static str, error: DiskError) -> StoreError {
    StoreError::Database {
        operation,
        source: Box::new(error),
    }
}

impl LeaseLog {
    /// Reads what is there, adds the leases that an earlier version kept in the registry itself
    /// (those of the log are younger), and starts the thread. Durable when it returns.
    pub(crate) fn open(
        registry: &Path,
        earlier: Vec<Lease>,
        tell: Tell,
    ) -> Result<Self, StoreError> {
        let failed = |error| database("read its leases", error);
        let place = Place::beside(registry);
        let logs = place.logs().map_err(failed)?;
        let mut leases = place.read(&logs).map_err(failed)?;
        let adds = !earlier.is_empty();
        for lease in earlier {
            leases.entry(lease.address.to_bits()).or_insert(lease);
        }
        let mut snapshot = 0;
        if adds || !logs.is_empty() {
            snapshot = place.compact(&leases, &logs).map_err(failed)?;
        }
        let known = leases
            .values()
            .map(|lease| (lease.address.to_bits(), (lease.mac, lease.state)))
            .collect();
        let (queue, receiver) = channel();
        let thread = Thread {
            receiver,
            log: None,
            last: logs.last().copied().unwrap_or(0),
            room: FIRST_ROOM,
            full: Vec::new(),
            full_bytes: 0,
            compactor: None,
            snapshot,
            known,
            changes: Changes::default(),
            tokens: f64::from(TOLD_AT_ONCE),
            refilled: Instant::now(),
            tell,
            place,
        };
        let thread = std::thread::Builder::new()
            .name("lease-log".into())
            .spawn(|| thread.run())
            .map_err(|source| StoreError::Database {
                operation: "start its lease thread",
                source: Box::new(source),
            })?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// See [`crate::Store::commit_leases`].
    pub(crate) async fn commit(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        if leases.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.send(Message::Commit(leases, reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// See [`crate::Store::leases`].
    pub(crate) async fn all(&self) -> Result<Vec<Lease>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::All(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        self.queue.send(message).map_err(|_| StoreError::Closed)
    }

    /// Ends the thread once everything that was sent is done.
    pub(crate) async fn close(&self) {
        let (sender, ended) = oneshot::channel();
        if self.send(Message::Stop(sender)).is_ok() {
            // An error is the thread's end as well.
            drop(ended.await);
        }
    }
}

impl Drop for LeaseLog {
    fn drop(&mut self) {
        drop(self.send(Message::Stop(oneshot::channel().0)));
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// The thread's own state.
struct Thread {
    place: Place,
    receiver: Receiver<Message>,
    /// The log file that is being written; none before the first commit, and after a failure.
    log: Option<LogFile>,
    /// The highest number that a log file has had.
    last: u32,
    room: usize,
    /// Log files that are full and in no snapshot.
    full: Vec<u32>,
    full_bytes: u64,
    compactor: Option<Compactor>,
    /// Bytes of the latest snapshot.
    snapshot: u64,
    /// Who has which address, and how.
    known: HashMap<u32, (MacAddr, LeaseState)>,
    changes: Changes,
    /// How many changes may be told one by one.
    tokens: f64,
    refilled: Instant,
    tell: Tell,
}

/// Writes a snapshot beside the commits.
struct Compactor {
    thread: JoinHandle<Result<u64, DiskError>>,
    logs: Vec<u32>,
    bytes: u64,
}

impl Thread {
    fn run(mut self) {
        let mut frame = Vec::new();
        let mut stopping = None;
        while stopping.is_none() {
            let Ok(first) = self.receiver.recv() else {
                break;
            };
            let mut groups = Vec::new();
            let mut readers = Vec::new();
            let more = std::iter::from_fn(|| self.receiver.try_recv().ok());
            for message in std::iter::once(first).chain(more) {
                match message {
                    Message::Commit(leases, reply) => groups.push((leases, reply)),
                    Message::All(reply) => readers.push(reply),
                    Message::Stop(reply) => {
                        stopping = Some(reply);
                        break;
                    }
                }
            }
            if !groups.is_empty() {
                self.commit(groups, &mut frame);
            }
            for reader in readers {
                drop(reader.send(self.all()));
            }
        }
        self.finish_compaction();
        drop(self.log.take());
        // What the thread owns goes before anybody is told that it has ended.
        drop(self);
        if let Some(reply) = stopping {
            let _ = reply.send(());
        }
    }

    /// Writes groups in one frame, and answers for all of them.
    fn commit(&mut self, groups: Vec<(Vec<Lease>, Answer)>, frame: &mut Vec<u8>) {
        frame.clear();
        let start = format::begin_frame(frame);
        for lease in groups.iter().flat_map(|(leases, _)| leases) {
            format::put(frame, lease);
        }
        let written = self.write(frame, start);
        let mut replies = Vec::with_capacity(groups.len());
        for (leases, reply) in groups {
            if written.is_ok() {
                self.note(leases);
            }
            replies.push(reply);
        }
        // Before the answers, so that whoever has one and then asks the registry for something
        // finds the events in front of it.
        if !self.changes.leases.is_empty() || self.changes.untold > 0 {
            (self.tell)(std::mem::take(&mut self.changes));
        }
        match written {
            Ok(()) => {
                for reply in replies {
                    drop(reply.send(Ok(())));
                }
            }
            Err(error) => {
                let text = in_one_line(&error);
                tracing::error!("leases could not be written: {text}");
                for reply in replies {
                    let source = text.clone().into();
                    drop(reply.send(Err(StoreError::Database {
                        operation: "write leases",
                        source,
                    })));
                }
            }
        }
    }

    fn write(&mut self, frame: &mut [u8], start: usize) -> Result<(), DiskError> {
        if !self
            .log
            .as_ref()
            .is_some_and(|log| log.has_room(frame.len()))
        {
            self.next_log(frame.len())?;
        }
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let (number, sequence) = log.next();
        format::end_frame(frame, start, number, sequence);
        let written = log.append(frame);
        if written.is_err() {
            // What is on the disk behind its last good frame is not known: nothing is added to it.
            self.retire();
        }
        written
    }

    /// Takes the log file out of use.
    fn retire(&mut self) {
        if let Some(log) = self.log.take() {
            self.full.push(log.number);
            self.full_bytes += log.written();
        }
    }

    /// Begins a log file with room for a frame of this length.
    fn next_log(&mut self, frame: usize) -> Result<(), DiskError> {
        self.retire();
        self.compact();
        let room = self.room.max(frame);
        let log = self.place.create_log(self.last + 1, room)?;
        self.last += 1;
        self.room = (self.room * 4).min(MOST_ROOM);
        self.log = Some(log);
        Ok(())
    }

    /// Begins a snapshot where that is worth it and none is under way.
    fn compact(&mut self) {
        if self
            .compactor
            .as_ref()
            .is_some_and(|compactor| !compactor.thread.is_finished())
        {
            return;
        }
        self.finish_compaction();
        if self.full.is_empty() || self.full_bytes < COMPACT_AT.max(4 * self.snapshot) {
            return;
        }
        let place = self.place.clone();
        let logs = std::mem::take(&mut self.full);
        let bytes = std::mem::take(&mut self.full_bytes);
        let numbers = logs.clone();
        let work = move || {
            let leases = place.read(&numbers)?;
            place.compact(&leases, &numbers)
        };
        let thread = std::thread::Builder::new()
            .name("lease-compactor".into())
            .spawn(work);
        match thread {
            Ok(thread) => {
                self.compactor = Some(Compactor {
                    thread,
                    logs,
                    bytes,
                });
            }
            Err(error) => {
                tracing::warn!(%error, "leases: a snapshot could not be begun; the log grows");
                self.full = logs;
                self.full_bytes = bytes;
            }
        }
    }

    /// Takes up what the compactor has done; waits for it.
    fn finish_compaction(&mut self) {
        let Some(Compactor {
            thread,
            logs,
            bytes,
        }) = self.compactor.take()
        else {
            return;
        };
        match thread.join() {
            Ok(Ok(size)) => self.snapshot = size,
            Ok(Err(error)) => {
                tracing::warn!(
                    "leases: a snapshot could not be written, and is tried again: {}",
                    in_one_line(&error)
                );
                // Some of them may be gone already: then the snapshot has what was in them.
                let left = self.place.logs().unwrap_or_else(|_| logs.clone());
                let logs = logs.into_iter().filter(|number| left.contains(number));
                self.full = logs.chain(std::mem::take(&mut self.full)).collect();
                self.full_bytes += bytes;
            }
            Err(_) => tracing::error!("leases: the compactor ended early"),
        }
    }

    fn all(&mut self) -> Result<Vec<Lease>, StoreError> {
        // Not while the files are being replaced.
        self.finish_compaction();
        let failed = |error| database("list leases", error);
        let logs = self.place.logs().map_err(failed)?;
        let leases = self.place.read(&logs).map_err(failed)?;
        Ok(leases.into_values().collect())
    }

    /// Notes who has which address now, and what of that is to be told.
    fn note(&mut self, leases: Vec<Lease>) {
        for lease in leases {
            let now = (lease.mac, lease.state);
            if self.known.insert(lease.address.to_bits(), now) == Some(now) {
                continue;
            }
            if self.changes.leases.len() < TOLD_TOGETHER && self.may_tell() {
                self.changes.leases.push(lease);
            } else {
                self.changes.untold += 1;
            }
        }
    }

    fn may_tell(&mut self) -> bool {
        if self.tokens < 1.0 {
            let now = Instant::now();
            let passed: Duration = now - self.refilled;
            self.tokens =
                (passed.as_secs_f64() * f64::from(TOLD_PER_SECOND)).min(f64::from(TOLD_AT_ONCE));
            if self.tokens < 1.0 {
                return false;
            }
            self.refilled = now;
        }
        self.tokens -= 1.0;
        true
    }
}

/// An error with what is behind it, in one line.
fn in_one_line(error: &DiskError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Reads any bytes as a lease file would be read: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Some(contents) = format::read(bytes) {
        assert!(contents.whole <= bytes.len());
    }
}
