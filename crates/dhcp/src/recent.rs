//! What was seen a short while ago, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// Keys that are remembered for a fixed time; the oldest are forgotten when there are too many.
#[derive(Debug)]
pub(crate) struct Recent<K> {
    keep: Duration,
    most: usize,
    until: HashMap<K, Duration>,
    order: VecDeque<(Duration, K)>,
}

impl<K: Eq + Hash + Clone> Recent<K> {
    pub(crate) fn new(keep: Duration, most: usize) -> Self {
        Self {
            keep,
            most,
            until: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Remembers a key from now on.
    pub(crate) fn insert(&mut self, key: K, now: Duration) {
        let until = now + self.keep;
        self.until.insert(key.clone(), until);
        self.order.push_back((until, key));
        while let Some((until, key)) = self.order.front() {
            if *until > now && self.order.len() <= self.most {
                break;
            }
            // A key that was inserted again has a later entry of its own.
            if self.until.get(key) == Some(until) {
                self.until.remove(key);
            }
            self.order.pop_front();
        }
    }

    /// Forgets a key.
    pub(crate) fn forget(&mut self, key: &K) {
        self.until.remove(key);
    }

    pub(crate) fn contains(&self, key: &K, now: Duration) -> bool {
        self.until.get(key).is_some_and(|until| *until > now)
    }

    /// When a key was inserted last, where it is remembered.
    pub(crate) fn when(&self, key: &K, now: Duration) -> Option<Duration> {
        let until = self.until.get(key).filter(|until| **until > now)?;
        Some(until.saturating_sub(self.keep))
    }

    /// Remembers a key, and tells whether it was unknown: "say this once in a while".
    pub(crate) fn is_first(&mut self, key: K, now: Duration) -> bool {
        let first = !self.contains(&key, now);
        if first {
            self.insert(key, now);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_key_is_first_once_in_its_time() {
        let mut recent = Recent::new(10 * SECOND, 100);
        assert!(recent.is_first("a", SECOND));
        assert!(!recent.is_first("a", 10 * SECOND));
        assert!(recent.is_first("a", 11 * SECOND));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let mut recent = Recent::new(10 * SECOND, 3);
        for key in 0..1000 {
            recent.insert(key, SECOND);
        }
        assert!(recent.until.len() <= 3 && recent.order.len() <= 3);
        assert!(recent.contains(&999, SECOND) && !recent.contains(&0, SECOND));
    }
}
