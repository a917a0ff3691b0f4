//! What operators ask of images and deploys beside the plain way: one partition alone, a qcow2 with a
//! backing file, an export for bmaptool, a plan, a change of keys, a queue, and rates.
//!
//! Agents run as processes here, with files as their disks.

use super::Scenario;
use crate::disk;
use crate::process::output_of;
use crate::run::Run;
use crate::site::MIB;
use crate::workbench::{Station, TASK, Workbench};
use anyhow::{Context, Result, ensure};
use bugler_model::{DiskRule, Task, TaskState, Unclean};
use bugler_protocol::operator::{CaptureOrder, DeployOrder, Order, ServerKey, TaskPlan};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of the disks in MiB.
const SIZE: u64 = 48;
/// Where the partition that is taken alone begins, and its size, in MiB.
const PART: (u64, u64) = (9, 24);
/// The image that most of it is shown with: of a disk of noise.
const IMAGE: &str = "noise";
/// How fast a deploy goes that is to be met half-way, in bytes a second.
const SLOW: u64 = 12 << 20;
/// What the server is told to keep to, in bytes a second: all devices, and each of them.
const RATE: u64 = 12 << 20;
const RATE_EACH: u64 = 8 << 20;
/// What the connections of two agents may have for nothing, in MiB: their first chunks.
const AT_ONCE: u64 = 8;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "orders",
    proves: "one partition, a qcow2 chain and a block map come out right; plans, queue and rates are kept; \
             a change of keys stops no deploy",
    limit: Duration::from_secs(1200),
    machines: 0,
    image: false,
    product: true,
    play: orders,
}];

fn orders(run: &Run) -> Result<()> {
    let config = run.file("bugler.toml");
    fs::write(&config, "").context("cannot write the configuration")?;
    let argument = format!("--config={}", config.display());
    let mut work = Workbench::new(run, None, &[&argument])?;
    work.server.start()?;
    let (one, two) = (work.station(1, SIZE * MIB)?, work.station(2, SIZE * MIB)?);
    let source = run.file("source.raw");
    noise(&source)?;

    // On disks of other sizes, so on devices of their own: the server refuses what cannot fit.
    one_partition(&work, &work.station(3, SIZE * MIB)?)?;
    backing_file(&work, &work.station(4, SIZE * MIB)?)?;
    let add = ["image", "add", IMAGE, &source.display().to_string()];
    work.bugler(&add)?;
    block_map(&work, &source)?;
    plan(&work, &one)?;
    change_of_keys(&work, &one, &source)?;

    let limit = |work: &mut Workbench<'_>, text: &str| -> Result<()> {
        work.server.stop()?;
        fs::write(&config, text).context("cannot write the configuration")?;
        work.server.start()
    };
    limit(&mut work, "[deploy]\nat-once = 1\n")?;
    queue(&work, &one, &two, &source)?;
    let rates = format!("[deploy]\nrate = \"{RATE}\"\nrate-per-device = \"{RATE_EACH}\"\n");
    limit(&mut work, &rates)?;
    kept_rates(&work, &one, &two, &source)
}

/// A disk of bytes that do not compress.
fn noise(path: &Path) -> Result<()> {
    let mut file = File::create_new(path).context("cannot make a disk")?;
    let mut content = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; MIB as usize];
    for _ in 0..SIZE {
        content.fill(&mut block);
        file.write_all(&block).context("cannot fill a disk")?;
    }
    Ok(())
}

fn tool(line: &str, arguments: &[&Path]) -> Result<String> {
    let line = format!("PATH=$PATH:/usr/sbin:/sbin; {line}");
    output_of(Command::new("sh").arg("-c").arg(&line).args(arguments))
}

fn target(run: &Run, name: &str, size: u64) -> Result<PathBuf> {
    let path = run.file(&format!("{name}.raw"));
    disk::poisoned(&path, size)?;
    Ok(path)
}

/// One partition of a disk becomes an image, which is that partition and nothing around it.
fn one_partition(work: &Workbench<'_>, station: &Station) -> Result<()> {
    let run = work.run;
    let (volume, source) = (run.file("part.volume"), run.file("parts.raw"));
    disk::empty(&volume, PART.1 * MIB)?;
    tool("mke2fs -q -F -t ext4 -d /etc/init.d \"$0\"", &[&volume])?;
    target(run, "parts", SIZE * MIB)?;
    let script = format!(
        "printf 'label: gpt\\nstart=1MiB,size=8MiB\\nstart={}MiB,size={}MiB\\n' | \
         sfdisk -q --wipe never \"$0\"",
        PART.0, PART.1
    );
    tool(&script, &[&source])?;
    let to = File::options().write(true).open(&source)?;
    let content = fs::read(&volume).context("cannot read a volume")?;
    to.write_all_at(&content, PART.0 * MIB)?;
    let before = super::deploy::hash(&source)?;

    let order = CaptureOrder {
        image_name: "part".parse().context("a name of an image")?,
        note: String::new(),
        disk: DiskRule::Auto,
        partition: Some(2),
        whole: false,
        unclean: Unclean::Refuse,
        limit_rate: None,
    };
    let task = work.order(&station.device, Order::Capture(order))?;
    let mut agent = work.start(&station.client, &source, "part.log")?;
    let task = work.done(&task, &mut agent)?;
    let image = work.captured(&task)?;
    ensure!(
        image.size == PART.1 * MIB && image.used < image.size,
        "the image has {} bytes, of which {} used",
        image.size,
        image.used
    );
    ensure!(
        super::deploy::hash(&source)? == before,
        "the disk was changed by being captured"
    );
    work.proved(station, "part", &volume)?;
    run.say(&format!(
        "partition 2 alone: {} of {} MiB used; put onto a disk it is byte for byte what mke2fs made",
        image.used / MIB,
        image.size / MIB
    ));
    Ok(())
}

/// A qcow2 with a backing file is one image.
fn backing_file(work: &Workbench<'_>, station: &Station) -> Result<()> {
    let run = work.run;
    let (plain, base, top) = (
        run.file("base.raw"),
        run.file("base.qcow2"),
        run.file("top.qcow2"),
    );
    disk::empty(&plain, 8 * MIB)?;
    let file = File::options().write(true).open(&plain)?;
    file.write_all_at(&[7; 3 << 20], MIB)?;
    tool(
        "qemu-img convert -O qcow2 -c \"$0\" \"$1\"",
        &[&plain, &base],
    )?;
    let line = "qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 \"$0\" 12M && \
                qemu-io -c 'write -P 9 2M 100k' -c 'write -P 8 11M 64k' \"$0\"";
    tool(line, &[&top])?;
    work.bugler(&["image", "add", "chain", &top.display().to_string()])?;
    let whole = run.file("whole.raw");
    tool("qemu-img convert -O raw \"$0\" \"$1\"", &[&top, &whole])?;
    work.proved(station, "chain", &whole)?;
    run.say(
        "a qcow2 of 12 MiB over a backing file of 8 MiB: deployed, it is what qemu-img makes of it",
    );
    Ok(())
}

/// An export with its block map is taken by bmaptool, which checks it.
fn block_map(work: &Workbench<'_>, source: &Path) -> Result<()> {
    let run = work.run;
    let (out, back) = (run.file("out.raw"), run.file("bmaptool.raw"));
    work.bugler(&[
        "image",
        "export",
        IMAGE,
        &out.display().to_string(),
        "--bmap",
    ])?;
    let map = ["out.raw.bmap", "out.bmap"].map(|name| run.file(name));
    let map = map.iter().find(|path| path.exists());
    let map = map.context("there is no block map beside the export")?;
    disk::empty(&back, SIZE * MIB)?;
    tool(
        "bmaptool --quiet copy --bmap \"$0\" \"$1\" \"$2\"",
        &[map, &out, &back],
    )?;
    disk::compare(source, &back)?;
    run.say("an export with its block map: bmaptool copies it, and checks it, and it is right");
    fs::remove_file(back).context("cannot remove a disk")
}

/// What a deploy would do with each device is told, and no task is made.
fn plan(work: &Workbench<'_>, one: &Station) -> Result<()> {
    let disk = target(work.run, "planned", SIZE * MIB)?;
    work.deploy(one, &disk, DeployOrder::of(IMAGE))?;
    let arguments = ["deploy", IMAGE, "d1", "d2", "--upgrade-only", "--dry-run"];
    let text = work.bugler(&arguments)?;
    let plan: TaskPlan =
        serde_json::from_str(&work.bugler(&[&arguments[..], &["--json"]].concat())?)
            .context("the plan is no JSON")?;
    ensure!(plan.devices.len() == 2, "the plan is {plan:?}");
    for line in text.lines() {
        work.run.say(&format!("plan: {}", line.trim_end()));
    }
    ensure!(
        text.contains("skip") && text.contains("deploy"),
        "the plan says {text}"
    );
    let open: Vec<Task> = work.server.api().get("tasks?open=true")?;
    ensure!(open.is_empty(), "a plan has made {open:?}");
    fs::remove_file(disk).context("cannot remove a disk")
}

/// The server's key changes in the middle of a deploy; then a machine that knows an older key deploys.
fn change_of_keys(work: &Workbench<'_>, one: &Station, source: &Path) -> Result<()> {
    let run = work.run;
    let rotate = || -> Result<String> {
        let key: ServerKey = work.post("server/key/rotate", &serde_json::json!({}))?;
        Ok(key.key)
    };
    let disk = target(run, "rotated", SIZE * MIB)?;
    let order = DeployOrder {
        limit_rate: Some(SLOW),
        ..DeployOrder::of(IMAGE)
    };
    let task = work.order_deploy(&one.device, order)?;
    let mut agent = work.start(&one.client, &disk, "rotated.log")?;
    let half = work.reached(&task, 0.3)?;
    rotate()?;
    work.done(&task, &mut agent)?;
    disk::compare(source, &disk)?;
    run.say(&format!(
        "the key changed at {} of {SIZE} MiB: the deploy went on, and the disk is right",
        half.progress.done / MIB
    ));

    // It boots with the key of now; when it asks for the manifest, that is two keys old.
    let task = work.order_deploy(&one.device, DeployOrder::of(IMAGE))?;
    let old = one.client.agent(&disk)?;
    rotate()?;
    let newest = rotate()?;
    let mut agent = work.start_command(old, "old-key.log")?;
    work.done(&task, &mut agent)?;
    disk::compare(source, &disk)?;
    let said = agent.transcript().wait_for(&newest, TASK)?;
    run.say(&format!(
        "a machine with a key from before: {}",
        said.line.trim()
    ));
    fs::remove_file(disk).context("cannot remove a disk")
}

/// Two agents at work on a deploy each.
fn both(
    work: &Workbench<'_>,
    stations: [&Station; 2],
    name: &str,
) -> Result<[(Task, crate::process::Process, PathBuf); 2]> {
    let begin = |station: &Station, number: u8| {
        let name = format!("{name}-{number}");
        let disk = target(work.run, &name, SIZE * MIB)?;
        let task = work.order_deploy(&station.device, DeployOrder::of(IMAGE))?;
        let agent = work.start(&station.client, &disk, &format!("{name}.log"))?;
        anyhow::Ok((task, agent, disk))
    };
    Ok([begin(stations[0], 1)?, begin(stations[1], 2)?])
}

/// With one at once, the second waits until the first has ended, and says why.
fn queue(work: &Workbench<'_>, one: &Station, two: &Station, source: &Path) -> Result<()> {
    let disk = target(work.run, "first", SIZE * MIB)?;
    let order = DeployOrder {
        limit_rate: Some(SLOW),
        ..DeployOrder::of(IMAGE)
    };
    let first = work.order_deploy(&one.device, order)?;
    let mut agent = work.start(&one.client, &disk, "first.log")?;
    work.reached(&first, 0.1)?;
    let other_disk = target(work.run, "second", SIZE * MIB)?;
    let second = work.order_deploy(&two.device, DeployOrder::of(IMAGE))?;
    let mut other = work.start(&two.client, &other_disk, "second.log")?;
    let waits = work.server.api().wait("the second to wait", TASK, |_| {
        let (first, second) = (work.task(&first)?, work.task(&second)?);
        let message = second.message.clone().unwrap_or_default();
        ensure!(first.state.is_open(), "the first was over too early");
        Ok(message.contains("waits for its turn").then_some(message))
    })?;
    let first = work.done(&first, &mut agent)?;
    let second = work.done(&second, &mut other)?;
    // It began after the first one's end, so its whole time lies behind that.
    let began = second.updated.0 - second.progress.elapsed_ms as i64;
    ensure!(
        began + 50 >= first.updated.0,
        "the second began {} ms before the first ended",
        first.updated.0 - began
    );
    for path in [disk, other_disk] {
        disk::compare(source, &path)?;
        fs::remove_file(path).context("cannot remove a disk")?;
    }
    work.run.say(&format!(
        "one at once: the second said {waits:?}, and began {} ms after the first had ended",
        began - first.updated.0
    ));
    Ok(())
}

/// One device keeps to its rate, and two to that of all.
fn kept_rates(work: &Workbench<'_>, one: &Station, two: &Station, source: &Path) -> Result<()> {
    let rate =
        |task: &Task| task.progress.fetched as f64 * 1000.0 / task.progress.elapsed_ms as f64;
    let disk = target(work.run, "alone", SIZE * MIB)?;
    let alone = rate(&work.deploy(one, &disk, DeployOrder::of(IMAGE))?);
    fs::remove_file(disk).context("cannot remove a disk")?;
    let mut rates = Vec::new();
    for (task, mut agent, disk) in both(work, [one, two], "both")? {
        let task = work.done(&task, &mut agent)?;
        ensure!(task.state == TaskState::Done, "it ended as {task:?}");
        disk::compare(source, &disk)?;
        fs::remove_file(disk).context("cannot remove a disk")?;
        rates.push(rate(&task));
    }
    let mib = |rate: f64| rate / MIB as f64;
    let (first, second) = (mib(rates[0]), mib(rates[1]));
    work.run.say(&format!(
        "at most {} MiB/s a device: {:.2} MiB/s; and {} MiB/s in all: {first:.2} and {second:.2} MiB/s",
        RATE_EACH / MIB,
        mib(alone),
        RATE / MIB
    ));
    // The first chunk of each connection is let through at once.
    let most = |limit: u64| mib(limit as f64) * (SIZE + AT_ONCE) as f64 / SIZE as f64;
    ensure!(
        mib(alone) <= most(RATE_EACH) && first + second <= most(RATE),
        "a rate was not kept"
    );
    Ok(())
}
