//! AoE targets, and clients that this project did not write: the Linux driver and iPXE. There is no
//! server but the one of AoE targets.

use super::Scenario;
use super::shell::{extend, with_libraries};
use crate::bench::aoe::start_server;
use crate::machine::{Firmware, Machine, RamSystem, Spec};
use crate::net::{BRIDGE, Host, INTERFACE, Net};
use crate::process::{Process, output_of};
use crate::product;
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use bugler_model::MacAddr;
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a machine may take for one stage.
const STAGE: Duration = Duration::from_secs(180);
/// Size of the disks in bytes.
const SIZE: u64 = 64 << 20;
/// Says what the boot sector found.
const GREETING: &[u8] = b"\r\nBUGLER-LAB: started over AoE\r\n\0";
/// Sector to which the boot sector copies it.
const COPY: u64 = 3;

/// The first program of the machine: makes a filesystem on the disk, writes, and reads again.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_net ext4; do busybox modprobe $module; done
until [ -e /sys/class/net/eth0 ]; do sleep 1; done
busybox ip link set eth0 mtu "$MTU" up
busybox modprobe aoe
until [ -e /dev/etherd/e0.0 ]; do sleep 1; done
d=/dev/etherd/e0.0
echo "BUGLER-LAB: sectors $(cat /sys/block/etherd*/size) payload $(cat /sys/block/etherd*/payload)"
/usr/sbin/mke2fs -q -t ext4 $d || echo "BUGLER-LAB: failed: mkfs"
busybox mkdir -p /mnt
mount -t ext4 $d /mnt || echo "BUGLER-LAB: failed: mount"
busybox dd if=/dev/urandom of=/mnt/file bs=64k count=320 2>/dev/null
busybox sync
written=$(busybox sha256sum < /mnt/file)
busybox umount /mnt
echo 3 > /proc/sys/vm/drop_caches
/usr/sbin/e2fsck -fn $d || echo "BUGLER-LAB: failed: fsck"
mount -t ext4 $d /mnt
[ "$written" = "$(busybox sha256sum < /mnt/file)" ] || echo "BUGLER-LAB: failed: another file is read"
busybox umount /mnt
echo "BUGLER-LAB: disk $(busybox sha256sum < $d)"
busybox poweroff -f
"#;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "aoe-linux",
        proves: "the Linux driver makes a filesystem on an AoE target, writes and reads it, at MTU 1500 \
                 and 9000, each machine its own disk at the same address",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: true,
        play: linux,
    },
    Scenario {
        name: "aoe-ipxe",
        proves: "iPXE starts a boot sector over AoE, which reads and writes the disk",
        limit: Duration::from_secs(900),
        machines: 1,
        image: false,
        product: false,
        play: ipxe,
    },
];

/// A host that serves disks on the bridge.
struct Served {
    process: Process,
    _host: Host,
}

impl Served {
    fn start(
        run: &Run,
        net: &Net,
        mtu: u32,
        disks: &[(MacAddr, &Path)],
        durable: bool,
    ) -> Result<Self> {
        let name = format!("aoe{mtu}");
        let host = net.add_card(&name, MacAddr([2, 0, 0, 0, 0, 0xae]))?;
        for line in [
            format!("link set port-{name} mtu {mtu}"),
            format!("-n {name} link set {INTERFACE} mtu {mtu}"),
        ] {
            output_of(Command::new("ip").args(line.split(' ')))?;
        }
        let log = run.file(&format!("{name}.log"));
        let process = start_server(&host, disks, durable, &log)?;
        Ok(Self {
            process,
            _host: host,
        })
    }
}

fn linux(run: &Run) -> Result<()> {
    let net = Net::new()?;
    for (number, mtu, payload) in [(1, 1500, 1024), (2, 9000, 8704)] {
        let initrd = ram_system(run)?;
        let mut spec = Spec::new(&format!("n{number}"), number, Firmware::Bios).memory(512);
        spec.ram_system = Some(RamSystem {
            kernel: product::cached()?.bootenv()?.join("vmlinuz"),
            initrd,
            arguments: format!("console=ttyS0,115200 quiet rdinit=/aoe/init MTU={mtu}"),
            device_tree: None,
        });
        let mut machine = Machine::new(run, &net, spec)?;
        let tap = format!("tap{}", number - 1);
        for line in [
            format!("link set {tap} mtu {mtu}"),
            format!("link set {BRIDGE} mtu {mtu}"),
        ] {
            output_of(Command::new("ip").args(line.split(' ')))?;
        }
        let mac = machine.spec().mac;
        // Another machine has a disk at the same address.
        let disks = [run.file("own.raw"), run.file("other.raw")];
        for path in &disks {
            File::create(path)?.set_len(SIZE)?;
        }
        let other = MacAddr([2, 0, 0, 0, 0, 9]);
        let served = [(mac, &*disks[0]), (other, &*disks[1])];
        // The first one with writes that are durable before they are acknowledged.
        let server = Served::start(run, &net, mtu, &served, mtu == 1500)?;
        machine.power_on()?;
        let seen = machine.wait_for("BUGLER-LAB: sectors", STAGE)?;
        run.say(&format!("MTU {mtu}: {}", seen.line));
        ensure!(
            seen.line
                .contains(&format!("sectors {} payload {payload}", SIZE / 512)),
            "the driver found another disk: {}",
            seen.line
        );
        let seen = machine.wait_for("BUGLER-LAB: disk", STAGE)?;
        let failed = machine.console()?.lines_with("BUGLER-LAB: failed");
        ensure!(failed.is_empty(), "{}", failed[0].line);
        let here = sha256(&disks[0])?;
        ensure!(
            seen.line.contains(&here),
            "the machine reads {} and the file is {here}",
            seen.line
        );
        ensure!(
            fs::metadata(&disks[1])?.blocks() == 0,
            "the other machine's disk was written"
        );
        run.say(&format!(
            "MTU {mtu}: the filesystem is good, and both sides read the same"
        ));
        let output = Command::new("e2fsck").arg("-fn").arg(&disks[0]).output();
        let output = output.context("cannot run e2fsck (package e2fsprogs)")?;
        ensure!(
            output.status.success(),
            "e2fsck: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        machine.cut_power()?;
        drop(server);
    }
    Ok(())
}

/// The boot environment's kernel and drivers, and the program above with what it needs.
fn ram_system(run: &Run) -> Result<PathBuf> {
    let root = run.file("aoe-system");
    for file in with_libraries(&["/usr/sbin/mke2fs", "/usr/sbin/e2fsck"])? {
        let to = root.join(file.strip_prefix("/")?);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).context("cannot make the RAM system's folder")?;
        }
        fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let init = root.join("aoe/init");
    fs::create_dir_all(root.join("aoe")).context("cannot make the RAM system's folder")?;
    fs::write(&init, INIT).with_context(|| format!("cannot write {}", init.display()))?;
    fs::set_permissions(&init, Permissions::from_mode(0o755))?;
    let initrd = run.file("aoe-system.initrd");
    extend(
        &product::cached()?.bootenv()?.join("initrd"),
        &root,
        &initrd,
    )?;
    Ok(initrd)
}

fn sha256(path: &Path) -> Result<String> {
    let output = output_of(Command::new("sha256sum").arg(path))?;
    let sum = output.split_whitespace().next();
    Ok(sum.context("sha256sum says nothing")?.to_owned())
}

fn ipxe(run: &Run) -> Result<()> {
    let net = Net::new()?;
    let disk = run.file("own.raw");
    boot_disk(&disk)?;
    let script = run.file("boot.ipxe");
    fs::write(&script, "#!ipxe\nifopen net0\nsanboot aoe:e0.0\n")?;
    let mut spec = Spec::new("n1", 1, Firmware::Bios).memory(256);
    spec.ram_system = Some(RamSystem {
        kernel: "/usr/lib/ipxe/ipxe.lkrn".into(),
        initrd: script,
        arguments: String::new(),
        device_tree: None,
    });
    let mut machine = Machine::new(run, &net, spec)?;
    let mac = machine.spec().mac;
    let mut server = Served::start(run, &net, 1500, &[(mac, &disk)], true)?;
    machine.power_on()?;
    let seen = machine.wait_for("BUGLER-LAB: started over AoE", STAGE)?;
    run.say(&format!("{:.1} s: {}", seen.at.as_secs_f64(), seen.line));
    let mut file = File::open(&disk)?;
    file.seek(SeekFrom::Start(COPY * 512))?;
    let mut copy = vec![0; GREETING.len()];
    file.read_exact(&mut copy)?;
    ensure!(
        copy == GREETING,
        "the boot sector's write is not on the disk"
    );
    run.say("what the boot sector wrote is on the disk");
    ensure!(server.process.is_running()?, "the AoE server has ended");
    Ok(())
}

/// A disk with a boot sector that reads the sector after it, writes it to sector [`COPY`], and prints
/// it on the serial port.
fn boot_disk(path: &Path) -> Result<()> {
    #[rustfmt::skip]
    let code: &[u8] = &[
        0x31, 0xc0,             // xor ax, ax
        0x8e, 0xd8,             // mov ds, ax
        0x8e, 0xc0,             // mov es, ax
        0x8e, 0xd0,             // mov ss, ax
        0xbc, 0x00, 0x7c,       // mov sp, 0x7c00
        0xbb, 0x00, 0x7e,       // mov bx, 0x7e00
        0xb8, 0x01, 0x02,       // mov ax, 0x0201: read one sector
        0xb9, 0x02, 0x00,       // mov cx, 2: the second
        0xb6, 0x00,             // mov dh, 0
        0xcd, 0x13,             // int 0x13
        0x72, 0x1a,             // jc end
        0xb8, 0x01, 0x03,       // mov ax, 0x0301: write one sector
        0xb9, 0x04, 0x00,       // mov cx, 4: the fourth
        0xb6, 0x00,             // mov dh, 0
        0xcd, 0x13,             // int 0x13
        0x72, 0x0e,             // jc end
        0xbe, 0x00, 0x7e,       // mov si, 0x7e00
        0xac,                   // next: lodsb
        0x84, 0xc0,             // test al, al
        0x74, 0x06,             // jz end
        0xba, 0xf8, 0x03,       // mov dx, 0x3f8
        0xee,                   // out dx, al
        0xeb, 0xf5,             // jmp next
        0xf4,                   // end: hlt
        0xeb, 0xfd,             // jmp end
    ];
    let mut sectors = [0; 1024];
    sectors[..code.len()].copy_from_slice(code);
    // One partition, which begins at sector 63; the mark of a boot sector.
    sectors[446..462].copy_from_slice(&[
        0x80, 1, 1, 0, 0x83, 0x0f, 0x3f, 0x0f, 63, 0, 0, 0, 0, 8, 0, 0,
    ]);
    sectors[510..512].copy_from_slice(&[0x55, 0xaa]);
    sectors[512..512 + GREETING.len()].copy_from_slice(GREETING);
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(&sectors)?;
    file.set_len(4 << 20)?;
    Ok(())
}
