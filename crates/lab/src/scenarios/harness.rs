//! The lab itself: its network, its machines, its image. When one of these fails, look here before
//! looking at the server.

use super::Scenario;
use crate::machine::{Firmware, Machine, Spec};
use crate::net::{INTERFACE, Net, PREFIX, address};
use crate::peers::Dnsmasq;
use crate::process::output_of;
use crate::run::Run;
use crate::{disk, image};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a machine may take for one stage. Emulated on a busy computer, the longest takes 30 s.
const STAGE: Duration = Duration::from_secs(180);

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "lab-network",
        proves: "hosts of the lab reach each other over the bridge, and nothing else",
        limit: Duration::from_secs(900),
        machines: 0,
        image: false,
        product: false,
        play: network,
    },
    Scenario {
        name: "lab-disk-bios",
        proves: "with BIOS firmware the Debian image comes up from a disk",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: false,
        play: |run| from_disk(run, Firmware::Bios),
    },
    Scenario {
        name: "lab-disk-uefi",
        proves: "with UEFI firmware the Debian image comes up from a disk",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: false,
        play: |run| from_disk(run, Firmware::Uefi),
    },
    Scenario {
        name: "lab-pxe-bios",
        proves: "an iPXE ROM boots a script from dnsmasq, reboots where it is watched, and can be cut off",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: false,
        play: |run| from_network(run, Firmware::Bios),
    },
    Scenario {
        name: "lab-pxe-uefi",
        proves: "EDK2 boots snponly.efi and a script from dnsmasq, reboots where it is watched, and can be cut off",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: false,
        play: |run| from_network(run, Firmware::Uefi),
    },
];

fn network(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let one = net.add_host("one", address(1))?;
    let two = net.add_host("two", address(2))?;
    net.add_tap()?;
    let bind = |at| UdpSocket::bind((at, 7777)).with_context(|| format!("cannot bind {at}"));
    let receiver = two.run(|| bind(two.address()))??;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sender = one.run(|| bind(one.address()))??;
    let mut buffer = [0; 16];
    let mut tries = 0;
    let (length, from) = loop {
        tries += 1;
        sender
            .send_to(b"hello", (two.address(), 7777))
            .context("cannot send over the bridge")?;
        match receiver.recv_from(&mut buffer) {
            // The bridge passes nothing on until the kernel has seen that its ports are up.
            Err(error) if error.kind() == ErrorKind::WouldBlock && tries < 60 => {}
            received => break received.context("nothing came over the bridge")?,
        }
    };
    ensure!(
        buffer.get(..length) == Some(b"hello"),
        "something else came"
    );
    ensure!(from.ip() == one.address(), "it came from {from}");
    run.say("a datagram crossed the bridge");

    let routes = output_of(one.command("ip").args(["route", "show"]))?;
    ensure!(
        routes.lines().count() == 1 && routes.starts_with(&format!("{}/{PREFIX}", address(0))),
        "host one has more than the lab's network: {routes}"
    );
    let links = output_of(Command::new("ip").args(["-o", "link", "show"]))?;
    for link in links.lines() {
        let name = link.split_whitespace().nth(1).unwrap_or_default();
        ensure!(
            ["lo:", "br0:", "port-one@", "port-two@", "tap0:"]
                .iter()
                .any(|our| name.starts_with(our)),
            "there is a link in the lab's namespace that it did not make: {link}"
        );
    }
    let inside = output_of(one.command("ip").args(["-o", "link", "show"]))?;
    ensure!(
        inside.lines().count() == 2 && inside.contains(INTERFACE),
        "host one has other links: {inside}"
    );
    drop((one, two, net));
    let left = output_of(Command::new("ip").args(["-o", "link", "show"]))?;
    ensure!(left.lines().count() == 1, "links are left: {left}");
    run.say("there is no way out, and nothing is left");
    Ok(())
}

fn from_disk(run: &Run, firmware: Firmware) -> Result<()> {
    let net = Net::new()?;
    let image = image::cached(image::Variant::Small)?;
    let file = run.file("n1.raw");
    disk::copy(&image.disk, &file)?;
    let equal = disk::compare(&image.disk, &file)?;
    run.say(&format!(
        "the disk has the image {}: {} MiB used, BLAKE3 {:.16}…",
        image.stamp,
        equal.used >> 20,
        equal.hash.to_hex()
    ));
    let mut machine = Machine::new(
        run,
        &net,
        Spec::new("n1", 1, firmware).disk(&file).without_network(),
    )?;
    run.say(&format!("{firmware}, by {}", machine.accelerator()));
    machine.power_on()?;
    let seen = machine.wait_for("BUGLER-LAB: up from", STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    let uuid = &machine.spec().uuid;
    ensure!(
        seen.line.contains(&format!("machine {uuid}")),
        "it is another machine"
    );
    ensure!(
        seen.line.contains(&format!("image {}", image.stamp)),
        "it is another image"
    );
    ensure!(
        machine.disk_written()? > 0,
        "a system that is up has written to its disk"
    );
    Ok(())
}

fn from_network(run: &Run, firmware: Firmware) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("dhcp", address(2))?;
    let tftp = run.file("tftp");
    fs::create_dir(&tftp).context("cannot make the TFTP folder")?;
    for loader in ["undionly.kpxe", "snponly.efi"] {
        let from = Path::new("/usr/lib/ipxe").join(loader);
        fs::copy(&from, tftp.join(loader))
            .with_context(|| format!("cannot copy {} (package ipxe)", from.display()))?;
    }
    fs::write(
        tftp.join("boot.ipxe"),
        // Short lines: SeaBIOS breaks the console's lines at 80 columns. It also keeps the last
        // letter back until another line begins.
        "#!ipxe\necho\n\
         echo BUGLER-LAB: script on ${platform} of ${net0/mac}\n\
         echo BUGLER-LAB: serial ${serial}\n\
         echo BUGLER-LAB: machine ${uuid}\n\
         echo BUGLER-LAB: reboots\n\
         reboot\n",
    )?;
    let dnsmasq = Dnsmasq::netboot(run, &host, &tftp)?;

    let file = run.file("n1.raw");
    disk::poisoned(&file, 8 << 20)?;
    let spec = Spec::new("n1", 1, firmware).disk(&file).pause_on_reboot();
    let mut machine = Machine::new(run, &net, spec)?;
    run.say(&format!("{firmware}, by {}", machine.accelerator()));
    machine.power_on()?;
    let asked = dnsmasq.process().wait_for("DHCPDISCOVER", STAGE)?;
    ensure!(
        asked.line.contains(&machine.spec().mac.to_string()),
        "somebody else asks: {asked:?}"
    );
    run.say(&format!(
        "{:.1} s after power-on: asks for an address",
        machine.console()?.age().as_secs_f64()
    ));
    let seen = machine.wait_for("BUGLER-LAB: script on", STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    ensure!(
        seen.line.ends_with(&machine.spec().mac.to_string()),
        "the script has another MAC"
    );
    machine.wait_for(
        &format!("BUGLER-LAB: serial {}", machine.spec().serial),
        STAGE,
    )?;
    machine.wait_for(
        &format!("BUGLER-LAB: machine {}", machine.spec().uuid),
        STAGE,
    )?;
    machine.wait_reboot(STAGE)?;
    ensure!(
        machine.disk_written()? == 0,
        "nobody was told to write to the disk"
    );
    run.say("it stopped where it would reboot");
    machine.resume()?;
    machine.wait_for("BUGLER-LAB: script on", STAGE)?;
    machine.cut_power()?;
    ensure!(
        machine.console().is_err(),
        "a machine without power has a console"
    );
    run.say("it rebooted and did it again; then its power was cut");
    Ok(())
}
