//! How long to wait before the next try.

use std::time::Duration;

/// Waits that double from a first one up to a longest one, each shortened at random by up to a
/// half, so that the machines of a room that lost their server do not all come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Starts at `first` and ends at `longest`. `seed` should differ between machines.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            next: first,
            random: seed,
        }
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        let full = self.next.min(self.longest);
        self.next = full.saturating_mul(2).min(self.longest);
        // splitmix64: any mixing does, since nothing secret hangs on it.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = (mixed >> 40) as u32; // 24 random bits
        full - full / 2 * (part >> 8) / 0x1_0000
    }

    /// After a success: the next failure starts at the first wait again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A number that differs between processes and machines: std seeds its hash maps from the
/// kernel's random numbers.
#[must_use]
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(seed: u64, first in 1u64..2_000, times in 1usize..80) {
            let first = Duration::from_millis(first);
            let longest = Duration::from_secs(8);
            let mut backoff = Backoff::new(first, longest, seed);
            let mut full = first;
            for _ in 0..times {
                let wait = backoff.wait();
                prop_assert!(wait <= full && wait >= full / 2, "{wait:?} of {full:?}");
                full = (full * 2).min(longest);
            }
            backoff.reset();
            prop_assert!(backoff.wait() <= first);
        }
    }
}
