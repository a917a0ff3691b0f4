//! Bounds how many scenarios run at once on this computer.
//!
//! An emulated machine keeps one core busy. More machines than cores make every boot slow, and then
//! the limits of waits would have to be guesses.

use crate::paths;
use anyhow::{Context, Result};
use std::fs::{File, TryLockError};
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Places for running machines. Dropping them, or the end of the process in any way, gives them
/// back.
#[derive(Debug)]
pub struct Slots {
    /// Holds the locks.
    files: Vec<File>,
    /// Which places, from 0.
    pub numbers: Vec<usize>,
}

impl Drop for Slots {
    fn drop(&mut self) {
        for file in &self.files {
            // To close the file is not enough: a process that this one is just starting has it open too,
            // until its program runs. Where it fails, that is how long it takes.
            let _ = file.unlock();
        }
    }
}

impl Slots {
    /// Waits for places for `machines` machines. There is one for every core; where there are fewer
    /// than asked for, all are taken.
    ///
    /// # Errors
    ///
    /// When the lock files cannot be opened or locked.
    pub fn take(machines: usize) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::take_of(&paths::lab("slots")?, cores, machines)
    }

    /// Waits for `wanted` of `places` places whose lock files are in `dir`.
    ///
    /// # Errors
    ///
    /// As [`Slots::take`].
    pub fn take_of(dir: &Path, places: usize, wanted: usize) -> Result<Self> {
        // One at a time may wait: two that have one place each must not wait for each other's.
        let gate = open(&dir.join("gate"))?;
        gate.lock()
            .context("cannot lock the gate to the lab's places")?;
        let (mut files, mut numbers) = (Vec::new(), Vec::new());
        loop {
            for number in 0..places {
                if files.len() == wanted.min(places) {
                    return Ok(Self { files, numbers });
                }
                if numbers.contains(&number) {
                    continue;
                }
                let file = open(&dir.join(format!("slot-{number}")))?;
                match file.try_lock() {
                    Ok(()) => {
                        files.push(file);
                        numbers.push(number);
                    }
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => {
                        return Err(error).context("cannot lock one of the lab's places");
                    }
                }
            }
            if files.len() < wanted.min(places) {
                // There is no call that waits for the first of several file locks.
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot open the lock file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_place_is_given_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let take = |wanted| Slots::take_of(dir.path(), 2, wanted).unwrap();
        let first = take(1);
        let second = take(1);
        assert_eq!(
            (&first.numbers[..], &second.numbers[..]),
            (&[0][..], &[1][..])
        );
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| sender.send(take(1).numbers.clone()).unwrap());
            drop(second);
            assert_eq!(receiver.recv().unwrap(), [1]);
        });
    }

    #[test]
    fn several_places_are_taken_together_and_never_more_than_there_are() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Slots::take_of(dir.path(), 2, 2).unwrap().numbers, [0, 1]);
        assert_eq!(Slots::take_of(dir.path(), 1, 2).unwrap().numbers, [0]);
    }
}
