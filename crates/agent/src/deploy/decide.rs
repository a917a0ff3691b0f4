//! Whether it pays to read the disk before writing, decided by what was measured.
//!
//! Reading everything costs the time that the disk needs for it, and saves fetching what is right
//! already; where what was written is read back, it saves reading that back as well. So with a part
//! `p` of the image on the disk, a disk that reads `d` bytes a second and a network that brings `n`:
//!
//! | | compared first | not compared |
//! |---|---|---|
//! | read back | `1/d + (1-p)/n + (1-p)/d` | `1/n + 1/d` |
//! | written only | `1/d + (1-p)/n` | `1/n` |

use super::error::DeployError;
use super::fetch::fetch_some;
use super::readback::{hash, in_parallel, undo};
use super::writer::Patch;
use crate::api::Bulk;
use crate::disk::Target;
use crate::pace::Pace;
use crate::stop::Stop;
use bugler_model::VerifyMode;
use bugler_protocol::manifest::{ChunkHash, ChunkRef, Manifest};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many chunks are read to learn how much of the image is there, and how fast the disk is.
const SAMPLE: usize = 32;

/// Most of them that are fetched to learn how fast the network is. They stay in memory, and are not
/// fetched again.
const FETCHED: usize = 4;

/// A chunk that was fetched before writing began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) hash: ChunkHash,
    pub(crate) content: Vec<u8>,
    /// Bytes that came over the network for it.
    pub(crate) fetched: u64,
}

/// What was measured. Rates are in bytes of the image a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    looked: usize,
    right: usize,
    disk: f64,
    /// `None` where the answer does not depend on it, or nothing came.
    network: Option<f64>,
}

impl Measured {
    fn part(&self) -> f64 {
        self.right as f64 / (self.looked as f64).max(1.0)
    }

    /// Whether the network's speed matters: not where the disk has nothing of the image, nor where
    /// it seems to have all.
    fn depends_on_network(&self) -> bool {
        self.right > 0 && self.right < self.looked
    }

    /// Whether comparing first is likely to be quicker.
    fn pays(&self, verify: VerifyMode) -> bool {
        if !self.depends_on_network() {
            return self.right > 0;
        }
        // Nothing came: what is on the disk is then all the more worth.
        let Some(network) = self.network else {
            return true;
        };
        let (p, d, n) = (self.part(), 1.0 / self.disk, 1.0 / network);
        match verify {
            VerifyMode::ReadBack => d + (1.0 - p) * (n + d) < n + d,
            VerifyMode::WriteOnly => d + (1.0 - p) * n < n,
        }
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mega = |rate: f64| (rate / 1e6).round() as u64;
        write!(
            f,
            "{} of {} sampled chunks are on the disk, which reads {} MB/s",
            self.right,
            self.looked,
            mega(self.disk)
        )?;
        match self.network {
            Some(network) => write!(
                f,
                "; the network brings {} MB/s of the image",
                mega(network)
            ),
            None => Ok(()),
        }
    }
}

/// What is decided, why, and what was fetched meanwhile.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) compare: bool,
    pub(crate) measured: Measured,
    pub(crate) ready: Vec<Ready>,
}

/// Measures and decides.
pub(crate) fn decide(
    target: &Target,
    manifest: &Manifest,
    fitted: &[Patch],
    verify: VerifyMode,
    bulk: &Bulk,
    pace: Option<&Pace>,
    stop: &Stop,
) -> Result<Decision, DeployError> {
    let step = manifest.chunks.len().div_ceil(SAMPLE).max(1);
    let sampled: Vec<&ChunkRef> = manifest.chunks.iter().step_by(step).collect();
    let wrong = Mutex::new(Vec::new());
    target.forget_cache();
    let began = Instant::now();
    in_parallel(sampled.len(), stop, |n, buffer| {
        let Some(chunk) = sampled.get(n) else {
            return Ok(());
        };
        let content = &mut buffer[..manifest.chunk_len(chunk.index) as usize];
        target.read_at(content, chunk.offset())?;
        undo(fitted, chunk.offset(), content);
        if hash(content) != chunk.hash {
            let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
            wrong.push((chunk.hash, manifest.chunk_len(chunk.index)));
        }
        Ok(())
    })?;
    let bytes: u64 = sampled
        .iter()
        .map(|chunk| u64::from(manifest.chunk_len(chunk.index)))
        .sum();
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut measured = Measured {
        looked: sampled.len(),
        right: sampled.len() - wrong.len(),
        disk: rate(bytes, began.elapsed()),
        network: None,
    };
    let mut ready = Vec::new();
    if measured.depends_on_network() {
        wrong.sort_unstable();
        wrong.dedup();
        wrong.truncate(FETCHED);
        let began = Instant::now();
        // No answer is an answer too: what was not fetched now is fetched later.
        ready = fetch_some(bulk, &wrong, pace, stop);
        let bytes: usize = ready.iter().map(|chunk| chunk.content.len()).sum();
        if bytes > 0 {
            measured.network = Some(rate(bytes as u64, began.elapsed()));
        }
    }
    Ok(Decision {
        compare: measured.pays(verify),
        measured,
        ready,
    })
}

fn rate(bytes: u64, time: Duration) -> f64 {
    (bytes as f64 / time.as_secs_f64().max(1e-6)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use VerifyMode::{ReadBack, WriteOnly};

    fn measured(right: usize, disk: f64, network: f64) -> Measured {
        Measured {
            looked: 32,
            right,
            disk: disk * 1e6,
            network: Some(network * 1e6),
        }
    }

    #[test]
    fn a_disk_that_has_nothing_of_it_is_not_read_and_one_that_has_all_is() {
        for (disk, network) in [(1.0, 1000.0), (1000.0, 1.0)] {
            for verify in [ReadBack, WriteOnly] {
                assert!(!measured(0, disk, network).pays(verify));
                assert!(measured(32, disk, network).pays(verify));
            }
        }
        assert!(!Measured::default().pays(ReadBack), "an image of zeroes");
    }

    #[test]
    fn in_between_the_speeds_decide() {
        // A fast disk and a slow network: every right chunk pays.
        assert!(measured(8, 2000.0, 100.0).pays(ReadBack));
        assert!(measured(8, 2000.0, 100.0).pays(WriteOnly));
        // A slow disk and a fast network: only when nearly all is right.
        assert!(!measured(16, 100.0, 1000.0).pays(ReadBack));
        assert!(measured(31, 100.0, 1000.0).pays(ReadBack));
        assert!(!measured(31, 100.0, 1000.0).pays(WriteOnly));
        // Equal speeds, with everything read once in any case: half of it right.
        assert!(measured(17, 500.0, 500.0).pays(ReadBack));
        assert!(!measured(15, 500.0, 500.0).pays(ReadBack));
        let silent = Measured {
            network: None,
            ..measured(1, 500.0, 0.0)
        };
        assert!(silent.pays(ReadBack));
    }

    #[test]
    fn the_numbers_are_told() {
        assert_eq!(
            measured(8, 2000.0, 117.6).to_string(),
            "8 of 32 sampled chunks are on the disk, which reads 2000 MB/s; the network brings 118 \
             MB/s of the image"
        );
    }
}
