//! Capturing a disk: an agent sends it to `bugler serve`, beside what people pipe into a file.
//!
//! ```text
//!  disk.raw ──> bugler-agent ──HTTP──> bugler serve ──> a new version, durable
//!           ──> partclone.ext4 | zstd -3 -T2 ─────────> a file, fsynced
//!           ──> dd | zstd -3 -T2 ─────────────────────> a file, fsynced
//! ```
//!
//! The ways take turns within each round. The disk is not in the page cache when one begins. Each
//! capture meets a store that has nothing of the disk; the one after it, of the unchanged disk, meets
//! a store that has all. For Bugler the time is all of the agent's life: start, registration, task,
//! reading, sending, commit, report.

use super::stand::{Measured, Stand, forget, memory_lines, pipeline};
use crate::bench::figures::{median, verdict};
use crate::run::Run;
use crate::site::MIB;
use anyhow::{Context, Result, ensure};
use std::fs;

/// At most this part of the time of each peer.
const TARGET: f64 = 0.5;
const IMAGE: &str = "bench";

const PARTCLONE: &str = "partclone.ext4 -q -c -s \"$1\" -o - -L \"$3.partclone\" | \
                         zstd -q -3 -T2 -c >\"$2\"; sync \"$2\"";
const DD: &str = "dd if=\"$1\" bs=1M status=none | zstd -q -3 -T2 -c >\"$2\"; sync \"$2\"";

/// Measures, and prints what was found.
pub(super) fn run(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    let run = Run::start("bench-images-capture")?;
    let outcome = measure(&run, rounds);
    run.finish(outcome, false)
}

fn measure(run: &Run, rounds: usize) -> Result<()> {
    let stand = Stand::set_up(run)?;
    let packed = run.file("packed");
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    let mut peers = [Vec::new(), Vec::new()];
    let mut lengths = [0, 0];
    for round in 0..rounds {
        for turn in 0..3 {
            forget(&stand.disk)?;
            match (round + turn) % 3 {
                0 => {
                    fresh.push(capture(&stand)?);
                    forget(&stand.disk)?;
                    again.push(capture(&stand)?);
                    stand
                        .work
                        .bugler(&["image", "remove", IMAGE, "--all-versions", "--yes"])?;
                    stand.work.bugler(&["image", "gc"])?;
                }
                peer => {
                    let which = peer - 1;
                    let script = [PARTCLONE, DD][which];
                    let log = run.file("peer.log");
                    peers[which].push(pipeline(script, &stand.disk, &packed, &log)?);
                    lengths[which] = fs::metadata(&packed).context("nothing was packed")?.len();
                    fs::remove_file(&packed).context("cannot remove a file")?;
                }
            }
        }
        let last = |times: &[f64]| times.last().copied().unwrap_or(f64::NAN);
        let of = |all: &[Measured]| all.last().map_or(f64::NAN, |one| one.seconds);
        run.say(&format!(
            "round {}: bugler {:.2} s, unchanged {:.2} s; partclone | zstd {:.2} s; dd | zstd {:.2} s",
            round + 1,
            of(&fresh),
            of(&again),
            last(&peers[0]),
            last(&peers[1])
        ));
    }
    print!("\n{}", table(&fresh, &again, &peers, lengths, stand.size));
    Ok(())
}

fn capture(stand: &Stand<'_>) -> Result<Measured> {
    let task = stand
        .work
        .order_capture(&stand.station.device, IMAGE, None)?;
    stand.go(&task, &stand.disk)
}

fn table(
    fresh: &[Measured],
    again: &[Measured],
    peers: &[Vec<f64>; 2],
    lengths: [u64; 2],
    size: u64,
) -> String {
    let seconds = |all: &[Measured]| {
        let all: Vec<f64> = all.iter().map(|one| one.seconds).collect();
        median(&all)
    };
    let (ours, unchanged) = (seconds(fresh), seconds(again));
    let (partclone, dd) = (median(&peers[0]), median(&peers[1]));
    let progress = fresh
        .last()
        .map(|one| one.task.progress)
        .unwrap_or_default();
    let sent_again = again.last().map_or(0, |one| one.task.progress.fetched);
    let lines = [
        ("partclone.ext4 | zstd -3 -T2", partclone),
        ("dd | zstd -3 -T2", dd),
    ]
    .map(|(name, peer)| {
        let ratio = ours / peer;
        format!(
            "to {name}: {ratio:.2}x, at most {TARGET}x asked: {}\n",
            verdict(ratio <= TARGET)
        )
    });
    format!(
        "Capturing an ext4 of {} MiB with {} MiB used, not in the page cache; medians of {} rounds; \
         durable at the end\n\
         \x20 bugler, a store that has nothing of it {ours:8.2} s  {} MiB sent\n\
         \x20 bugler, the unchanged disk once more   {unchanged:8.2} s  {} MiB sent\n\
         \x20 partclone.ext4 | zstd -3 -T2           {partclone:8.2} s  {} MiB\n\
         \x20 dd | zstd -3 -T2                       {dd:8.2} s  {} MiB\n\
         {}{}{}",
        size / MIB,
        progress.total / MIB,
        fresh.len(),
        progress.fetched / MIB,
        sent_again / MIB,
        lengths[0] / MIB,
        lengths[1] / MIB,
        lines[0],
        lines[1],
        memory_lines(fresh, None)
    )
}
