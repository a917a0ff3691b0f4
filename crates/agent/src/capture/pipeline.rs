//! From a disk to the server, on every processor.
//!
//! ```text
//!            one thread at a time        each thread for itself
//!  disk ──> read a batch, in order ──> hash ──> ask what is missing ──> compress ──> send
//! ```
//!
//! Every thread does all the steps for its own batch of chunks: while one reads, another hashes or
//! compresses, and a third waits for the server. The disk is read from front to back, whatever the
//! number of threads. Memory is a batch of chunks and their frames for each thread, whatever the
//! size of the disk, and 40 bytes for each chunk that is listed.
//!
//! Nothing is sent that the server has: it is asked about each batch first, also after a failure, and
//! of equal chunks that several threads hold one is sent.

use super::error::CaptureError;
use super::reader::{Held, Reader};
use crate::api::{ApiError, Bulk};
use crate::backoff::{self, Backoff};
use crate::deploy::Settings;
use crate::disk::{AlignedBuf, is_zero};
use crate::log::{Log, chain};
use crate::pace::Pace;
use crate::supervise::Supervisor;
use bugler_model::TaskId;
use bugler_protocol::agent::MAX_HASHES_PER_QUESTION;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash};
use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zstd::bulk::Compressor;

/// Chunks in a batch. With more, a connection that breaks costs more, and so does memory; with
/// fewer, the round trips begin to show.
const BATCH: usize = 8;

/// Most threads. Eight chunks and their frames each: 16 MiB and the compressor's memory.
pub(crate) const MAX_THREADS: usize = 4;

/// How hard chunks are packed. Level 1 leaves a tenth more than level 3, which an image that is added
/// at the server gets, and takes half the time: a machine is not kept busy for the store's sake.
const LEVEL: i32 = 1;

/// How often one batch is sent to a server that answers each time that it is damaged.
const TRIES: usize = 3;

/// How much is read for one batch, zeroes included, in bytes: so often progress is counted.
const MOST_READ: u64 = 64 << 20;

const CHUNK: u64 = CHUNK_SIZE as u64;

/// What a capture works with.
pub(crate) struct Job<'a> {
    pub(crate) bulk: &'a Bulk,
    pub(crate) task: TaskId,
    pub(crate) reader: Reader<'a>,
    pub(crate) supervisor: &'a Supervisor<'a>,
    pub(crate) pace: Option<&'a Pace>,
    pub(crate) log: &'a Log,
    pub(crate) settings: Settings,
}

/// What the threads of one capture share.
pub(crate) struct Pipeline<'a> {
    job: Job<'a>,
    /// Where reading goes on, counted from the scope's start. Held while a batch is read.
    at: Mutex<u64>,
    /// Chunks that a thread asks about or sends at this moment.
    sending: Mutex<HashSet<ChunkHash>>,
    quiet: Mutex<Quiet>,
}

/// Since when the server has given no good answer, and whether that was logged.
#[derive(Default)]
struct Quiet {
    since: Option<Instant>,
    told: bool,
}

/// What one thread works with.
struct Bench {
    compressor: Compressor<'static>,
    /// Buffers that are not in use.
    free: Vec<AlignedBuf>,
    frames: Vec<u8>,
    frame: Vec<u8>,
}

impl Bench {
    fn new() -> Result<Self, CaptureError> {
        let compressor = Compressor::new(LEVEL).map_err(out_of_memory)?;
        Ok(Self {
            compressor,
            free: Vec::new(),
            frames: Vec::new(),
            frame: Vec::with_capacity(zstd::zstd_safe::compress_bound(CHUNK_SIZE as usize)),
        })
    }

    /// Puts the chunks at `positions` of `batch` into `frames`.
    fn pack(&mut self, batch: &[&Held], positions: &[usize]) -> Result<(), CaptureError> {
        self.frames.clear();
        for held in positions.iter().filter_map(|&n| batch.get(n)) {
            self.compressor
                .compress_to_buffer(held.content(), &mut self.frame)
                .map_err(out_of_memory)?;
            // Below `compress_bound`, which is below MAX_FRAME_LEN.
            let length = u32::try_from(self.frame.len()).unwrap_or(u32::MAX);
            self.frames.extend_from_slice(&length.to_le_bytes());
            self.frames.extend_from_slice(&self.frame);
        }
        Ok(())
    }
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(job: Job<'a>) -> Self {
        Self {
            job,
            at: Mutex::new(0),
            sending: Mutex::default(),
            quiet: Mutex::default(),
        }
    }

    /// One thread's work, until the disk is read or the capture is stopped: places and hashes of
    /// the chunks that are not zero, which the server now has.
    pub(crate) fn work(&self) -> Result<Vec<(u32, ChunkHash)>, CaptureError> {
        self.read_and_send()
            .inspect_err(|_| self.job.supervisor.give_up())
    }

    fn read_and_send(&self) -> Result<Vec<(u32, ChunkHash)>, CaptureError> {
        let mut bench = Bench::new()?;
        let mut list = Vec::new();
        loop {
            let (mut batch, used) = self.read_batch(&mut bench)?;
            if used == 0 || self.job.supervisor.halt.is_set() {
                return Ok(list);
            }
            for held in &mut batch {
                held.hash = ChunkHash(*blake3::hash(held.content()).as_bytes());
            }
            self.deliver(&batch, &mut bench)?;
            self.job.supervisor.tracker.add_written(used);
            self.job
                .supervisor
                .tracker
                .flushed(self.job.supervisor.tracker.written());
            list.extend(batch.iter().map(|held| (held.index, held.hash)));
            bench.free.extend(batch.into_iter().map(|held| held.buffer));
        }
    }

    /// Reads the next chunks that are not zero, and says how many used bytes were read; 0 at the
    /// end.
    fn read_batch(&self, bench: &mut Bench) -> Result<(Vec<Held>, u64), CaptureError> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut used) = (Vec::with_capacity(BATCH), 0);
        while batch.len() < BATCH && used < MOST_READ && !self.job.supervisor.halt.is_set() {
            let Some(next) = self
                .job
                .reader
                .scope
                .used
                .within(*at..self.job.reader.scope.size)
                .next()
            else {
                break;
            };
            let index = u32::try_from(next.start / CHUNK).unwrap_or(u32::MAX);
            *at = (u64::from(index) + 1) * CHUNK;
            let mut held = Held::new(index, bench.free.pop());
            used += self.job.reader.read_chunk(&mut held)?;
            if is_zero(held.content()) {
                bench.free.push(held.buffer);
            } else {
                batch.push(held);
            }
        }
        Ok((batch, used))
    }

    /// Sees to it that the server has every chunk of a batch, but for those that another thread
    /// sees to at this moment.
    fn deliver(&self, batch: &[Held], bench: &mut Bench) -> Result<(), CaptureError> {
        let claim = self.claim(batch);
        if claim.mine.is_empty() {
            return Ok(());
        }
        let hashes: Vec<ChunkHash> = claim.mine.iter().map(|held| held.hash).collect();
        let mut backoff = new_backoff(self.job.settings);
        let mut tries = 0;
        while !self.job.supervisor.halt.is_set() {
            let missing = self.ask(&hashes)?;
            if missing.is_empty() {
                break;
            }
            bench.pack(&claim.mine, &missing)?;
            let stop = &self.job.supervisor.halt;
            match self
                .job
                .bulk
                .give(self.job.task, &bench.frames, self.job.pace, stop)
            {
                Ok(()) => {
                    self.answered();
                    self.job
                        .supervisor
                        .tracker
                        .add_fetched(bench.frames.len() as u64);
                    break;
                }
                // Damage on the way looks like this: it is sent again.
                Err(
                    error @ ApiError::Status {
                        status: 400 | 422, ..
                    },
                ) if tries < TRIES => {
                    tries += 1;
                    self.job
                        .log
                        .line(format!("{}; sending again", chain(&error)));
                }
                Err(error) => self.wait(&mut backoff, "chunks", error)?,
            }
        }
        Ok(())
    }

    /// The chunks of a batch that this thread is to see to, each content once.
    fn claim<'b>(&'b self, batch: &'b [Held]) -> Claim<'b> {
        let mut sending = self.sending();
        let mine = batch.iter().filter(|held| sending.insert(held.hash));
        Claim {
            mine: mine.collect(),
            sending: &self.sending,
        }
    }

    fn sending(&self) -> MutexGuard<'_, HashSet<ChunkHash>> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about every chunk once more: a server that was started again may have forgotten some, and
    /// what was damaged on its way may have become another chunk. What is missing is read again, and
    /// sent. A chunk that has changed on the disk meanwhile is listed as it is now. Gives how many
    /// were missing.
    pub(crate) fn confirm(&self, list: &mut Vec<(u32, ChunkHash)>) -> Result<usize, CaptureError> {
        let mut unique: Vec<ChunkHash> = list.iter().map(|(_, hash)| *hash).collect();
        unique.sort_unstable();
        unique.dedup();
        let mut bench = Bench::new()?;
        let mut count = 0;
        for hashes in unique.chunks(MAX_HASHES_PER_QUESTION) {
            let missing = self.ask(hashes)?;
            count += missing.len();
            let missing = missing.into_iter().filter_map(|n| hashes.get(n).copied());
            let missing: HashSet<ChunkHash> = missing.collect();
            if missing.is_empty() {
                continue;
            }
            // Every place of a content: they may differ by now.
            let places = list.iter().enumerate();
            let places = places.filter(|(_, (_, hash))| missing.contains(hash));
            let places: Vec<usize> = places.map(|(place, _)| place).collect();
            let mut gone = HashSet::new();
            for places in places.chunks(BATCH) {
                self.send_again(list, places, &mut gone, &mut bench)?;
            }
            list.retain(|(index, _)| !gone.contains(index));
        }
        Ok(count)
    }

    /// Asks which chunks are missing, until there is an answer; none is missing once the capture
    /// is stopped.
    fn ask(&self, hashes: &[ChunkHash]) -> Result<Vec<usize>, CaptureError> {
        let mut backoff = new_backoff(self.job.settings);
        while !self.job.supervisor.halt.is_set() {
            match self.job.bulk.missing(self.job.task, hashes) {
                Ok(missing) => {
                    self.answered();
                    return Ok(missing);
                }
                Err(error) => {
                    self.wait(&mut backoff, "a question which chunks are missing", error)?;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Reads the chunks at these places of the list again, and sends them; notes in `gone` which of
    /// them are zero by now, and so no chunks any more.
    fn send_again(
        &self,
        list: &mut [(u32, ChunkHash)],
        places: &[usize],
        gone: &mut HashSet<u32>,
        bench: &mut Bench,
    ) -> Result<(), CaptureError> {
        let mut batch = Vec::with_capacity(places.len());
        for &place in places {
            let Some((index, hash)) = list.get_mut(place) else {
                continue;
            };
            let mut held = Held::new(*index, bench.free.pop());
            self.job.reader.read_chunk(&mut held)?;
            held.hash = ChunkHash(*blake3::hash(held.content()).as_bytes());
            if held.hash != *hash {
                self.job.log.line(format!(
                    "what {} has from byte {} on has changed since it was read: something writes \
                     to it",
                    self.job.reader.name,
                    self.job.reader.scope.start + u64::from(*index) * CHUNK
                ));
                *hash = held.hash;
            }
            if is_zero(held.content()) {
                gone.insert(held.index);
                bench.free.push(held.buffer);
            } else {
                batch.push(held);
            }
        }
        self.deliver(&batch, bench)?;
        bench.free.extend(batch.into_iter().map(|held| held.buffer));
        Ok(())
    }

    /// After an error of the server: waits, while that makes sense.
    pub(crate) fn wait(
        &self,
        backoff: &mut Backoff,
        what: &'static str,
        error: ApiError,
    ) -> Result<(), CaptureError> {
        if self.job.supervisor.halt.is_set() {
            return Ok(());
        }
        if !error.is_temporary() {
            return Err(CaptureError::Server {
                what,
                source: error,
            });
        }
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *quiet.since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut quiet.told, true) {
            let why = chain(&error);
            self.job
                .log
                .line(format!("the server takes nothing: {why}; trying again"));
        }
        drop(quiet);
        if since.elapsed() >= self.job.settings.patience {
            let source = ApiError::Patience {
                seconds: self.job.settings.patience.as_secs(),
                why: chain(&error),
            };
            return Err(CaptureError::Server { what, source });
        }
        self.job.supervisor.halt.sleep(backoff.wait());
        Ok(())
    }

    /// The server has answered.
    pub(crate) fn answered(&self) {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.since = None;
        if std::mem::take(&mut quiet.told) {
            self.job.log.line("the server answers again");
        }
    }
}

/// Chunks that one thread sees to. Others leave them alone until it is dropped; from then on the
/// server itself knows them.
struct Claim<'a> {
    mine: Vec<&'a Held>,
    sending: &'a Mutex<HashSet<ChunkHash>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        for held in &self.mine {
            sending.remove(&held.hash);
        }
    }
}

/// Between two tries.
pub(crate) fn new_backoff(settings: Settings) -> Backoff {
    Backoff::new(settings.first_wait, Duration::from_secs(5), backoff::seed())
}

/// zstd fails at nothing else where the buffers are large enough.
fn out_of_memory(source: io::Error) -> CaptureError {
    CaptureError::Disk(crate::disk::DiskError {
        action: "pack what was read from".into(),
        path: "the disk".into(),
        source,
    })
}
