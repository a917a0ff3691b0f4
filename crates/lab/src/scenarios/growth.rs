//! The last partition and its filesystem grow to the end of a larger disk, for every filesystem that the
//! agent grows, on a machine's own kernel. Then a disk on SATA is asked to erase itself.
//!
//! ```text
//!  mkfs, files ──> image ──> agent: deploy --grow ──> disk of the machine ──> fsck, size, files, table
//! ```

use super::Scenario;
use crate::disk;
use crate::gpt::SECTOR;
use crate::machine::{Firmware, Machine, SATA_SERIAL, Spec};
use crate::process::output_of;
use crate::run::Run;
use crate::site::{MIB, Node, STAGE, Site};
use anyhow::{Context, Result, ensure};
use bugler_model::{Image, Task, TaskState};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Size of the machine's disk and of its disk on SATA, in MiB.
const DISK_MIB: u64 = 320;
const SATA_MIB: u64 = 32;
/// Size of the images and of their last volume, and where that begins, in MiB.
const IMAGE_MIB: u64 = 64;
const VOLUME_MIB: u64 = 48;
const START_MIB: u64 = 9;

/// Of which kind the last volume is, and on which partition table it stands.
const CASES: [(&str, &str); 6] = [
    ("ext2", "gpt"),
    ("ext3", "gpt"),
    ("ext4", "dos"),
    ("fat16", "dos"),
    ("fat32", "gpt"),
    ("fat32", "none"),
];

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "growth",
    proves: "ext2, ext3, ext4, FAT16 and FAT32 grow to the end of a larger disk, and hold what they held",
    limit: Duration::from_secs(1200),
    machines: 1,
    image: true,
    product: true,
    play: growth,
}];

fn growth(run: &Run) -> Result<()> {
    let mut site = Site::full(run)?;
    site.server.start()?;
    let file = run.file("n1.raw");
    disk::poisoned(&file, DISK_MIB * MIB)?;
    let sata = run.file("n1-sata.raw");
    disk::poisoned(&sata, SATA_MIB * MIB)?;
    let mut spec = Spec::new("n1", 1, Firmware::Bios).disk(&file);
    spec.pause_on_reboot = true;
    spec.sata = Some(sata.clone());
    let mut node = Node {
        machine: Machine::new(run, &site.net, spec)?,
        disk: file,
    };
    node.machine.power_on()?;
    let device = site.registered(&node.machine)?;
    let id = device.id.to_string();
    for (number, (kind, table)) in CASES.into_iter().enumerate() {
        let name = format!("{kind}-{table}");
        let source = make(run, kind, table)?;
        let _: Image = site.bugler(&["image", "add", &name, &source.display().to_string()])?;
        let serial = node.machine.spec().disk_serial.clone();
        let order = ["deploy", &name, &id, "--disk", &serial, "--grow"];
        let tasks: Vec<Task> = site.bugler(&order)?;
        if number > 0 {
            // An open task is a reason to boot from the network.
            node.machine.cut_power()?;
            node.machine.power_on()?;
        }
        done(&site, &tasks)?;
        node.machine.wait_reboot(STAGE)?;
        has_grown(run, kind, table, &node.disk).with_context(|| name.clone())?;
        fs::remove_file(source).context("cannot remove an image")?;
    }
    ata(&site, &mut node, &id, &sata)
}

fn done(site: &Site<'_>, tasks: &[Task]) -> Result<Task> {
    let task = tasks.first().context("no task was made")?;
    let api = site.server.api();
    let ended = api.wait_task_end(&task.id.to_string(), STAGE)?;
    ensure!(
        ended.state == TaskState::Done,
        "the task ended as {ended:?}"
    );
    Ok(ended)
}

/// Where the last volume begins on a disk with this table, in bytes.
fn start(table: &str) -> u64 {
    match table {
        "none" => 0,
        _ => START_MIB * MIB,
    }
}

/// An image whose last volume holds a few files.
fn make(run: &Run, kind: &str, table: &str) -> Result<std::path::PathBuf> {
    let (volume, tree) = (run.file("last.volume"), run.file("tree"));
    if !tree.exists() {
        fs::create_dir_all(tree.join("folder")).context("cannot make a folder")?;
        fs::write(tree.join("folder/A long name.txt"), "inside\n")?;
        let mut noise = vec![0; 5 * MIB as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        fs::write(tree.join("noise"), noise)?;
    }
    let _ = fs::remove_file(&volume);
    disk::empty(&volume, VOLUME_MIB * MIB)?;
    let make = match kind.strip_prefix("fat") {
        // FAT32 needs 65,525 clusters: of one sector each here, as it cannot have fewer.
        Some("32") => "mkfs.fat -F 32 -s 1 \"$0\" >&2 && mcopy -s -i \"$0\" \"$1\"/* ::/",
        Some(_) => "mkfs.fat -F 16 -s 16 \"$0\" >&2 && mcopy -s -i \"$0\" \"$1\"/* ::/",
        None => "mke2fs -q -F -t $2 -d \"$1\" \"$0\"",
    };
    tool(make, &[&volume, &tree, Path::new(kind)])?;
    let image = run.file(&format!("{kind}-{table}.raw"));
    if table == "none" {
        fs::rename(&volume, &image).context("cannot name an image")?;
        return Ok(image);
    }
    disk::empty(&image, IMAGE_MIB * MIB)?;
    let script = format!(
        "printf 'label: {table}\\nstart=1MiB,size=8MiB\\nstart={START_MIB}MiB,size={VOLUME_MIB}MiB\\n' \
         | sfdisk -q \"$0\""
    );
    tool(&script, &[&image])?;
    let (from, to) = (
        File::open(&volume)?,
        File::options().write(true).open(&image)?,
    );
    crate::sparse::copy(&from, VOLUME_MIB * MIB, &to, start(table))?;
    Ok(image)
}

/// The partition reaches to the end of the disk and its filesystem to the end of the partition; its own
/// checker finds nothing, and its files are what they were.
fn has_grown(run: &Run, kind: &str, table: &str, disk: &Path) -> Result<()> {
    let start = start(table);
    let size = match table {
        "none" => DISK_MIB * MIB,
        _ => {
            let text = tool("sfdisk --verify \"$0\" >&2; sfdisk --dump \"$0\"", &[disk])?;
            let last = text.lines().rfind(|line| line.contains("start="));
            let sectors = last
                .and_then(|line| line.split_once("size="))
                .and_then(|(_, rest)| rest.split(',').next()?.trim().parse::<u64>().ok());
            sectors.with_context(|| format!("sfdisk printed {text}"))? * SECTOR
        }
    };
    let backup = if table == "gpt" { 33 * SECTOR } else { 0 };
    ensure!(
        start + size == DISK_MIB * MIB - backup,
        "the partition ends at {} of {DISK_MIB} MiB",
        start + size
    );
    let part = run.file("grown.volume");
    let _ = fs::remove_file(&part);
    disk::empty(&part, size)?;
    let (from, to) = (File::open(disk)?, File::options().write(true).open(&part)?);
    let mut block = vec![0; SECTOR as usize * 128];
    let mut at = 0;
    while at < size {
        let count = usize::try_from(size - at)?.min(block.len());
        let block = &mut block[..count];
        from.read_exact_at(block, start + at)?;
        if !crate::sparse::is_zero(block) {
            to.write_all_at(block, at)?;
        }
        at += count as u64;
    }
    let back = run.file("back");
    let _ = fs::remove_dir_all(&back);
    fs::create_dir(&back).context("cannot make a folder")?;
    let (check, sizes, take) = if kind.starts_with("fat") {
        (
            "fsck.fat -n \"$0\"",
            "minfo -i \"$0\" | awk '/big size:/{print $3*512}'",
            "mcopy -s -i \"$0\" '::/*' \"$1\"",
        )
    } else {
        (
            "e2fsck -f -n \"$0\"",
            "dumpe2fs -h \"$0\" 2>/dev/null | \
             awk '/^Block count:/{n=$3} /^Block size:/{s=$3} END{print n*s}'",
            "debugfs -R \"rdump / $1\" \"$0\" 2>/dev/null && rm -rf \"$1/lost+found\"",
        )
    };
    tool(check, &[&part])?;
    let filesystem = tool(sizes, &[&part])?;
    let filesystem: u64 = filesystem
        .trim()
        .parse()
        .with_context(|| format!("the size of the filesystem is told as {filesystem:?}"))?;
    ensure!(
        filesystem <= size && size - filesystem < MIB,
        "the filesystem has {filesystem} of {size} bytes"
    );
    tool(take, &[&part, &back])?;
    tool("diff -r \"$0\" \"$1\"", &[&run.file("tree"), &back])?;
    run.say(&format!(
        "{kind} on {table}: from {VOLUME_MIB} to {} MiB of a disk of {DISK_MIB} MiB, clean, its files equal",
        filesystem / MIB
    ));
    Ok(())
}

/// QEMU's disks do not know ATA's security feature set: asked through the kernel, the disk says so, and
/// nothing is lost. Zeroes are written in place of it where the choice is left to the agent.
fn ata(site: &Site<'_>, node: &mut Node, id: &str, sata: &Path) -> Result<()> {
    let before = super::deploy::hash(sata)?;
    let wipe = |method: &str| -> Result<Vec<Task>> {
        site.bugler(&[
            "wipe",
            id,
            "--disk",
            SATA_SERIAL,
            "--method",
            method,
            "--yes",
        ])
    };
    let tasks = wipe("ata-secure-erase")?;
    node.machine.cut_power()?;
    node.machine.power_on()?;
    let task = tasks.first().context("bugler wipe made no task")?;
    let api = site.server.api();
    let ended = api.wait_task_end(&task.id.to_string(), STAGE)?;
    let why = ended.message.clone().unwrap_or_default();
    ensure!(
        ended.state == TaskState::Failed && why.contains("security feature set"),
        "the erase ended as {ended:?}"
    );
    ensure!(
        super::deploy::hash(sata)? == before,
        "a refused erase has changed the disk"
    );
    site.say(&format!("ATA secure erase of QEMU's disk: {why}"));
    let task = done(site, &wipe("auto")?)?;
    let proof = task.message.unwrap_or_default();
    ensure!(
        proof.contains("by writing zeroes") && proof.contains("read as zero"),
        "the wipe says {proof:?}"
    );
    site.say(&format!("left to the agent: {proof}"));
    Ok(())
}

/// Runs a shell's line, which must succeed; `$0`, `$1` and so on are `arguments`.
fn tool(line: &str, arguments: &[&Path]) -> Result<String> {
    let line = format!("PATH=$PATH:/usr/sbin:/sbin; export MTOOLS_SKIP_CHECK=1; {line}");
    output_of(Command::new("sh").arg("-c").arg(&line).args(arguments))
}
