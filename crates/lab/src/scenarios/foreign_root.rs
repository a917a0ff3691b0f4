//! Machines without disks whose roots come from servers that this project did not write: the agent's
//! part of a diskless boot, without ours.

use super::Scenario;
use crate::disk;
use crate::machine::{Firmware, Machine, RamSystem, Spec};
use crate::net::{Host, INTERFACE, Net, address};
use crate::peers::Dnsmasq;
use crate::process::Process;
use crate::run::Run;
use crate::site::STAGE;
use crate::{image, product};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The partition of the lab's image that holds its root.
const PART: u32 = 3;
/// The AoE target.
const TARGET: (u16, u8) = (7, 3);
/// How long a command in the machine may take, while its root is away and comes back.
const WORK: Duration = Duration::from_secs(240);

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "diskless-foreign",
        proves: "a machine without a disk runs Debian from qemu-nbd, which is killed and started again meanwhile",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| play(run, Kind::Nbd),
    },
    Scenario {
        name: "diskless-foreign-aoe",
        proves: "a machine without a disk runs Debian from vblade, which is killed and started again meanwhile",
        limit: Duration::from_secs(1200),
        machines: 1,
        image: true,
        product: true,
        play: |run| play(run, Kind::Aoe),
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nbd,
    Aoe,
}

impl Kind {
    /// `bugler.root=`
    fn root(self, host: &Host) -> String {
        let (shelf, slot) = TARGET;
        match self {
            Self::Nbd => format!("nbd://{}:10809/lab", host.address()),
            Self::Aoe => format!("aoe:e{shelf}.{slot}"),
        }
    }

    /// The root partition in the machine.
    fn device(self) -> String {
        let (shelf, slot) = TARGET;
        match self {
            Self::Nbd => format!("/dev/nbd0p{PART}"),
            Self::Aoe => format!("/dev/etherd/e{shelf}.{slot}p{PART}"),
        }
    }

    /// The server on `host`. What comes before it is ready is sent again by the machine.
    fn serve(self, run: &Run, host: &Host, disk: &Path, number: u32) -> Result<Process> {
        let (shelf, slot) = TARGET;
        let command: Command = match self {
            Self::Nbd => {
                let mut command = host.command("qemu-nbd");
                command
                    .args(["--persistent", "--shared=0", "--format=raw"])
                    .args(["--export-name=lab", "--discard=unmap"])
                    .arg(format!("--bind={}", host.address()))
                    .arg(disk);
                command
            }
            Self::Aoe => {
                let mut command = host.command("vblade");
                command
                    .args([&shelf.to_string(), &slot.to_string(), INTERFACE])
                    .arg(disk);
                command
            }
        };
        Process::start(
            "the server of the root",
            command,
            &run.file(&format!("root-server-{number}.log")),
        )
    }
}

fn play(run: &Run, kind: Kind) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("srv", address(1))?;
    let _dhcp = Dnsmasq::addresses_only(run, &host)?;
    let (image, product) = (image::cached(image::Variant::Small)?, product::cached()?);
    let bootenv = product.bootenv()?;
    let file = run.file("root.raw");
    disk::copy(&image.disk, &file)?;
    let mut server = kind.serve(run, &host, &file, 1)?;

    let mut spec = Spec::new("n1", 1, Firmware::Bios);
    let boot_mac = spec.mac.to_string().replace(':', "-");
    spec.ram_system = Some(RamSystem {
        kernel: bootenv.join("vmlinuz"),
        initrd: bootenv.join("initrd"),
        arguments: format!(
            "console=ttyS0,115200 BOOTIF=01-{boot_mac} bugler.root={} bugler.root-part={PART}",
            kind.root(&host)
        ),
        device_tree: None,
    });
    let mut machine = Machine::new(run, &net, spec)?;
    machine.power_on()?;
    up(run, &machine, kind, &image.stamp)?;
    log_in(&mut machine)?;

    // What is typed is shown as well, so a pattern must not be in the command itself.
    let ask = |machine: &mut Machine, command: &str, answer: &str| -> Result<String> {
        machine.type_text(&format!("{command}\n"))?;
        Ok(machine.wait_for(answer, WORK)?.line)
    };
    ask(
        &mut machine,
        "echo first >/root/mark && sync && echo BUGLER-LAB: has $(cat /root/mark)",
        "BUGLER-LAB: has first",
    )?;
    run.say("it has written a file and synced it");

    server.kill()?;
    run.say("the server of its root was killed");
    machine.type_text(
        "dd if=/dev/urandom of=/root/big bs=64k count=64 conv=fsync; \
         sum=$(sha256sum </root/big); sync; echo 3 >/proc/sys/vm/drop_caches; \
         [ \"$sum\" = \"$(sha256sum </root/big)\" ] && echo BUGLER-LAB: same $((6*7))\n",
    )?;
    if kind == Kind::Nbd {
        let seen = machine.wait_for("bugler-keeper: the connection of /dev/nbd0", WORK)?;
        run.say(&seen.line);
    }
    let _server = kind.serve(run, &host, &file, 2)?;
    if kind == Kind::Nbd {
        let seen = machine.wait_for("bugler-keeper: /dev/nbd0 is connected", WORK)?;
        run.say(&seen.line);
    }
    machine.wait_for("BUGLER-LAB: same 42", WORK)?;
    run.say("it has written 4 MiB meanwhile, and reads them back from the new server");

    ask(
        &mut machine,
        "echo second >/root/mark && sync && echo BUGLER-LAB: has $(cat /root/mark)",
        "BUGLER-LAB: has second",
    )?;
    machine.cut_power()?;
    run.say("its power was cut after a sync");
    machine.power_on()?;
    up(run, &machine, kind, &image.stamp)?;
    log_in(&mut machine)?;
    ask(
        &mut machine,
        "echo BUGLER-LAB: still $(cat /root/mark)",
        "BUGLER-LAB: still second",
    )?;
    run.say("what it synced is there");
    machine.type_text("systemctl poweroff\n")?;
    machine.wait_power_off(WORK)?;
    run.say("it shut down in order, its root being there to the end");
    Ok(())
}

/// Waits until the system on the root is up.
fn up(run: &Run, machine: &Machine, kind: Kind, stamp: &str) -> Result<()> {
    let seen = machine.wait_for("the root is", STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    let seen = machine.wait_for("BUGLER-LAB: up from", WORK)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    for part in [
        &format!("up from {}", kind.device()),
        &format!("image {stamp}"),
    ] {
        ensure!(seen.line.contains(part), "another system came up: {seen:?}");
    }
    Ok(())
}

/// Logs in on the console as root, who has no password.
fn log_in(machine: &mut Machine) -> Result<()> {
    machine.wait_for("Debian GNU/Linux 12 lab ttyS0", WORK)?;
    machine.type_text("root\n")?;
    machine
        .wait_for("permitted by applicable law", WORK)
        .context("nobody could log in")?;
    Ok(())
}
