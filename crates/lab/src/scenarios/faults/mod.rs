//! What goes wrong in the middle of captures and deploys, each ending in the right state: what was
//! interrupted is finished, what cannot be done is refused with its reason, and no wrong byte is
//! called right.
//!
//! Agents run as processes here, with files as their disks. The store is a small filesystem in memory,
//! so that it can be full.

mod clock;
mod flips;
mod losses;
mod proxy;
mod room;

use super::Scenario;
use crate::disk;
use crate::run::Run;
use crate::site::MIB;
use crate::workbench::{Station, Workbench};
use anyhow::{Context, Result, ensure};
use bugler_model::{Image, Task, TaskState};
use bugler_protocol::operator::Verified;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of the disks in MiB: as many chunks.
const SIZE: u64 = 96;
/// How fast a task goes that is to be met half-way, in bytes a second.
const SLOW: u64 = 24 << 20;
/// The image that is deployed: of the disk [`Bench::source`].
const IMAGE: &str = "base";

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "faults",
    proves: "whatever breaks in a capture or a deploy, it ends in the right state, and no wrong byte is called right",
    limit: Duration::from_secs(900),
    machines: 0,
    image: false,
    product: true,
    play: faults,
}];

/// What every fault is shown with.
struct Bench<'r> {
    work: Workbench<'r>,
    /// Two of them, so that what can be shown of a capture and a deploy at once is.
    one: Station,
    two: Station,
    /// The disk that is captured and deployed.
    source: PathBuf,
}

fn faults(run: &Run) -> Result<()> {
    let program = clock::wrapper(run)?;
    let mut work = Workbench::new(run, Some(&program), &[])?;
    room::mount_store(run, room::SMALL)?;
    work.server.start()?;
    let (one, two) = (work.station(1, SIZE * MIB)?, work.station(2, SIZE * MIB)?);
    let source = run.file("source.raw");
    noise(&source, 1, SIZE * MIB)?;
    let mut bench = Bench {
        work,
        one,
        two,
        source,
    };
    room::full_store(&mut bench)?;
    losses::two_captures_into_one_name(&bench)?;
    losses::cable_out(&bench)?;
    losses::server_killed(&mut bench)?;
    losses::agents_killed(&bench)?;
    room::write_error(&bench)?;
    flips::in_the_store(&bench)?;
    flips::in_transit(&bench)?;
    flips::on_the_target(&bench)?;
    clock::set_back(&mut bench)?;
    // The server ends first: what it stores is in the store's filesystem.
    drop(bench);
    room::unmount_store(run)
}

impl Bench<'_> {
    fn say(&self, text: &str) {
        self.work.run.say(text);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.work.run.file(name)
    }

    /// A disk full of poison, under a new name.
    fn poisoned(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(&format!("{name}.raw"));
        disk::poisoned(&path, SIZE * MIB)?;
        Ok(path)
    }

    /// Every chunk of the image is read and hashed by the server.
    fn verified(&self, image: &str) -> Result<Verified> {
        self.work
            .post(&format!("images/{image}/verify"), &serde_json::json!({}))
    }

    /// Proves that an image holds the disk `source`: the server finds every chunk whole, and a disk to
    /// which it is deployed is equal.
    fn is_right(&self, image: &Image, source: &Path) -> Result<()> {
        let verified = self.verified(&image.label())?;
        ensure!(
            verified.damaged.is_empty() && verified.chunks > 0,
            "{} is not whole: {verified:?}",
            image.label()
        );
        self.work.proved(&self.one, &image.label(), source)
    }

    /// The task has failed, and says why in words that have all of `parts`.
    fn failed(&self, task: &Task, parts: &[&str]) -> Result<String> {
        ensure!(
            task.state == TaskState::Failed,
            "it ended as {}: {:?}",
            task.state,
            task.message
        );
        let why = task.message.clone().unwrap_or_default();
        for part in parts {
            ensure!(why.contains(part), "the reason has no {part:?}: {why}");
        }
        Ok(why)
    }
}

/// Writes a disk of bytes that do not compress, others for each `seed`.
fn noise(path: &Path, seed: u64, size: u64) -> Result<()> {
    let mut file = File::create_new(path).with_context(|| format!("cannot make {path:?}"))?;
    let mut content = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut block = vec![0; MIB as usize];
    for _ in 0..size / MIB {
        content.fill(&mut block);
        file.write_all(&block).context("cannot fill a disk")?;
    }
    Ok(())
}

/// Runs a program of the system's, which must succeed.
fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", SYSTEM_PATH);
    crate::process::output_of(&mut command)
}

/// Where the system's programs are, those for root too.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files below `dir`, those in folders too.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
