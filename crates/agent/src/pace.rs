//! Keeps a transfer under a number of bytes a second.

use crate::stop::Stop;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest and longest piece that is moved at once, in bytes: short ones so that a slow rate
/// is an even stream and not a second of everything now and then.
const PIECE: std::ops::RangeInclusive<u64> = 512..=65_536;

/// When the next bytes may go, as a bucket that holds nothing: time that was not used is lost, so
/// that a rest is never followed by a burst.
#[derive(Debug)]
struct Bucket {
    /// Bytes a second; never 0.
    rate: u64,
    /// When everything that went so far has been paid for.
    paid: Option<Instant>,
}

impl Bucket {
    /// Takes `bytes` at `now`; says how long to wait after them.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let from = self.paid.map_or(now, |paid| paid.max(now));
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.rate);
        let cost = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let paid = from.checked_add(cost).unwrap_or(from);
        self.paid = Some(paid);
        paid.saturating_duration_since(now)
    }
}

/// A limit that all connections of a task share.
#[derive(Debug)]
pub struct Pace {
    bucket: Mutex<Bucket>,
    piece: usize,
    rate: u64,
}

impl Pace {
    /// At most `rate` bytes a second, 1 at least.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        let piece = (rate / 16).clamp(*PIECE.start(), *PIECE.end());
        Self {
            bucket: Mutex::new(Bucket { rate, paid: None }),
            piece: usize::try_from(piece).unwrap_or(1),
            rate,
        }
    }

    /// The limit in bytes a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// How many of `wanted` connections make sense: so many that each moves a piece several times
    /// a second, since one that rests for long looks dead to the other side.
    #[must_use]
    pub fn connections(&self, wanted: usize) -> usize {
        let most = usize::try_from(self.rate >> 18).unwrap_or(usize::MAX);
        wanted.min(most).max(1)
    }

    /// Waits until `bytes` that went just now are paid for, or `stop`.
    fn pay(&self, bytes: usize, stop: &Stop) {
        let wait = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(bytes as u64, Instant::now());
        stop.sleep(wait);
    }
}

/// What is read through it keeps the pace, where there is one.
pub(crate) struct Paced<'a, R> {
    inner: R,
    pace: Option<&'a Pace>,
    stop: &'a Stop,
}

impl<'a, R: Read> Paced<'a, R> {
    pub(crate) fn new(inner: R, pace: Option<&'a Pace>, stop: &'a Stop) -> Self {
        Self { inner, pace, stop }
    }
}

impl<R: Read> Read for Paced<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(pace) = self.pace else {
            return self.inner.read(buf);
        };
        let most = buf.len().min(pace.piece);
        let count = self.inner.read(buf.get_mut(..most).unwrap_or_default())?;
        pace.pay(count, self.stop);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes and the pauses fall, from any moment on no more than the rate allows
        /// has gone, but for the one piece that is being paid for.
        #[test]
        fn never_more_than_the_rate(
            rate in 1u64..10_000_000,
            steps in proptest::collection::vec((0u64..100_000, 0u64..3_000), 1..60),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket { rate, paid: None };
            let mut now = start;
            let (mut gone, mut rest) = (0u128, Duration::ZERO);
            for (bytes, pause) in steps {
                let wait = bucket.take(bytes, now);
                gone += u128::from(bytes);
                now += wait + Duration::from_millis(pause);
                rest += Duration::from_millis(pause);
                let took = (now - start - rest).as_micros() + 60;
                prop_assert!(gone * 1_000_000 <= took * u128::from(rate) + u128::from(rate));
            }
        }
    }

    #[test]
    fn a_rest_is_not_followed_by_a_burst() {
        let mut bucket = Bucket {
            rate: 1000,
            paid: None,
        };
        let start = Instant::now();
        assert_eq!(bucket.take(500, start), Duration::from_millis(500));
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.take(1000, later), Duration::from_secs(1));
        assert_eq!(bucket.take(1000, later), Duration::from_secs(2));
    }

    #[test]
    fn slow_transfers_use_few_connections_and_short_pieces() {
        let slow = Pace::new(10_000);
        assert_eq!((slow.connections(4), slow.piece), (1, 625));
        let fast = Pace::new(100 << 20);
        assert_eq!((fast.connections(4), fast.piece), (4, 65_536));
        assert_eq!(Pace::new(0).rate(), 1);
    }

    #[test]
    fn what_is_read_through_it_is_whole() {
        let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (pace, stop) = (Pace::new(50_000_000), Stop::new());
        let mut read = Vec::new();
        Paced::new(&content[..], Some(&pace), &stop)
            .read_to_end(&mut read)
            .unwrap();
        assert!(read == content);
    }
}
