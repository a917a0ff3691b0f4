//! Every filesystem there and back: made by its own tools, aged by real writes and deletes, captured,
//! deployed onto a disk full of poison, checked by its own tools, and every file compared.
//!
//! ```text
//!  mkfs, mount, write, delete ──> disk ──> agent, capture ──> store ──> agent, deploy ──> poisoned disk
//!                                                                                            |
//!                                             fsck, mount, every file's hash, no free space <─┘
//! ```
//!
//! The agent runs as a process, with files as its disks.

mod files;
mod volumes;

use super::Scenario;
use crate::disk;
use crate::gpt::SECTOR;
use crate::process::output_of;
use crate::run::Run;
use crate::site::MIB;
use crate::sparse::BLOCK;
use crate::workbench::{Station, Workbench};
use anyhow::{Context, Result, ensure};
use bugler_protocol::operator::DeployOrder;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use volumes::{Kind, Volume};

/// Where the system's programs are, those for root too.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "round-trip",
    proves: "what is captured from disks with every kind of filesystem comes back whole, without its free space",
    limit: Duration::from_secs(900),
    machines: 0,
    image: false,
    product: true,
    play: round_trip,
}];

/// A disk to be made.
struct Plan {
    /// The image's name.
    name: &'static str,
    mib: u64,
    /// For sfdisk; nothing where the disk has no partition table.
    table: &'static str,
    /// What stands where: place and size in MiB.
    volumes: &'static [(Kind, u64, u64)],
}

const PLANS: [Plan; 5] = [
    Plan {
        name: "gpt",
        mib: 248,
        table: "label: gpt\nstart=1MiB, size=64MiB\nstart=65MiB, size=64MiB\nstart=129MiB, size=64MiB\n\
                start=193MiB, size=8MiB\nstart=201MiB, size=24MiB\nstart=225MiB, size=20MiB\n",
        volumes: &[
            (Kind::Ext(4), 1, 64),
            (Kind::Fat(32), 65, 64),
            (Kind::Ntfs, 129, 64),
            (Kind::Swap, 193, 8),
            (Kind::Lvm, 201, 24),
            (Kind::Luks, 225, 20),
        ],
    },
    Plan {
        name: "mbr",
        mib: 160,
        // The third is an extended one, with logical ones inside.
        table: "label: dos\nstart=1MiB, size=64MiB, type=83\nstart=65MiB, size=32MiB, type=6\n\
                start=97MiB, size=62MiB, type=5\nstart=98MiB, size=32MiB, type=83\n\
                start=131MiB, size=2MiB, type=1\nstart=136MiB, size=8MiB, type=82\n",
        volumes: &[
            (Kind::Ext(3), 1, 64),
            (Kind::Fat(16), 65, 32),
            (Kind::Ext(2), 98, 32),
            (Kind::Fat(12), 131, 2),
            (Kind::Swap, 136, 8),
        ],
    },
    Plan {
        name: "none",
        mib: 96,
        table: "",
        volumes: &[(Kind::Ext(4), 0, 96)],
    },
    Plan {
        name: "xfs",
        mib: 304,
        table: "",
        volumes: &[(Kind::Xfs, 0, 304)],
    },
    Plan {
        name: "btrfs",
        mib: 128,
        table: "",
        volumes: &[(Kind::Btrfs, 0, 128)],
    },
];

fn round_trip(run: &Run) -> Result<()> {
    let mount = volumes::can_mount();
    if !mount {
        run.say(
            "there are no loop devices here (they need root): what has to be mounted is left out, \
             which is everything but FAT, NTFS, swap and LUKS",
        );
    }
    let mut work = Workbench::new(run, None, &[])?;
    work.server.start()?;
    for (plan, number) in PLANS.iter().zip(1..) {
        let mut made = Vec::new();
        for (number, &(kind, at, mib)) in plan.volumes.iter().enumerate() {
            if mount || !kind.needs_mount() {
                let path = run.file(&format!("{}-{number}.volume", plan.name));
                made.push((at * MIB, Volume::make(run, kind, &path, mib * MIB)?));
            }
        }
        if made.is_empty() {
            continue;
        }
        let station = work.station(number, plan.mib * MIB)?;
        let source = assemble(run, plan, &made)?;
        there_and_back(&work, &station, plan, &made, &source)
            .with_context(|| format!("the disk {:?}", plan.name))?;
        fs::remove_file(&source).context("cannot remove a disk")?;
        for (_, volume) in made {
            fs::remove_file(volume.path).context("cannot remove a volume")?;
        }
    }
    Ok(())
}

/// Puts the volumes on a disk.
fn assemble(run: &Run, plan: &Plan, volumes: &[(u64, Volume)]) -> Result<PathBuf> {
    let path = run.file(&format!("{}.raw", plan.name));
    disk::empty(&path, plan.mib * MIB)?;
    if !plan.table.is_empty() {
        let shell = "printf \"$1\" | sfdisk -q --wipe never \"$0\"";
        tool(
            "sh",
            &["-c", shell, &path.display().to_string(), plan.table],
        )?;
    }
    let disk = File::options().write(true).open(&path)?;
    for (at, volume) in volumes {
        copy_range(&File::open(&volume.path)?, 0, volume.size, &disk, *at)?;
    }
    Ok(path)
}

fn there_and_back(
    work: &Workbench<'_>,
    station: &Station,
    plan: &Plan,
    volumes: &[(u64, Volume)],
    source: &Path,
) -> Result<()> {
    let run = work.run;
    let before = super::deploy::hash(source)?;
    let (first, image) = work.capture(station, source, plan.name)?;
    ensure!(
        super::deploy::hash(source)? == before,
        "the disk was changed by being captured"
    );
    let reading = image.origin.as_ref().map(|origin| origin.reading.clone());
    for line in reading.unwrap_or_default() {
        run.say(&format!("{}: {line}", plan.name));
    }
    let (second, again) = work.capture(station, source, plan.name)?;
    ensure!(
        again.version == 2 && second.progress.fetched == 0 && again.manifest == image.manifest,
        "the same disk once more became {} with {} bytes sent",
        again.label(),
        second.progress.fetched
    );

    let target = run.file(&format!("{}-back.raw", plan.name));
    disk::poisoned(&target, plan.mib * MIB)?;
    work.deploy(station, &target, DeployOrder::of(image.label()))?;
    let poisoned = sectors(&target, 0..plan.mib * MIB, is_poison)?;
    ensure!(poisoned == 0, "{poisoned} sectors of poison were left");
    if !plan.table.is_empty() {
        let table = |disk: &Path| -> Result<String> {
            let listed = tool("sfdisk", &["-d", &disk.display().to_string()])?;
            // The paths differ.
            Ok(listed.replace(&disk.display().to_string(), "disk"))
        };
        ensure!(
            table(source)? == table(&target)?,
            "the partition tables differ"
        );
    }
    let disk = File::open(&target)?;
    let (mut files, mut gone) = (0, 0);
    for (at, volume) in volumes {
        let back = run.file(&format!("{}-back.volume", plan.name));
        let file = File::create(&back).context("cannot make a volume")?;
        file.set_len(volume.size)?;
        copy_range(&disk, *at, volume.size, &file, 0)?;
        drop(file);
        let what = format!("{:?} at {} MiB", volume.kind, at / MIB);
        let free = volume.check(run, &back).with_context(|| what.clone())?;
        files += volume.files.len();
        gone += free;
        fs::remove_file(back).context("cannot remove a volume")?;
    }
    run.say(&format!(
        "{}: {} of {} MiB were taken and {} MiB sent; captured again nothing was sent; back on a \
         poisoned disk all is clean, {files} files are equal, and of {} MiB of deleted files nothing came \
         along",
        plan.name,
        image.used / MIB,
        image.size / MIB,
        first.progress.fetched / MIB,
        gone * SECTOR / MIB
    ));
    fs::remove_file(target).context("cannot remove a disk")
}

/// A sector as [`disk::poisoned`] writes it.
fn is_poison(at: u64, sector: &[u8]) -> bool {
    sector.starts_with(&(at / SECTOR).to_le_bytes()) && sector.ends_with(&[0xa5; 8])
}

/// How many sectors of a range `wanted` says yes to, by place and content.
fn sectors(
    path: &Path,
    range: std::ops::Range<u64>,
    wanted: impl Fn(u64, &[u8]) -> bool,
) -> Result<u64> {
    let file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    let (mut at, mut found) = (range.start, 0);
    while at < range.end {
        let count = usize::try_from(range.end - at).unwrap_or(BLOCK).min(BLOCK);
        let block = &mut block[..count];
        file.read_exact_at(block, at)
            .context("cannot read a disk")?;
        let places = (at..).step_by(SECTOR as usize);
        let sectors = block.chunks(SECTOR as usize).zip(places);
        found += sectors.filter(|(sector, at)| wanted(*at, sector)).count() as u64;
        at += count as u64;
    }
    Ok(found)
}

/// Copies what is not zero.
fn copy_range(from: &File, start: u64, length: u64, to: &File, offset: u64) -> Result<()> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
        let block = &mut block[..count];
        from.read_exact_at(block, start + at)
            .context("cannot read a volume")?;
        if !crate::sparse::is_zero(block) {
            to.write_all_at(block, offset + at)
                .context("cannot write a volume")?;
        }
        at += count as u64;
    }
    Ok(())
}

/// Runs a program of the system's, which must succeed.
fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    output_of(
        Command::new(program)
            .args(arguments)
            .env("PATH", SYSTEM_PATH)
            .env("LC_ALL", "C"),
    )
}
