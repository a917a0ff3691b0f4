//! One switch that ends a piece of work, whoever throws it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Once set it stays set. Sleepers wake at once.
#[derive(Debug, Default)]
pub struct Stop {
    set: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// A switch that nobody has thrown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Throws the switch.
    pub fn set(&self) {
        // Under the lock, so that it cannot fall between a sleeper's look and its sleep.
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.set.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether it has been thrown.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Sleeps for `time`, or until the switch is thrown; returns whether it has been.
    pub fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_set() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (guard, _) = self
                .changed
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes_when_it_is_thrown() {
        let stop = Stop::new();
        assert!(!stop.is_set() && !stop.sleep(Duration::ZERO));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| stop.sleep(Duration::from_secs(3600)));
            stop.set();
            assert!(sleeper.join().unwrap());
        });
        assert!(stop.sleep(Duration::from_secs(3600)), "it stays thrown");
    }
}
