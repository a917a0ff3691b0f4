//! Two machines on one network: what is done to one is not done to the other. And the orders that
//! are refused, or lead nowhere.

use super::{Scenario, damage, deploy};
use crate::disk;
use crate::machine::Firmware;
use crate::run::Run;
use crate::site::{IMAGE, MIB, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, Image, Netboot, Presence, Task, TaskState};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The exit code of `bugler` for an order that contradicts what is there.
const CONFLICT: i32 = 4;
/// Its exit code for a task that failed or was cancelled while it was waited for.
const TASK_FAILED: i32 = 6;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "two-machines",
    proves: "of two machines one is deployed and the other left alone; bad orders are refused",
    limit: Duration::from_secs(1200),
    machines: 2,
    image: true,
    product: true,
    play: two_machines,
}];

fn two_machines(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut one = site.node(1, Firmware::Bios, 1100)?;
    let mut two = site.node(2, Firmware::Bios, 1100)?;
    let poison = deploy::hash(&two.disk)?;
    one.machine.power_on()?;
    two.machine.power_on()?;
    site.add_image()?;
    let first = site.registered(&one.machine)?;
    let second = site.registered(&two.machine)?;
    ensure!(
        first.id != second.id,
        "two machines are one device, {}",
        first.id
    );

    let task = site.deploy(&first)?;
    let conflict = site.try_bugler(&["deploy", IMAGE, &first.id.to_string()])?;
    ensure!(
        conflict.status.code() == Some(CONFLICT),
        "a second operator's deploy ended with {}: {}",
        conflict.status,
        String::from_utf8_lossy(&conflict.stderr)
    );
    let said = String::from_utf8_lossy(&conflict.stderr).trim().to_owned();
    ensure!(
        said.contains(&task.id.to_string()),
        "the conflict does not name the task: {said}"
    );
    run.say(&format!("a second operator was told: {said}"));
    let ended = site
        .server
        .api()
        .wait_task_end(&task.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    deploy::finish(&site, &mut one)?;
    // Its part is over; the other has the processor for itself.
    one.machine.cut_power()?;

    let second = site.device(&two.machine)?;
    ensure!(
        second.presence == Presence::Agent && second.netboot == Netboot::On,
        "the other machine is {second:?}"
    );
    two.machine.reset()?;
    let again = site.registered(&two.machine)?;
    ensure!(
        again.id == second.id,
        "it came back as another device: {}",
        again.id
    );
    ensure!(
        two.machine.disk_written()? == 0,
        "something was written to the other's disk"
    );
    run.say("the other one boots the agent still");

    too_large(run, &site, &again)?;
    ensure!(
        two.machine.disk_written()? == 0 && deploy::hash(&two.disk)? == poison,
        "the other's disk has changed"
    );
    damage::is_found(run, &site, &two, &again)?;
    two.machine.cut_power()?;
    never_there(run, &site, &first.id.to_string())
}

/// An image that fits on no disk of the machine is refused before there is a task.
fn too_large(run: &Run, site: &Site<'_>, device: &Device) -> Result<()> {
    let size = 1200 * MIB;
    let file = run.file("large.raw");
    disk::empty(&file, size)?;
    // An image whose end is free fits on a smaller disk: this one has something near its end.
    File::options()
        .write(true)
        .open(&file)?
        .write_all_at(b"data", size - 50 * MIB)?;
    let _: Image = site.bugler(&["image", "add", "large", &file.display().to_string()])?;
    let output = site.try_bugler(&["deploy", "large", &device.id.to_string(), "--wait"])?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(
        output.status.code() == Some(CONFLICT),
        "a deploy of an image that is too large ended with {}: {said}",
        output.status
    );
    ensure!(
        said.contains("/dev/vda") && said.contains(&size.to_string()),
        "the failure names neither the disk nor the image's size: {said}"
    );
    run.say(&format!("an image that is too large: {said}"));
    Ok(())
}

/// A deploy to a machine that is switched off waits, and can be cancelled.
fn never_there(run: &Run, site: &Site<'_>, device: &str) -> Result<()> {
    let tasks: Vec<Task> = site.bugler(&["deploy", IMAGE, device])?;
    let id = tasks
        .first()
        .context("bugler deploy made no task")?
        .id
        .to_string();
    let mut waiting = site.start_bugler(&["task", "wait", &id], "wait.log")?;
    waiting.wait_for("queued", STAGE)?;
    let waits = site.task(&id)?;
    ensure!(
        waits.state == TaskState::Queued,
        "without a machine the task is {waits:?}"
    );
    let cancelled: Task = site.bugler(&["task", "cancel", &id])?;
    ensure!(
        cancelled.state == TaskState::Cancelled,
        "cancelled, it is {cancelled:?}"
    );
    let status = waiting.wait_exit(STAGE)?;
    ensure!(
        status.code() == Some(TASK_FAILED),
        "who waited for it was told {status}"
    );
    run.say("a deploy to a machine that is off waited, and was cancelled");
    Ok(())
}
