//! The server's clock is set back in the middle of a capture and a deploy.
//!
//! No namespace has a time of day of its own, and the computer's must be left alone: the server runs
//! with libfaketime, which gives it the time of day that a file says, and leaves the time that only
//! rises as it is. The agent is a static program that this cannot be done to; it looks at no time of day.

use super::Bench;
use super::losses::HalfWay;
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use bugler_model::{Event, Image};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where Debian's package `libfaketime` puts the library; the dynamic linker knows `$LIB`.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
/// The file that says the time of day, as a distance from the real one. Without it, nothing is faked.
const CLOCK: &str = "clock";

/// A program that starts the server, with another time of day where the file [`CLOCK`] is.
pub(super) fn wrapper(run: &Run) -> Result<PathBuf> {
    let (path, clock) = (run.file("bugler-clock"), run.file(CLOCK));
    let bugler = crate::product::cached()?.bugler;
    let script = format!(
        "#!/bin/sh\nif [ -e '{clock}' ]; then\n  export LD_PRELOAD='{LIBRARY}' \
         FAKETIME_TIMESTAMP_FILE='{clock}' FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
         FAKETIME_DONT_RESET=1\nfi\nexec '{}' \"$@\"\n",
        bugler.display(),
        clock = clock.display(),
    );
    fs::write(&path, script).context("cannot write a script")?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))
        .context("cannot let a script be executed")?;
    Ok(path)
}

/// By a day, while both are at work.
pub(super) fn set_back(bench: &mut Bench<'_>) -> Result<()> {
    set(bench, "+0")?;
    bench.work.server.stop()?;
    bench.work.server.start()?;
    let half = HalfWay::reach(bench, "clock", 14)?;
    let before = last_event(bench)?;
    set(bench, "-1d")?;
    half.ends_well(bench, "the server's clock set back by a day")?;
    let after = last_event(bench)?;
    let back = before.at.millis_since(after.at);
    ensure!(
        back > 23 * 3_600_000,
        "the server's clock went back by {back} ms only"
    );
    let images: Vec<Image> = bench.work.server.api().get("images")?;
    bench.say(&format!(
        "its newest event is {} h older than the one before the clock was set back, and comes after it \
         all the same; {} images are there",
        back / 3_600_000,
        images.len()
    ));
    Ok(())
}

fn set(bench: &Bench<'_>, distance: &str) -> Result<()> {
    let (new, path) = (bench.file("clock.new"), bench.file(CLOCK));
    fs::write(&new, format!("{distance}\n")).context("cannot write the clock")?;
    fs::rename(&new, &path).context("cannot set the clock")
}

/// The event that the server wrote last.
fn last_event(bench: &Bench<'_>) -> Result<Event> {
    let events: Vec<Event> = bench.work.server.api().get("events?limit=1000")?;
    events
        .into_iter()
        .max_by_key(|event| event.id)
        .context("there are no events")
}
