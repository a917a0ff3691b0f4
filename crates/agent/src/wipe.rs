//! Makes a disk forget everything, and proves it by samples.
//!
//! ```text
//!  task ──> choose a disk ──> open it ──> how ──> sample ──> erase ──> sample again
//!           (check)           (alone)             (before)   (steps)   (zero, or changed)
//!  ──────────────────────── Claimed ───────────────────────┼ Running ┼─ Verifying
//! ```
//!
//! What is written by the agent, or discarded by a disk that promises zeroes, must read as zero
//! afterwards. What a disk erases by a command of its own must not read as before: specifications
//! leave it to the disk what it reads as. Everything that can be refused is refused before anything is
//! lost.

pub mod ata;
mod error;
pub mod nvme;
mod sample;

pub use error::WipeError;
pub use sample::Proof;

use crate::backoff::{self, Backoff};
use crate::blkdev;
use crate::capture::choose_disk;
use crate::deploy::check::{describe, lasting_name};
use crate::deploy::{Context, reread_partitions};
use crate::disk::{Access, Target};
use crate::log::chain;
use crate::supervise::Supervisor;
use bugler_fsread::{SurveyOptions, survey};
use bugler_model::{Disk, Phase, Progress, TaskState, Transport, Wipe, WipeMethod};
use rustix::fs::{fstat, major, minor};
use sample::{Expect, Samples};
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is zeroed or discarded by one call, in bytes: between two calls a cancel is seen.
const ZERO_STEP: u64 = 64 << 20;
const DISCARD_STEP: u64 = 1 << 30;

/// What a wipe did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiped {
    /// The disk, for people.
    pub disk: String,
    /// How it was wiped, after "wiped".
    pub way: &'static str,
    /// What was found afterwards.
    pub proof: Proof,
    /// How it ended: bytes and time.
    pub progress: Progress,
}

impl Wiped {
    /// The proof for whoever ordered it: which disk, how, and what samples showed.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{} is wiped {}: {}", self.disk, self.way, self.proof)
    }
}

/// Wipes a disk of this machine.
///
/// # Errors
/// [`WipeError`].
pub fn run(task: &Wipe, context: &Context<'_>) -> Result<Wiped, WipeError> {
    let supervisor = Supervisor::new(context.bulk, context.report, context.log);
    let work = Work {
        task,
        context,
        supervisor: &supervisor,
    };
    match supervisor.run(|| work.run()) {
        Err(_) if supervisor.is_cancelled() => Err(WipeError::Cancelled),
        Err(error) => Err(error),
        Ok((disk, way, proof)) => Ok(Wiped {
            disk,
            way: way.words(),
            proof,
            progress: supervisor.tracker.now().1,
        }),
    }
}

/// How a disk is made forget, with what the disk has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Zero,
    Discard,
    Nvme(nvme::Format),
    Ata(ata::Security),
}

impl Way {
    fn expect(self) -> Expect {
        match self {
            Self::Zero | Self::Discard => Expect::Zero,
            Self::Nvme(_) | Self::Ata(_) => Expect::Changed,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Zero => "by writing zeroes",
            Self::Discard => "by discarding everything",
            Self::Nvme(_) => "by NVMe Format with user data erase",
            Self::Ata(_) => "by ATA Security Erase Unit",
        }
    }
}

struct Work<'a> {
    task: &'a Wipe,
    context: &'a Context<'a>,
    supervisor: &'a Supervisor<'a>,
}

impl Work<'_> {
    fn run(&self) -> Result<(String, Way, Proof), WipeError> {
        let (log, tracker) = (self.context.log, &self.supervisor.tracker);
        let disk = choose_disk(&self.task.disk, self.context, &self.supervisor.halt)?;
        tracker.set_disk(lasting_name(&disk));
        let name = describe(&disk);
        if disk.read_only {
            return Err(WipeError::ReadOnly { disk: name });
        }
        let target = Target::open(Path::new(&disk.path), Access::Write).map_err(|error| {
            if error.is_busy() {
                WipeError::InUse { disk: name.clone() }
            } else {
                WipeError::Disk(error)
            }
        })?;
        let way = self.way(&disk, &name, &target)?;
        tracker.set_total(target.size());
        target.forget_cache();
        let samples = Samples::take(&target, &self.beginnings(&disk, &target))?;
        self.announce()?;
        log.line(format!("wiping {name} {}", way.words()));
        self.erase(way, &name, &target)?;
        tracker.flushed(tracker.written());
        tracker.enter(TaskState::Verifying, Phase::Wiping);
        target.forget_cache();
        let proof = samples.check(&target, way.expect())?;
        let is_block = target.is_block();
        drop(target);
        if is_block {
            reread_partitions(Path::new(&disk.path), log);
        }
        Ok((name, way, proof))
    }

    /// Where the partitions begin, as far as that can be read.
    fn beginnings(&self, disk: &Disk, target: &Target) -> Vec<u64> {
        let sector_size = target.sector_size().unwrap_or(disk.sector_size);
        match survey(target, sector_size, &SurveyOptions::default()) {
            Ok(survey) => survey.parts.iter().map(|part| part.start).collect(),
            Err(error) => {
                let why = chain(&error);
                let line = format!("what partitions the disk had cannot be told: {why}");
                self.context.log.line(line);
                Vec::new()
            }
        }
    }

    /// Reports that everything on the disk goes, and returns once the server knows: from then on the
    /// machine boots from the network.
    fn announce(&self) -> Result<(), WipeError> {
        let settings = self.context.settings;
        let began = Instant::now();
        let mut backoff =
            Backoff::new(settings.first_wait, Duration::from_secs(5), backoff::seed());
        let told = self.supervisor.announce(Phase::Wiping, |error| {
            let again = error.is_temporary() && began.elapsed() < settings.patience;
            if again {
                self.context.log.line(format!(
                    "{}; nothing is wiped before the server knows; trying again",
                    chain(error)
                ));
                self.supervisor.halt.sleep(backoff.wait());
            }
            again
        });
        match told {
            Ok(true) => Ok(()),
            Ok(false) => Err(WipeError::Cancelled),
            Err(source) => Err(WipeError::NotAnnounced { source }),
        }
    }

    /// Decides how, and asks the disk whether it can.
    fn way(&self, disk: &Disk, name: &str, target: &Target) -> Result<Way, WipeError> {
        let unsupported = |method: &'static str| {
            let disk = name.to_owned();
            move |why: String| WipeError::Unsupported { disk, method, why }
        };
        let nvme = || match disk.transport {
            Transport::Nvme => nvme::Format::of(target.file(), namespace(target)).map(Way::Nvme),
            _ => Err("it is no NVMe disk".to_owned()),
        };
        let ata = || match disk.transport {
            Transport::Scsi => ata::Security::of(target.file()).map(Way::Ata),
            _ => Err("it is no ATA disk".to_owned()),
        };
        match self.task.method {
            WipeMethod::Zero => Ok(Way::Zero),
            WipeMethod::Discard => match promise(disk, target) {
                Ok(()) => Ok(Way::Discard),
                Err(why) => Err(unsupported("be wiped by discarding")(why)),
            },
            WipeMethod::NvmeFormat => nvme().map_err(unsupported("be formatted")),
            WipeMethod::AtaSecureErase => ata().map_err(unsupported("erase itself")),
            WipeMethod::Auto => Ok(nvme().or_else(|why| match disk.transport {
                Transport::Nvme => Err(why),
                _ => ata(),
            }))
            .map(|own: Result<Way, String>| {
                own.unwrap_or_else(|why| {
                    let log = self.context.log;
                    log.line(format!("{name} has no erase of its own to use: {why}"));
                    Way::Zero
                })
            }),
        }
    }

    fn erase(&self, way: Way, name: &str, target: &Target) -> Result<(), WipeError> {
        let refused = |what: &'static str| {
            let disk = name.to_owned();
            move |source| WipeError::Refused { disk, what, source }
        };
        match way {
            Way::Zero => self.steps(target, ZERO_STEP, |start, end| {
                target.zero(start, end)?;
                Ok(target.sync()?)
            }),
            Way::Discard => self.steps(target, DISCARD_STEP, |start, end| {
                if target.is_block() {
                    blkdev::discard(target.file(), start, end - start, false)
                        .map_err(refused("discard"))
                } else {
                    Ok(target.zero(start, end)?)
                }
            }),
            Way::Nvme(format) => {
                self.all_at_once(target, format.minutes());
                format.run(target.file()).map_err(refused("Format NVM"))?;
                self.supervisor.tracker.add_written(target.size());
                Ok(())
            }
            Way::Ata(security) => {
                self.all_at_once(target, security.minutes());
                ata::erase(target.file(), security)
                    .map_err(|(what, source)| refused(what)(source))?;
                self.supervisor.tracker.add_written(target.size());
                Ok(())
            }
        }
    }

    fn all_at_once(&self, target: &Target, minutes: Option<u32>) {
        let time = minutes.map_or_else(
            || "it does not say how long that takes".to_owned(),
            |minutes| format!("it says that this takes about {minutes} minutes"),
        );
        self.context.log.line(format!(
            "{} erases itself: that cannot be cancelled or followed, and {time}",
            target.path().display()
        ));
    }

    fn steps(
        &self,
        target: &Target,
        step: u64,
        mut erase: impl FnMut(u64, u64) -> Result<(), WipeError>,
    ) -> Result<(), WipeError> {
        let tracker = &self.supervisor.tracker;
        let mut at = 0;
        while at < target.size() {
            if self.supervisor.halt.is_set() {
                return Err(WipeError::Cancelled);
            }
            let end = target.size().min(at + step);
            erase(at, end)?;
            tracker.add_written(end - at);
            tracker.flushed(tracker.written());
            at = end;
        }
        Ok(())
    }
}

/// What sysfs has of the device behind `target`.
fn sysfs(target: &Target, file: &str) -> Option<Vec<u8>> {
    let device = fstat(target.file()).ok()?.st_rdev;
    let folder = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    std::fs::read(Path::new(&folder).join(file)).ok()
}

fn sysfs_number(target: &Target, file: &str) -> Option<u64> {
    let text = String::from_utf8(sysfs(target, file)?).ok()?;
    text.trim().parse().ok()
}

fn namespace(target: &Target) -> Option<u32> {
    u32::try_from(sysfs_number(target, "nsid")?).ok()
}

/// Whether what the disk discards is promised to read as zero; else why not.
fn promise(disk: &Disk, target: &Target) -> Result<(), String> {
    if !target.is_block() {
        // A hole in a file.
        return Ok(());
    }
    if sysfs_number(target, "queue/discard_max_bytes").unwrap_or(0) == 0 {
        return Err("it cannot discard".into());
    }
    let promised = match disk.transport {
        Transport::Nvme => nvme::discards_to_zero(target.file(), namespace(target))?,
        // Logical block provisioning (SBC-4, 6.6.7): LBPRZ xx1b. The kernel's translation of ATA leaves
        // it out, and IDENTIFY has it.
        Transport::Scsi => {
            let page = sysfs(target, "device/vpd_pgb2").unwrap_or_default();
            page.get(5).is_some_and(|flags| flags & 0x04 != 0)
                || ata::identify(target.file()).is_ok_and(|page| ata::discards_to_zero(&page))
        }
        _ => false,
    };
    if promised {
        Ok(())
    } else {
        Err("it does not promise that what is discarded reads as zero".into())
    }
}
