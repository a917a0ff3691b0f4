//! A machine without Bugler's agent: a RAM system in which the shell client of the device API's
//! manual runs, word for word, with curl and dd.

use super::{Scenario, deploy};
use crate::machine::{Firmware, RamSystem};
use crate::paths;
use crate::process::output_of;
use crate::run::Run;
use crate::site::{MIB, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Netboot, TaskState};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The manual.
const MANUAL: &str = "crates/api/docs/device-api.md";
/// What comes before the client there.
const HEADING: &str = "## A client in twenty lines";
/// The port of the device plane.
const PORT: u16 = 8480;

/// The first program of the RAM system: finds disk and network card, gets an address, starts the
/// client.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_net virtio_blk; do busybox modprobe $module; done
until [ -e /sys/class/net/eth0 ] && [ -e /dev/vda ]; do sleep 1; done
ip link set eth0 up
until udhcpc -i eth0 -q -n -s /shell-client/udhcpc; do sleep 1; done
echo "BUGLER-LAB: the shell client starts"
exec sh /shell-client/client "$SERVER" eth0 /dev/vda
"#;
/// Sets the address that udhcpc has got.
const UDHCPC: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
"#;

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "shell-client",
    proves: "the manual's shell client with curl and dd registers and deploys an image",
    limit: Duration::from_secs(1200),
    machines: 1,
    image: true,
    product: true,
    play: shell_client,
}];

fn shell_client(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let server = format!("{}:{PORT}", site.server.host().address());
    let system = ram_system(run, &site, &server)?;
    // dd writes the image as it is: only on a disk of its own size is all of it in its place.
    let mut node = site.node(1, Firmware::Bios, site.image.size / MIB)?;
    let poison = deploy::hash(&node.disk)?;
    node.machine.insert(system);
    node.machine.power_on()?;
    site.add_image()?;
    node.machine
        .wait_for("BUGLER-LAB: the shell client starts", STAGE)?;
    let mac = node.machine.spec().mac;
    let device = site
        .server
        .api()
        .wait("the shell client to register", STAGE, |api| api.device(mac))?;
    run.say(&format!("the shell client registered as {}", device.id));
    ensure!(
        node.machine.disk_written()? == 0,
        "it has written to its disk"
    );
    ensure!(deploy::hash(&node.disk)? == poison, "its disk has changed");
    let task = site.deploy(&device)?;
    let ended = site
        .server
        .api()
        .wait_task_end(&task.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    node.machine.wait_reboot(STAGE)?;
    site.compare(&node.disk)?;
    let device = site.device(&node.machine)?;
    ensure!(
        device.netboot == Netboot::Off,
        "after the deploy its network boot is on"
    );
    node.machine.cut_power()?;
    node.machine.eject();
    node.machine.power_on()?;
    site.up_from_disk(&node.machine)
}

/// Puts the RAM system together: kernel and drivers of the boot environment, curl and dd of this
/// computer with their libraries, and the client.
fn ram_system(run: &Run, site: &Site<'_>, server: &str) -> Result<RamSystem> {
    let bootenv = site.product.bootenv()?;
    let root = run.file("ram-system");
    let own = root.join("shell-client");
    fs::create_dir_all(&own).context("cannot make the RAM system's folder")?;
    for (name, text) in [
        ("init", INIT.to_owned()),
        ("udhcpc", UDHCPC.into()),
        ("client", client()?),
    ] {
        let path = own.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    for file in with_libraries(&["/usr/bin/curl", "/usr/bin/dd"])? {
        let to = root.join(file.strip_prefix("/")?);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).context("cannot make the RAM system's folder")?;
        }
        fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    fs::create_dir_all(root.join("bin")).context("cannot make the RAM system's folder")?;
    symlink("busybox", root.join("bin/reboot")).context("cannot make the link to reboot")?;

    let initrd = run.file("ram-system.initrd");
    extend(&bootenv.join("initrd"), &root, &initrd)?;
    Ok(RamSystem {
        kernel: bootenv.join("vmlinuz"),
        initrd,
        // What is not meant for the kernel becomes the environment of the first program.
        arguments: format!("console=ttyS0,115200 quiet rdinit=/shell-client/init SERVER={server}"),
        device_tree: None,
    })
}

/// Writes an initramfs: that of `from`, and what is in the folder `root`.
pub(super) fn extend(from: &Path, root: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).context("cannot copy the initramfs")?;
    let mut archive = OpenOptions::new().append(true).open(to)?;
    // The kernel takes several archives one after another; each begins at a multiple of four bytes.
    let length = archive.seek(SeekFrom::End(0))?;
    let padding = usize::try_from(length.next_multiple_of(4) - length)?;
    archive.write_all(&[0; 4][..padding])?;
    let status = Command::new("sh")
        .args([
            "-c",
            "cd \"$0\" && find . | cpio --create --format=newc --quiet",
        ])
        .arg(root)
        .stdout(archive)
        .status()
        .context("cannot run cpio")?;
    ensure!(status.success(), "cpio failed ({status})");
    Ok(())
}

/// The client, as it stands in the manual.
fn client() -> Result<String> {
    let path = paths::workspace().join(MANUAL);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (_, after) = text
        .split_once(HEADING)
        .context("the manual has no shell client")?;
    let script: Vec<&str> = after
        .lines()
        .skip_while(|line| line.is_empty())
        .map_while(|line| line.strip_prefix("    "))
        .collect();
    ensure!(
        script.first() == Some(&"#!/bin/sh"),
        "the manual's client is no script: {script:?}"
    );
    Ok(script.join("\n") + "\n")
}

/// The programs and what ldd says that they need.
pub(super) fn with_libraries(programs: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let listed = output_of(Command::new("ldd").args(programs))?;
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(programs
        .iter()
        .copied()
        .chain(libraries)
        .map(PathBuf::from)
        .collect())
}
