//! Takes an image from a disk.
//!
//! ```text
//!  task ──> choose a disk ──> open it ──> survey ──> read, hash, ask, send ──> confirm ──> commit
//!           (check)           (alone)     (fsread)   (several threads)         (ask about all)
//!  ─────────────────── Claimed ──────────────────┼───────────────── Running ──────────────────
//! ```
//!
//! The disk is opened for reading only, and exclusively, so that nothing is mounted on it meanwhile.
//! What its filesystems say is free is not read: it is zero in the image. The server is asked which
//! chunks it lacks before any is sent. At the end it is asked about all of them once more, so that a
//! server that was restarted, or a bit that flipped on the way, costs a chunk and not the capture.
//!
//! What is committed is what was hashed. That nothing else wrote to the disk between the first and
//! the last read is seen to by the kernel, as far as it knows who has the disk.

mod error;
mod pipeline;
mod reader;
mod reading;

pub use error::CaptureError;

use crate::deploy::check::{ChoiceError, choose_any, depends_on_all, describe, lasting_name};
use crate::deploy::{Context, Settings};
use crate::disk::{Access, Target};
use crate::pace::Pace;
use crate::stop::Stop;
use crate::supervise::Supervisor;
use bugler_model::{Capture, Disk, DiskRule, Phase, Progress, TaskId, TaskState};
use bugler_protocol::agent::{Captured, Capturing};
use bugler_protocol::manifest::{ChunkHash, ChunkRef, Manifest};
use pipeline::{Job, MAX_THREADS, Pipeline, new_backoff};
use reader::Reader;
use reading::Scope;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often to look for disks while they are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often everything is asked about before a commit is given up.
const ROUNDS: usize = 10;

/// What a capture made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The disk, for people.
    pub disk: String,
    /// The version that it became.
    pub captured: Captured,
    /// How it ended: bytes and time.
    pub progress: Progress,
}

/// Takes an image from a disk of this machine, for the task `id`.
///
/// # Errors
/// [`CaptureError`]. The disk is not changed in any case.
pub fn run(task: &Capture, id: TaskId, context: &Context<'_>) -> Result<Taken, CaptureError> {
    let supervisor = Supervisor::new(context.bulk, context.report, context.log);
    let work = Work {
        task,
        id,
        context,
        supervisor: &supervisor,
    };
    match supervisor.run(|| work.run()) {
        Err(_) if supervisor.is_cancelled() => Err(CaptureError::Cancelled),
        Err(error) => Err(error),
        Ok((disk, captured)) => Ok(Taken {
            disk,
            captured,
            progress: supervisor.tracker.now().1,
        }),
    }
}

struct Work<'a> {
    task: &'a Capture,
    id: TaskId,
    context: &'a Context<'a>,
    supervisor: &'a Supervisor<'a>,
}

impl Work<'_> {
    fn run(&self) -> Result<(String, Captured), CaptureError> {
        let (log, tracker) = (self.context.log, &self.supervisor.tracker);
        let disk = choose_disk(&self.task.disk, self.context, &self.supervisor.halt)?;
        tracker.set_disk(lasting_name(&disk));
        let name = describe(&disk);
        let source = Target::open(Path::new(&disk.path), Access::ReadAlone).map_err(|error| {
            if error.is_busy() {
                CaptureError::InUse { disk: name.clone() }
            } else {
                CaptureError::Disk(error)
            }
        })?;
        // What was written to a file that stands for a disk may not be on it yet.
        source.forget_cache();
        let sector_size = source.sector_size().unwrap_or(disk.sector_size);
        let scope = Scope::find(&source, &name, sector_size, self.task)?;
        let label = match self.task.partition {
            Some(number) => format!("partition {number} of {name}"),
            None => name.clone(),
        };
        tracker.set_total(scope.used.bytes());
        log.line(format!(
            "capturing {label} as {}: {} bytes in use of {}",
            self.task.image_name,
            scope.used.bytes(),
            scope.size,
        ));
        scope.lines.iter().for_each(|line| log.line(line));
        let mut manifest = Manifest {
            disk_size: scope.size,
            sector_size,
            chunks: Vec::new(),
        };
        self.check(&manifest, &label)?;
        tracker.enter(TaskState::Running, Phase::Capturing);
        self.supervisor.tell();
        let pace = self.task.limit_rate.map(Pace::new);
        let pipeline = Pipeline::new(Job {
            bulk: self.context.bulk,
            task: self.id,
            reader: Reader {
                disk: &source,
                name: &name,
                sector_size,
                scope: &scope,
                halt: &self.supervisor.halt,
            },
            supervisor: self.supervisor,
            pace: pace.as_ref(),
            log,
            settings: self.context.settings,
        });
        let mut list = self.read(&pipeline, pace.as_ref())?;
        let about = scope.capturing(label.clone());
        let make = |list: &[(u32, ChunkHash)]| {
            manifest.chunks = listed(list, &manifest);
            self.check(&manifest, &label)?;
            Ok(manifest.encode())
        };
        let captured = self.commit(&pipeline, &mut list, make, &about)?;
        let progress = tracker.now().1;
        log.line(format!(
            "{label} is {}@{}: {} bytes were read, {} sent",
            self.task.image_name, captured.version, progress.done, progress.fetched
        ));
        Ok((label, captured))
    }

    fn check(&self, manifest: &Manifest, disk: &str) -> Result<(), CaptureError> {
        manifest.check().map_err(|source| CaptureError::Manifest {
            disk: disk.into(),
            source,
        })
    }

    /// Reads everything and sends what the server lacks: places and hashes, by place.
    fn read(
        &self,
        pipeline: &Pipeline<'_>,
        pace: Option<&Pace>,
    ) -> Result<Vec<(u32, ChunkHash)>, CaptureError> {
        let threads = self.context.settings.connections.clamp(1, MAX_THREADS);
        let threads = pace.map_or(threads, |pace| pace.connections(threads));
        let mut list = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| pipeline.work()))
                .collect();
            let mut all = Ok(Vec::new());
            for thread in threads {
                let result = crate::deploy::join(thread);
                all = match (all, result) {
                    (Ok(mut all), Ok(part)) => {
                        all.extend(part);
                        Ok(all)
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
            all
        })?;
        if self.supervisor.halt.is_set() {
            return Err(CaptureError::Cancelled);
        }
        list.sort_unstable_by_key(|&(index, _)| index);
        Ok(list)
    }

    /// Has the server confirm every chunk, then commits.
    fn commit(
        &self,
        pipeline: &Pipeline<'_>,
        list: &mut Vec<(u32, ChunkHash)>,
        mut make: impl FnMut(&[(u32, ChunkHash)]) -> Result<Vec<u8>, CaptureError>,
        about: &Capturing,
    ) -> Result<Captured, CaptureError> {
        let mut backoff = new_backoff(self.context.settings);
        let mut refused = None;
        for _ in 0..ROUNDS {
            let sent = pipeline.confirm(list)?;
            if sent > 0 {
                refused = None;
                self.context.log.line(format!(
                    "the server had lost {sent} chunks; they were sent again"
                ));
                continue;
            }
            // Nothing is missing, and still it was refused: that will not change.
            if let Some(source) = refused.take() {
                let what = "the image";
                return Err(CaptureError::Server { what, source });
            }
            let bytes = make(list)?;
            loop {
                if self.supervisor.halt.is_set() {
                    return Err(CaptureError::Cancelled);
                }
                match self.context.bulk.commit(self.id, about, &bytes) {
                    Ok(captured) => {
                        pipeline.answered();
                        return Ok(captured);
                    }
                    Err(error) if error.is_temporary() => {
                        pipeline.wait(&mut backoff, "the image", error)?;
                    }
                    // Perhaps it was restarted in between, and knows less than before.
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
        }
        Err(match refused {
            Some(source) => CaptureError::Server {
                what: "the image",
                source,
            },
            None => CaptureError::Unstored {
                count: list.len(),
                rounds: ROUNDS,
            },
        })
    }
}

/// Applies a rule to the disks of this machine, when all of them are there where it matters; nothing has
/// to fit. Waits a little where none is there yet.
///
/// # Errors
/// [`ChoiceError`].
pub(crate) fn choose_disk(
    rule: &DiskRule,
    context: &Context<'_>,
    halt: &Stop,
) -> Result<Disk, ChoiceError> {
    let Settings {
        disk_wait,
        settle_wait,
        ..
    } = context.settings;
    let began = Instant::now();
    loop {
        let disks = (context.disks)();
        let (found, longest) = if depends_on_all(rule, &disks) && !(context.settled)() {
            (Err(ChoiceError::Unsettled), settle_wait)
        } else {
            (choose_any(rule, &disks), disk_wait)
        };
        match found {
            Ok(disk) => return Ok(disk.clone()),
            Err(
                error @ (ChoiceError::Unsettled
                | ChoiceError::NoDisk
                | ChoiceError::NotFound { .. }),
            ) => {
                if began.elapsed() >= longest || halt.sleep(LOOK_AGAIN) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The manifest's entries. The server puts the lengths that it stores chunks in in place of these.
fn listed(list: &[(u32, ChunkHash)], manifest: &Manifest) -> Vec<ChunkRef> {
    list.iter()
        .map(|&(index, hash)| ChunkRef {
            index,
            stored_len: manifest.chunk_len(index).max(1),
            hash,
        })
        .collect()
}
