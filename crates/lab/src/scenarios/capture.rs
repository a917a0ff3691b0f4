//! A machine's disk as a backup: captured by the agent over the network, twice, with work done in the
//! system between; then put onto another machine.

use super::{Scenario, deploy};
use crate::machine::{Firmware, Machine, Spec};
use crate::process::output_of;
use crate::run::Run;
use crate::site::{MIB, Node, STAGE, Site};
use anyhow::{Context, Result, bail, ensure};
use bugler_model::{Device, Image, Task, TaskState};
use bugler_protocol::operator::{ImageDiff, ImageSizes};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The name that versions are filed under.
const BACKUP: &str = "backup";
/// The partition with the root filesystem, and where it begins.
const ROOT: (u32, u64) = (3, 18 * MIB);
/// What the console says when somebody may log in.
const LOGIN: &str = "Debian GNU/Linux";
/// What it says to who has.
const WELCOME: &str = "NO WARRANTY";
/// What a captured version may be sent for, beside what was written: the filesystem's own account and
/// its journal, in whole chunks.
const AROUND: u64 = 96 * MIB;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "capture",
    proves: "a machine's disk is captured twice, the versions share what is equal, and the second one \
             runs on another machine",
    limit: Duration::from_secs(1200),
    machines: 1,
    image: true,
    product: true,
    play: capture,
}];

fn capture(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = site.node(1, Firmware::Bios, 1200)?;
    deploy::bare(&site, &mut node)?;
    let device = site.device(&node.machine)?;
    let disk = node.disk.clone();
    at_work(run, &mut node, "echo one >/root/note; touch /root/goes")?;
    drop(node);

    let first = back_up(&site, &device, &disk, "n1-first", "before the work")?;
    let mut node = boot_again(&site, &disk, "n1-work")?;
    let sums = at_work(
        run,
        &mut node,
        "echo two >/root/note; rm /root/goes; \
         dd if=/dev/urandom of=/root/second bs=1M count=8 status=none",
    )?;
    drop(node);
    let second = back_up(&site, &device, &disk, "n1-second", "after the work")?;
    share(&site, &first, &second)?;

    let mut other = site.node(2, Firmware::Bios, 1300)?;
    other.machine.power_on()?;
    let device = site.registered(&other.machine)?;
    let tasks: Vec<Task> = site.bugler(&["deploy", BACKUP, &device.id.to_string()])?;
    let task = tasks.first().context("bugler deploy made no task")?;
    done(&site, task)?;
    other.machine.wait_reboot(STAGE)?;
    is_clean(run, &other.disk)?;
    other.machine.resume()?;
    site.up_from_disk(&other.machine)?;
    let found = at_work(run, &mut other, "true")?;
    ensure!(
        found == sums,
        "the other machine has {found:?} in place of {sums:?}"
    );
    run.say(&format!(
        "it runs on another machine, with its files: {found}"
    ));
    Ok(())
}

/// Logs in, does something, prints what is in the files, and switches the machine off cleanly.
fn at_work(run: &Run, node: &mut Node, work: &str) -> Result<String> {
    let machine = &mut node.machine;
    machine.wait_for(LOGIN, STAGE)?;
    machine.type_text("root\n")?;
    machine.wait_for(WELCOME, STAGE)?;
    // What is typed is shown too: the answer is put together so that it differs.
    machine.type_text(&format!(
        "{work}; cd /root; sync; echo \"FILES\"\": $(cat note) $(sha256sum second 2>/dev/null)\"\n"
    ))?;
    let seen = machine.wait_for("FILES: ", STAGE)?;
    machine.type_text("poweroff\n")?;
    machine.wait_power_off(STAGE)?;
    let (_, sums) = seen.line.split_once("FILES: ").unwrap_or_default();
    run.say(&format!(
        "{}: worked, and was switched off: {sums}",
        machine.spec().name
    ));
    Ok(sums.trim().to_owned())
}

/// A machine with the first one's identity and this disk, which stops where it would reboot.
fn machine(site: &Site<'_>, disk: &Path, name: &str, pause: bool) -> Result<Node> {
    let mut spec = Spec::new(name, 1, Firmware::Bios).disk(disk);
    spec.pause_on_reboot = pause;
    Ok(Node {
        machine: Machine::new(site.run(), &site.net, spec)?,
        disk: disk.to_owned(),
    })
}

/// It boots from its disk.
fn boot_again(site: &Site<'_>, disk: &Path, name: &str) -> Result<Node> {
    let mut node = machine(site, disk, name, false)?;
    node.machine.power_on()?;
    site.up_from_disk(&node.machine)?;
    Ok(node)
}

/// The machine is switched on with a capture ordered, and its disk is what it was before.
fn back_up(site: &Site<'_>, device: &Device, disk: &Path, name: &str, note: &str) -> Result<Image> {
    let before = deploy::hash(disk)?;
    let mut node = machine(site, disk, name, true)?;
    let id = device.id.to_string();
    let tasks: Vec<Task> = site.bugler(&[
        "capture",
        &id,
        BACKUP,
        "--note",
        note,
        "--unclean",
        "refuse",
    ])?;
    let task = tasks.first().context("bugler capture made no task")?;
    node.machine.power_on()?;
    let task = done(site, task)?;
    node.machine.wait_reboot(STAGE)?;
    ensure!(
        node.machine.disk_written()? == 0 && deploy::hash(disk)? == before,
        "the disk was changed by being captured"
    );
    let image: Image = site.server.api().get(&format!("tasks/{}/image", task.id))?;
    let origin = image.origin.as_ref().context("it has no origin")?;
    ensure!(
        origin.device == device.id && image.note == note,
        "it is told as {image:?}"
    );
    for line in &origin.reading {
        site.say(&format!("{}: {line}", image.label()));
    }
    let seconds = task.progress.elapsed_ms as f64 / 1000.0;
    site.say(&format!(
        "{}: {} MiB read in {seconds:.1} s, {} MiB sent; the disk is what it was",
        image.label(),
        task.progress.done / MIB,
        task.progress.fetched / MIB
    ));
    Ok(image)
}

fn done(site: &Site<'_>, task: &Task) -> Result<Task> {
    let id = task.id.to_string();
    let ended = site.server.api().wait_task_end(&id, STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    Ok(ended)
}

/// The versions share what is equal, and what was changed is named.
fn share(site: &Site<'_>, first: &Image, second: &Image) -> Result<()> {
    ensure!(
        (first.version, second.version) == (1, 2),
        "they are {} and {}",
        first.label(),
        second.label()
    );
    let sizes: Vec<ImageSizes> = site.server.api().get("image-sizes")?;
    let of = |image: &Image| {
        sizes
            .iter()
            .find(|sizes| sizes.image == image.id)
            .with_context(|| format!("there are no sizes of {}", image.label()))
    };
    let (one, two) = (of(first)?, of(second)?);
    ensure!(
        two.own <= AROUND && two.shared * 2 > two.stored,
        "of {} bytes in the store the second version has {} for itself alone",
        two.stored,
        two.own
    );
    site.say(&format!(
        "in the store: {} takes {} MiB, of which {} MiB are its own; {} takes {} MiB, {} MiB its own",
        one.label,
        one.stored / MIB,
        one.own / MIB,
        two.label,
        two.stored / MIB,
        two.own / MIB
    ));
    let diff: ImageDiff = site.bugler(&["image", "diff", &first.label(), &second.label()])?;
    let root = diff
        .partitions
        .iter()
        .find(|partition| partition.number == ROOT.0)
        .context("the root filesystem does not differ")?;
    let mut told = Vec::new();
    for path in ["root/note", "root/goes", "root/second"] {
        let Some(change) = root
            .changes
            .iter()
            .find(|change| change.path.trim_start_matches('/') == path)
        else {
            bail!("the difference does not name {path}: {:?}", root.changes);
        };
        told.push(format!("{path} {:?}", change.change).to_lowercase());
    }
    site.say(&format!(
        "bugler image diff: {} MiB in {} ranges, {} files, among them {}",
        diff.bytes / MIB,
        diff.ranges_in_all,
        root.changes_in_all,
        told.join(", ")
    ));
    Ok(())
}

/// The root filesystem on a disk is clean for its own tool.
fn is_clean(run: &Run, disk: &Path) -> Result<()> {
    let (part, from) = (run.file("root.volume"), File::open(disk)?);
    let to = File::create(&part).context("cannot make a volume")?;
    let mut at = ROOT.1;
    let mut block = vec![0; MIB as usize];
    // To the end of the disk: what is behind the filesystem is nothing to it.
    while let Ok(()) = from.read_exact_at(&mut block, at) {
        if !crate::sparse::is_zero(&block) {
            to.write_all_at(&block, at - ROOT.1)?;
        }
        at += MIB;
    }
    to.set_len(at - ROOT.1)?;
    let shell = "PATH=$PATH:/usr/sbin:/sbin; e2fsck -f -n \"$0\"";
    output_of(Command::new("sh").args(["-c", shell]).arg(&part))
        .context("the root filesystem is not clean")?;
    fs::remove_file(part).context("cannot remove a volume")
}
