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
//!
//! Where the disk has something of the image already, it is compared first, and only what differs is
//! fetched, zeroed and read back ([`decide`] says when that pays). Where it has all of it, nothing is
//! written, and `Running` is never reported. A disk that is smaller than the image is taken where
//! everything that is used ends before its end ([`fit`]).

pub mod check;
mod decide;
mod error;
mod existing;
mod fetch;
mod fit;
mod gpt;
mod plan;
mod prepare;
mod readback;
mod stream;
mod writer;

pub use crate::disk::{Access, Target};
pub use crate::supervise::ReportFn;
pub use error::DeployError;
pub use gpt::fuzz as fuzz_gpt;
pub(crate) use gpt::{Gpt, GptError};
pub use stream::{Frame, FrameError, Unpacker, read_frame};
pub use writer::{DiskWriter, Patch};
pub(crate) use writer::{read_table, reread_partitions};

use crate::api::{ApiError, Bulk};
use crate::backoff::{self, Backoff};
use crate::log::{Log, chain};
use crate::pace::Pace;
use crate::personalize;
use crate::progress::Tracker;
use crate::stop::Stop;
use crate::supervise::{Supervisor, TICK};
use bugler_model::{Compare, Deploy, Disk, Phase, Progress, TaskState, VerifyMode};
use bugler_protocol::manifest::{ChunkRef, Manifest};
use bugler_protocol::signature::PublicKey;
use check::{describe, lasting_name};
use decide::{Ready, decide};
use existing::Existing;
use fetch::Fetcher;
use fit::Cut;
use plan::{Plan, zero_ranges};
use std::ops::Range;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// How much is zeroed by one call, in bytes: between two calls a cancel is seen.
const ZERO_STEP: u64 = 64 << 20;

/// How often to look for disks while they are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a deploy or a capture may be given time and threads for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections to the server, each with a thread.
    pub connections: usize,
    /// How long the server may give nothing at all before the deploy fails. A server that is
    /// restarted, or a switch that is, must not cost an hour's work.
    pub patience: Duration,
    /// How long to wait before the first new try of a request that failed; later waits double.
    pub first_wait: Duration,
    /// How long to look for a disk that is not there yet: a controller can take seconds to find
    /// its disks.
    pub disk_wait: Duration,
    /// How long [`Context::settled`] may say no before the deploy fails.
    pub settle_wait: Duration,
    /// The key that manifests must be signed by; `None` checks no signature.
    pub key: Option<PublicKey>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 4,
            patience: Duration::from_secs(3600),
            first_wait: Duration::from_millis(100),
            disk_wait: Duration::from_secs(15),
            settle_wait: Duration::from_secs(60),
            key: None,
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
    let supervisor = Supervisor::new(context.bulk, context.report, context.log);
    let work = Work {
        task,
        attempt,
        context,
        supervisor: &supervisor,
        tracker: &supervisor.tracker,
        halt: &supervisor.halt,
    };
    match supervisor.run(|| work.run()) {
        Err(_) if supervisor.is_cancelled() => Err(DeployError::Cancelled),
        Err(error) => Err(error),
        Ok(disk) => Ok(Deployed {
            disk,
            progress: supervisor.tracker.now().1,
        }),
    }
}

struct Work<'a> {
    task: &'a Deploy,
    attempt: u32,
    context: &'a Context<'a>,
    supervisor: &'a Supervisor<'a>,
    tracker: &'a Tracker,
    halt: &'a Stop,
}

impl Work<'_> {
    /// Reports that writing begins, and returns once the server knows: from then on the machine
    /// boots from the network until its disk is proved.
    fn announce(&self) -> Result<(), DeployError> {
        let began = Instant::now();
        let mut backoff = short_backoff(self.context.settings);
        let told = self.supervisor.announce(Phase::Writing, |error| {
            if !self.may_wait(error, began) {
                return false;
            }
            let why = chain(error);
            self.context.log.line(format!(
                "{why}; nothing is written before the server knows; trying again"
            ));
            self.halt.sleep(backoff.wait());
            true
        });
        match told {
            Ok(true) => Ok(()),
            Ok(false) => Err(DeployError::Cancelled),
            Err(source) => Err(DeployError::NotAnnounced { source }),
        }
    }

    fn may_wait(&self, error: &ApiError, began: Instant) -> bool {
        error.is_temporary() && began.elapsed() < self.context.settings.patience
    }

    fn run(&self) -> Result<String, DeployError> {
        let log = self.context.log;
        let manifest = self.manifest()?;
        self.tracker.set_total(manifest.used_bytes());
        let table_size = manifest.disk_size;
        let (disk, Cut { manifest, ready }) = self.place(manifest)?;
        self.tracker.set_disk(lasting_name(&disk));
        self.tracker.set_total(manifest.used_bytes());
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
            .and_then(|()| self.write(writer.target(), &manifest, table_size, ready));
        let (existing, untouched) = match written {
            Ok(written) => written,
            Err(error) => {
                writer.abandon();
                return Err(error);
            }
        };
        let mut patches = existing.fitted.clone();
        if untouched {
            writer.abandon();
            log.line(format!(
                "{name} holds the image already: nothing had to be written"
            ));
            if self.changes_more() {
                self.announce()?;
            }
            self.supervisor.tell();
        } else {
            self.tracker.enter(TaskState::Running, Phase::Finalizing);
            patches.extend(writer.finalize(manifest.sector_size, log)?);
        }
        self.tracker.flushed(self.tracker.written());
        match self.task.verify {
            VerifyMode::WriteOnly if untouched => {}
            VerifyMode::WriteOnly => log.line(format!(
                "{name} is written; what is on it was not read back, as asked"
            )),
            VerifyMode::ReadBack => {
                self.tracker.enter(TaskState::Verifying, Phase::Verifying);
                let target = Target::open(Path::new(&disk.path), Access::Read)?;
                let (tracker, halt) = (self.tracker, self.halt);
                readback::verify(&target, &manifest, &existing, &patches, tracker, halt)?;
                if !untouched {
                    log.line(format!(
                        "{name} holds the image: everything that was written was read back"
                    ));
                }
            }
        }
        if self.changes_more() {
            self.tracker
                .enter(TaskState::Verifying, Phase::Personalizing);
            let (grow, identity) = (self.task.grow, self.task.identity.as_ref());
            let path = Path::new(&disk.path);
            personalize::run(path, manifest.sector_size, grow, identity, log, self.halt)?;
        }
        Ok(name)
    }

    /// Whether something of the image is changed once the disk holds it.
    fn changes_more(&self) -> bool {
        self.task.grow || self.task.identity.is_some()
    }

    /// Brings the disk to hold the image: everything but the last steps. Gives what was there
    /// already, and whether that was all of it: then nothing was written, and nothing is to be.
    fn write(
        &self,
        target: &Target,
        manifest: &Manifest,
        table_size: u64,
        mut ready: Vec<Ready>,
    ) -> Result<(Existing, bool), DeployError> {
        let context = self.context;
        let pace = self.task.limit_rate.map(Pace::new);
        let existing = self.look(target, manifest, table_size, pace.as_ref(), &mut ready)?;
        self.tracker.flushed(self.tracker.written());
        if existing.is_all(manifest)
            && writer::table_fits(target, manifest.sector_size, context.log)?
        {
            return Ok((existing, true));
        }
        let is_ready = |chunk: &ChunkRef| {
            let len = manifest.chunk_len(chunk.index) as usize;
            ready
                .iter()
                .find(|ready| ready.hash == chunk.hash && ready.content.len() == len)
        };
        let missing = manifest.chunks.iter().enumerate();
        let missing = missing.filter(|&(n, _)| !existing.has(n));
        let at_hand: Vec<(&ChunkRef, &Ready)> = missing
            .filter_map(|(_, chunk)| Some((chunk, is_ready(chunk)?)))
            .collect();
        let plan = Plan::new(manifest, |n| {
            existing.has(n)
                || manifest
                    .chunks
                    .get(n)
                    .is_some_and(|c| is_ready(c).is_some())
        });
        self.announce()?;
        for (chunk, ready) in at_hand {
            target.write_at(&ready.content, chunk.offset())?;
            self.tracker.add_written(ready.content.len() as u64);
        }
        let fetched = ready.iter().map(|ready| ready.fetched).sum();
        self.tracker.add_fetched(fetched);
        let fetcher = Fetcher::new(
            context.bulk,
            target,
            &plan,
            self.supervisor,
            context.log,
            context.settings,
            pace.as_ref(),
        );
        let done = Stop::new();
        let result = std::thread::scope(|scope| {
            let flusher = scope.spawn(|| self.flush(target, &done));
            let zeroer = scope.spawn(|| self.zero(target, manifest, existing.to_zero()));
            let threads = context.settings.connections.max(1);
            let threads = pace
                .as_ref()
                .map_or(threads, |pace| pace.connections(threads));
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
        Ok((existing, false))
    }

    /// Finds out what of the image is on the disk, where that is wanted or pays; adds to `ready` what
    /// was fetched to find out whether it pays.
    fn look(
        &self,
        target: &Target,
        manifest: &Manifest,
        table_size: u64,
        pace: Option<&Pace>,
        ready: &mut Vec<Ready>,
    ) -> Result<Existing, DeployError> {
        let log = self.context.log;
        let fitted = existing::fitted(target, manifest.sector_size, table_size)?;
        let why = match self.task.compare {
            _ if self.attempt > 1 => "an earlier attempt was interrupted".to_owned(),
            Compare::Always => "as asked".to_owned(),
            Compare::Never => {
                log.line("what is on the disk is not looked at, as asked");
                return Ok(Existing::unknown());
            }
            Compare::Auto => {
                let bulk = self.context.bulk;
                let verify = self.task.verify;
                let decision = decide(target, manifest, &fitted, verify, bulk, pace, self.halt)?;
                ready.extend(decision.ready);
                if !decision.compare {
                    log.line(format!(
                        "the whole image is fetched and written: {}",
                        decision.measured
                    ));
                    return Ok(Existing::unknown());
                }
                decision.measured.to_string()
            }
        };
        log.line(format!("the disk is compared with the image first: {why}"));
        self.tracker.enter(TaskState::Claimed, Phase::Comparing);
        let existing = existing::compare(target, manifest, fitted, self.tracker, self.halt)?;
        let to_zero = existing.to_zero().unwrap_or_default();
        log.line(format!(
            "{} of {} chunks are on the disk already and are kept; {} bytes are to be zeroed",
            existing.count(),
            manifest.chunks.len(),
            to_zero
                .iter()
                .map(|range| range.end - range.start)
                .sum::<u64>(),
        ));
        Ok(existing)
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

    /// Zeroes these ranges; where the disk was not compared, what the manifest does not list.
    fn zero(
        &self,
        target: &Target,
        manifest: &Manifest,
        ranges: Option<&[Range<u64>]>,
    ) -> Result<(), DeployError> {
        let ranges = match ranges {
            Some(ranges) => ranges.to_vec(),
            None => zero_ranges(manifest).collect(),
        };
        for range in ranges {
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

    fn give_up(&self) {
        self.supervisor.give_up();
    }
}

/// Between two tries of a small request.
fn short_backoff(settings: Settings) -> Backoff {
    Backoff::new(settings.first_wait, Duration::from_secs(5), backoff::seed())
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
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
