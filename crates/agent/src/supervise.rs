//! What every long task needs beside its work: one thread that reports how far it is, and learns
//! of a cancel.

use crate::api::{ApiError, Bulk};
use crate::log::{Log, chain};
use crate::progress::Tracker;
use crate::stop::Stop;
use bugler_model::{Phase, Progress, TaskState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often progress is reported.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Tells the server how a task goes: its state, how far it is and the disk that was chosen; gives
/// back whether an operator has cancelled it.
pub type ReportFn<'a> =
    dyn Fn(TaskState, Progress, Option<&str>) -> Result<bool, ApiError> + Sync + 'a;

/// One task at work.
pub(crate) struct Supervisor<'a> {
    pub(crate) tracker: Tracker,
    /// Thrown by an error or a cancel: every thread of this task ends.
    pub(crate) halt: Stop,
    /// Thrown by a cancel, before `halt`.
    cancelled: Stop,
    /// Held from reading the state to the server's answer, so that reports arrive in the order of
    /// the states that they tell: a late `Claimed` would take a `Running` back.
    reporting: Mutex<()>,
    bulk: &'a Bulk,
    report: &'a ReportFn<'a>,
    log: &'a Log,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(bulk: &'a Bulk, report: &'a ReportFn<'a>, log: &'a Log) -> Self {
        Self {
            tracker: Tracker::new(),
            halt: Stop::new(),
            cancelled: Stop::new(),
            reporting: Mutex::new(()),
            bulk,
            report,
            log,
        }
    }

    /// Does the work, and reports once a second, and at every change of state, until it ends.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let finished = Stop::new();
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch(&finished));
            // Also where the work panics: the scope would wait for the thread for ever.
            let _finish = SetOnDrop(&finished);
            work()
        })
    }

    fn watch(&self, finished: &Stop) {
        let mut lost = false;
        while !finished.is_set() {
            let (state, answer) = self.report_now();
            match answer {
                Ok(true) if !finished.is_set() => return self.cancel(),
                Ok(_) => lost = false,
                Err(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        let why = chain(&error);
                        let log = self.log;
                        log.line(format!("cannot report progress: {why}; the work goes on"));
                    }
                }
            }
            // A change of state is told at once: the sleep is cut into pieces.
            let next = Instant::now() + TICK;
            while Instant::now() < next && self.tracker.now().0 == state {
                if finished.sleep(Duration::from_millis(50)) {
                    return;
                }
            }
        }
    }

    /// Tells the server at once how far it is, and which disk was chosen: a task that is over within a
    /// moment would else have ended untold. That it could not be told is no error: the last report
    /// is tried until it arrives.
    pub(crate) fn tell(&self) {
        if let (_, Ok(true)) = self.report_now() {
            self.cancel();
        }
    }

    /// Reports how far it is; returns the state that was told, and whether the task is cancelled.
    fn report_now(&self) -> (TaskState, Result<bool, ApiError>) {
        let _turn = self
            .reporting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (state, progress) = self.tracker.now();
        (state, (self.report)(state, progress, self.tracker.disk()))
    }

    /// Reports that `phase` of `Running` begins, and enters it once the server knows. `again`
    /// decides after an error whether to try once more. Gives whether the task goes on: it does
    /// not when it is cancelled.
    ///
    /// # Errors
    /// The error that `again` did not want to try after.
    pub(crate) fn announce(
        &self,
        phase: Phase,
        mut again: impl FnMut(&ApiError) -> bool,
    ) -> Result<bool, ApiError> {
        let _turn = self
            .reporting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            // Set by the report before this one, or while `again` waited.
            if self.halt.is_set() {
                return Ok(false);
            }
            let progress = Progress {
                phase,
                ..self.tracker.now().1
            };
            match (self.report)(TaskState::Running, progress, self.tracker.disk()) {
                Ok(false) => {
                    self.tracker.enter(TaskState::Running, phase);
                    return Ok(true);
                }
                Ok(true) => {
                    self.cancel();
                    return Ok(false);
                }
                Err(error) if again(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn cancel(&self) {
        self.cancelled.set();
        self.give_up();
    }

    /// Ends all threads of the task after an error of one of them, those that wait for the server
    /// too.
    pub(crate) fn give_up(&self) {
        self.halt.set();
        self.bulk.interrupt();
    }

    /// Whether an operator has ended it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.is_set()
    }
}

struct SetOnDrop<'a>(&'a Stop);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}
