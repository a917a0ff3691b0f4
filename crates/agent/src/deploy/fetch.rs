//! Fetches what is missing and writes it: several connections, each with a thread that reads a
//! chunk, unpacks it, checks its hash and writes it before it reads the next.
//!
//! One thread does all four steps, so that a chunk is copied once (by zstd, into memory that
//! O_DIRECT takes) and stays in the processor's cache. While one thread waits for the disk, the
//! others unpack; what arrives meanwhile waits in the sockets. Memory is a frame and a chunk for
//! each connection, whatever the size of the image.

use super::Settings;
use super::decide::Ready;
use super::error::DeployError;
use super::plan::Plan;
use super::stream::{Frame, FrameError, Unpacker, read_frame};
use crate::api::{ApiError, Bulk};
use crate::backoff::{self, Backoff};
use crate::disk::{AlignedBuf, Target};
use crate::log::{Log, chain};
use crate::pace::{Pace, Paced};
use crate::progress::Tracker;
use crate::stop::Stop;
use crate::supervise::Supervisor;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef};
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most chunks asked for at once. With more, a connection that breaks or stalls holds up more;
/// with fewer, the round trip between two requests begins to show.
const BATCH: usize = 16;

/// What the threads of one deploy share.
pub(crate) struct Fetcher<'a> {
    bulk: &'a Bulk,
    target: &'a Target,
    plan: &'a Plan,
    tracker: &'a Tracker,
    log: &'a Log,
    stop: &'a Stop,
    settings: Settings,
    pace: Option<&'a Pace>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// What is still to be done. Numbers are those of the plan's contents.
#[derive(Default)]
struct Queue {
    /// The first content that nobody has taken yet.
    next: usize,
    /// Taken once and given back.
    returned: BTreeSet<usize>,
    /// Taken and not finished.
    out: usize,
    /// Came damaged once.
    damaged: BTreeSet<usize>,
    /// When a chunk last arrived, or fetching began.
    last_good: Option<Instant>,
    /// Whether it was logged that the server does not answer.
    told: bool,
}

/// How one request for a batch ended.
enum Outcome {
    /// Everything that was asked for is on the disk.
    Complete,
    /// The rest is to be asked for again, at once.
    Again,
    /// The rest is to be asked for again, after a wait.
    Later(String),
}

impl<'a> Fetcher<'a> {
    pub(crate) fn new(
        bulk: &'a Bulk,
        target: &'a Target,
        plan: &'a Plan,
        supervisor: &'a Supervisor<'_>,
        log: &'a Log,
        settings: Settings,
        pace: Option<&'a Pace>,
    ) -> Self {
        Self {
            bulk,
            target,
            plan,
            tracker: &supervisor.tracker,
            log,
            stop: &supervisor.halt,
            settings,
            pace,
            queue: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// One thread's work, until nothing is left or the deploy is stopped.
    pub(crate) fn work(&self) -> Result<(), DeployError> {
        let mut backoff = Backoff::new(
            self.settings.first_wait,
            Duration::from_secs(5),
            backoff::seed(),
        );
        let mut frame = Vec::new();
        let mut content = AlignedBuf::new(CHUNK_SIZE as usize);
        let mut unpacker = Unpacker::default();
        while let Some(mut batch) = self.take() {
            let outcome = self.fetch(&mut batch, &mut frame, &mut content, &mut unpacker);
            self.give_back(&batch);
            match outcome {
                Err(error) => {
                    // The others may be waiting for what this thread had taken.
                    self.give_up();
                    return Err(error);
                }
                Ok(Outcome::Complete | Outcome::Again) => backoff.reset(),
                Ok(Outcome::Later(why)) => {
                    self.complain(&why)?;
                    self.stop.sleep(backoff.wait());
                }
            }
        }
        Ok(())
    }

    /// Asks for a batch and writes what comes. What is finished is taken out of `batch`.
    fn fetch(
        &self,
        batch: &mut Vec<usize>,
        frame: &mut Vec<u8>,
        content: &mut AlignedBuf,
        unpacker: &mut Unpacker,
    ) -> Result<Outcome, DeployError> {
        let hashes = batch.iter().filter_map(|&n| self.plan.content(n));
        let hashes: Vec<ChunkHash> = hashes.map(|(hash, _)| hash).collect();
        let mut stream = match self.bulk.chunks(&hashes) {
            Ok(stream) => Paced::new(stream, self.pace, self.stop),
            Err(error) if error.is_temporary() => return Ok(Outcome::Later(chain(&error))),
            Err(error) => return Err(refused(error)),
        };
        let mut came = false;
        while let Some(&n) = batch.first() {
            if self.stop.is_set() {
                return Ok(Outcome::Again);
            }
            let Some((hash, len)) = self.plan.content(n) else {
                batch.remove(0);
                continue;
            };
            match read_frame(&mut stream, frame) {
                Ok(Frame::Chunk) => {
                    self.tracker.add_fetched(frame.len() as u64);
                    let content = &mut content[..len as usize];
                    if let Err(detail) = unpacker.unpack(frame, content, &hash) {
                        // What follows in the stream is still good.
                        self.note_damage(n, &hash, detail)?;
                    } else {
                        for offset in self.plan.offsets(n) {
                            self.target.write_at(content, offset)?;
                            self.tracker.add_written(u64::from(len));
                        }
                        self.finish();
                    }
                    batch.remove(0);
                    came = true;
                }
                Ok(Frame::Absent) => {
                    let offset = self.plan.offsets(n).next().unwrap_or(0);
                    return Err(DeployError::MissingChunk { hash, offset });
                }
                Ok(Frame::End) if came => return Ok(Outcome::Again),
                Ok(Frame::End) => return Ok(Outcome::Later("the server sent nothing".into())),
                Err(error @ FrameError::TooLong(_)) => {
                    self.note_damage(n, &hash, error.to_string())?;
                    batch.remove(0);
                    return Ok(Outcome::Again);
                }
                Err(error @ FrameError::Cut(_)) => return Ok(Outcome::Later(chain(&error))),
            }
        }
        // The end of the body is read too, so that the connection can be used again.
        let _ = read_frame(&mut stream, frame);
        Ok(Outcome::Complete)
    }

    /// Puts content `n`, which came damaged, back to be fetched once more; the second time is an
    /// error. The server is told both times, and nothing was written.
    fn note_damage(&self, n: usize, hash: &ChunkHash, detail: String) -> Result<(), DeployError> {
        let offset = self.plan.offsets(n).next().unwrap_or(0);
        self.log.line(format!(
            "chunk {hash} for byte {offset} of the disk came damaged: {detail}; it was not written"
        ));
        if let Err(error) = self.bulk.damaged(hash, &detail) {
            let why = chain(&error);
            self.log.line(format!("could not tell the server: {why}"));
        }
        let mut queue = self.queue();
        if !queue.damaged.insert(n) {
            return Err(DeployError::DamagedChunk {
                hash: *hash,
                offset,
                detail,
            });
        }
        queue.returned.insert(n);
        queue.out = queue.out.saturating_sub(1);
        self.changed.notify_all();
        Ok(())
    }

    /// Notes that the server does not give anything, and fails once patience is at its end.
    fn complain(&self, why: &str) -> Result<(), DeployError> {
        if self.stop.is_set() {
            return Ok(());
        }
        let mut queue = self.queue();
        let since = *queue.last_good.get_or_insert_with(Instant::now);
        if !queue.told {
            queue.told = true;
            self.log
                .line(format!("the server gives no chunks: {why}; trying again"));
        }
        drop(queue);
        if since.elapsed() < self.settings.patience {
            return Ok(());
        }
        self.give_up();
        Err(refused(ApiError::Patience {
            seconds: self.settings.patience.as_secs(),
            why: why.into(),
        }))
    }

    /// Ends all threads of this deploy after an error, those that wait for the server too.
    fn give_up(&self) {
        self.stop.set();
        self.bulk.interrupt();
        self.changed.notify_all();
    }

    /// One content is on the disk.
    fn finish(&self) {
        let mut queue = self.queue();
        queue.out = queue.out.saturating_sub(1);
        queue.last_good = Some(Instant::now());
        if std::mem::take(&mut queue.told) {
            self.log.line("the server gives chunks again");
        }
        if queue.out == 0 {
            self.changed.notify_all();
        }
    }

    fn give_back(&self, batch: &[usize]) {
        if batch.is_empty() {
            return;
        }
        let mut queue = self.queue();
        queue.out = queue.out.saturating_sub(batch.len());
        queue.returned.extend(batch);
        self.changed.notify_all();
    }

    /// Takes what to ask for next; waits while others may still give something back. `None` when
    /// everything is done, or the deploy is stopped.
    fn take(&self) -> Option<Vec<usize>> {
        let mut queue = self.queue();
        loop {
            if self.stop.is_set() {
                return None;
            }
            let left = queue.returned.len() + self.plan.len().saturating_sub(queue.next);
            if left > 0 {
                // Towards the end smaller batches, so that all connections end together.
                let count = (left / (2 * self.settings.connections.max(1)) + 1).min(BATCH);
                let mut batch = Vec::with_capacity(count);
                while batch.len() < count {
                    if let Some(n) = queue.returned.pop_first() {
                        batch.push(n);
                    } else if queue.next < self.plan.len() {
                        batch.push(queue.next);
                        queue.next += 1;
                    } else {
                        break;
                    }
                }
                queue.out += batch.len();
                return Some(batch);
            }
            if queue.out == 0 {
                return None;
            }
            // The timeout is for a stop, which does not know this condition variable.
            (queue, _) = self
                .changed
                .wait_timeout(queue, Duration::from_millis(200))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches one chunk into memory, however often that has to be tried while `again` wants to.
pub(crate) fn fetch_one(
    bulk: &Bulk,
    chunk: &ChunkRef,
    len: u32,
    mut again: impl FnMut(&ApiError) -> bool,
) -> Result<Ready, DeployError> {
    let (hash, offset) = (chunk.hash, chunk.offset());
    let (mut frame, mut unpacker) = (Vec::new(), Unpacker::default());
    let mut damaged = false;
    loop {
        let mut stream = match bulk.chunks(&[hash]) {
            Ok(stream) => stream,
            Err(error) if again(&error) => continue,
            Err(error) => return Err(refused(error)),
        };
        let detail = match read_frame(&mut stream, &mut frame) {
            Ok(Frame::Chunk) => {
                let mut content = vec![0; len as usize];
                match unpacker.unpack(&frame, &mut content, &hash) {
                    Ok(()) => {
                        let fetched = frame.len() as u64;
                        return Ok(Ready {
                            hash,
                            content,
                            fetched,
                        });
                    }
                    Err(detail) => detail,
                }
            }
            Ok(Frame::Absent) => return Err(DeployError::MissingChunk { hash, offset }),
            Ok(Frame::End) => "nothing came".into(),
            Err(error) => chain(&error),
        };
        if std::mem::replace(&mut damaged, true) {
            return Err(DeployError::DamagedChunk {
                hash,
                offset,
                detail,
            });
        }
    }
}

/// Fetches chunks, of which name and length are given, into memory: what comes at once, and right.
/// Nothing is said about the rest.
pub(crate) fn fetch_some(
    bulk: &Bulk,
    chunks: &[(ChunkHash, u32)],
    pace: Option<&Pace>,
    stop: &Stop,
) -> Vec<Ready> {
    let hashes: Vec<ChunkHash> = chunks.iter().map(|(hash, _)| *hash).collect();
    let mut ready = Vec::new();
    if hashes.is_empty() {
        return ready;
    }
    let Ok(stream) = bulk.chunks(&hashes) else {
        return ready;
    };
    let mut stream = Paced::new(stream, pace, stop);
    let (mut frame, mut unpacker) = (Vec::new(), Unpacker::default());
    for &(hash, len) in chunks {
        match read_frame(&mut stream, &mut frame) {
            Ok(Frame::Chunk) => {
                let mut content = vec![0; len as usize];
                if unpacker.unpack(&frame, &mut content, &hash).is_ok() {
                    let fetched = frame.len() as u64;
                    ready.push(Ready {
                        hash,
                        content,
                        fetched,
                    });
                }
            }
            Ok(Frame::Absent) => {}
            Ok(Frame::End) | Err(_) => return ready,
        }
    }
    let _ = read_frame(&mut stream, &mut frame);
    ready
}

fn refused(source: ApiError) -> DeployError {
    DeployError::Server {
        what: "chunks of the image".into(),
        source,
    }
}
