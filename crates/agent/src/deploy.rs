//! Writes an image onto a disk.
//!
//! ```text
//!  task ──> choose a disk ──> compare ──> fetch, unpack, check, write ──> finalize ──> verify
//!           (check)           (resume)    (x connections; zeroes beside)  (flush, GPT) (read back)
//!  ──────────── Claimed ────────────────┼─────────────── Running ───────────────────┼─ Verifying
//! ```
//!
//! `Running` tells the server that the disk is no longer what it was, and the server has the
//! machine boot from the network from then on. So it is reported when, and not before, everything
//! was checked, and nothing is written before the server has taken that report.
//!
//! Everything that can be known is checked before the first byte is written. A chunk is written
//! only when its hash is right. `Progress::done` counts bytes that a flush has covered. One thread
//! flushes once a second: that is as often as progress is reported, and on a disk with a cache of
//! its own a flush costs far less once a second than O_DSYNC with every chunk. Nothing of the
//! state is kept on the disk: to resume, the disk itself is read.

mod buffer;
pub mod check;
mod error;
mod fetch;
mod gpt;
mod plan;
mod progress;
mod readback;
mod stream;
mod target;
mod writer;

pub use error::DeployError;
pub use gpt::fuzz as fuzz_gpt;
pub use stream::{Frame, FrameError, Unpacker, read_frame};
pub use target::{Access, Target};
pub use writer::{DiskWriter, Patch};

use crate::api::{ApiError, Bulk};
use crate::backoff::{self, Backoff};
use crate::log::{Log, chain};
use crate::stop::Stop;
use bugler_model::{Deploy, Disk, Phase, Progress, TaskState, VerifyMode};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use check::{ChoiceError, Needs, choose, depends_on_all, describe, lasting_name};
use fetch::Fetcher;
use plan::{Plan, zero_ranges};
use progress::Tracker;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// How much is zeroed by one call, in bytes: between two calls a cancel is seen.
const ZERO_STEP: u64 = 64 << 20;

/// How often what was written is flushed, and progress reported.
const TICK: Duration = Duration::from_secs(1);

/// How often to look for disks while they are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a deploy may be given time and threads for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections to the server, each with a thread.
    pub connections: usize,
    /// How long the server may give nothing at all before the deploy fails. A server that is
    /// restarted, or a switch that is, must not cost an hour's work.
    pub patience: Duration,
    /// How long to look for a disk that is not there yet: a controller can take seconds to find
    /// its disks.
    pub disk_wait: Duration,
    /// How long [`Context::settled`] may say no before the deploy fails.
    pub settle_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 4,
            patience: Duration::from_secs(3600),
            disk_wait: Duration::from_secs(15),
            settle_wait: Duration::from_secs(60),
        }
    }
}

/// What a deploy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The disk, for people.
    pub disk: String,
    /// How it ended: phase, bytes and time.
    pub progress: Progress,
}

/// Tells the server how a deploy goes; see [`Context::report`].
pub type ReportFn<'a> =
    dyn Fn(TaskState, Progress, Option<&str>) -> Result<bool, ApiError> + Sync + 'a;

/// What a deploy works with.
pub struct Context<'a> {
    /// The server.
    pub bulk: &'a Bulk,
    /// The disks of this machine, looked at afresh with every call.
    pub disks: &'a (dyn Fn() -> Vec<Disk> + Sync),
    /// Whether what `disks` gave last is all there is, as far as can be known: a rule that
    /// depends on what else is there is applied only then.
    pub settled: &'a (dyn Fn() -> bool + Sync),
    /// Told about once a second, and at every change of state, how far it is, and from the moment
    /// of choice on the disk's serial number or path; returns whether an operator has cancelled
    /// the task. May block: the work goes on meanwhile, but for the report that writing begins.
    /// One call at a time.
    pub report: &'a ReportFn<'a>,
    /// For people.
    pub log: &'a Log,
    /// Time and threads.
    pub settings: Settings,
}

/// Writes the image of `task` onto a disk of this machine and proves it. `attempt` above 1 means
/// that an earlier one was interrupted: what is right on the disk is then found and kept.
///
/// # Errors
/// [`DeployError`]. Until the first byte is written, nothing is changed.
pub fn run(task: &Deploy, attempt: u32, context: &Context<'_>) -> Result<Deployed, DeployError> {
    let tracker = Tracker::new();
    let halt = Stop::new();
    let cancelled = Stop::new();
    let finished = Stop::new();
    let work = Work {
        task,
        attempt,
        context,
        tracker: &tracker,
        halt: &halt,
        cancelled: &cancelled,
        reporting: Mutex::new(()),
    };
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut lost = false;
            while !finished.is_set() {
                let (state, answer) = work.report();
                match answer {
                    Ok(true) if !finished.is_set() => return work.cancel(),
                    Ok(_) => lost = false,
                    Err(error) => {
                        if !std::mem::replace(&mut lost, true) {
                            let why = chain(&error);
                            let log = context.log;
                            log.line(format!("cannot report progress: {why}; the work goes on"));
                        }
                    }
                }
                // A change of state is told at once: the sleep is cut into pieces.
                let next = Instant::now() + TICK;
                while Instant::now() < next && tracker.now().0 == state {
                    if finished.sleep(Duration::from_millis(50)) {
                        return;
                    }
                }
            }
        });
        let result = work.run();
        finished.set();
        result
    });
    match result {
        Err(_) if cancelled.is_set() => Err(DeployError::Cancelled),
        Err(error) => Err(error),
        Ok(disk) => Ok(Deployed {
            disk,
            progress: tracker.now().1,
        }),
    }
}

struct Work<'a> {
    task: &'a Deploy,
    attempt: u32,
    context: &'a Context<'a>,
    tracker: &'a Tracker,
    /// Thrown by an error or a cancel: every thread of this deploy ends.
    halt: &'a Stop,
    /// Thrown by a cancel, before `halt`.
    cancelled: &'a Stop,
    /// Held from reading the state to the server's answer, so that reports arrive in the order of
    /// the states that they tell: a late `Claimed` would take a `Running` back.
    reporting: Mutex<()>,
}

impl Work<'_> {
    /// Reports how far it is; returns the state that was told, and whether the task is cancelled.
    fn report(&self) -> (TaskState, Result<bool, ApiError>) {
        let _turn = self
            .reporting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (state, progress) = self.tracker.now();
        let answer = (self.context.report)(state, progress, self.tracker.disk());
        (state, answer)
    }

    fn cancel(&self) {
        self.cancelled.set();
        // Threads that wait for the server wake up at once.
        self.give_up();
    }

    /// Reports that writing begins, and returns once the server knows: from then on the machine
    /// boots from the network until its disk is proved.
    fn announce(&self) -> Result<(), DeployError> {
        let _turn = self
            .reporting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Set by the report before this one.
        if self.halt.is_set() {
            return Err(DeployError::Cancelled);
        }
        let began = Instant::now();
        let mut backoff = short_backoff();
        loop {
            let progress = Progress {
                phase: Phase::Writing,
                ..self.tracker.now().1
            };
            match (self.context.report)(TaskState::Running, progress, self.tracker.disk()) {
                Ok(false) => {
                    self.tracker.enter(TaskState::Running, Phase::Writing);
                    return Ok(());
                }
                Ok(true) => {
                    self.cancel();
                    return Err(DeployError::Cancelled);
                }
                Err(error) if self.may_wait(&error, began) => {
                    let why = chain(&error);
                    self.context.log.line(format!(
                        "{why}; nothing is written before the server knows; trying again"
                    ));
                    std::thread::sleep(backoff.wait());
                }
                Err(source) => return Err(DeployError::NotAnnounced { source }),
            }
        }
    }

    fn may_wait(&self, error: &ApiError, began: Instant) -> bool {
        error.is_temporary() && began.elapsed() < self.context.settings.patience
    }

    fn run(&self) -> Result<String, DeployError> {
        let log = self.context.log;
        let manifest = self.manifest()?;
        self.tracker.set_total(manifest.used_bytes());
        let disk = self.choose(&manifest)?;
        self.tracker.set_disk(lasting_name(&disk));
        let name = describe(&disk);
        log.line(format!(
            "deploying {} ({}, attempt {}) to {name}: {} bytes in use of {}",
            self.task.image_name,
            self.task.image,
            self.attempt,
            manifest.used_bytes(),
            manifest.disk_size,
        ));
        let writer = DiskWriter::open(Path::new(&disk.path))?;
        let written = check_again(writer.target(), &manifest)
            .and_then(|()| self.write(writer.target(), &manifest));
        if let Err(error) = written {
            writer.abandon();
            return Err(error);
        }
        self.tracker.enter(TaskState::Running, Phase::Finalizing);
        let patches = writer.finalize(manifest.sector_size, log)?;
        self.tracker.flushed(self.tracker.written());
        match self.task.verify {
            VerifyMode::WriteOnly => log.line(format!(
                "{name} is written; what is on it was not read back, as asked"
            )),
            VerifyMode::ReadBack => {
                self.tracker.enter(TaskState::Verifying, Phase::Verifying);
                let target = Target::open(Path::new(&disk.path), Access::Read)?;
                readback::verify(&target, &manifest, &patches, self.tracker, self.halt)?;
                log.line(format!("{name} holds the image: everything was read back"));
            }
        }
        Ok(name)
    }

    /// Gets the manifest and checks that it is the one that the task names.
    fn manifest(&self) -> Result<Manifest, DeployError> {
        let hash = &self.task.manifest;
        let began = Instant::now();
        let mut backoff = short_backoff();
        let bytes = loop {
            match self.context.bulk.manifest(hash) {
                Ok(bytes) => break bytes,
                Err(error) if self.may_wait(&error, began) => {
                    self.context
                        .log
                        .line(format!("{}; trying again", chain(&error)));
                    if self.halt.sleep(backoff.wait()) {
                        return Err(DeployError::Cancelled);
                    }
                }
                Err(source) => {
                    let what = format!("manifest {hash}");
                    return Err(DeployError::Server { what, source });
                }
            }
        };
        let found = ChunkHash(*blake3::hash(&bytes).as_bytes());
        if found.to_string() != *hash {
            return Err(DeployError::ManifestHash {
                wanted: hash.clone(),
                found,
            });
        }
        Manifest::decode(&bytes).map_err(|source| DeployError::Manifest {
            hash: hash.clone(),
            source,
        })
    }

    /// Applies the task's rule to the disks, when all of them are there where it matters; waits a
    /// little where none fits yet.
    fn choose(&self, manifest: &Manifest) -> Result<Disk, ChoiceError> {
        let needs = Needs {
            size: manifest.disk_size,
            sector_size: manifest.sector_size,
        };
        let Settings {
            disk_wait,
            settle_wait,
            ..
        } = self.context.settings;
        let began = Instant::now();
        loop {
            let disks = (self.context.disks)();
            if depends_on_all(&self.task.disk, &disks) && !(self.context.settled)() {
                let waited = began.elapsed() >= settle_wait;
                if waited || self.halt.sleep(LOOK_AGAIN) {
                    return Err(ChoiceError::Unsettled);
                }
                continue;
            }
            match choose(&self.task.disk, &disks, needs) {
                Ok(disk) => return Ok(disk.clone()),
                Err(error @ (ChoiceError::NoDisk | ChoiceError::NotFound { .. })) => {
                    let waited = began.elapsed() >= disk_wait;
                    if waited || self.halt.sleep(LOOK_AGAIN) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings the disk to hold the image: everything but the last steps.
    fn write(&self, target: &Target, manifest: &Manifest) -> Result<(), DeployError> {
        let context = self.context;
        let right = if self.attempt > 1 || readback::seems_to_hold(target, manifest)? {
            self.tracker.enter(TaskState::Claimed, Phase::Comparing);
            let right = readback::compare(target, manifest, self.tracker, self.halt)?;
            let count = right.iter().filter(|&&right| right).count();
            context.log.line(format!(
                "{count} of {} chunks are on the disk already and are kept",
                right.len()
            ));
            right
        } else {
            Vec::new()
        };
        let plan = Plan::new(manifest, |n| right.get(n) == Some(&true));
        self.tracker.flushed(self.tracker.written());
        self.announce()?;
        let fetcher = Fetcher::new(
            context.bulk,
            target,
            &plan,
            self.tracker,
            context.log,
            self.halt,
            context.settings,
        );
        let done = Stop::new();
        let result = std::thread::scope(|scope| {
            let flusher = scope.spawn(|| self.flush(target, &done));
            let zeroer = scope.spawn(|| self.zero(target, manifest));
            let threads = context.settings.connections.max(1);
            let fetchers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| fetcher.work()))
                .collect();
            let results: Vec<_> = fetchers.into_iter().chain([zeroer]).map(join).collect();
            done.set();
            let first_error = results.into_iter().find(Result::is_err);
            first_error.unwrap_or(Ok(())).and(join(flusher))
        });
        result?;
        if self.halt.is_set() {
            return Err(DeployError::Cancelled);
        }
        Ok(())
    }

    /// Flushes once a second, so that what counts as done is on the disk.
    fn flush(&self, target: &Target, done: &Stop) -> Result<(), DeployError> {
        while !done.sleep(TICK) && !self.halt.is_set() {
            let written = self.tracker.written();
            if written > self.tracker.durable() {
                target.sync().inspect_err(|_| self.give_up())?;
                self.tracker.flushed(written);
            }
        }
        Ok(())
    }

    /// Zeroes what the manifest does not list.
    fn zero(&self, target: &Target, manifest: &Manifest) -> Result<(), DeployError> {
        for range in zero_ranges(manifest) {
            let mut at = range.start;
            while let Some((start, end)) = target.next_data(at, range.end)? {
                if self.halt.is_set() {
                    return Ok(());
                }
                at = end.min(start + ZERO_STEP);
                target.zero(start, at).inspect_err(|_| self.give_up())?;
            }
        }
        Ok(())
    }

    /// Ends all threads after an error of one of them.
    fn give_up(&self) {
        self.halt.set();
        self.context.bulk.interrupt();
    }
}

/// Between two tries of a small request.
fn short_backoff() -> Backoff {
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
    Backoff::new(first, longest, backoff::seed())
}

/// Compares the opened disk with the image: what the inventory said of it may be old.
fn check_again(target: &Target, manifest: &Manifest) -> Result<(), DeployError> {
    let changed = |found: String, needed: String| {
        Err(DeployError::Changed {
            path: target.path().into(),
            found,
            needed,
        })
    };
    if target.size() < manifest.disk_size {
        let needed = format!("{} bytes", manifest.disk_size);
        return changed(format!("{} bytes long", target.size()), needed);
    }
    match target.sector_size() {
        Some(sector) if sector != manifest.sector_size => changed(
            format!("a disk with sectors of {sector} bytes"),
            format!("sectors of {}", manifest.sector_size),
        ),
        _ => Ok(()),
    }
}

/// Waits for a thread. One that panicked passes its panic on: the process is restarted then.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
