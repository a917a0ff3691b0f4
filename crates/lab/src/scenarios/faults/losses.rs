//! Losses: of the cable, the server, the agents. And two that want the same name.

use super::{Bench, IMAGE, SIZE, SLOW, noise};
use crate::disk;
use crate::process::{Process, output_of};
use crate::site::MIB;
use anyhow::{Context, Result, ensure};
use bugler_model::Task;
use bugler_protocol::operator::DeployOrder;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// For how long the cables are out.
const OUT: Duration = Duration::from_secs(30);
/// What may be fetched twice after a loss: what was on its way, and not on the disk.
const ON_THE_WAY: u64 = 48 * MIB;

/// A deploy and a capture at work, each half done.
pub(super) struct HalfWay {
    deploy: Task,
    deploying: Process,
    target: PathBuf,
    capture: Task,
    capturing: Process,
    source: PathBuf,
}

impl HalfWay {
    /// Begins both, on a disk full of poison and from a disk that the store has nothing of, and waits
    /// until both are far.
    pub(super) fn reach(bench: &Bench<'_>, name: &str, seed: u64) -> Result<Self> {
        let work = &bench.work;
        let target = bench.poisoned(&format!("{name}-target"))?;
        let source = bench.file(&format!("{name}-source.raw"));
        noise(&source, seed, SIZE * MIB)?;
        let order = DeployOrder {
            limit_rate: Some(SLOW),
            ..DeployOrder::of(IMAGE)
        };
        let deploy = work.order_deploy(&bench.one.device, order)?;
        let capture = work.order_capture(&bench.two.device, name, Some(SLOW))?;
        let deploying = work.start(&bench.one.client, &target, &format!("{name}-deploy.log"))?;
        let capturing = work.start(&bench.two.client, &source, &format!("{name}-capture.log"))?;
        let capture = work.reached(&capture, 0.3)?;
        let deploy = work.reached(&deploy, 0.3)?;
        ensure!(
            deploy.progress.done < deploy.progress.total
                && capture.progress.done < capture.progress.total,
            "they were too fast to be met half-way: {deploy:?} {capture:?}"
        );
        Ok(Self {
            deploy,
            deploying,
            target,
            capture,
            capturing,
            source,
        })
    }

    /// Starts agents anew, as the next boot of their machines would.
    fn start_again(&mut self, bench: &Bench<'_>, name: &str) -> Result<()> {
        let work = &bench.work;
        self.deploying = work.start(
            &bench.one.client,
            &self.target,
            &format!("{name}-deploy-2.log"),
        )?;
        self.capturing = work.start(
            &bench.two.client,
            &self.source,
            &format!("{name}-capture-2.log"),
        )?;
        Ok(())
    }

    /// Waits for the end of both, and proves that both are right.
    pub(super) fn ends_well(mut self, bench: &Bench<'_>, what: &str) -> Result<()> {
        let before = (self.deploy.progress, self.capture.progress);
        let deploy = bench.work.done(&self.deploy, &mut self.deploying)?;
        let capture = bench.work.done(&self.capture, &mut self.capturing)?;
        disk::compare(&bench.source, &self.target).context("the deploy has called it right")?;
        let image = bench.work.captured(&capture)?;
        bench.is_right(&image, &self.source)?;
        let twice = |before: &Task, after: &Task| {
            // Another agent counts from zero.
            let before = match after.attempts > before.attempts {
                true => before.progress.fetched,
                false => 0,
            };
            (before + after.progress.fetched).saturating_sub(after.progress.total)
        };
        let again = twice(&self.deploy, &deploy);
        let sent_again = twice(&self.capture, &capture);
        ensure!(
            again <= ON_THE_WAY,
            "{again} bytes were fetched twice: {deploy:?}"
        );
        bench.say(&format!(
            "{what} at {} and {} of {SIZE} MiB: both were finished and are right; the deploy took {} \
             attempts and fetched {} KiB twice, the capture took {} and sent {} KiB twice",
            before.0.done / MIB,
            before.1.done / MIB,
            deploy.attempts,
            again >> 10,
            capture.attempts,
            sent_again >> 10
        ));
        fs::remove_file(&self.target).context("cannot remove a disk")?;
        fs::remove_file(&self.source).context("cannot remove a disk")
    }
}

/// Both cables are pulled for 30 s, in the middle of a deploy and a capture.
pub(super) fn cable_out(bench: &Bench<'_>) -> Result<()> {
    let half = HalfWay::reach(bench, "cable", 11)?;
    let began = Instant::now();
    links(bench, "down")?;
    // How long they are out is what is shown: there is no event to wait for.
    thread::sleep(OUT);
    let out = began.elapsed();
    for task in [&half.deploy, &half.capture] {
        let now = bench.work.task(task)?;
        ensure!(
            now.state.is_open(),
            "without the cable it ended as {:?}",
            now.message
        );
    }
    links(bench, "up")?;
    half.ends_well(bench, &format!("cables out for {:.0} s", out.as_secs_f64()))
}

fn links(bench: &Bench<'_>, state: &str) -> Result<()> {
    for station in [&bench.one, &bench.two] {
        let port = format!("port-{}", station.client.host().name());
        output_of(Command::new("ip").args(["link", "set", &port, state]))?;
    }
    Ok(())
}

/// The server is killed in the middle of a deploy and a capture, and started again.
pub(super) fn server_killed(bench: &mut Bench<'_>) -> Result<()> {
    let half = HalfWay::reach(bench, "server", 12)?;
    bench.work.server.kill()?;
    bench.work.server.start()?;
    half.ends_well(bench, "server killed")
}

/// Both agents are killed, and others come in their place.
pub(super) fn agents_killed(bench: &Bench<'_>) -> Result<()> {
    let mut half = HalfWay::reach(bench, "agent", 13)?;
    half.deploying.kill()?;
    half.capturing.kill()?;
    half.start_again(bench, "agent")?;
    half.ends_well(bench, "agents killed")
}

/// Two disks are captured into one name at the same time: two versions, each of its own disk.
pub(super) fn two_captures_into_one_name(bench: &Bench<'_>) -> Result<()> {
    let work = &bench.work;
    let sources = [bench.file("left.raw"), bench.file("right.raw")];
    let mut running = Vec::new();
    for ((source, station), seed) in sources.iter().zip([&bench.one, &bench.two]).zip(21..) {
        noise(source, seed, SIZE * MIB)?;
        let task = work.order_capture(&station.device, "shared", Some(SLOW))?;
        let log = format!("shared-{seed}.log");
        running.push((task, work.start(&station.client, source, &log)?));
    }
    for (task, _) in &running {
        work.reached(task, 0.1)?;
    }
    let mut versions = Vec::new();
    for ((task, mut agent), source) in running.into_iter().zip(&sources) {
        let task = work.done(&task, &mut agent)?;
        let image = work.captured(&task)?;
        bench.is_right(&image, source)?;
        versions.push(image.version);
        fs::remove_file(source).context("cannot remove a disk")?;
    }
    versions.sort_unstable();
    ensure!(versions == [1, 2], "they became the versions {versions:?}");
    bench.say("two captures into one name at once: versions 1 and 2, each of its own disk");
    Ok(())
}
