//! When a BMC is left alone: after failures in a row, for longer and longer.

use std::time::Duration;

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many failures in a row open the circuit.
    pub failures: u32,
    /// How long it is open the first time; each time after that twice as long.
    pub rest: Duration,
    /// The longest that it is open, and how long it is after a failure that will not pass by itself,
    /// such as a wrong password.
    pub most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            failures: 3,
            rest: Duration::from_secs(15),
            most: Duration::from_secs(300),
        }
    }
}

/// The BMC is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resting {
    /// How often it failed in a row.
    pub failures: u32,
    /// How long yet.
    pub remaining: Duration,
    /// The last failure.
    pub last: String,
}

/// The circuit of one BMC. Times are since any fixed moment that the caller chooses.
#[derive(Debug, Clone)]
pub struct Breaker {
    limits: Limits,
    failures: u32,
    rest: Duration,
    /// It is open until then.
    until: Option<Duration>,
    last: String,
}

impl Breaker {
    /// A closed circuit.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            failures: 0,
            rest: limits.rest,
            until: None,
            last: String::new(),
        }
    }

    /// Whether the BMC may be asked now. When its rest is over it may be, and the next failure gives it
    /// another, twice as long.
    ///
    /// # Errors
    /// While the circuit is open.
    pub fn check(&self, now: Duration) -> Result<(), Resting> {
        match self.until {
            Some(until) if now < until => Err(Resting {
                failures: self.failures,
                remaining: until.saturating_sub(now),
                last: self.last.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The BMC answered. True where it had been left alone before.
    pub fn succeeded(&mut self) -> bool {
        let was_open = self.until.is_some();
        *self = Self::new(self.limits);
        was_open
    }

    /// The BMC failed; `is_final` says that it will do so until somebody changes something. Tells how
    /// long it is left alone now, if it is.
    pub fn failed(&mut self, what: String, is_final: bool, now: Duration) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        self.last = what;
        let rest = if is_final {
            self.limits.most
        } else if self.failures < self.limits.failures {
            return None;
        } else {
            let rest = self.rest.min(self.limits.most);
            self.rest = rest.saturating_mul(2);
            rest
        };
        self.until = Some(now.saturating_add(rest));
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_rests_longer_each_time() {
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(breaker.failed("a".into(), false, at(0)), None);
        assert_eq!(breaker.failed("b".into(), false, at(1)), None);
        assert!(breaker.check(at(1)).is_ok());
        assert_eq!(breaker.failed("c".into(), false, at(2)), Some(at(15)));
        let resting = breaker.check(at(10)).unwrap_err();
        assert_eq!((resting.failures, resting.remaining), (3, at(7)));
        assert_eq!(resting.last, "c");
        assert!(breaker.check(at(17)).is_ok(), "one try is let through");
        assert_eq!(breaker.failed("d".into(), false, at(17)), Some(at(30)));
        let rests: Vec<_> = (0..6)
            .filter_map(|_| breaker.failed("e".into(), false, at(100)))
            .map(|rest| rest.as_secs())
            .collect();
        assert_eq!(rests, [60, 120, 240, 300, 300, 300]);
        assert!(breaker.succeeded());
        assert!(breaker.check(at(100)).is_ok());
        assert!(!breaker.succeeded());
    }

    #[test]
    fn what_will_not_pass_opens_it_at_once() {
        let mut breaker = Breaker::new(Limits::default());
        assert_eq!(breaker.failed("pw".into(), true, at(0)), Some(at(300)));
        assert!(breaker.check(at(299)).is_err());
    }
}
