//! One thread that writes, with group commit.
//!
//! ```text
//!   callers (async) --[semaphore]--> channel --> writer thread --> SQLite
//!                                                  |   one transaction: a savepoint for each
//!                                                  |   operation that was waiting, one COMMIT
//!                                                  +-> Memory, then listeners, then the answers
//! ```
//!
//! A commit costs a flush of the disk, so what waits while one is under way is committed together
//! by the next. The semaphore bounds how much can wait. A caller that gives up before its operation
//! was sent has changed nothing; one that gives up later misses only the answer.

use super::fault::{DatabaseFault, Fault};
use super::memory::{Effect, Memory, Pending};
use super::{Limits, devices, tasks};
use crate::StoreError;
use bugler_model::Event;
use rusqlite::Connection;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot};

/// How many operations can wait.
const QUEUE: usize = 4096;
/// Most operations in one transaction: bounds how long the first waits for the last.
const BATCH: usize = 1024;
/// How long to wait before a flush that failed is tried again.
const RETRY: Duration = Duration::from_secs(20);
/// How long what changed during a flush waits for the next.
const LEFT_OVER: Duration = Duration::from_secs(3);

/// An operation at work inside the writer's transaction.
pub(super) struct Tx<'a> {
    pub(super) sql: &'a Connection,
    pub(super) memory: &'a Memory,
    pub(super) limits: &'a Limits,
    effects: Vec<Effect>,
}

impl Tx<'_> {
    /// What is true once this is committed.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// Answers the caller, once it is known whether the commit went well.
type Answer = Box<dyn FnOnce(Result<(), DatabaseFault>) + Send>;

/// What is to become of what an operation did.
enum Verdict {
    Keep,
    /// Undo it; with what SQLite said, where that is the reason.
    Undo(Option<Arc<rusqlite::Error>>),
}

/// Does the operation, unless its transaction is broken already; and makes the answer.
type Work = Box<dyn FnOnce(Result<&mut Tx<'_>, DatabaseFault>) -> (Verdict, Answer) + Send>;

enum Message {
    Work(Work, OwnedSemaphorePermit),
    /// Memory runs ahead of the disk: write it within this time.
    FlushWithin(Duration),
    /// Finish what was sent before, write everything, end.
    Stop(oneshot::Sender<()>),
}

/// The way to the writer thread.
pub(super) struct Writer {
    path: Arc<Path>,
    queue: Sender<Message>,
    room: Arc<Semaphore>,
    refuses: AtomicBool,
    commits: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A way to the writer for what nobody waits for.
pub(super) struct Submitter {
    queue: Sender<Message>,
    room: Arc<Semaphore>,
}

impl Submitter {
    /// Has the thread do `work` in a transaction, unless too much waits already. Only the log says
    /// that it failed.
    pub(super) fn submit(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<(), Fault> + Send + 'static,
    ) {
        let Ok(permit) = self.room.clone().try_acquire_owned() else {
            tracing::debug!("registry: something was not told, because too much waits");
            return;
        };
        let work: Work = Box::new(move |tx| {
            let verdict = match tx.map(work) {
                Ok(Ok(())) => Verdict::Keep,
                Ok(Err(Fault::Sql(error))) => Verdict::Undo(Some(error)),
                Ok(Err(_)) | Err(_) => Verdict::Undo(None),
            };
            (verdict, Box::new(drop))
        });
        // A thread that has ended does nothing more.
        drop(self.queue.send(Message::Work(work, permit)));
    }
}

/// What the thread owns.
pub(super) struct WriterParts {
    pub(super) path: Arc<Path>,
    pub(super) sql: Connection,
    pub(super) memory: Arc<Memory>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) limits: Limits,
    /// Held for as long as the thread runs.
    pub(super) lock: File,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(parts: WriterParts) -> std::io::Result<Self> {
        let (queue, receiver) = channel();
        let commits = Arc::new(AtomicU64::new(0));
        let path = parts.path.clone();
        let thread = Thread {
            parts,
            receiver,
            commits: commits.clone(),
            flush_at: None,
            stopping: None,
        };
        let thread = std::thread::Builder::new()
            .name("registry-writer".into())
            .spawn(|| thread.run())?;
        Ok(Self {
            path,
            queue,
            room: Arc::new(Semaphore::new(QUEUE)),
            refuses: AtomicBool::new(false),
            commits,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has the thread do `work` in a transaction; returns once that is committed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        let permit = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let path = self.path.clone();
        let work: Work = Box::new(move |tx| {
            let done = match tx {
                Ok(tx) => work(tx).map_err(|fault| match fault {
                    Fault::Sql(error) => (Some(error.clone()), Fault::Sql(error)),
                    other => (None, other),
                }),
                Err(fault) => {
                    return (
                        Verdict::Undo(None),
                        Box::new(move |_| {
                            drop(reply.send(Err(fault.during(operation))));
                        }),
                    );
                }
            };
            let (verdict, done) = match done {
                Ok(value) => (Verdict::Keep, Ok(value)),
                Err((cause, fault)) => (Verdict::Undo(cause), Err(fault)),
            };
            let answer: Answer = Box::new(move |committed| {
                let result = match (done, committed) {
                    (Err(fault), _) => Err(fault.during(operation, &path)),
                    (Ok(value), Ok(())) => Ok(value),
                    (Ok(_), Err(fault)) => Err(fault.during(operation)),
                };
                // A caller that has given up does not want to know.
                drop(reply.send(result));
            });
            (verdict, answer)
        });
        self.queue
            .send(Message::Work(work, permit))
            .map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// A way for what nobody waits for.
    pub(super) fn submitter(&self) -> Submitter {
        Submitter {
            queue: self.queue.clone(),
            room: self.room.clone(),
        }
    }

    /// Asks for memory to be written within `time`.
    pub(super) fn flush_within(&self, time: Duration) {
        // A thread that has ended has flushed.
        drop(self.queue.send(Message::FlushWithin(time)));
    }

    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Takes no more operations. What the log of leases still has to say is taken until
    /// [`close`](Self::close).
    pub(super) fn refuse(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    /// Ends the thread once everything that was sent is done.
    pub(super) async fn close(&self) {
        self.room.close();
        let (sender, ended) = oneshot::channel();
        if self.queue.send(Message::Stop(sender)).is_ok() {
            // An error is the thread's end as well.
            drop(ended.await);
        }
    }
}

impl Drop for Writer {
    /// Waits for the thread: whoever drops the registry may open it again at once.
    fn drop(&mut self) {
        self.room.close();
        drop(self.queue.send(Message::Stop(oneshot::channel().0)));
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
    parts: WriterParts,
    receiver: Receiver<Message>,
    commits: Arc<AtomicU64>,
    flush_at: Option<Instant>,
    stopping: Option<Vec<oneshot::Sender<()>>>,
}

impl Thread {
    fn run(mut self) {
        while self.stopping.is_none() {
            let batch = self.next_batch();
            let due = self.flush_at.is_some_and(|at| at <= Instant::now());
            let flush = due || self.stopping.is_some();
            if flush || !batch.is_empty() {
                self.commit(batch, flush);
            }
        }
        if let Err(error) = self
            .parts
            .sql
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::warn!(%error, path = %self.parts.path.display(), "registry: last checkpoint");
        }
        let Self {
            parts,
            receiver,
            stopping,
            ..
        } = self;
        // The lock goes last, and before anybody is told that the registry is closed.
        drop(receiver);
        drop(parts.sql);
        // Closing it is not enough: a process that is being started (forked, and not yet the other
        // program) has a copy of it.
        if let Err(error) = parts.lock.unlock() {
            tracing::warn!(%error, path = %parts.path.display(), "registry: let go of the lock");
        }
        for sender in stopping.into_iter().flatten() {
            let _ = sender.send(());
        }
    }

    /// Waits for work, and takes all there is.
    fn next_batch(&mut self) -> Vec<(Work, OwnedSemaphorePermit)> {
        let mut batch = Vec::new();
        let first = match self.flush_at {
            None => self
                .receiver
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self
                .receiver
                .recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match first {
            Ok(message) => self.take(message, &mut batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.stopping = Some(Vec::new()),
        }
        while batch.len() < BATCH && self.stopping.is_none() {
            match self.receiver.try_recv() {
                Ok(message) => self.take(message, &mut batch),
                Err(_) => break,
            }
        }
        batch
    }

    fn take(&mut self, message: Message, batch: &mut Vec<(Work, OwnedSemaphorePermit)>) {
        match message {
            Message::Work(work, permit) => batch.push((work, permit)),
            Message::FlushWithin(time) => self.flush_soon(time),
            Message::Stop(sender) => self.stopping.get_or_insert_default().push(sender),
        }
    }

    fn flush_soon(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.flush_at = Some(self.flush_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Does a batch in one transaction and answers everybody in it.
    fn commit(&mut self, batch: Vec<(Work, OwnedSemaphorePermit)>, flush: bool) {
        let mut answers = Vec::with_capacity(batch.len());
        let mut effects = Vec::new();
        let mut pending = Pending::default();
        let outcome = self.transaction(batch, flush, &mut answers, &mut effects, &mut pending);
        match &outcome {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                self.parts.memory.apply(&effects);
                for effect in effects {
                    if let Effect::Event(event) = effect {
                        // Nobody may be listening.
                        drop(self.parts.events.send(event));
                    }
                }
            }
            Err(fault) => {
                if !self.parts.sql.is_autocommit()
                    && let Err(error) = control(&self.parts.sql, "ROLLBACK")
                {
                    tracing::error!(%error, "registry: roll back a failed transaction");
                }
                tracing::error!(error = %fault, "registry: commit");
            }
        }
        if flush {
            self.flush_at = match outcome {
                Ok(()) => self
                    .parts
                    .memory
                    .settle(&pending)
                    .then(|| Instant::now() + LEFT_OVER),
                Err(_) => Some(Instant::now() + RETRY),
            };
        }
        for (answer, permit) in answers {
            answer(outcome.clone());
            drop(permit);
        }
    }

    fn transaction(
        &self,
        batch: Vec<(Work, OwnedSemaphorePermit)>,
        flush: bool,
        answers: &mut Vec<(Answer, OwnedSemaphorePermit)>,
        effects: &mut Vec<Effect>,
        pending: &mut Pending,
    ) -> Result<(), DatabaseFault> {
        let fault = |error: Arc<rusqlite::Error>| DatabaseFault::new(&self.parts.path, error);
        let mut whole = control(&self.parts.sql, "BEGIN IMMEDIATE").map_err(fault);
        for (work, permit) in batch {
            let answer = match &whole {
                Ok(()) => {
                    let (answer, after) = self.savepoint(work, effects);
                    whole = after.map_err(fault);
                    answer
                }
                Err(broken) => work(Err(broken.clone())).1,
            };
            answers.push((answer, permit));
        }
        whole?;
        if flush {
            *pending = self.parts.memory.pending();
            write_pending(&self.parts.sql, pending).map_err(fault)?;
        }
        control(&self.parts.sql, "COMMIT").map_err(fault)
    }

    /// Does one operation in a savepoint of its own. The second part says whether the transaction
    /// is still good.
    fn savepoint(
        &self,
        work: Work,
        effects: &mut Vec<Effect>,
    ) -> (Answer, Result<(), Arc<rusqlite::Error>>) {
        let sql = &self.parts.sql;
        if let Err(error) = control(sql, "SAVEPOINT operation") {
            let fault = DatabaseFault::new(&self.parts.path, error.clone());
            return (work(Err(fault)).1, Err(error));
        }
        let mut tx = Tx {
            sql,
            memory: &self.parts.memory,
            limits: &self.parts.limits,
            effects: Vec::new(),
        };
        let (verdict, answer) = work(Ok(&mut tx));
        let after = match verdict {
            // SQLite took the whole transaction back by itself: a full disk, an I/O error.
            Verdict::Undo(Some(cause)) if sql.is_autocommit() => Err(cause),
            Verdict::Undo(_) => control(sql, "ROLLBACK TO operation")
                .and_then(|()| control(sql, "RELEASE operation")),
            Verdict::Keep => {
                effects.append(&mut tx.effects);
                control(sql, "RELEASE operation")
            }
        };
        (answer, after)
    }
}

/// Runs a statement that moves between transactions and savepoints.
fn control(sql: &Connection, text: &str) -> Result<(), Arc<rusqlite::Error>> {
    sql.prepare_cached(text)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(Arc::new)
}

/// Writes what memory is ahead with.
fn write_pending(sql: &Connection, pending: &Pending) -> Result<(), Arc<rusqlite::Error>> {
    let write = || -> rusqlite::Result<()> {
        for (id, touch) in &pending.touches {
            devices::write_touch(sql, *id, *touch)?;
        }
        for task in &pending.tasks {
            tasks::write_progress(sql, task)?;
        }
        Ok(())
    };
    write().map_err(Arc::new)
}
