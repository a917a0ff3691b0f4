//! From a source to staged chunks, on every processor.
//!
//! ```text
//!   this thread                         workers
//!   source -> zero? -> jobs ----------> hash -> have it? -> compress -> write
//!      ^                                                                  |
//!      +--- buffers, results <--------------------------------------------+
//! ```
//!
//! The number of buffers is fixed; the source is read no faster than they come back.

use crate::{
    add::AddProgress,
    error::{AddError, StoreError},
    pins::{Pins, lock},
    source::{Source, is_zero},
    stage::Stage,
    store::{ChunkReader, Inner},
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};
use zstd::bulk::Compressor;

/// More threads than this are of no use to one source.
const MAX_WORKERS: usize = 16;

/// Sees a chunk before it is stored, and may object or lengthen it.
pub(crate) type Look<'a> = dyn FnMut(u32, &mut Vec<u8>) -> Result<(), AddError> + 'a;

/// Is told how far the add is.
pub(crate) type Report<'a> = dyn FnMut(&AddProgress) + 'a;

/// A chunk to be stored.
struct Job {
    index: u32,
    content: Vec<u8>,
}

/// A chunk that has been stored, or not, and its buffer.
struct Done {
    index: u32,
    stored: Result<(ChunkHash, bool), AddError>,
    buffer: Vec<u8>,
}

/// What the workers share.
pub(crate) struct Workshop<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) stage: &'a Stage,
    pub(crate) pins: &'a Pins,
    pub(crate) level: i32,
}

impl Workshop<'_> {
    /// Stores every chunk that `source` gives and `look` does not object to. `look` sees each
    /// chunk first, and may make the disk's last one longer; `progress` is told of each. Gives
    /// index and hash of the chunks that are not zero, in no order, and the final counts.
    pub(crate) fn run(
        &self,
        source: &mut dyn Source,
        look: &mut Look<'_>,
        progress: &mut Report<'_>,
    ) -> Result<(Vec<(u32, ChunkHash)>, AddProgress), AddError> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let workers = (0..count.min(MAX_WORKERS))
            .map(|_| Worker::new(self))
            .collect::<Result<Vec<_>, _>>()?;
        let (job_sender, jobs) = mpsc::channel();
        let (done_sender, done) = mpsc::channel();
        let jobs = Mutex::new(jobs);
        let given_up = AtomicBool::new(false);
        let mut desk = Desk {
            done,
            buffers: vec![Vec::new(); 2 * workers.len() + 2],
            chunks: Vec::new(),
            progress: AddProgress::default(),
        };
        thread::scope(|scope| {
            // Moved in here, so that the workers end whichever way this closure does.
            let job_sender = job_sender;
            for (number, worker) in workers.into_iter().enumerate() {
                let done = done_sender.clone();
                let (jobs, given_up) = (&jobs, &given_up);
                let spawned = thread::Builder::new()
                    .name(format!("image-{number}"))
                    .spawn_scoped(scope, move || worker.run(jobs, &done, given_up));
                // Fewer than wanted will do, none will not.
                if number == 0 {
                    spawned.map_err(StoreError::io("start a thread for", &self.inner.dir))?;
                }
            }
            drop(done_sender);
            let fed = desk.feed(&job_sender, source, look, progress);
            if fed.is_err() {
                given_up.store(true, Ordering::Relaxed);
            }
            drop(job_sender);
            desk.finish(fed, progress)
        })
    }
}

/// The feeding side.
struct Desk {
    done: Receiver<Done>,
    buffers: Vec<Vec<u8>>,
    chunks: Vec<(u32, ChunkHash)>,
    progress: AddProgress,
}

impl Desk {
    fn feed(
        &mut self,
        jobs: &Sender<Job>,
        source: &mut dyn Source,
        look: &mut Look<'_>,
        progress: &mut Report<'_>,
    ) -> Result<(), AddError> {
        loop {
            while let Ok(done) = self.done.try_recv() {
                self.take(done)?;
            }
            let Some(mut buffer) = self.buffers.pop() else {
                match self.done.recv() {
                    Ok(done) => self.take(done)?,
                    // The workers are gone; the scope passes their panic on.
                    Err(_) => return Ok(()),
                }
                continue;
            };
            let Some(index) = source.next(&mut buffer)? else {
                self.progress.disk_bytes = source.disk_bytes();
                self.progress.read_bytes = source.read_bytes();
                return Ok(());
            };
            look(index, &mut buffer)?;
            self.progress.disk_bytes = source.disk_bytes();
            self.progress.read_bytes = source.read_bytes();
            if is_zero(&buffer) {
                self.buffers.push(buffer);
            } else {
                let job = Job {
                    index,
                    content: buffer,
                };
                if jobs.send(job).is_err() {
                    return Ok(());
                }
            }
            progress(&self.progress);
        }
    }

    /// Waits for what is still at work. There must be no more senders of jobs: then the workers
    /// end, and with the last one the channel that they answer on.
    fn finish(
        mut self,
        mut outcome: Result<(), AddError>,
        progress: &mut Report<'_>,
    ) -> Result<(Vec<(u32, ChunkHash)>, AddProgress), AddError> {
        while let Ok(done) = self.done.recv() {
            outcome = outcome.and(self.take(done));
            if outcome.is_ok() {
                progress(&self.progress);
            }
        }
        outcome.map(|()| (self.chunks, self.progress))
    }

    fn take(&mut self, done: Done) -> Result<(), AddError> {
        self.buffers.push(done.buffer);
        let (hash, is_new) = done.stored?;
        self.chunks.push((done.index, hash));
        if is_new {
            self.progress.new_chunks += 1;
        } else {
            self.progress.dup_chunks += 1;
        }
        Ok(())
    }
}

/// The storing side.
struct Worker<'a> {
    workshop: &'a Workshop<'a>,
    reader: ChunkReader,
    compressor: Compressor<'static>,
    frame: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(workshop: &'a Workshop<'a>) -> Result<Self, StoreError> {
        Ok(Self {
            workshop,
            reader: ChunkReader::new(workshop.inner)?,
            compressor: Compressor::new(workshop.level)
                .map_err(StoreError::io("prepare to pack", &workshop.inner.dir))?,
            frame: Vec::with_capacity(zstd::zstd_safe::compress_bound(CHUNK_SIZE as usize)),
        })
    }

    fn run(mut self, jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>, given_up: &AtomicBool) {
        loop {
            let Ok(job) = lock(jobs).recv() else { return };
            let stored = if given_up.load(Ordering::Relaxed) {
                Err(AddError::Cancelled)
            } else {
                self.store(&job.content)
            };
            let done_with = Done {
                index: job.index,
                stored,
                buffer: job.content,
            };
            if done.send(done_with).is_err() {
                return;
            }
        }
    }

    /// Stages a chunk where the store has it not; gives its hash and whether it was new.
    fn store(&mut self, content: &[u8]) -> Result<(ChunkHash, bool), AddError> {
        let Workshop {
            inner, stage, pins, ..
        } = self.workshop;
        let hash = ChunkHash(*blake3::hash(content).as_bytes());
        if !pins.pin(hash) {
            return Ok((hash, false));
        }
        let is_new = !self.reader.holds(&hash, content);
        let frame = if is_new {
            self.compressor
                .compress_to_buffer(content, &mut self.frame)
                .map_err(StoreError::io("pack a chunk for", &inner.dir))?;
            stage.put(hash, &self.frame)?;
            &self.frame
        } else {
            &self.reader.frame
        };
        // A frame fits in the file's length that was checked, or in `compress_bound`.
        pins.set_len(hash, u32::try_from(frame.len()).unwrap_or(u32::MAX));
        Ok((hash, is_new))
    }
}
