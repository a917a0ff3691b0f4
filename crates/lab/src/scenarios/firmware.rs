//! Every firmware, each to the agent and back to its local disk.

use super::Scenario;
use crate::image;
use crate::machine::{Firmware, Machine, Spec};
use crate::run::Run;
use crate::site::{Node, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, Event, Netboot, Presence, Task, TaskState};
use std::time::Duration;

/// How long a scenario may take: one machine boots three times.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) const ALL: &[Scenario] = &[
    Scenario::of_one_machine(
        LIMIT,
        "boot-pxelinux",
        "a BIOS machine boots the agent through PXELINUX, and then its disk",
        |run| pxelinux(run, "pxelinux", "TFTP sent bootenv/x86_64/"),
    ),
    Scenario::of_one_machine(
        LIMIT,
        "boot-lpxelinux",
        "a BIOS machine boots the agent through PXELINUX over HTTP, and then its disk",
        |run| pxelinux(run, "lpxelinux", "HTTP sent bootenv/x86_64/"),
    ),
    Scenario::of_one_machine(
        LIMIT,
        "boot-uefi-http",
        "a UEFI machine boots the agent by HTTP boot, and then its disk",
        uefi_http,
    ),
    Scenario::of_one_machine(
        LIMIT,
        "boot-secure",
        "a machine with Secure Boot boots the agent through shim and GRUB, and then its disk",
        secure,
    ),
    Scenario {
        machines: 2,
        ..Scenario::of_one_machine(
            LIMIT,
            "boot-other-uefi",
            "a UEFI of 32 bits and one on AArch64 by HTTP boot the agent",
            other_uefi,
        )
    },
];

/// PXELINUX, because the profile says so.
fn pxelinux(run: &Run, loader: &str, kernel: &str) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let profile = ["profile", "set", "rescue", "--agent", "--loader", loader];
    let _: serde_json::Value = site.bugler(&profile)?;
    let _: serde_json::Value =
        site.bugler(&["rule", "add", "--firmware", "ipxe-bios", "rescue"])?;
    let mut node = ready(run, &site, Firmware::Bios)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    went_through(
        &site,
        &device,
        &[
            &format!("{loader}.0 over TFTP"),
            &format!("TFTP sent {loader}.0"),
            // It asks for nothing else first, for it was told the name.
            "sent pxelinux.cfg/01-",
            kernel,
        ],
    )?;
    back_to_disk(&site, &node, &device)
}

fn uefi_http(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = ready(run, &site, Firmware::UefiHttp)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    ensure!(
        device.firmware == Some(bugler_model::Firmware::UefiHttp),
        "the server takes its firmware for {:?}",
        device.firmware
    );
    went_through(
        &site,
        &device,
        &["snponly.efi over HTTP", "HTTP sent snponly.efi"],
    )?;
    back_to_disk(&site, &node, &device)
}

/// AArch64 over HTTP (architecture 19), and a UEFI of 32 bits on a processor of 64 (architecture 6).
fn other_uefi(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let machine = |number, kind| {
        let spec = Spec::new(&format!("n{number}"), number, kind).memory(768);
        let mut machine = Machine::new(run, &site.net, spec)?;
        machine.power_on()?;
        anyhow::Ok(machine)
    };
    let arm = machine(1, Firmware::UefiArmHttp)?;
    let ia32 = machine(2, Firmware::UefiIa32)?;
    for (machine, firmware, steps) in [
        (
            &ia32,
            bugler_model::Firmware::UefiPxe,
            ["UEFI PXE, arch 6", "TFTP sent grubia32.efi"],
        ),
        (
            &arm,
            bugler_model::Firmware::UefiHttp,
            ["UEFI HTTP, arch 19", "HTTP sent grubaa64.efi"],
        ),
    ] {
        let device = site.registered(machine)?;
        ensure!(
            device.firmware == Some(firmware),
            "the server takes its firmware for {:?}",
            device.firmware
        );
        went_through(&site, &device, &steps)?;
        run.say(&format!(
            "{}: {} s after power-on its agent is registered as {}",
            machine.spec().firmware,
            machine.console()?.age().as_secs(),
            device.id
        ));
    }
    Ok(())
}

/// The operator says that the device starts signed programs alone; before that, nothing unsigned runs.
fn secure(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let mut node = ready(run, &site, Firmware::UefiSecure)?;
    image::with_signed_loaders(&node.disk, run.dir())?;
    node.machine.power_on()?;
    let refused = node.machine.wait_for("Access Denied", STAGE)?;
    site.say(&format!("Secure Boot is on: {}", refused.line));
    let id = site.device(&node.machine)?.id.to_string();
    let device: Device = site.bugler(&["device", "set", &id, "--secure-boot", "on"])?;
    ensure!(device.secure_boot, "it is not marked: {device:?}");
    node.machine.reset()?;
    let device = site.registered(&node.machine)?;
    went_through(
        &site,
        &device,
        &[
            "shimx64.efi over TFTP",
            "TFTP sent shimx64.efi",
            "grubx64.efi",
            "grub/grub.cfg",
            "TFTP sent bootenv/x86_64/",
        ],
    )?;
    back_to_disk(&site, &node, &device)
}

/// A machine with a disk that it could start from.
pub(super) fn ready(run: &Run, site: &Site<'_>, firmware: Firmware) -> Result<Node> {
    let disk = run.file("n1.raw");
    std::fs::copy(&site.image.disk, &disk)
        .with_context(|| format!("cannot copy the image to {}", disk.display()))?;
    let machine = Machine::new(run, &site.net, Spec::new("n1", 1, firmware).disk(&disk))?;
    run.say(&format!("{firmware}, by {}", machine.accelerator()));
    Ok(Node { machine, disk })
}

/// Proves that the events of this device's boots say these things. The server writes them a moment after
/// it did them.
pub(super) fn went_through(site: &Site<'_>, device: &Device, steps: &[&str]) -> Result<()> {
    let path = format!("events?device={}&limit=1000", device.id);
    let api = site.server.api();
    for step in steps {
        let what = format!("an event that says {step:?}");
        let said = api.wait(&what, Duration::from_secs(120), |api| {
            let events: Vec<Event> = api.get(&path)?;
            Ok(events.into_iter().find(|event| event.text.contains(step)))
        });
        let said = said.with_context(|| {
            let events: Vec<Event> = api.get(&path).unwrap_or_default();
            let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
            format!("the events are {texts:#?}")
        })?;
        site.say(&said.text);
    }
    Ok(())
}

/// Network boot off, reboot, up from its own disk.
pub(super) fn back_to_disk(site: &Site<'_>, node: &Node, device: &Device) -> Result<()> {
    let id = device.id.to_string();
    let changed: Device = site.bugler(&["device", "netboot", &id, "off"])?;
    ensure!(
        changed.netboot == Netboot::Off,
        "netboot off made it {:?}",
        changed.netboot
    );
    let tasks: Vec<Task> = site.bugler(&["reboot", &id, "--wait"])?;
    ensure!(
        tasks.iter().all(|task| task.state == TaskState::Done),
        "reboot ended as {tasks:?}"
    );
    site.up_from_disk(&node.machine)?;
    let device = site.device(&node.machine)?;
    ensure!(
        device.presence == Presence::Local,
        "the server takes it for {:?}",
        device.presence
    );
    Ok(())
}
