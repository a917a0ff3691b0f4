//! Deploying an image from the store to a disk, written and read back, beside what people pipe; and
//! deploying again after a hundredth of its files were changed.
//!
//! ```text
//!  bugler serve ──HTTP──> bugler-agent ──> target.raw, read back     then: a second version on it
//!  disk.pc.zst  ──> zstd -d | partclone.restore ──> target.raw, fsynced
//!  disk.raw.zst ──> bmaptool copy, with its block map ──> target.raw, fsynced
//! ```
//!
//! The ways take turns within each round. Each begins with a new file, all hole; what is read to be
//! written has been read before, as on a server that serves many. For Bugler the time is all of the
//! agent's life, reading back included; the peers read nothing back.

use super::stand::{Measured, SERVER_MEMORY, Stand, memory_lines, pipeline};
use crate::bench::figures::{median, verdict};
use crate::disk;
use crate::process::output_of;
use crate::run::Run;
use crate::site::MIB;
use anyhow::{Context, Result, ensure};
use bugler_model::Image;
use bugler_protocol::operator::{DeployOrder, ImageSizes};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// At most this part of the time of each peer.
const PARTCLONE_TARGET: f64 = 0.5;
const BMAPTOOL_TARGET: f64 = 1.0;
/// Redeploying: at most this part of a full deploy's time, and this part of the bytes of what changed.
const TIME_TARGET: f64 = 0.35;
const BYTES_TARGET: f64 = 1.1;
/// One file of so many is changed.
const ONE_OF: usize = 100;
const IMAGE: &str = "bench";

const PARTCLONE: &str = "zstd -q -d -c \"$1\" | \
                         partclone.restore -q -C -s - -O \"$2\" -L \"$3.partclone\"; sync \"$2\"";
const BMAPTOOL: &str = "bmaptool -q copy --bmap \"${1%.raw.zst}.bmap\" \"$1\" \"$2\"; sync \"$2\"";

/// Measures, and prints what was found.
pub(super) fn run(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    let run = Run::start("bench-images-deploy")?;
    let outcome = measure(&run, rounds);
    run.finish(outcome, false)
}

/// What is deployed, in every form.
struct Forms {
    partclone: PathBuf,
    packed: PathBuf,
    changed: PathBuf,
    /// How many files were changed, of how many.
    files: (usize, usize),
    first: Image,
    second: Image,
    /// Bytes of chunks that only the second version has, as sent.
    own: u64,
}

fn measure(run: &Run, rounds: usize) -> Result<()> {
    let stand = Stand::set_up(run)?;
    let forms = forms(run, &stand)?;
    let target = run.file("target.raw");
    let (mut full, mut delta, mut same) = (Vec::new(), Vec::new(), Vec::new());
    let mut peers = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..3 {
            disk::empty(&target, stand.size)?;
            match (round + turn) % 3 {
                0 => {
                    full.push(deploy(&stand, &forms.first, &target)?);
                    if round == 0 {
                        disk::compare(&stand.disk, &target)
                            .context("Bugler has written something else")?;
                    }
                    delta.push(deploy(&stand, &forms.second, &target)?);
                    if round == 0 {
                        disk::compare(&forms.changed, &target)
                            .context("the second version is not what is on the disk")?;
                    }
                    same.push(deploy(&stand, &forms.second, &target)?);
                }
                peer => {
                    let (script, from) =
                        [(PARTCLONE, &forms.partclone), (BMAPTOOL, &forms.packed)][peer - 1];
                    let log = run.file("peer.log");
                    peers[peer - 1].push(pipeline(script, from, &target, &log)?);
                    if round == 0 && script == BMAPTOOL {
                        disk::compare(&stand.disk, &target)
                            .context("bmaptool has written something else")?;
                    }
                }
            }
            fs::remove_file(&target).context("cannot remove a disk")?;
        }
        let of = |all: &[Measured]| all.last().map_or(f64::NAN, |one| one.seconds);
        let last = |times: &[f64]| times.last().copied().unwrap_or(f64::NAN);
        run.say(&format!(
            "round {}: bugler {:.2} s, then 1 % changed {:.2} s, then unchanged {:.2} s; partclone {:.2} s; \
             bmaptool {:.2} s",
            round + 1,
            of(&full),
            of(&delta),
            of(&same),
            last(&peers[0]),
            last(&peers[1])
        ));
    }
    print!("\n{}", table(&forms, &full, &delta, &same, &peers));
    Ok(())
}

fn deploy(stand: &Stand<'_>, image: &Image, target: &Path) -> Result<Measured> {
    let order = DeployOrder::of(image.label());
    let task = stand.work.order_deploy(&stand.station.device, order)?;
    stand.go(&task, target)
}

fn forms(run: &Run, stand: &Stand<'_>) -> Result<Forms> {
    run.say("making what is deployed, in every form");
    let (partclone, packed) = (run.file("disk.pc.zst"), run.file("disk.raw.zst"));
    let log = run.file("forms.log");
    let script =
        "partclone.ext4 -q -c -s \"$1\" -o - -L \"$3.partclone\" | zstd -q -3 -T2 -c >\"$2\"";
    pipeline(script, &stand.disk, &partclone, &log)?;
    pipeline(
        "zstd -q -3 -T2 -c \"$1\" >\"$2\"; bmaptool -q create -o \"${2%.raw.zst}.bmap\" \"$1\"",
        &stand.disk,
        &packed,
        &log,
    )?;
    let changed = run.file("changed.raw");
    disk::copy(&stand.disk, &changed)?;
    let files = change(run, &changed)?;
    let api = stand.work.server.api();
    let first = api.put_file(&format!("images/{IMAGE}"), &stand.disk)?;
    let second: Image = api.put_file(&format!("images/{IMAGE}"), &changed)?;
    let sizes: Vec<ImageSizes> = api.get("image-sizes")?;
    let own = sizes
        .iter()
        .find(|sizes| sizes.image == second.id)
        .context("the server tells no sizes of the second version")?
        .own;
    Ok(Forms {
        partclone,
        packed,
        changed,
        files,
        first,
        second,
        own,
    })
}

/// Changes one file of [`ONE_OF`] on the filesystem, as a package manager does: a new file takes the
/// old one's name. Needs a loop device. Returns how many, of how many.
fn change(run: &Run, disk: &Path) -> Result<(usize, usize)> {
    let root = run.file("mounted");
    fs::create_dir(&root).context("cannot make a folder")?;
    let (file, at) = (disk.display().to_string(), root.display().to_string());
    output_of(Command::new("mount").args(["-o", "loop", &file, &at]))
        .context("a disk has to be mounted to change files on it, which needs root")?;
    let outcome = change_below(&root);
    output_of(Command::new("umount").arg(&at))?;
    outcome
}

fn change_below(root: &Path) -> Result<(usize, usize)> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() && meta.len() > 0 {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut changed = 0;
    for path in files.iter().step_by(ONE_OF) {
        let mut content = Vec::new();
        File::open(path)?.read_to_end(&mut content)?;
        // A byte here and there: it compresses as before, and no part of it is as it was.
        for byte in content.iter_mut().step_by(997) {
            *byte = byte.wrapping_add(1);
        }
        let new = path.with_extension("bugler-new");
        File::create(&new)?
            .write_all(&content)
            .with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, path)?;
        changed += 1;
    }
    Ok((changed, files.len()))
}

fn table(
    forms: &Forms,
    full: &[Measured],
    delta: &[Measured],
    same: &[Measured],
    peers: &[Vec<f64>; 2],
) -> String {
    let seconds = |all: &[Measured]| {
        let all: Vec<f64> = all.iter().map(|one| one.seconds).collect();
        median(&all)
    };
    let (ours, redeploy, unchanged) = (seconds(full), seconds(delta), seconds(same));
    let (partclone, bmaptool) = (median(&peers[0]), median(&peers[1]));
    let moved = delta.iter().map(|one| one.task.progress.fetched);
    let moved = moved.max().unwrap_or_default();
    let to_partclone = ours / partclone;
    let to_bmaptool = ours / bmaptool;
    let bytes = moved as f64 / (forms.own as f64).max(1.0);
    let time = redeploy / ours;
    let kib = |bytes: u64| bytes >> 10;
    format!(
        "Deploying an ext4 of {} MiB with {} MiB used ({} MiB in chunks, as sent) to a file; medians of {} \
         rounds; durable at the end\n\
         \x20 bugler, written and read back         {ours:8.2} s\n\
         \x20 zstd -d | partclone.restore           {partclone:8.2} s\n\
         \x20 bmaptool copy of the .zst             {bmaptool:8.2} s\n\
         \x20 bugler, 1 % of the files changed      {redeploy:8.2} s  {} of {} files\n\
         \x20 bugler, nothing changed               {unchanged:8.2} s  {} KiB fetched\n\
         to partclone.restore: {to_partclone:.2}x, at most {PARTCLONE_TARGET}x asked: {}\n\
         to bmaptool copy: {to_bmaptool:.2}x, at most {BMAPTOOL_TARGET}x asked: {}\n\
         redeploy after 1 % of the files changed: {} KiB moved for {} KiB of changed chunks: {bytes:.2}x, \
         at most {BYTES_TARGET}x asked: {}\n\
         its time to a full deploy: {time:.2}x, at most {TIME_TARGET}x asked: {}\n{}",
        forms.first.size / MIB,
        forms.first.used / MIB,
        forms.first.stored / MIB,
        full.len(),
        forms.files.0,
        forms.files.1,
        same.iter()
            .map(|one| kib(one.task.progress.fetched))
            .max()
            .unwrap_or_default(),
        verdict(to_partclone <= PARTCLONE_TARGET),
        verdict(to_bmaptool <= BMAPTOOL_TARGET),
        kib(moved),
        kib(forms.own),
        verdict(bytes <= BYTES_TARGET),
        verdict(time <= TIME_TARGET),
        memory_lines(full, Some(SERVER_MEMORY))
    )
}
