//! Adding an image: `bugler image add` to a server on the same host, beside zstd.
//!
//! ```text
//!  disk.raw ──> bugler image add ──HTTP──> bugler serve ──> a new image, durable
//!           ──> zstd -3 -T2 ─────────────────────────────> disk.raw.zst, in the page cache
//! ```
//!
//! The two take turns within each round. The disk is in the page cache for both. Each add meets a
//! store that has nothing of the image: the one before it is removed, and its chunks collected.

use super::disk;
use crate::bench::figures::{median, verdict};
use crate::net::{Net, address};
use crate::process::output_of;
use crate::product;
use crate::run::Run;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// At most this part of zstd's time.
const TARGET: f64 = 1.0;
const IMAGE: &str = "bench";

/// Measures, and prints what was found.
pub(super) fn run(rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    let run = Run::start("bench-images-add")?;
    let outcome = measure(&run, rounds);
    run.finish(outcome, false)
}

fn measure(run: &Run, rounds: usize) -> Result<()> {
    let disk = disk::ensure(&|text| eprintln!("{text}"))?;
    let net = Net::new()?;
    let host = net.add_host("srv", address(1))?;
    let product = product::cached()?;
    product.furnish(&run.file("state"))?;
    let mut server = Server::new(run, host, &product.bugler, &["--dhcp=off"]);
    server.start()?;
    let packed = run.file("disk.raw.zst");
    // Into the page cache.
    fs::read(&disk).context("cannot read the disk")?;
    let bugler = Bugler {
        server: &server,
        program: product
            .bugler
            .to_str()
            .context("the program's path is not UTF-8")?,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut added = None;
    for round in 0..rounds {
        let turns: [bool; 2] = if round % 2 == 0 {
            [true, false]
        } else {
            [false, true]
        };
        for ours_now in turns {
            rustix::fs::sync();
            let took = if ours_now {
                let (took, image) = bugler.add(&disk)?;
                added = Some(image);
                ours.push(took.as_secs_f64());
                took
            } else {
                let took = zstd(&disk, &packed)?;
                theirs.push(took.as_secs_f64());
                took
            };
            let name = if ours_now {
                "bugler image add"
            } else {
                "zstd -3 -T2"
            };
            run.say(&format!(
                "round {}: {name:18} {:6.2} s",
                round + 1,
                took.as_secs_f64()
            ));
        }
    }
    let image = added.context("nothing was added")?;
    let length = fs::metadata(&packed).context("zstd wrote nothing")?.len();
    let (ours, theirs) = (median(&ours), median(&theirs));
    let ratio = ours / theirs;
    println!(
        "\nAdding an image of {} MiB with {} MiB used; medians of {rounds} rounds\n\
         \x20 bugler image add, to a server on this host, durable  {ours:6.2} s  {} MiB stored\n\
         \x20 zstd -3 -T2, not durable                             {theirs:6.2} s  {} MiB\n\
         \ntarget: at most {TARGET}x; found {ratio:.2}x: {}",
        image.size >> 20,
        image.used >> 20,
        image.stored >> 20,
        length >> 20,
        verdict(ratio <= TARGET)
    );
    Ok(())
}

fn zstd(disk: &Path, packed: &PathBuf) -> Result<Duration> {
    let began = Instant::now();
    output_of(
        Command::new("zstd")
            .args(["-q", "-3", "-T2", "-f", "-o"])
            .arg(packed)
            .arg(disk),
    )?;
    Ok(began.elapsed())
}

/// What is printed of an image, as far as it is of interest here: sizes in bytes.
#[derive(Deserialize)]
struct Image {
    size: u64,
    used: u64,
    stored: u64,
}

/// The command line, on the server's host.
struct Bugler<'a> {
    server: &'a Server,
    program: &'a str,
}

impl Bugler<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        output_of(
            self.server
                .host()
                .command(self.program)
                .arg("--server")
                .arg(format!("http://{}", self.server.operator()))
                .args(arguments),
        )
    }

    /// Adds the disk, and removes the image again.
    fn add(&self, disk: &Path) -> Result<(Duration, Image)> {
        let file = disk.to_str().context("the disk's path is not UTF-8")?;
        let began = Instant::now();
        let printed = self.run(&["--json", "image", "add", IMAGE, file])?;
        let took = began.elapsed();
        let image = serde_json::from_str(&printed)
            .with_context(|| format!("`bugler image add --json` printed {printed:.500}"))?;
        self.run(&["image", "remove", IMAGE])?;
        self.run(&["image", "gc"])?;
        Ok((took, image))
    }
}
