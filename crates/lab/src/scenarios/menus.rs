//! Boots that go round in circles, and boots that a person chooses.

use super::{Scenario, firmware};
use crate::machine::Firmware;
use crate::paths;
use crate::run::Run;
use crate::site::{POOL, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{BootSession, Device, Event, Outcome, Presence};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a scenario may take: one machine boots nine times.
const LIMIT: Duration = Duration::from_secs(900);
/// The second entry of a menu: down, Enter.
pub(super) const SECOND_ENTRY: &str = "\x1b[B\r";
/// Debian's installer for the network (package `debian-installer-12-netboot-amd64`).
const INSTALLER: &str = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";
/// How long the installer may take until it has read its answers: its initramfs unpacks to 137 MB, and
/// it looks at all its hardware first. On a computer with nothing else to do it takes half a minute.
const INSTALLER_STARTS: Duration = Duration::from_secs(400);
/// What the lab's answers make the installer say before it begins.
const ANSWERED: &str = "BUGLER-LAB: the installer does what its answers say";

/// How many boots without an outcome the server makes, as its documentation says.
const TRIES: usize = 8;

pub(super) const ALL: &[Scenario] = &[
    Scenario::of_one_machine(
        LIMIT,
        "boot-loop",
        "a machine that begins the same boot again and again is left to its disk, and told of",
        going_round,
    ),
    Scenario::of_one_machine(
        LIMIT,
        "menus",
        "somebody at the console chooses from the menus of iPXE and PXELINUX, or nobody does; a profile that cannot be booted is waited for",
        menus,
    ),
    Scenario::of_one_machine(
        LIMIT,
        "installer",
        "Debian's installer starts once, reads its answers and goes as far as the archive that is not there",
        installer,
    ),
];

/// The boot environment is told to run a program that it does not have: on this machine it never gets
/// as far as its agent, and the kernel reboots.
fn going_round(run: &Run) -> Result<()> {
    let config = run.file("bugler.toml");
    fs::write(
        &config,
        "[boot]\ncmdline = \"console=ttyS0,115200 quiet rdinit=/missing panic=-1\"\n",
    )
    .with_context(|| format!("cannot write {}", config.display()))?;
    let config = format!("--config={}", config.display());
    let pool = format!("--pool={POOL}");
    let mut site = Site::new(run, &[&config, "--dhcp=full", &pool])?;
    site.server.start()?;
    let mut node = firmware::ready(run, &site, Firmware::Bios)?;
    node.machine.power_on()?;
    // Nobody knows it yet: it is given the agent, which does not start.
    node.machine.console()?.wait_for("Kernel panic", STAGE)?;
    let device = site.device(&node.machine)?;
    let id = device.id.to_string();
    let _: Device = site.bugler(&["device", "netboot", &id, "once"])?;
    // Not `Machine::wait_for`, for which a panic is the end.
    let seen = node
        .machine
        .console()?
        .wait_for("BUGLER-LAB: up from", LIMIT)?;
    run.say(&seen.line);
    let device = site.device(&node.machine)?;
    ensure!(
        device.presence == Presence::Local,
        "the server takes it for {:?}",
        device.presence
    );
    let said = format!("it began {TRIES} boots that were asked for once, and none had an outcome");
    firmware::went_through(&site, &device, &[&said])?;
    let sessions: Vec<BootSession> = site
        .server
        .api()
        .get(&format!("devices/{id}/sessions?limit=20"))?;
    let local = sessions.first().map(|session| session.outcome);
    ensure!(
        local == Some(Outcome::Local),
        "its latest boot ended as {local:?}"
    );
    let cut_off = sessions
        .iter()
        .filter(|session| session.outcome == Outcome::Superseded)
        .count();
    ensure!(
        cut_off >= TRIES,
        "{cut_off} of its boots ended without an outcome: {sessions:#?}"
    );
    let text = site.try_bugler(&["explain", &id])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(
        text.contains("none had an outcome"),
        "bugler explain does not say why it boots its disk: {text}"
    );
    run.say(&format!("bugler explain says:\n{text}"));
    Ok(())
}

/// A menu with the local disk, which is taken when nobody chooses, and the agent.
pub(super) fn desk(site: &Site<'_>, more: &[&str]) -> Result<()> {
    let menu = [
        "profile",
        "set",
        "desk",
        "--menu",
        "Desk machines",
        "--entry",
        "Local disk=local",
        "--entry",
        "Bugler agent=agent",
        "--entry",
        "Local disk again=local",
        "--default",
        "local",
        "--timeout",
        "15",
    ];
    let _: Value = site.bugler(&[&menu, more].concat())?;
    Ok(())
}

fn menus(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    desk(&site, &[])?;
    let _: Value = site.bugler(&["rule", "add", "--firmware", "ipxe-bios", "desk"])?;
    let mut node = firmware::ready(run, &site, Firmware::Bios)?;
    node.machine.power_on()?;
    let shown = node.machine.wait_for("Bugler agent", STAGE)?;
    run.say(&format!("iPXE shows: {}", shown.line));
    node.machine.type_text(SECOND_ENTRY)?;
    let device = site.registered(&node.machine)?;
    run.say("its second entry, chosen with two keys: the agent has registered");

    node.machine.reset()?;
    node.machine.wait_for("Bugler agent", STAGE)?;
    node.machine.wait_for("booting the local disk", STAGE)?;
    let seen = node.machine.wait_for("GRUB loading", STAGE)?;
    run.say(&format!(
        "nobody touched a key, and iPXE took the local disk: {}",
        seen.line
    ));

    desk(&site, &["--loader", "pxelinux"])?;
    node.machine.reset()?;
    let shown = node.machine.wait_for("Bugler agent", STAGE)?;
    run.say(&format!("PXELINUX shows: {}", shown.line));
    node.machine.type_text(SECOND_ENTRY)?;
    site.registered(&node.machine)?;
    run.say("its second entry, chosen with two keys: the agent has registered");

    // A kernel by the first tag of a device, and this one has none.
    let half = [
        "profile",
        "set",
        "half",
        "--linux",
        "racks/{{ device.tags[0] }}/vmlinuz",
        "--loader",
        "pxelinux",
    ];
    let _: Value = site.bugler(&half)?;
    let id = device.id.to_string();
    let _: Device = site.bugler(&["device", "set", &id, "--profile", "half"])?;
    node.machine.reset()?;
    for _ in 0..2 {
        let said = node.machine.wait_for("Bugler: the profile half", STAGE)?;
        run.say(&format!("PXELINUX waits: {}", said.line));
    }
    let _: Device = site.bugler(&["device", "set", &id, "--profile", "agent"])?;
    site.registered(&node.machine)?;
    run.say("another profile was set, and PXELINUX took it by itself");
    Ok(())
}

/// There is no archive of packages in the lab: the installer gets as far as asking for it.
fn installer(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    let files = run.file("state/files/debian");
    fs::create_dir_all(&files).context("cannot make the folder of boot files")?;
    for name in ["linux", "initrd.gz"] {
        let from = Path::new(INSTALLER).join(name);
        fs::copy(&from, files.join(name)).with_context(|| {
            format!(
                "cannot copy {} (package debian-installer-12-netboot-amd64)",
                from.display()
            )
        })?;
    }
    let example = paths::workspace().join("crates/boot/docs/examples/debian-preseed.cfg");
    let answers = fs::read_to_string(&example)
        .with_context(|| format!("cannot read {}", example.display()))?;
    // The example as it is, but for its archive.
    let answers = answers
        .replace(
            "deb.debian.org",
            &format!("{}:8480", site.server.host().address()),
        )
        .replace("string /debian", "string /boot/files/archive");
    fs::write(
        files.join("preseed.cfg"),
        format!("{answers}\nd-i preseed/early_command string echo '{ANSWERED}' > /dev/console\n"),
    )
    .context("cannot write the answers")?;
    site.server.start()?;
    let _: Value = site.bugler(&[
        "profile",
        "set",
        "debian-installer",
        "--linux",
        "debian/linux",
        "--initrd",
        "debian/initrd.gz",
        "--cmdline",
        "console=ttyS0,115200 DEBIAN_FRONTEND=text auto=true priority=critical \
         url={{ files }}/debian/preseed.cfg hostname={{ device.name }} domain=lab.example \
         interface=auto BOOTIF={{ bootif }} netcfg/no_default_route=true \
         netcfg/get_nameservers=10.20.50.1",
    ])?;
    let mut node = firmware::ready(run, &site, Firmware::Bios)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let id = device.id.to_string();
    let _: Device = site.bugler(&["device", "netboot", &id, "off"])?;
    let _: Device = site.bugler(&["device", "set", &id, "--next", "debian-installer"])?;
    node.machine.reset()?;
    let said = node.machine.wait_for(ANSWERED, INSTALLER_STARTS)?;
    run.say(&format!("on its console: {}", said.line));
    let path = format!("events?device={id}&limit=1000");
    let asked = site.server.api().wait(
        "the installer to ask for its archive",
        INSTALLER_STARTS,
        |api| {
            let events: Vec<Event> = api.get(&path)?;
            let mut texts = events.into_iter().map(|event| event.text);
            Ok(texts.find(|text| text.contains("archive/dists/")))
        },
    )?;
    firmware::went_through(
        &site,
        &device,
        &[
            "HTTP sent files/debian/linux",
            "HTTP sent files/debian/initrd.gz",
            "has booted debian-installer this once",
            "HTTP sent files/debian/preseed.cfg",
        ],
    )?;
    run.say(&format!(
        "it asks for the archive that its answers name: {asked}"
    ));
    let plan: Value = site.server.api().get(&format!("devices/{id}/plan"))?;
    ensure!(
        plan["goal"] == "local",
        "the next time it would boot {plan}"
    );
    run.say(&format!("the next time: {}", plan["why"]));
    ensure!(
        node.machine.disk_written()? == 0,
        "the installer has written to the disk before it had its packages"
    );
    Ok(())
}
