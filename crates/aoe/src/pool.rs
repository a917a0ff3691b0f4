//! Threads that wait for disks, so that the ones that hear the network do not.
//!
//! ```text
//!   frames --> thread of an interface --> answers           what needs no waiting
//!                      |
//!                      +--> queue of reads, lanes of writes --> workers --> answers
//! ```
//!
//! Reads are done by whichever thread is free. The writes of a target are one thread's at a time, in
//! their order ([`Lane`](crate::lane::Lane)): all that came while the last ones became durable becomes
//! durable together.

use crate::lane::{Job, Work};
use crate::link::{Outbox, Receiver};
use crate::machine::{Answer, Change, Failure};
use crate::packet::ATA_HEADER;
use crate::port::Port;
use crate::target::{Target, lock};
use bugler_disk::{DeviceError, Durability};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Most reads and changes that wait, of all targets.
const MOST_WAITING: usize = 8192;

/// Most commands that wait in one target's lane. A client that keeps to what it may have outstanding,
/// and sends each of them twice, has room.
pub(crate) const MOST_IN_LANE: usize = 256;

/// Reads next to each other.
pub(crate) struct Read {
    pub(crate) target: Arc<Target>,
    pub(crate) offset: u64,
    /// The answers, each with its number of bytes.
    pub(crate) pieces: Vec<(Answer, usize)>,
    pub(crate) port: Arc<Port>,
}

pub(crate) enum Task {
    Read(Read),
    Change(Box<Change>, Arc<Port>),
    /// Something waits in this target's lane.
    Lane(Arc<Target>),
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

/// The threads. Dropping it lets them end what they have begun and ends them; what waits is dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let mut pool = Self {
            shared: Arc::default(),
            threads: vec![],
        };
        for _ in 0..threads.max(1) {
            let shared = pool.shared.clone();
            let work = move || shared.work();
            let thread = std::thread::Builder::new().name("aoe-disk".into());
            // Where one cannot be had, the drop of the pool ends those before it.
            pool.threads.push(thread.spawn(work)?);
        }
        Ok(pool)
    }

    /// Has a thread do this. Returns whether there was room for it; there always is for a lane.
    pub(crate) fn push(&self, task: Task) -> bool {
        let mut queue = lock(&self.shared.queue);
        if queue.tasks.len() >= MOST_WAITING && !matches!(task, Task::Lane(_)) {
            return false;
        }
        queue.tasks.push_back(task);
        drop(queue);
        self.shared.more.notify_one();
        true
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.stopped = true;
        queue.tasks.clear();
        drop(queue);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that waits for disks of AoE had panicked");
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        while let Some(task) = self.next() {
            match task {
                Task::Read(read) => read.run(&mut scratch, &mut outbox),
                Task::Change(change, port) => {
                    outbox.push(&change.make(|address, error| {
                        tracing::error!(target = %address, "a client's setting is not kept: {error}");
                    }));
                    port.send(&mut outbox);
                }
                Task::Lane(target) => {
                    let jobs = lock(&target.lane).take();
                    if !jobs.is_empty() {
                        run(&target, jobs, &mut outbox);
                        // Behind the others: each target has its turn.
                        lock(&self.queue).tasks.push_back(Task::Lane(target));
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            if let Some(task) = queue.tasks.pop_front() {
                return Some(task);
            }
            queue = self
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read {
    fn run(self, scratch: &mut Vec<u8>, outbox: &mut Outbox) {
        let length = self.pieces.iter().map(|(_, length)| length).sum();
        scratch.resize(length, 0);
        let device = self.target.device();
        let whole = device.read(self.offset, scratch);
        let mut at = 0;
        for (answer, length) in &self.pieces {
            let piece = scratch.get_mut(at..at + length).unwrap_or_default();
            // What one sector lacks, its neighbours may have.
            let again = (whole.is_err() && self.pieces.len() > 1)
                .then(|| device.read(self.offset + at as u64, piece));
            let outcome = again.as_ref().unwrap_or(&whole).as_ref();
            answer_read(&self.target, answer, outcome.map(|()| &*piece), outbox);
            at += length;
            if outbox.len() >= Receiver::MOST {
                self.port.send(outbox);
            }
        }
        self.port.send(outbox);
    }
}

/// Adds the answer to a read.
pub(crate) fn answer_read(
    target: &Target,
    answer: &Answer,
    data: Result<&[u8], &DeviceError>,
    outbox: &mut Outbox,
) {
    match data {
        Ok(data) => {
            let _ = outbox.push_with(ATA_HEADER + data.len(), |frame| {
                let (head, body) = frame.split_at_mut(ATA_HEADER);
                head.copy_from_slice(answer.done());
                body.copy_from_slice(data);
                Ok::<_, ()>(true)
            });
            count_read(target, data.len());
        }
        Err(error) => {
            failed(target, "read", error);
            outbox.push(&answer.failed(Failure::of_read(error)));
        }
    }
}

pub(crate) fn count_read(target: &Target, bytes: usize) {
    target.counters.reads.fetch_add(1, Relaxed);
    target.counters.bytes_read.fetch_add(bytes as u64, Relaxed);
}

/// Adds the answer to a write, or to a flush, whose length is 0.
pub(crate) fn answer_write(
    target: &Target,
    (answer, length): &(Answer, usize),
    done: Result<(), &DeviceError>,
    outbox: &mut Outbox,
) {
    match done {
        Ok(()) => {
            target
                .counters
                .writes
                .fetch_add(u64::from(*length > 0), Relaxed);
            target
                .counters
                .bytes_written
                .fetch_add(*length as u64, Relaxed);
            outbox.push(answer.done());
        }
        Err(error) => {
            failed(target, "write", error);
            outbox.push(&answer.failed(Failure::of_write(error)));
        }
    }
}

fn failed(target: &Target, action: &str, error: &DeviceError) {
    let name = target.name();
    if target.counters.failed.fetch_add(1, Relaxed) == 0 {
        tracing::warn!(
            target = name,
            "could not {action} for {}: {error}; its client is told, and further failures are only counted",
            target.address()
        );
    } else {
        tracing::debug!(target = name, "could not {action}: {error}");
    }
}

/// Does what waited in a lane: all the writes, then one flush where they, or a client, ask for it.
fn run(target: &Target, jobs: Vec<Job>, outbox: &mut Outbox) {
    let device = target.device();
    let alone = jobs.len() == 1;
    let durable = target.durability() == Durability::Durable;
    let durability = match durable && alone {
        true => Durability::Durable,
        false => Durability::Cached,
    };
    let mut flush = durable && !alone;
    let mut done = Vec::with_capacity(jobs.len());
    for Job { work, port } in jobs {
        match work {
            Work::Write {
                offset,
                data,
                pieces,
            } => match device.write(offset, &data, durability) {
                Ok(()) => {
                    let pieces = pieces.into_iter();
                    done.extend(pieces.map(|piece| (piece, Ok(()), port.clone())));
                }
                Err(error) => match <[_; 1]>::try_from(pieces) {
                    Ok([piece]) => done.push((piece, Err(error), port)),
                    // One by one: a layer that is full takes those that need no more room.
                    Err(pieces) => {
                        let mut at = 0;
                        for piece in pieces {
                            let part = data.get(at..at + piece.1).unwrap_or_default();
                            let written = device.write(offset + at as u64, part, durability);
                            at += piece.1;
                            done.push((piece, written, port.clone()));
                        }
                    }
                },
            },
            Work::Flush(answer) => {
                flush = true;
                done.push(((answer, 0), Ok(()), port));
            }
        }
    }
    let flushed = if flush {
        target.counters.flushes.fetch_add(1, Relaxed);
        device.flush()
    } else {
        Ok(())
    };
    let mut last: Option<Arc<Port>> = None;
    for (piece, written, port) in done {
        if let Some(last) = &last
            && (!Arc::ptr_eq(last, &port) || outbox.len() >= Receiver::MOST)
        {
            last.send(outbox);
        }
        let outcome = written.as_ref().and(flushed.as_ref());
        answer_write(target, &piece, outcome.copied(), outbox);
        last = Some(port);
    }
    if let Some(last) = last {
        last.send(outbox);
    }
}
