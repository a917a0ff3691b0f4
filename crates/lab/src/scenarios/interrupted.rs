//! Bad luck in the middle of a deploy: it goes on where it was.

use super::{Scenario, deploy};
use crate::machine::Firmware;
use crate::run::Run;
use crate::site::{MIB, Node, STAGE, Site};
use anyhow::{Result, ensure};
use bugler_model::{Device, Image, Task, TaskState};
use std::time::Duration;

/// How fast the server may send while a deploy is to be met half-way, in Mbit/s: on a quick computer
/// it would be over between two looks.
const RATE: u32 = 160;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "server-killed",
        proves: "a deploy goes on when the server is killed at 50 % and started again",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: server_killed,
    },
    Scenario {
        name: "power-cut",
        proves: "a deploy resumes when the machine's power is cut at 50 %, and nothing that is right is written again",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: power_cut,
    },
];

/// A deploy of which half is durable.
struct HalfWay<'a> {
    site: Site<'a>,
    node: Node,
    image: Image,
    device: Device,
    half: Task,
}

impl<'a> HalfWay<'a> {
    fn reach(run: &'a Run) -> Result<Self> {
        let mut site = Site::full(run)?;
        site.server.start()?;
        let mut node = site.node(1, Firmware::Bios, 1100)?;
        node.machine.power_on()?;
        let image = site.add_image()?;
        let device = site.registered(&node.machine)?;
        site.server.host().limit_rate(RATE)?;
        let task = site.deploy(&device)?;
        let half = half_way(&site, &task)?;
        Ok(Self {
            site,
            node,
            image,
            device,
            half,
        })
    }
}

fn server_killed(run: &Run) -> Result<()> {
    let HalfWay {
        mut site,
        mut node,
        image,
        half,
        ..
    } = HalfWay::reach(run)?;
    site.server.kill()?;
    site.say(&format!("killed the server at {}", shown(&half)));
    site.server.start()?;
    let restarted = site.task(half.id)?;
    ensure!(
        restarted.state.is_open(),
        "after the restart the task is {restarted:?}"
    );
    let mut before = restarted.progress.done;
    let ended = site.server.api().wait("the deploy to end", STAGE, |_| {
        let task = site.task(half.id)?;
        if task.state == TaskState::Running {
            ensure!(
                task.progress.done >= before,
                "it went back from {before}: {task:?}"
            );
            before = task.progress.done;
        }
        Ok((!task.state.is_open()).then_some(task))
    })?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    ensure!(
        ended.attempts == 1,
        "the agent took the task {} times",
        ended.attempts
    );
    // Beginning again would have cost everything that was fetched before once more. What was on its
    // way when the server was killed is fetched twice.
    let twice = ended.progress.fetched.saturating_sub(image.stored);
    ensure!(
        twice < half.progress.fetched / 4,
        "{twice} bytes were fetched twice, of {} before the kill: {ended:?}",
        half.progress.fetched
    );
    site.say(&format!(
        "went on, and fetched {} MiB of {} MiB stored: {} KiB twice",
        ended.progress.fetched / MIB,
        image.stored / MIB,
        twice >> 10
    ));
    deploy::finish(&site, &mut node)
}

fn power_cut(run: &Run) -> Result<()> {
    let HalfWay {
        site,
        mut node,
        image,
        device,
        half,
    } = HalfWay::reach(run)?;
    node.machine.cut_power()?;
    site.say(&format!("cut the power at {}", shown(&half)));
    node.machine.power_on()?;
    let again = site.registered(&node.machine)?;
    ensure!(
        again.id == device.id,
        "it came back as another device: {}",
        again.id
    );
    let ended = site
        .server
        .api()
        .wait_task_end(&half.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    ensure!(
        ended.attempts == 2,
        "the agent took the task {} times",
        ended.attempts
    );
    let progress = ended.progress;
    ensure!(
        progress.skipped >= half.progress.done,
        "{} bytes were durable when the power was cut, and {} were found: {ended:?}",
        half.progress.done,
        progress.skipped
    );
    // In compressed bytes; a quarter for the difference between parts of the image.
    let share = (progress.total - progress.skipped) as f64 / progress.total as f64;
    ensure!(
        progress.fetched as f64 <= image.stored as f64 * (share + 0.25),
        "it fetched {} of {} stored bytes, although only {share:.2} of the image was missing",
        progress.fetched,
        image.stored
    );
    let written = node.machine.disk_written()?;
    site.say(&format!(
        "resumed: kept {} MiB, fetched {} MiB, wrote {} MiB",
        progress.skipped / MIB,
        progress.fetched / MIB,
        written / MIB
    ));
    // Nothing that is right is written again, zeroes included. 16 MiB for the partition table's second
    // copy and for chunks that only partly hold data.
    let missing = progress.total - progress.skipped;
    ensure!(
        written <= missing + 16 * MIB,
        "{written} bytes were written, although only {missing} were missing"
    );
    deploy::finish(&site, &mut node)
}

/// Waits until the first report that half of the image is durable on the disk.
fn half_way(site: &Site<'_>, task: &Task) -> Result<Task> {
    let task = site.server.api().wait("half of the deploy", STAGE, |_| {
        let task = site.task(task.id)?;
        ensure!(task.state.is_open(), "it ended first: {task:?}");
        let half = task.progress.total > 0 && task.progress.done * 2 >= task.progress.total;
        Ok(half.then_some(task))
    })?;
    let progress = task.progress;
    ensure!(
        task.state == TaskState::Running && progress.done < progress.total / 10 * 9,
        "it was too fast to be met half-way: {task:?}"
    );
    Ok(task)
}

fn shown(task: &Task) -> String {
    let progress = task.progress;
    format!(
        "{} % ({} MiB durable, {} MiB fetched)",
        progress.done * 100 / progress.total.max(1),
        progress.done / MIB,
        progress.fetched / MIB
    )
}
