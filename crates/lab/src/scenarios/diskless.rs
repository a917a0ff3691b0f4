//! Machines without a disk run one image from the network, each with a layer of its own: what they
//! synced survives the power cord and a killed server, none sees another's files, a new version of the
//! image reaches them at their next boot, and one command goes back.

use super::Scenario;
use crate::machine::{Firmware, Machine, Spec};
use crate::run::Run;
use crate::site::{IMAGE, MIB, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_protocol::operator::{Committed, OverlayView};
use std::time::Duration;

/// What the console says when somebody may log in.
pub(super) const LOGIN: &str = "Debian GNU/Linux";
/// What it says to who has.
const WELCOME: &str = "NO WARRANTY";
/// The profile.
pub(super) const THIN: &str = "thin";

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "diskless-nbd",
        proves: "machines without a disk run one image over NBD, each with a layer of its own that \
                 outlives the power cord and a killed server; versions come and go",
        limit: Duration::from_secs(1200),
        machines: 2,
        image: true,
        product: true,
        play: |run| diskless(run, "nbd"),
    },
    Scenario {
        name: "diskless-aoe",
        proves: "machines without a disk run one image over ATA over Ethernet, each seeing its own disk \
                 at the one address of all",
        limit: Duration::from_secs(1200),
        machines: 2,
        image: true,
        product: true,
        play: |run| diskless(run, "aoe"),
    },
    Scenario {
        name: "diskless-nfs",
        proves: "machines without a disk run one image over NFS, each with a layer of files of its own",
        limit: Duration::from_secs(1200),
        machines: 2,
        image: true,
        product: true,
        play: |run| diskless(run, "nfs"),
    },
    Scenario {
        name: "diskless-sanboot",
        proves: "iPXE starts the boot sector of an image over AoE, without a Linux of ours",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: sanboot,
    },
];

fn machine(site: &Site<'_>, number: u8) -> Result<Machine> {
    let spec = Spec::new(&format!("n{number}"), number, Firmware::Bios);
    Machine::new(site.run(), &site.net, spec)
}

pub(super) fn profile(site: &Site<'_>, image: &str, over: &str) -> Result<()> {
    let _: serde_json::Value = site.bugler(&[
        "profile",
        "set",
        THIN,
        "--diskless",
        image,
        "--over",
        over,
        "--overlay-size",
        "512M",
        "--cmdline",
        "console=ttyS0,115200 quiet",
    ])?;
    Ok(())
}

/// Does something where somebody is logged in. What it prints behind `ANSWER:` is the answer.
fn at_work(machine: &mut Machine, work: &str) -> Result<String> {
    begin_work(machine, work)?;
    answer(machine, STAGE)
}

/// Has a machine begin to do something, and goes on to the next one.
pub(super) fn begin_work(machine: &mut Machine, work: &str) -> Result<()> {
    machine.type_text(&format!("cd /root; {work}\n"))
}

/// What came of it.
pub(super) fn answer(machine: &Machine, limit: Duration) -> Result<String> {
    let seen = machine.wait_for("ANSWER: ", limit)?;
    let (_, answer) = seen.line.split_once("ANSWER: ").unwrap_or_default();
    Ok(answer.trim().to_owned())
}

fn log_in(machine: &mut Machine) -> Result<()> {
    machine.wait_for(LOGIN, STAGE)?;
    enter(machine)
}

/// Logs in where the console asks for a name.
pub(super) fn enter(machine: &mut Machine) -> Result<()> {
    machine.type_text("root\n")?;
    machine.wait_for(WELCOME, STAGE)?;
    Ok(())
}

/// What is typed is shown too: the word is put together so that it differs.
pub(super) const ANSWER: &str = "echo \"ANS\"\"WER: ";

fn diskless(run: &Run, over: &str) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    site.add_image()?;
    profile(&site, IMAGE, over)?;
    let _: serde_json::Value = site.bugler(&["rule", "add", THIN])?;

    let mut one = machine(&site, 1)?;
    one.power_on()?;
    let seen = one.wait_for("BUGLER-LAB: up from", STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line.trim()
    ));
    log_in(&mut one)?;
    for round in 1..=2 {
        // Some of it is synced, and while more is being written the power goes.
        let sums = at_work(
            &mut one,
            &format!(
                "head -c 3M /dev/urandom >synced-{round}; echo one-{round} >>note; sync; \
                 {ANSWER}$(cat note | tr '\\n' ' ')$(sha256sum synced-* | sha256sum)\""
            ),
        )?;
        one.type_text("while :; do head -c 1M /dev/urandom >lost; done\n")?;
        wait_written(&site, 1)?;
        one.cut_power()?;
        one.power_on()?;
        log_in(&mut one)?;
        let found = at_work(
            &mut one,
            &format!("{ANSWER}$(cat note | tr '\\n' ' ')$(sha256sum synced-* | sha256sum)\""),
        )?;
        ensure!(
            found == sums,
            "after the power was cut the machine has {found:?} in place of {sums:?}"
        );
        run.say(&format!("round {round}: what was synced is there: {found}"));
    }

    let mut two = machine(&site, 2)?;
    two.power_on()?;
    log_in(&mut two)?;
    let found = at_work(
        &mut two,
        &format!("ls -A >seen; echo two >note; sync; {ANSWER}$(tr '\\n' ' ' <seen)\""),
    )?;
    ensure!(
        !found.contains("synced") && !found.contains("note"),
        "the second machine sees files of the first: {found:?}"
    );
    run.say("the second machine runs the same image and sees none of the first one's files");

    site.server.kill()?;
    site.server.start()?;
    let answer = at_work(
        &mut one,
        &format!("echo after >>note; sync; {ANSWER}$(tail -n 1 note)\""),
    )?;
    ensure!(answer == "after", "after the server was killed: {answer:?}");
    run.say("the server was killed and started again; the machines go on");
    let views: Vec<OverlayView> = site.bugler(&["overlay", "list"])?;
    ensure!(views.len() == 2, "there are {} layers", views.len());
    for view in &views {
        run.say(&format!(
            "{} {} on {}: {} MiB of {} MiB, {:?}",
            view.export.id,
            view.device,
            view.export.label,
            view.used / MIB,
            view.export.overlay_size / MIB,
            view.clients
        ));
    }
    off(&mut one)?;
    two.cut_power()?;
    // What is done with versions is the same over AoE, and takes another three boots.
    if over != "nbd" {
        return Ok(());
    }
    versions(run, &site, over, one)
}

fn off(machine: &mut Machine) -> Result<()> {
    machine.type_text("poweroff\n")?;
    machine.wait_power_off(STAGE)
}

/// Waits until the first machine has written so many more MiB.
fn wait_written(site: &Site<'_>, mib: u64) -> Result<()> {
    let written = || -> Result<u64> {
        let views: Vec<OverlayView> = site.bugler(&["overlay", "list"])?;
        Ok(views.iter().map(|view| view.written).max().unwrap_or(0))
    };
    let began = written()?;
    let deadline = std::time::Instant::now() + STAGE;
    while written()? < began + mib * MIB {
        ensure!(
            std::time::Instant::now() < deadline,
            "the machine writes nothing"
        );
    }
    Ok(())
}

/// The first machine's layer becomes a version, which both get at their next boot; then back.
fn versions(run: &Run, site: &Site<'_>, over: &str, mut one: Machine) -> Result<()> {
    let device = site.device(&one)?.id.to_string();
    let made: Committed = site.bugler(&[
        "overlay",
        "commit",
        &device,
        IMAGE,
        "--note",
        "from n1",
        "--running",
    ])?;
    run.say(&format!(
        "{}: {} MiB of chunks that were not in the store",
        made.image.label(),
        made.new / MIB
    ));
    let mut two = machine(site, 2)?;
    two.power_on()?;
    log_in(&mut two)?;
    let note = at_work(&mut two, &format!("{ANSWER}$(tail -n 1 note)\""))?;
    ensure!(note == "after", "the new version has {note:?}");
    run.say("at its next boot the second machine runs the new version");
    off(&mut two)?;
    let refused = site.try_bugler(&["image", "remove", &format!("{IMAGE}@1")])?;
    let refused = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.contains("lies under the layer"),
        "an image in use was not kept: {refused}"
    );
    profile(site, &format!("{IMAGE}@1"), over)?;
    for (machine, wanted) in [(&mut two, "two"), (&mut one, "after")] {
        machine.power_on()?;
        log_in(machine)?;
        let note = at_work(machine, &format!("{ANSWER}$(tail -n 1 note)\""))?;
        ensure!(note == wanted, "after going back: {note:?}");
        machine.cut_power()?;
    }
    run.say("one command later both run the old version, with what each wrote there");
    Ok(())
}

fn sanboot(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    site.add_image()?;
    let _: serde_json::Value = site.bugler(&[
        "profile",
        "set",
        THIN,
        "--diskless",
        IMAGE,
        "--over",
        "aoe",
        "--start",
        "sanboot",
    ])?;
    let _: serde_json::Value = site.bugler(&["rule", "add", THIN])?;
    let mut one = machine(&site, 1)?;
    one.power_on()?;
    // The image's loader starts its kernel and its initramfs, and that looks for a disk of its own: it
    // knows nothing of AoE.
    let seen = one.wait_for("Gave up waiting for root", STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on the image's own loader has started its kernel: {}",
        seen.at.as_secs_f64(),
        seen.line.trim()
    ));
    let views: Vec<OverlayView> = site.bugler(&["overlay", "list"])?;
    let view = views.first().context("there is no layer")?;
    ensure!(view.read > MIB, "it has read {} bytes over AoE", view.read);
    run.say(&format!("{} MiB were read over AoE", view.read / MIB));
    Ok(())
}
