//! A Raspberry Pi without a card, and one with a card of the same image in it, run from an image: its boot
//! files come out of the image's FAT partition, its root over NBD.

use super::Scenario;
use super::diskless::THIN;
use crate::disk;
use crate::machine::{Firmware, Machine, RamSystem, Spec};
use crate::pi::course::Fetched;
use crate::pi::rom::{self, Booted};
use crate::pi::{Board, Pi};
use crate::process::output_of;
use crate::product;
use crate::run::Run;
use crate::site::{MIB, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Arch, Image};
use bugler_protocol::operator::OverlayView;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often a board begins, at most.
const BOOTS: u32 = 12;
/// The image's name.
const IMAGE: &str = "pi-os";
/// Size of the disk in MiB: one that an SD card can have.
const DISK: u64 = 512;
/// Where its partitions begin, in MiB, and where the second one ends.
const BOOT: u64 = 4;
const ROOT: u64 = 68;
/// The signature of its partition table: its partitions are called by it.
const SIGNATURE: &str = "54b3d2ca";
/// What the image's own `cmdline.txt` says: the root on the card, and what an image does on its first
/// start there.
const CMDLINE: &str = "console=serial0,115200 console=tty1 root=PARTUUID=54b3d2ca-02 \
                       rootfstype=ext4 fsck.repair=yes rootwait \
                       init=/usr/lib/raspberrypi-sys-mods/firstboot\n";
/// What its `config.txt` says.
const CONFIG: &str = "dtparam=audio=on\nauto_initramfs=1\n[pi4]\narm_boost=1\nkernel=other.img\n";
/// Kernel modules that this image has no use for, to make it smaller.
const UNUSED: [&str; 9] = [
    "sound",
    "drivers/gpu",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
];

/// The first program of the system. It mounts what its fstab says, and changes both partitions.
const INIT: &str = r##"#!/bin/sh
export PATH=/bin
mount -o remount,rw /
mount /boot/firmware
on() { grep " $1 " /proc/mounts | tail -n 1 | cut -d " " -f 1; }
echo once >>/root/boots
echo "# set by the board, boot $(wc -l </root/boots)" >>/boot/firmware/config.txt
sync
while [ ! -e /sys/block/mmcblk0 ]; do sleep 1; done
echo "BUGLER-LAB: boot $(wc -l </root/boots) with / on $(on /), /boot/firmware on $(on /boot/firmware), card $(ls -d /sys/block/mmcblk0)"
while :; do sleep 1000; done
"##;

/// Programs that it uses, of busybox.
const APPLETS: [&str; 10] = [
    "cut", "grep", "ls", "modprobe", "mount", "sh", "sleep", "sync", "tail", "wc",
];

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "pi-diskless",
    proves: "a 3B, 3B+, 4 and 5 get boot files out of the image that they run, and the 3B runs it with \
             a layer of its own, past a card with the same image in its slot",
    limit: Duration::from_secs(1500),
    machines: 1,
    image: true,
    product: true,
    play: diskless,
}];

fn diskless(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    let image = make_image(run, &site)?;
    site.server.start()?;
    let _: Image = site.bugler(&["image", "add", IMAGE, &image.disk.display().to_string()])?;
    let _: serde_json::Value = site.bugler(&[
        "profile",
        "set",
        THIN,
        "--diskless",
        IMAGE,
        "--over",
        "nbd",
        "--overlay-size",
        "64M",
        "--cmdline",
        "console=ttyS1,115200",
    ])?;
    let _: serde_json::Value = site.bugler(&["rule", "add", THIN])?;

    for board in [Board::Pi5, Board::Pi4, Board::Pi3BPlus] {
        fetch(run, &site, &image, Pi::new(board, 2), 0)?;
    }
    let pi = Pi::new(Board::Pi3B, 1);
    let card = run.file("n1.raw");
    disk::copy(&image.disk, &card)?;
    for boot in 1..=2 {
        // The second time what the board itself wrote to its boot partition is among what it gets.
        let fetched = fetch(run, &site, &image, pi, boot - 1)?;
        let mut machine = start(run, &site, &pi, &fetched, &card)?;
        let seen = machine.wait_for("BUGLER-LAB: boot", STAGE)?;
        run.say(&format!(
            "{:.1} s after the ROM: {}",
            seen.at.as_secs_f64(),
            seen.line.trim()
        ));
        let expected = format!(
            "boot {boot} with / on /dev/nbd0p2, /boot/firmware on /dev/nbd0p1, card \
             /sys/block/mmcblk0"
        );
        ensure!(
            seen.line.contains(&expected),
            "the board runs from something else: {}",
            seen.line
        );
        ensure!(
            machine.disk_written()? == 0,
            "the board has written to its card"
        );
        machine.cut_power()?;
    }
    disk::compare(&image.disk, &card).context("the card is not as it was")?;
    run.say("the card, which has the same names on it, is as it was");

    let views: Vec<OverlayView> = site.bugler(&["overlay", "list"])?;
    let device = site
        .server
        .api()
        .device(pi.mac)?
        .context("the server does not know the board")?;
    let own = views.iter().find(|view| view.export.device == device.id);
    let own = own.context("the board has no layer")?;
    ensure!(
        own.used > 0 && own.read > MIB,
        "the layer holds {} bytes, and {} were read",
        own.used,
        own.read
    );
    run.say(&format!(
        "{} of {}: {} KiB on {}",
        own.export.id,
        own.device,
        own.used / 1024,
        own.export.label
    ));
    Ok(())
}

/// Boots a board as far as its kernel. While the server makes its initramfs it is not answered, gives up
/// and begins again, as a board does.
fn boot(run: &Run, site: &Site<'_>, pi: Pi) -> Result<Booted> {
    let mut machine = rom::Machine::new(&site.net, "pi", pi)?;
    for _ in 1..BOOTS {
        match machine.boot() {
            Ok(booted) => return Ok(booted),
            Err(error) => run.say(&format!("the {} begins again: {error:#}", pi.board)),
        }
    }
    machine.boot()
}

/// Boots a board as far as its kernel, and proves what it got. `changed` is how often it has started the
/// image before.
fn fetch(run: &Run, site: &Site<'_>, image: &PiImage, pi: Pi, changed: usize) -> Result<Fetched> {
    let began = run.elapsed();
    let booted = boot(run, site, pi)?;
    let fetched = booted.fetched;
    for (name, content) in &image.boot {
        let loads = fetched.files.contains_key(name);
        if loads && !["config.txt", "cmdline.txt"].contains(&name.as_str()) {
            ensure!(
                fetched.file(name)? == content,
                "{name} is not that of the image"
            );
        }
    }
    ensure!(
        fetched.file("vmlinuz")? == image.kernel && fetched.initramfs.as_deref() == Some("initrd"),
        "it would start {} with {:?}",
        fetched.kernel,
        fetched.initramfs
    );
    let config = String::from_utf8_lossy(fetched.file("config.txt")?);
    ensure!(
        config.starts_with("dtparam=audio=on\n# Bugler: auto_initramfs=1\n")
            && config.matches("# set by the board").count() == changed,
        "its settings are others: {config}"
    );
    let cmdline = &fetched.cmdline;
    let root = format!(" bugler.root=nbd://{}:10809/", booted.server);
    ensure!(
        cmdline.starts_with("console=serial0,115200 console=tty1 ")
            && cmdline.contains(&root)
            && cmdline.contains(" bugler.root-part=2")
            && cmdline.contains(&format!(" BOOTIF={}", pi.mac.bootif())),
        "it would be started with {cmdline}"
    );
    for left in [" root=", " init=", "rootwait", "rootfstype"] {
        ensure!(
            !cmdline.contains(left),
            "the card's root is still named: {cmdline}"
        );
    }
    run.say(&format!(
        "{}: {} files of {} KiB in {:.1} s",
        pi.board,
        fetched.files.len(),
        fetched.files.values().map(Vec::len).sum::<usize>() / 1024,
        (run.elapsed() - began).as_secs_f64()
    ));
    Ok(fetched)
}

/// Starts what the board got on QEMU's Raspberry Pi 3B, with a card in it.
fn start(run: &Run, site: &Site<'_>, pi: &Pi, fetched: &Fetched, card: &Path) -> Result<Machine> {
    let save = |name: &str| {
        let path = run.file(&format!("fetched-{name}"));
        fs::write(&path, fetched.file(name)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let system = RamSystem {
        kernel: save(&fetched.kernel)?,
        initrd: save("initrd")?,
        arguments: fetched.cmdline.clone(),
        device_tree: Some(save(&fetched.device_tree)?),
    };
    let mut spec = Spec::new("n1", 1, Firmware::Raspi3b).disk(card);
    spec.mac = pi.mac;
    spec.ram_system = Some(system);
    let mut machine = Machine::new(run, &site.net, spec)?;
    machine.power_on()?;
    Ok(machine)
}

/// An image as one for Raspberry Pis is: an MBR, a FAT partition to boot from, a root on ext4.
struct PiImage {
    disk: PathBuf,
    /// The files of its FAT partition.
    boot: BTreeMap<String, Vec<u8>>,
    kernel: Vec<u8>,
}

fn make_image(run: &Run, site: &Site<'_>) -> Result<PiImage> {
    let root = run.file("pi-root");
    let (version, kernel) = fill_root(run, &root)?;
    let trees = site.product.bootenv_of(Arch::Aarch64)?.join("dtbs");
    let mut boot = BTreeMap::from([
        ("bootcode.bin".to_owned(), vec![0xb0; 52_460]),
        ("cmdline.txt".to_owned(), CMDLINE.into()),
        ("config.txt".to_owned(), CONFIG.into()),
        // Nobody is to load it: it would look for its root on the card.
        ("kernel8.img".to_owned(), vec![0x8e; 4096]),
        // Debian's kernel of this release has no device tree for it.
        ("bcm2712-rpi-5-b.dtb".to_owned(), vec![0xd7; 54_321]),
    ]);
    for board in Board::ALL {
        if let Some((stage, fixup)) = board.firmware() {
            boot.insert(stage.to_owned(), vec![stage.len() as u8; 2_249_280]);
            boot.insert(fixup.to_owned(), vec![fixup.len() as u8; 5_399]);
        }
        // By the first name, which is that of Raspberry Pi's kernel.
        let kept = board.device_trees().iter().rev();
        let tree = kept.map(|name| trees.join(name)).find(|tree| tree.exists());
        if let (Some(tree), Some(name)) = (tree, board.device_trees().first()) {
            boot.insert((*name).to_owned(), fs::read(tree)?);
        }
    }

    let disk = run.file("pi-os.img");
    File::create(&disk)?.set_len(DISK * MIB)?;
    let mut sfdisk = Command::new("sh");
    sfdisk.args(["-c", &format!(
        "printf 'label-id: 0x{SIGNATURE}\\nstart={BOOT}MiB, size={}MiB, type=c\\nstart={ROOT}MiB, type=83\\n' \
         | sfdisk --quiet --label dos \"$0\"", ROOT - BOOT
    )]);
    output_of(sfdisk.arg(&disk))?;
    let mut fat = Command::new("mkfs.vfat");
    fat.args([
        "-F",
        "32",
        "-s",
        "1",
        "-n",
        "BOOTFS",
        "--offset",
        &(BOOT * 2048).to_string(),
    ]);
    fat.arg(&disk).arg(((ROOT - BOOT) * 1024).to_string());
    output_of(&mut fat)?;
    let inside = format!("{}@@{BOOT}M", disk.display());
    let folder = run.file("pi-boot");
    fs::create_dir(&folder)?;
    for (name, content) in &boot {
        let file = folder.join(name);
        fs::write(&file, content)?;
        output_of(
            Command::new("mcopy")
                .args(["-i", &inside])
                .arg(&file)
                .arg("::/"),
        )?;
    }
    let mut ext = Command::new("mke2fs");
    ext.args(["-q", "-F", "-t", "ext4", "-L", "rootfs", "-E"]);
    ext.arg(format!("offset={},lazy_itable_init=0", ROOT * MIB));
    ext.arg("-d").arg(&root).arg(&disk);
    output_of(ext.arg(format!("{}M", DISK - ROOT)))?;
    fs::remove_dir_all(&root).context("cannot remove the image's files")?;
    run.say(&format!(
        "an image with {} boot files and a root with the kernel {version}",
        boot.len()
    ));
    Ok(PiImage { disk, boot, kernel })
}

/// Puts a small system into a folder: Debian's kernel and busybox. Returns the kernel's version and the
/// kernel.
fn fill_root(run: &Run, root: &Path) -> Result<(String, Vec<u8>)> {
    let (linux, busybox) = product::arm_packages()?;
    let unpacked = run.file("pi-busybox");
    bugler_bootenv::unpack_package(&linux, root, 2 << 30)?;
    output_of(Command::new("dpkg").arg("-x").arg(&busybox).arg(&unpacked))?;
    for folder in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "root",
        "etc",
        "boot/firmware",
    ] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("cannot make {folder}"))?;
    }
    let program = ["bin/busybox", "usr/bin/busybox"].map(|name| unpacked.join(name));
    let program = program.iter().find(|path| path.exists());
    fs::copy(
        program.context("the package has no busybox")?,
        root.join("bin/busybox"),
    )?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    // The kernel calls it for filesystems.
    symlink("../bin/busybox", root.join("sbin/modprobe"))?;
    let init = root.join("sbin/init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    fs::write(
        root.join("etc/fstab"),
        format!(
            "proc /proc proc defaults 0 0\n\
             PARTUUID={SIGNATURE}-01 /boot/firmware vfat defaults 0 2\n\
             PARTUUID={SIGNATURE}-02 / ext4 defaults,noatime 0 1\n"
        ),
    )?;
    let mut versions = fs::read_dir(root.join("lib/modules"))?;
    let version = versions.next().context("the package has no modules")??;
    let version = version.file_name().to_string_lossy().into_owned();
    for unused in UNUSED {
        let _ = fs::remove_dir_all(root.join(format!("lib/modules/{version}/kernel/{unused}")));
    }
    output_of(Command::new("depmod").arg("-b").arg(root).arg(&version))?;
    let kernel = fs::read(root.join(format!("boot/vmlinuz-{version}")))?;
    Ok((version, kernel))
}
