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

/// One of the places for a running scenario. Dropping it, or the end of the process in any way,
/// gives it back.
#[derive(Debug)]
pub struct Slot {
    /// Holds the lock.
    _file: File,
    /// Which place, from 0.
    pub number: usize,
}

impl Slot {
    /// Waits for a free place. There is one for every two cores and at least one: a scenario is a
    /// machine and the server that feeds it.
    ///
    /// # Errors
    ///
    /// When the lock files cannot be opened or locked.
    pub fn take() -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::take_one_of(&paths::lab("slots")?, (cores / 2).max(1))
    }

    /// Waits for one of `places` places whose lock files are in `dir`.
    ///
    /// # Errors
    ///
    /// As [`Slot::take`].
    pub fn take_one_of(dir: &Path, places: usize) -> Result<Self> {
        loop {
            for number in 0..places {
                let path = dir.join(format!("slot-{number}"));
                let file = File::create(&path)
                    .with_context(|| format!("cannot open the lock file {}", path.display()))?;
                match file.try_lock() {
                    Ok(()) => {
                        return Ok(Self {
                            _file: file,
                            number,
                        });
                    }
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => {
                        return Err(error)
                            .with_context(|| format!("cannot lock the file {}", path.display()));
                    }
                }
            }
            // There is no call that waits for the first of several file locks.
            thread::sleep(Duration::from_millis(200));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_place_is_given_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = Slot::take_one_of(dir.path(), 2).unwrap();
        let second = Slot::take_one_of(dir.path(), 2).unwrap();
        assert_eq!((first.number, second.number), (0, 1));
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                sender
                    .send(Slot::take_one_of(dir.path(), 2).unwrap().number)
                    .unwrap()
            });
            drop(second);
            assert_eq!(receiver.recv().unwrap(), 1);
        });
    }
}
