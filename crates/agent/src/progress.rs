//! How far a deploy is, told by many threads and read by one.

use bugler_model::{Phase, Progress, TaskState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Counters of one deploy.
#[derive(Debug)]
pub(crate) struct Tracker {
    began: Instant,
    stage: Mutex<(TaskState, Phase)>,
    disk: OnceLock<String>,
    total: AtomicU64,
    /// Handed to the disk.
    written: AtomicU64,
    /// Flushed to the disk: what `Progress::done` shows while writing.
    durable: AtomicU64,
    skipped: AtomicU64,
    fetched: AtomicU64,
    verified: AtomicU64,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            stage: Mutex::new((TaskState::Claimed, Phase::Checking)),
            disk: OnceLock::new(),
            total: AtomicU64::new(0),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            verified: AtomicU64::new(0),
        }
    }

    pub(crate) fn enter(&self, state: TaskState, phase: Phase) {
        *self.stage() = (state, phase);
    }

    /// Notes the disk that was chosen, by the name that lasts. The first one stays.
    pub(crate) fn set_disk(&self, name: &str) {
        self.disk.get_or_init(|| name.to_owned());
    }

    pub(crate) fn disk(&self) -> Option<&str> {
        self.disk.get().map(String::as_str)
    }

    pub(crate) fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that were right already; they are durable too, having been read from the disk.
    pub(crate) fn add_skipped(&self, bytes: u64) {
        self.skipped.fetch_add(bytes, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What had been counted as right is written again after all.
    pub(crate) fn take_back_skipped(&self, bytes: u64) {
        self.skipped.fetch_sub(bytes, Ordering::Relaxed);
        self.written.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_written(&self, bytes: u64) {
        // Release: whoever sees the sum and then flushes has flushed what it counts.
        self.written.fetch_add(bytes, Ordering::Release);
    }

    pub(crate) fn add_verified(&self, bytes: u64) {
        self.verified.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes handed to the disk so far; to be given to [`flushed`](Self::flushed) after a flush
    /// that began after this call.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn flushed(&self, written: u64) {
        self.durable.fetch_max(written, Ordering::Relaxed);
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> (TaskState, Progress) {
        let (state, phase) = *self.stage();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let progress = Progress {
            phase,
            done: match phase {
                Phase::Verifying => get(&self.verified),
                Phase::Comparing => get(&self.skipped),
                Phase::Checking
                | Phase::Writing
                | Phase::Finalizing
                | Phase::Personalizing
                | Phase::Capturing
                | Phase::Wiping => get(&self.durable),
            },
            total: get(&self.total),
            skipped: get(&self.skipped),
            fetched: get(&self.fetched),
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        (state, progress)
    }

    fn stage(&self) -> MutexGuard<'_, (TaskState, Phase)> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_flushed_counts_as_done() {
        let tracker = Tracker::new();
        tracker.set_total(100);
        tracker.add_skipped(10);
        tracker.enter(TaskState::Running, Phase::Writing);
        tracker.add_fetched(7);
        tracker.add_written(20);
        let before = tracker.written();
        tracker.add_written(5);
        assert_eq!(tracker.now().1.done, 0);
        tracker.flushed(before);
        let (state, progress) = tracker.now();
        assert_eq!(state, TaskState::Running);
        assert_eq!(
            (progress.done, progress.skipped, progress.fetched),
            (30, 10, 7)
        );
        tracker.flushed(tracker.written());
        tracker.flushed(before);
        assert_eq!(tracker.durable(), 35, "a late flush takes nothing back");
        tracker.enter(TaskState::Verifying, Phase::Verifying);
        tracker.add_verified(1);
        assert_eq!(tracker.now().1.done, 1);
    }
}
