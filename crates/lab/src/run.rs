//! One run of one scenario: its folder, its clock, and what is left of it.

use crate::capture::Capture;
use crate::net::Net;
use crate::paths;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A run.
#[derive(Debug)]
pub struct Run {
    name: String,
    dir: PathBuf,
    started: Instant,
    log: Mutex<File>,
}

impl Run {
    /// Begins a run of the scenario `name` in a new folder under `target/lab/runs/`.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn start(name: &str) -> Result<Self> {
        let runs = paths::lab("runs")?;
        forget_disks(&runs, name);
        let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
        let dir = runs.join(format!("{name}-{now}"));
        fs::create_dir(&dir)
            .with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let log = dir.join("run.log");
        let log = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        log.lock().context("cannot lock run.log")?;
        Ok(Self {
            name: name.to_owned(),
            dir,
            started: Instant::now(),
            log: Mutex::new(log),
        })
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the file `name` in its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Time since it began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line with the time since the beginning, and keeps it in `run.log`.
    pub fn say(&self, text: &str) {
        let line = format!(
            "[{} {:6.1} s] {text}",
            self.name,
            self.elapsed().as_secs_f64()
        );
        // A run goes on when nobody reads what it says; `println!` would end it.
        let _ = writeln!(io::stdout(), "{line}");
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(log, "{line}");
    }

    /// Captures what crosses the bridge into `bridge.pcap`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn capture(&self, _net: &Net) -> Result<Capture> {
        Capture::start(&self.file("bridge.pcap"))
    }

    /// Ends the run. After a success, and unless `keep`, nothing is left of it; after a failure
    /// everything but disks and firmware settings, and the path is printed.
    ///
    /// # Errors
    ///
    /// The scenario's own error.
    pub fn finish(self, outcome: Result<()>, keep: bool) -> Result<()> {
        match &outcome {
            Ok(()) => self.say("passed"),
            Err(error) => self.say(&format!("FAILED: {error:#}")),
        }
        if outcome.is_ok() && !keep {
            // A folder that cannot be removed is no reason to fail what passed.
            let _ = fs::remove_dir_all(&self.dir);
            return outcome;
        }
        if !keep {
            remove_disks(&self.dir);
        }
        self.say(&format!(
            "consoles, packet capture and logs are in {}",
            self.dir.display()
        ));
        outcome
    }
}

/// Removes the disks, firmware settings and stored images in the folder of a run: they are large, and
/// not what one looks at first.
fn remove_disks(dir: &Path) {
    let _ = fs::remove_dir_all(dir.join("state/images"));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|kind| kind == "raw" || kind == "fd")
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the disks of earlier runs of the scenario `name` that were killed, or kept.
fn forget_disks(runs: &Path, name: &str) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let dir = entry.path();
        let same = entry
            .file_name()
            .to_string_lossy()
            .strip_prefix(name)
            .is_some_and(|rest| rest.len() == "-20261121-101400".len() && rest.starts_with("-2"));
        // A run that goes on holds the lock of its log.
        if same && File::open(dir.join("run.log")).is_ok_and(|log| log.try_lock().is_ok()) {
            remove_disks(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_dead_runs_of_the_same_scenario_go() {
        let runs = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let dir = runs.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("n1.raw"), "").unwrap();
            fs::write(dir.join("n1-console-1.log"), "").unwrap();
            File::create(dir.join("run.log")).unwrap()
        };
        make("bios-20261121-101400");
        let running = make("bios-20261121-101500");
        running.lock().unwrap();
        make("bios-full-20261121-101600");
        forget_disks(runs.path(), "bios");
        let left = |name: &str| runs.path().join(name).exists();
        assert!(!left("bios-20261121-101400/n1.raw"));
        assert!(left("bios-20261121-101400/n1-console-1.log"));
        assert!(left("bios-20261121-101500/n1.raw"));
        assert!(left("bios-full-20261121-101600/n1.raw"));
    }
}
