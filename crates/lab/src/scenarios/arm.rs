//! Machines with 64-bit Arm: EDK2, U-Boot, and a Raspberry Pi as far as QEMU plays one.

use super::{Scenario, deploy};
use crate::disk;
use crate::machine::{Firmware, Machine, RamSystem, Spec};
use crate::net::{Net, address};
use crate::peers::Dnsmasq;
use crate::process::output_of;
use crate::product;
use crate::run::Run;
use crate::site::Site;
use anyhow::{Context, Result, ensure};
use bugler_model::{Arch, Device, Image, Netboot, Task, TaskState};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a machine may take for one stage. Emulated on a busy computer, the longest takes 40 s.
const STAGE: Duration = Duration::from_secs(180);
/// GRUB for the network, as Debian's package `grub-efi-arm64-bin` has it, and the name that it is
/// served under.
const GRUB: (&str, &str) = (
    "/usr/lib/grub/arm64-efi/monolithic/grubnetaa64.efi",
    "grubnetaa64.efi",
);
/// GRUB for disks, of the same package. It reads `EFI/debian/grub.cfg` of the disk that it came from.
const GRUB_ON_DISK: &str = "/usr/lib/grub/arm64-efi/monolithic/grubaa64.efi";
/// The size of a disk with it, in KiB.
const DISK_KIB: u64 = 64 << 10;
/// What it says.
const FROM_DISK: &str = "BUGLER-LAB: up from the disk";
/// What PID 1 of the boot environment prints first.
const INIT: &str = "init of the boot environment";
/// Memory of an Arm machine in MiB.
const MEMORY: u32 = 768;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "lab-pxe-uefi-arm",
        proves: "EDK2 on AArch64 boots GRUB from dnsmasq, reboots where it is watched, and can be cut off",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: false,
        play: |run| from_network(run, Firmware::UefiArm),
    },
    Scenario {
        name: "lab-pxe-uboot",
        proves: "U-Boot on AArch64 boots GRUB from dnsmasq, reboots where it is watched, and can be cut off",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: false,
        play: |run| from_network(run, Firmware::UbootArm),
    },
    Scenario {
        name: "lab-raspi3b",
        proves: "the boot environment for 64-bit Arm starts on a Raspberry Pi 3B, with network and SD card",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: true,
        play: raspi,
    },
    Scenario {
        name: "arm-uefi",
        proves: "an AArch64 machine with EDK2 registers, is deployed and comes up from its own disk",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: true,
        play: |run| deploy_and_back(run, Firmware::UefiArm),
    },
    Scenario {
        name: "uboot",
        proves: "an AArch64 machine with U-Boot registers, is deployed and comes up from its own disk",
        limit: Duration::from_secs(900),
        machines: 1,
        image: true,
        product: true,
        play: |run| deploy_and_back(run, Firmware::UbootArm),
    },
];

/// The firmware's own way onto the network, without Bugler.
fn from_network(run: &Run, firmware: Firmware) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("dhcp", address(2))?;
    let tftp = run.file("tftp");
    fs::create_dir_all(tftp.join("grub")).context("cannot make the TFTP folder")?;
    let (from, name) = GRUB;
    fs::copy(from, tftp.join(name))
        .with_context(|| format!("cannot copy {from} (package grub-efi-arm64-bin)"))?;
    fs::write(
        tftp.join("grub/grub.cfg"),
        "echo\n\
         echo BUGLER-LAB: script on $grub_platform of $net_default_mac\n\
         echo BUGLER-LAB: reboots\n\
         reboot\n",
    )?;
    let dnsmasq = Dnsmasq::netboot(run, &host, &tftp)?;

    let file = run.file("n1.raw");
    disk::poisoned(&file, 8 << 20)?;
    let spec = Spec::new("n1", 1, firmware)
        .memory(MEMORY)
        .disk(&file)
        .pause_on_reboot();
    let mut machine = Machine::new(run, &net, spec)?;
    run.say(&format!("{firmware}, by {}", machine.accelerator()));
    machine.power_on()?;
    let asked = dnsmasq.process().wait_for("DHCPDISCOVER", STAGE)?;
    ensure!(
        asked.line.contains(&machine.spec().mac.to_string()),
        "somebody else asks: {asked:?}"
    );
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
    machine.wait_reboot(STAGE)?;
    ensure!(
        machine.disk_written()? == 0,
        "nobody was told to write to the disk"
    );
    run.say("it stopped where it would reboot");
    machine.resume()?;
    machine.wait_for("BUGLER-LAB: script on", STAGE)?;
    machine.cut_power()?;
    run.say("it rebooted and did it again; then its power was cut");
    Ok(())
}

/// QEMU has no boot ROM of a Pi: the machine starts from the files that the ROM would have fetched.
fn raspi(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let _capture = run.capture(&net)?;
    let host = net.add_host("dhcp", address(2))?;
    let dnsmasq = Dnsmasq::addresses_only(run, &host)?;
    let bootenv = product::cached()?.bootenv_of(Arch::Aarch64)?;
    let file = run.file("n1.raw");
    // A size that an SD card can have.
    disk::poisoned(&file, 64 << 20)?;
    let mut machine = Machine::new(
        run,
        &net,
        Spec::new("n1", 1, Firmware::Raspi3b)
            .disk(&file)
            .pause_on_reboot(),
    )?;
    let mac = machine.spec().mac;
    machine.insert(raspi_system(
        &bootenv,
        &format!(
            "BOOTIF={} bugler.server=http://{}:8480 bugler.token=none",
            mac.bootif(),
            address(1)
        ),
    ));
    machine.power_on()?;
    let seen = machine.wait_for(INIT, STAGE)?;
    run.say(&format!(
        "{:.1} s after power-on: {}",
        seen.at.as_secs_f64(),
        seen.line
    ));
    let card = machine.wait_for("mmcblk0:", STAGE)?;
    run.say(&card.line);
    let leased = dnsmasq
        .process()
        .wait_for("DHCPACK(eth0) 10.20.50.", STAGE)?;
    ensure!(
        leased.line.contains(&mac.to_string()),
        "somebody else got an address: {leased:?}"
    );
    run.say("its agent has found the network card on USB and got an address");
    Ok(())
}

/// From the network to the agent, an image onto the disk, and back to the disk: network boot is off
/// then, and the firmware goes on to its next boot device.
fn deploy_and_back(run: &Run, firmware: Firmware) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let image = disk_with_grub(run)?;
    let _: Image = site.bugler(&["image", "add", "arm-disk", &image.display().to_string()])?;

    let file = run.file("n1.raw");
    disk::poisoned(&file, 96 << 20)?;
    let poison = deploy::hash(&file)?;
    let spec = Spec::new("n1", 1, firmware)
        .memory(MEMORY)
        .disk(&file)
        .pause_on_reboot();
    let mut machine = Machine::new(run, &site.net, spec)?;
    run.say(&format!("{firmware}, by {}", machine.accelerator()));
    machine.power_on()?;
    let device = site.registered(&machine)?;
    run.say(&format!(
        "{:.1} s after power-on: registered as {}",
        machine.console()?.age().as_secs_f64(),
        device.id
    ));
    has_inventory(&machine, &device, firmware)?;
    ensure!(
        machine.disk_written()? == 0 && deploy::hash(&file)? == poison,
        "an unknown machine has written to its disk"
    );

    let tasks: Vec<Task> = site.bugler(&["deploy", "arm-disk", &device.id.to_string()])?;
    let task = tasks.first().context("bugler deploy made no task")?;
    let ended = site
        .server
        .api()
        .wait_task_end(&task.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    machine.wait_reboot(STAGE)?;
    let equal = disk::compare(&image, &file)?;
    run.say(&format!(
        "deployed, and the disk is equal to the image: {} KiB used",
        equal.used >> 10
    ));
    let device = site.device(&machine)?;
    ensure!(
        device.netboot == Netboot::Off,
        "after the deploy its network boot is {:?}",
        device.netboot
    );
    machine.resume()?;
    let seen = machine.wait_for(FROM_DISK, STAGE)?;
    run.say(&format!("its firmware went on to its disk: {}", seen.line));
    Ok(())
}

/// What the agent told is what the machine is made of.
fn has_inventory(machine: &Machine, device: &Device, firmware: Firmware) -> Result<()> {
    let inventory = device
        .inventory
        .as_ref()
        .context("it registered without an inventory")?;
    ensure!(
        device.arch == Some(Arch::Aarch64),
        "it is taken for {:?}",
        device.arch
    );
    ensure!(
        inventory.cpu.model == "Arm Cortex-A57" && inventory.cpu.threads == 1,
        "{:?}",
        inventory.cpu
    );
    let spec = machine.spec();
    ensure!(
        inventory
            .disks
            .iter()
            .any(|disk| disk.serial.as_ref() == Some(&spec.disk_serial)),
        "the disks are told as {:?}",
        inventory.disks
    );
    ensure!(
        inventory.nics.iter().any(|nic| nic.mac == spec.mac),
        "the network cards are told as {:?}",
        inventory.nics
    );
    // U-Boot 2023.01 does not hand on what QEMU tells of the machine.
    if firmware == Firmware::UefiArm {
        let uuid = inventory.uuid.map(|uuid| uuid.to_string());
        ensure!(uuid.as_ref() == Some(&spec.uuid), "the UUID is {uuid:?}");
        ensure!(
            inventory.serial.as_ref() == Some(&spec.serial),
            "the serial number is {:?}",
            inventory.serial
        );
    }
    Ok(())
}

/// An image of a disk that starts GRUB, which says so: what firmware for 64-bit Arm boots from a disk.
fn disk_with_grub(run: &Run) -> Result<PathBuf> {
    let (image, config) = (run.file("arm-disk.img"), run.file("disk-grub.cfg"));
    fs::write(&config, format!("echo\necho {FROM_DISK}\nsleep 600\n"))
        .with_context(|| format!("cannot write {}", config.display()))?;
    disk::empty(&image, DISK_KIB << 10)?;
    // One partition for EFI programs, marked as the one to boot.
    let mut sfdisk = Command::new("sh");
    sfdisk
        .args([
            "-c",
            "echo 'start=2048, type=ef, bootable' | sfdisk --quiet --label dos \"$0\"",
        ])
        .arg(&image);
    output_of(&mut sfdisk)?;
    let begin = ["-n", "BUGLERLAB", "--offset", "2048"];
    let mut mkfs = Command::new("mkfs.vfat");
    mkfs.args(begin)
        .arg(&image)
        .arg((DISK_KIB - 1024).to_string());
    output_of(&mut mkfs)?;
    let inside = format!("{}@@1M", image.display());
    output_of(Command::new("mmd").args(["-i", &inside, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"]))?;
    for (from, to) in [
        (Path::new(GRUB_ON_DISK), "::/EFI/BOOT/BOOTAA64.EFI"),
        (&config, "::/EFI/debian/grub.cfg"),
    ] {
        output_of(
            Command::new("mcopy")
                .args(["-i", &inside])
                .arg(from)
                .arg(to),
        )?;
    }
    Ok(image)
}

/// The boot environment for a Pi 3B, with `arguments` for its kernel.
fn raspi_system(bootenv: &Path, arguments: &str) -> RamSystem {
    RamSystem {
        kernel: bootenv.join("vmlinuz"),
        initrd: bootenv.join("initrd"),
        arguments: format!("console=ttyS1,115200 {arguments}"),
        device_tree: Some(bootenv.join("dtbs/bcm2837-rpi-3-b.dtb")),
    }
}
