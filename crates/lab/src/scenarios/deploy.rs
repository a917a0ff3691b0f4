//! The main job: a bare machine registers, waits, gets an image, and comes up from its own disk.

use super::{Scenario, stages};
use crate::machine::Firmware;
use crate::run::Run;
use crate::site::{IMAGE, MIB, Node, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, Netboot, Presence, Task, TaskState};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// How fast the server may send while a deploy is looked at, in Mbit/s: on a quick computer it would
/// be over between two looks.
const RATE: u32 = 400;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "deploy-bios",
        proves: "a BIOS machine registers, waits, is deployed and comes up from its own disk",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| deploy(run, Firmware::Bios, 1200),
    },
    Scenario {
        name: "deploy-uefi",
        proves: "a UEFI machine registers, waits, is deployed and comes up from its own disk",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| deploy(run, Firmware::Uefi, 2500),
    },
];

fn deploy(run: &Run, firmware: Firmware, disk_mib: u64) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = site.node(1, firmware, disk_mib)?;
    let poison = hash(&node.disk)?;
    run.say(&format!("{firmware}, by {}", node.machine.accelerator()));

    let power = stages::now()?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    stages::print(&site, &node.machine, &device, power)?;
    has_inventory(&node, &device, disk_mib)?;
    ensure!(
        device.netboot == Netboot::On && device.open_tasks == 0,
        "it is not waiting: {device:?}"
    );
    site.add_image()?;
    ensure!(
        node.machine.disk_written()? == 0,
        "an unknown machine has written to its disk"
    );
    ensure!(
        hash(&node.disk)? == poison,
        "the disk of an unknown machine has changed"
    );
    run.say("it waited, and nothing on its disk has changed");

    let task = deploy_and_watch(run, &site, &device)?;
    ensure!(task.state == TaskState::Done, "the task ended as {task:?}");
    node.machine.wait_reboot(STAGE)?;
    site.compare(&node.disk)?;
    let device = site.device(&node.machine)?;
    ensure!(
        device.netboot == Netboot::Off,
        "after the deploy its network boot is on"
    );
    node.machine.resume()?;
    site.up_from_disk(&node.machine)?;
    let device = site.device(&node.machine)?;
    ensure!(
        device.presence == Presence::Local,
        "the server takes it for {:?}",
        device.presence
    );
    if firmware == Firmware::Bios {
        // EDK2 takes a minute to give up on a network without boot options: once is enough.
        once(run, &site, &mut node, &device)?;
    }
    Ok(())
}

/// From power-on to the system on the machine's own disk, without a look to the left or right.
pub(super) fn bare(site: &Site<'_>, node: &mut Node) -> Result<()> {
    node.machine.power_on()?;
    site.add_image()?;
    let device = site.registered(&node.machine)?;
    let task = site.deploy(&device)?;
    let ended = site
        .server
        .api()
        .wait_task_end(&task.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    finish(site, node)
}

/// What follows every deploy: the machine reboots, its disk is compared, and it comes up from it.
pub(super) fn finish(site: &Site<'_>, node: &mut Node) -> Result<()> {
    node.machine.wait_reboot(STAGE)?;
    site.compare(&node.disk)?;
    node.machine.resume()?;
    site.up_from_disk(&node.machine)
}

/// Network boot for once, by hand, and back.
fn once(run: &Run, site: &Site<'_>, node: &mut Node, device: &Device) -> Result<()> {
    let id = device.id.to_string();
    let changed: Device = site.bugler(&["device", "netboot", &id, "once"])?;
    ensure!(
        changed.netboot == Netboot::Once,
        "netboot once made it {:?}",
        changed.netboot
    );
    node.machine.reset()?;
    let device = site.registered(&node.machine)?;
    ensure!(
        device.id == changed.id,
        "it registered as another device: {}",
        device.id
    );
    ensure!(
        device.netboot == Netboot::Off,
        "once is over, but it is {:?}",
        device.netboot
    );
    run.say("told to boot from the network once, it did");
    let tasks: Vec<Task> = site.bugler(&["reboot", &id, "--wait"])?;
    ensure!(
        tasks.iter().all(|task| task.state == TaskState::Done),
        "reboot ended as {tasks:?}"
    );
    site.up_from_disk(&node.machine)
}

/// Deploys with `bugler deploy --wait`, and looks at the task meanwhile.
fn deploy_and_watch(run: &Run, site: &Site<'_>, device: &Device) -> Result<Task> {
    let id = device.id.to_string();
    site.server.host().limit_rate(RATE)?;
    let mut waiting = site.start_bugler(&["deploy", IMAGE, &id, "--wait"], "deploy.log")?;
    let api = site.server.api();
    let path = format!("tasks?open=true&device={id}");
    let task = api.wait("the deploy task", STAGE, |api| {
        let tasks: Vec<Task> = api.get(&path)?;
        Ok(tasks.into_iter().next())
    })?;
    let mut seen = Vec::new();
    let task = api.wait("the deploy to end", STAGE, |_| {
        let task = site.task(task.id)?;
        let progress = task.progress;
        ensure!(
            progress.done <= progress.total,
            "more is done than there is: {progress:?}"
        );
        let now = (task.state, progress.done);
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        Ok((!task.state.is_open()).then_some(task))
    })?;
    let status = waiting.wait_exit(STAGE)?;
    ensure!(
        status.success(),
        "bugler deploy --wait ended with {status}: {:?}",
        task.message
    );
    // Not "running": on a disk that holds nearly all of the image already, that takes a moment only.
    for state in ["verifying", "done"] {
        waiting
            .transcript()
            .lines_with(state)
            .first()
            .with_context(|| format!("bugler deploy --wait never said {state}"))?;
    }
    let progress = task.progress;
    let partly = seen.iter().filter(|(state, done)| {
        // Claimed is comparing what the disk holds already.
        matches!(state, TaskState::Claimed | TaskState::Running)
            && (1..progress.total).contains(done)
    });
    ensure!(partly.count() >= 2, "progress was hardly seen: {seen:?}");
    let seconds = progress.elapsed_ms as f64 / 1000.0;
    run.say(&format!(
        "deployed {} MiB in {seconds:.1} s ({:.0} MiB/s, {} MiB fetched at {RATE} Mbit/s at most, verified); {} reports seen",
        progress.total / MIB,
        progress.total as f64 / MIB as f64 / seconds,
        progress.fetched / MIB,
        seen.len()
    ));
    Ok(task)
}

/// What the agent told is what the machine is made of.
fn has_inventory(node: &Node, device: &Device, disk_mib: u64) -> Result<()> {
    let spec = node.machine.spec();
    let inventory = device
        .inventory
        .as_ref()
        .context("it registered without an inventory")?;
    let uuid = inventory.uuid.map(|uuid| uuid.to_string());
    ensure!(uuid.as_ref() == Some(&spec.uuid), "the UUID is {uuid:?}");
    ensure!(
        device.uuid == inventory.uuid,
        "the device has another UUID: {:?}",
        device.uuid
    );
    ensure!(
        inventory.serial.as_ref() == Some(&spec.serial),
        "serial {:?}",
        inventory.serial
    );
    ensure!(
        inventory.vendor.as_deref() == Some("Bugler"),
        "vendor {:?}",
        inventory.vendor
    );
    ensure!(
        inventory.model.as_deref() == Some("Lab machine"),
        "model {:?}",
        inventory.model
    );
    ensure!(
        !inventory.cpu.model.is_empty() && inventory.cpu.threads == 1,
        "{:?}",
        inventory.cpu
    );
    let memory = u64::from(spec.memory_mib) * MIB;
    ensure!(
        (memory / 2..=memory).contains(&inventory.memory),
        "memory {}",
        inventory.memory
    );
    let [disk] = &inventory.disks[..] else {
        anyhow::bail!("it has one disk, and told {:?}", inventory.disks);
    };
    ensure!(
        disk.path == "/dev/vda"
            && disk.serial.as_ref() == Some(&spec.disk_serial)
            && disk.size == disk_mib * MIB
            && disk.sector_size == 512
            && !disk.removable
            && !disk.read_only,
        "the disk is told as {disk:?}"
    );
    let [nic] = &inventory.nics[..] else {
        anyhow::bail!("it has one network card, and told {:?}", inventory.nics);
    };
    ensure!(
        nic.mac == spec.mac && nic.link,
        "the network card is told as {nic:?}"
    );
    Ok(())
}

/// BLAKE3 of a whole file.
pub(super) fn hash(path: &Path) -> Result<blake3::Hash> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize())
}
