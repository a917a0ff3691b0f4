//! What became of simulated clients.

use crate::kind::Kind;
use crate::machine::{End, Step};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What became of one client.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    kind: Kind,
    steps: Vec<(Step, Duration)>,
    end: End,
    whole: Duration,
    pub(crate) bytes: u64,
    pub(crate) repeated: u64,
}

impl Tally {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            steps: Vec::new(),
            end: End::Failed("it did not come to an end".to_owned()),
            whole: Duration::ZERO,
            bytes: 0,
            repeated: 0,
        }
    }

    /// A client whose player ended early.
    pub(crate) fn broken(why: &str) -> Self {
        let mut tally = Self::new(Kind::Plain);
        tally.end = End::Failed(why.to_owned());
        tally
    }

    pub(crate) fn step(&mut self, step: Step, took: Duration) {
        self.steps.push((step, took));
    }

    pub(crate) fn end(&mut self, end: End, whole: Duration) {
        self.end = end;
        self.whole = whole;
    }
}

/// Times of one step, in seconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    /// How many clients took this step.
    pub count: usize,
    /// Half of them took no longer.
    pub median: f64,
    /// 99 in 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
    #[serde(skip)]
    all: Vec<f64>,
}

impl Times {
    fn add(&mut self, took: Duration) {
        self.all.push(took.as_secs_f64());
    }

    fn finish(&mut self) {
        self.all.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = (self.all.len() * part / 100).min(self.all.len().saturating_sub(1));
            self.all.get(index).copied().unwrap_or(0.0)
        };
        self.count = self.all.len();
        self.median = at(50);
        self.p99 = at(99);
        self.longest = at(100);
    }
}

/// How clients of one kind ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ends {
    /// Got everything that they were told to boot.
    pub booted: u64,
    /// Got a loader that is not played any further: GRUB, PXELINUX.
    pub loader: u64,
    /// Were told to boot their local disk, or nothing.
    pub local: u64,
    /// Did not.
    pub failed: u64,
}

/// What became of all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How they ended, by kind.
    pub kinds: BTreeMap<Kind, Ends>,
    /// How long each step took, in the order of the steps.
    pub steps: Vec<(Step, Times)>,
    /// From power-on to the end, of those that did not fail.
    pub whole: Times,
    /// DHCP messages that were sent again.
    pub repeated: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// From the first power-on to the last end, in seconds.
    pub seconds: f64,
    /// Why clients failed, and how many for that reason.
    pub failures: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn add(&mut self, tally: &Tally) {
        let ends = self.kinds.entry(tally.kind).or_default();
        match &tally.end {
            End::Booted => ends.booted += 1,
            End::Loader => ends.loader += 1,
            End::Local => ends.local += 1,
            End::Failed(why) => {
                ends.failed += 1;
                *self.failures.entry(why.clone()).or_default() += 1;
            }
        }
        if !matches!(tally.end, End::Failed(_)) {
            self.whole.add(tally.whole);
        }
        for (step, took) in &tally.steps {
            if !self.steps.iter().any(|(known, _)| known == step) {
                self.steps.push((*step, Times::default()));
            }
            if let Some((_, times)) = self.steps.iter_mut().find(|(known, _)| known == step) {
                times.add(*took);
            }
        }
        self.bytes += tally.bytes;
        self.repeated += tally.repeated;
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.seconds = elapsed.as_secs_f64();
        self.steps.sort_by_key(|(step, _)| *step);
        self.whole.finish();
        for (_, times) in &mut self.steps {
            times.finish();
        }
    }

    /// How many clients failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.kinds.values().map(|ends| ends.failed).sum()
    }
}

/// Most reasons of failures that are shown.
const MOST_SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind        booted  loader   local  failed")?;
        for (kind, ends) in &self.kinds {
            writeln!(
                f,
                "{kind:<10}  {:>6}  {:>6}  {:>6}  {:>6}",
                ends.booted, ends.loader, ends.local, ends.failed
            )?;
        }
        writeln!(
            f,
            "\nstep                 clients  median s    99 % s  longest s"
        )?;
        let named = self.steps.iter().map(|(step, times)| (step.name(), times));
        for (name, times) in named.chain([("power-on to end", &self.whole)]) {
            writeln!(
                f,
                "{name:<19}  {:>7}  {:>8.3}  {:>8.3}  {:>9.3}",
                times.count, times.median, times.p99, times.longest
            )?;
        }
        writeln!(
            f,
            "\n{:.1} s in all, {:.1} MB of files ({:.1} MB/s), {} DHCP messages sent again",
            self.seconds,
            self.bytes as f64 / 1e6,
            self.bytes as f64 / 1e6 / self.seconds.max(0.001),
            self.repeated
        )?;
        let mut failures: Vec<_> = self.failures.iter().collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (why, count) in failures.iter().take(MOST_SHOWN) {
            writeln!(f, "{count} failed: {why}")?;
        }
        if failures.len() > MOST_SHOWN {
            writeln!(f, "and {} more reasons", failures.len() - MOST_SHOWN)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_shows() {
        let mut report = Report::default();
        for n in 0..100u64 {
            let mut tally = Tally::new(Kind::BiosPxe);
            tally.step(Step::Dhcp, Duration::from_millis(n));
            let end = match n {
                0 => End::Failed("no luck".into()),
                1 => End::Local,
                _ => End::Booted,
            };
            tally.end(end, Duration::from_secs(n));
            tally.bytes = 1_000_000;
            report.add(&tally);
        }
        report.finish(Duration::from_secs(10));
        assert_eq!(report.failed(), 1);
        let ends = report.kinds[&Kind::BiosPxe];
        assert_eq!((ends.booted, ends.local), (98, 1));
        assert_eq!(report.steps[0].1.count, 100);
        let text = report.to_string();
        assert!(
            text.contains("bios            98       0       1       1"),
            "{text}"
        );
        assert!(
            text.contains("1 failed: no luck") && text.contains("10.0 MB/s"),
            "{text}"
        );
    }
}
