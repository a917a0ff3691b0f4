//! What a second version of an image costs in the store: a Debian system as it was released, and after
//! packages of it were upgraded in place.
//!
//! Both are captured by an agent, as a machine's disk would be. Beside that stands what the same two
//! files take when they are added byte by byte: then what was deleted comes along.

use crate::bench::figures::verdict;
use crate::image::sources;
use crate::paths;
use crate::process::output_of;
use crate::run::Run;
use crate::site::MIB;
use crate::workbench::Workbench;
use anyhow::{Context, Result, ensure};
use bugler_model::Image;
use bugler_protocol::operator::ImageSizes;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Both together take at most so much of what one takes.
const TARGET: f64 = 1.35;
/// How many packages are upgraded.
const PACKAGES: usize = 20;
const BUILD: &str = include_str!("versions.sh");

/// The two disks, in a folder with the list of what was upgraded.
fn folder() -> Result<PathBuf> {
    let key = blake3::hash(BUILD.as_bytes()).to_hex();
    Ok(paths::lab("cache")?.join(format!("bench-versions-{key:.16}")))
}

/// Builds the disks where they are not there yet: outside of the enclosure, as root.
///
/// # Errors
/// When a program that it needs is missing or fails; there must be packages of the release that have
/// newer versions.
pub(super) fn prepare(say: &dyn Fn(&str)) -> Result<()> {
    let dir = folder()?;
    if dir.exists() {
        return Ok(());
    }
    say("building a Debian system and upgrading it; once, some minutes");
    let sources = sources::of_host()?;
    ensure!(
        !sources.lines.is_empty(),
        "this computer's apt has no Debian release: there is nothing to upgrade to"
    );
    let work = tempfile::Builder::new()
        .prefix("versions-")
        .tempdir_in(paths::lab("cache")?)
        .context("cannot make a folder in the cache")?;
    let suite = format!(" {} main", sources.suite);
    let (released, _): (Vec<&String>, Vec<&String>) = sources
        .lines
        .iter()
        .partition(|line| line.ends_with(&suite));
    let released: Vec<&str> = released.into_iter().map(String::as_str).collect();
    let write = |name: &str, text: String| {
        fs::write(work.path().join(name), text + "\n")
            .with_context(|| format!("cannot write {name}"))
    };
    write("released.list", released.join("\n"))?;
    write("all.list", sources.lines.join("\n"))?;
    write("build.sh", BUILD.to_owned())?;
    output_of(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash"])
            .arg(work.path().join("build.sh"))
            .arg(work.path())
            .args([&sources.suite, &PACKAGES.to_string()])
            .arg(sources.apt_options.join("\n")),
    )
    .context("cannot build the two versions; it needs root, loop devices and the network")?;
    let made = work.keep();
    fs::rename(&made, &dir).with_context(|| format!("cannot name {}", dir.display()))
}

/// Measures, and prints what was found.
pub(super) fn run() -> Result<()> {
    let run = Run::start("bench-images-versions")?;
    let outcome = measure(&run);
    run.finish(outcome, false)
}

fn measure(run: &Run) -> Result<()> {
    let dir = folder()?;
    let disks = [dir.join("before.raw"), dir.join("after.raw")];
    let upgraded =
        fs::read_to_string(dir.join("upgraded")).context("cannot read what was upgraded")?;
    let mut work = Workbench::new(run, None, &[])?;
    work.server.start()?;
    let size = fs::metadata(&disks[0])
        .context("there are no versions")?
        .len();
    let station = work.station(1, size)?;
    let mut captured = Vec::new();
    for disk in &disks {
        captured.push(work.capture(&station, disk, "captured")?.1);
    }
    let by_capture = together(&work, &captured)?;
    work.bugler(&["image", "remove", "captured", "--all-versions", "--yes"])?;
    work.bugler(&["image", "gc"])?;
    let mut added = Vec::new();
    for disk in &disks {
        added.push(work.server.api().put_file("images/added", disk)?);
    }
    let by_add = together(&work, &added)?;
    let names: Vec<&str> = upgraded.split_whitespace().collect();
    let (one, more) = by_capture;
    let ratio = (one + more) as f64 / one as f64;
    println!(
        "\nTwo versions of a Debian system of {} MiB, {} MiB used, before and after an upgrade in place of \
         {} packages: {}\n\
         \x20 captured: the first takes {} MiB, the second {} MiB more: together {ratio:.2}x of one\n\
         \x20 added byte by byte, with what was deleted: {} MiB and {} MiB more: {:.2}x\n\
         target: at most {TARGET}x for {PACKAGES} packages; found {ratio:.2}x: {}",
        size / MIB,
        captured.first().map_or(0, |image| image.used / MIB),
        names.len(),
        names.join(" "),
        one / MIB,
        more / MIB,
        by_add.0 / MIB,
        by_add.1 / MIB,
        (by_add.0 + by_add.1) as f64 / by_add.0 as f64,
        verdict(ratio <= TARGET && names.len() >= PACKAGES)
    );
    Ok(())
}

/// Bytes that the first of two versions takes in the store, and that the second takes beside it.
fn together(work: &Workbench<'_>, versions: &[Image]) -> Result<(u64, u64)> {
    let sizes: Vec<ImageSizes> = work.server.api().get("image-sizes")?;
    let [first, second] = versions else {
        anyhow::bail!("there are {} versions", versions.len());
    };
    let of = |image: &Image| {
        sizes
            .iter()
            .find(|sizes| sizes.image == image.id)
            .with_context(|| format!("there are no sizes of {}", image.label()))
    };
    Ok((of(first)?.stored, of(second)?.own))
}
