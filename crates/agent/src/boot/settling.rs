//! Whether all disks have appeared. Controllers look for theirs in the background, each at its own
//! speed: an NVMe disk is there before a SATA disk that still spins up.

use bugler_model::Disk;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long nothing must have changed. A machine that waits in its agent has long been quiet
/// when its task comes, and loses no time by this.
const QUIET: Duration = Duration::from_secs(3);

/// What was seen at the looks so far.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<Option<Seen>>);

#[derive(Debug)]
struct Seen {
    disks: Vec<Disk>,
    drivers_loaded: bool,
    since: Instant,
}

impl Settling {
    /// Notes what a look at the machine gave. `drivers_loaded` says whether every driver for what
    /// was there at the start has been loaded: it counts as a change, since disks follow it.
    pub(crate) fn look(&self, disks: &[Disk], drivers_loaded: bool, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |seen: &Seen| seen.disks == disks && seen.drivers_loaded == drivers_loaded;
        if !seen.as_ref().is_some_and(is_same) {
            *seen = Some(Seen {
                disks: disks.to_vec(),
                drivers_loaded,
                since: now,
            });
        }
    }

    /// Whether drivers are loaded and the disks have been the same for a while, up to the last
    /// look, which should be of this moment.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().is_some_and(|seen| {
            seen.drivers_loaded && now.saturating_duration_since(seen.since) >= QUIET
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    #[test]
    fn every_change_starts_the_wait_again() {
        let settling = Settling::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let nvme = Disk {
            path: "/dev/nvme0n1".into(),
            ..Disk::default()
        };
        let sata = Disk {
            path: "/dev/sda".into(),
            ..Disk::default()
        };
        assert!(!settling.is_over(at(9_000)), "nobody has looked");
        settling.look(from_ref(&nvme), false, at(0));
        settling.look(from_ref(&nvme), false, at(5_000));
        assert!(!settling.is_over(at(5_000)), "drivers are still loaded");
        settling.look(from_ref(&nvme), true, at(6_000));
        assert!(!settling.is_over(at(8_999)));
        settling.look(&[nvme.clone(), sata.clone()], true, at(8_999));
        assert!(!settling.is_over(at(9_000)), "a disk has just come");
        settling.look(&[nvme.clone(), sata], true, at(11_999));
        assert!(settling.is_over(at(11_999)));
        // Hours later: no wait where nothing has changed, and one where something has.
        settling.look(&[nvme], true, at(9_000_000));
        assert!(!settling.is_over(at(9_000_000)));
        assert!(settling.is_over(at(9_003_000)));
    }
}
