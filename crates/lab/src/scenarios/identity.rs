//! Two machines of one image that are not the same machine: each grows to its disk, has a name, a
//! machine-id and GUIDs of its own, and a seed. Then one of them is made forget both of its disks.

use super::{Scenario, deploy};
use crate::disk;
use crate::machine::{Firmware, Machine, Spec};
use crate::process::output_of;
use crate::run::Run;
use crate::site::{IMAGE, MIB, Node, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Device, Netboot, Task, TaskState};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where the root filesystem of the lab's image begins: the last partition.
const ROOT: u64 = 18 * MIB;
/// Size of the machines' disks, larger than the image, and of the second disk of the first, in MiB.
const DISK_MIB: u64 = 1500;
const NVME_MIB: u64 = 64;
/// Templates of the order.
const NAME: &str = "node-{{ device.id }}";
const USER_DATA: &str = "#cloud-config\nphone_home:\n  url: {{ phone_home_url }}\n";

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "identity",
    proves: "two machines of one image grow to their disks and get identities of their own; then the \
             disks of one are wiped, one by NVMe Format",
    limit: Duration::from_secs(1200),
    machines: 1,
    image: true,
    product: true,
    play: identity,
}];

/// What tells one machine from another.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    machine_id: String,
    guids: Vec<String>,
    phone_home: String,
}

fn identity(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    site.add_image()?;
    let user_data = run.file("user-data");
    fs::write(&user_data, USER_DATA).context("cannot write a template")?;

    let mut two = clone(run, &site, 2, &user_data)?;
    two.0.machine.cut_power()?;
    let (mut one, device, first) = clone(run, &site, 1, &user_data)?;
    let second = &two.2;
    ensure!(
        first.machine_id != second.machine_id,
        "both have the machine-id {}",
        first.machine_id
    );
    ensure!(
        first.guids.len() == 4 && first.guids.iter().all(|guid| !second.guids.contains(guid)),
        "they share GUIDs: {:?} and {:?}",
        first.guids,
        second.guids
    );
    ensure!(first.phone_home != second.phone_home, "they share a token");
    run.say("machine-id, host name, all GUIDs and the address to call home differ");
    call_home(run, &site, &first.phone_home)?;
    drop(two);
    wipe(run, &site, &mut one, &device)
}

/// A machine with a large disk, and with a second one on NVMe if it is the first.
fn node(run: &Run, site: &Site<'_>, number: u8) -> Result<Node> {
    let name = format!("n{number}");
    let file = run.file(&format!("{name}.raw"));
    disk::poisoned(&file, DISK_MIB * MIB)?;
    let mut spec = Spec::new(&name, number, Firmware::Bios)
        .disk(&file)
        .pause_on_reboot();
    if number == 1 {
        let nvme = run.file("n1-nvme.raw");
        disk::poisoned(&nvme, NVME_MIB * MIB)?;
        spec.nvme = Some(nvme);
    }
    Ok(Node {
        machine: Machine::new(run, &site.net, spec)?,
        disk: file,
    })
}

/// Deploys the image with an identity, and waits until the machine is up under its name.
fn clone(
    run: &Run,
    site: &Site<'_>,
    number: u8,
    user_data: &Path,
) -> Result<(Node, Device, Facts)> {
    let mut node = node(run, site, number)?;
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let id = device.id.to_string();
    let user_data = user_data.display().to_string();
    let order = [
        "deploy",
        IMAGE,
        &id,
        "--grow",
        "--hostname",
        NAME,
        "--machine-id",
        "--ssh-host-keys",
        "--gpt-guids",
        "--user-data",
        &user_data,
    ];
    let tasks: Vec<Task> = site.bugler(&order)?;
    done(site, tasks.first().context("bugler deploy made no task")?)?;
    node.machine.wait_reboot(STAGE)?;

    let name = format!("node-{id}");
    let part = root_of(run, &node.disk)?;
    let root = Root(&part);
    ensure!(
        root.cat("/etc/hostname")?.trim() == name,
        "the host name is {:?}",
        root.cat("/etc/hostname")
    );
    let seed = root.cat("/var/lib/cloud/seed/nocloud/user-data")?;
    let phone_home = seed
        .lines()
        .find_map(|line| line.trim().strip_prefix("url: "))
        .with_context(|| format!("the seed is {seed:?}"))?;
    let facts = Facts {
        machine_id: root.cat("/etc/machine-id")?.trim().to_owned(),
        guids: guids(&node.disk)?,
        phone_home: phone_home.to_owned(),
    };
    let size = root.size()?;
    // All but the 33 sectors of the backup table, in whole blocks.
    ensure!(
        DISK_MIB * MIB - ROOT - size < MIB,
        "its root filesystem has {size} bytes on a disk of {DISK_MIB} MiB"
    );
    run.say(&format!(
        "{name}: the root filesystem has grown to {} MiB and is clean; machine-id {}",
        size / MIB,
        facts.machine_id
    ));
    fs::remove_file(&part).context("cannot remove a volume")?;
    node.machine.resume()?;
    site.up_from_disk(&node.machine)?;
    // The line above the prompt, which itself is no whole line.
    node.machine
        .wait_for(&format!("Debian GNU/Linux 12 {name} "), STAGE)?;
    Ok((node, device, facts))
}

fn done(site: &Site<'_>, task: &Task) -> Result<Task> {
    let id = task.id.to_string();
    let ended = site.server.api().wait_task_end(&id, STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    Ok(ended)
}

/// The root filesystem of a disk as a file, after e2fsck has found it clean.
fn root_of(run: &Run, disk: &Path) -> Result<std::path::PathBuf> {
    let (part, from) = (run.file("root.volume"), File::open(disk)?);
    let to = File::create(&part).context("cannot make a volume")?;
    let mut at = ROOT;
    let mut block = vec![0; MIB as usize];
    while let Ok(()) = from.read_exact_at(&mut block, at) {
        if !crate::sparse::is_zero(&block) {
            to.write_all_at(&block, at - ROOT)?;
        }
        at += MIB;
    }
    to.set_len(at - ROOT)?;
    tool("e2fsck -f -n \"$0\"", &part, "").context("the root filesystem is not clean")?;
    Ok(part)
}

fn tool(shell: &str, file: &Path, argument: &str) -> Result<String> {
    let shell = format!("PATH=$PATH:/usr/sbin:/sbin; {shell}");
    let output = output_of(
        Command::new("sh")
            .arg("-c")
            .arg(&shell)
            .arg(file)
            .arg(argument),
    )?;
    Ok(output)
}

struct Root<'a>(&'a Path);

impl Root<'_> {
    fn cat(&self, path: &str) -> Result<String> {
        tool("debugfs -R \"cat $1\" \"$0\" 2>/dev/null", self.0, path)
    }

    fn size(&self) -> Result<u64> {
        let shell = "dumpe2fs -h \"$0\" 2>/dev/null | awk '/^Block count:/{n=$3} /^Block size:/{s=$3} END{print n*s}'";
        let text = tool(shell, self.0, "")?;
        text.trim()
            .parse()
            .with_context(|| format!("dumpe2fs printed {text:?}"))
    }
}

/// Those of the disk and of its partitions.
fn guids(disk: &Path) -> Result<Vec<String>> {
    let text = tool("sfdisk --dump \"$0\"", disk, "")?;
    let guid = |line: &str| {
        let rest = line
            .strip_prefix("label-id: ")
            .or_else(|| line.split_once("uuid=").map(|(_, rest)| rest))?;
        let rest = rest.split(|c: char| c != '-' && !c.is_ascii_hexdigit());
        rest.into_iter().next().map(str::to_owned)
    };
    Ok(text.lines().filter_map(guid).collect())
}

/// What cloud-init would do in the machine.
fn call_home(run: &Run, site: &Site<'_>, url: &str) -> Result<()> {
    let mut curl = site.server.host().command("curl");
    curl.args(["-sSf", "-X", "POST", "-d", "hostname=node", url]);
    output_of(&mut curl).context("nobody is at home")?;
    let events: Value = site.server.api().get("events?limit=1000")?;
    ensure!(
        events.to_string().contains("called home"),
        "the call is no event: {events}"
    );
    run.say("a call to the address in the seed closed the boot");
    Ok(())
}

/// Makes both disks of the machine forget, and looks at the files that they are.
fn wipe(run: &Run, site: &Site<'_>, node: &mut Node, device: &Device) -> Result<()> {
    let id = device.id.to_string();
    let _: Device = site.bugler(&["device", "netboot", &id, "once"])?;
    node.machine.reset()?;
    site.registered(&node.machine)?;
    let nvme = run.file("n1-nvme.raw");
    let spec = node.machine.spec();
    let disks = [
        (
            crate::machine::NVME_SERIAL.to_owned(),
            "nvme-format",
            nvme,
            NVME_MIB,
        ),
        (
            spec.disk_serial.clone(),
            "zero",
            node.disk.clone(),
            DISK_MIB,
        ),
    ];
    for (serial, method, file, mib) in disks {
        let order = ["wipe", &id, "--disk", &serial, "--method", method, "--yes"];
        let tasks: Vec<Task> = site.bugler(&order)?;
        let task = done(site, tasks.first().context("bugler wipe made no task")?)?;
        let said = node.machine.wait_for("is wiped by", STAGE)?;
        let mut zeroes = blake3::Hasher::new();
        let block = vec![0; MIB as usize];
        for _ in 0..mib {
            zeroes.update(&block);
        }
        ensure!(
            deploy::hash(&file)? == zeroes.finalize(),
            "{} is not zero",
            file.display()
        );
        run.say(&format!(
            "{method} in {:.1} s: {}; every byte of the file is zero",
            task.progress.elapsed_ms as f64 / 1000.0,
            said.line.trim()
        ));
    }
    let device = site.device(&node.machine)?;
    ensure!(
        device.netboot == Netboot::On,
        "after the wipe its network boot is {:?}",
        device.netboot
    );
    Ok(())
}
