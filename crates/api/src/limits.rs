//! How much devices are given at once.

use crate::throttle::{Rates, Throttle};
use bugler_model::{DeviceId, TaskId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What deploys and captures may take of the server and its network. The default has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeployLimits {
    /// How many devices are at work at once; the others wait for their turn, the oldest task first.
    pub at_once: Option<u32>,
    /// Bytes a second to and from all devices together.
    pub rate: Option<u64>,
    /// Bytes a second to and from each device.
    pub rate_per_device: Option<u64>,
}

/// Keeps to the rates.
#[derive(Clone)]
pub(crate) struct Limiter(Option<Arc<Shared>>);

struct Shared {
    throttle: Mutex<Throttle<oneshot::Sender<()>>>,
    asked: Notify,
    start: Instant,
}

impl Limiter {
    /// Starts the one task that lets bytes through, where there is a limit; it ends with `stop`.
    pub(crate) fn start(limits: &DeployLimits, stop: CancellationToken) -> Self {
        let rates = Rates {
            all: limits.rate,
            each: limits.rate_per_device,
        };
        if rates == Rates::default() {
            return Self(None);
        }
        let shared = Arc::new(Shared {
            throttle: Mutex::new(Throttle::new(rates)),
            asked: Notify::new(),
            start: Instant::now(),
        });
        tokio::spawn(release(shared.clone(), stop));
        Self(Some(shared))
    }

    /// Waits until `bytes` may be moved for a device. Let go of it to give up.
    pub(crate) async fn pass(&self, device: DeviceId, bytes: usize) {
        let Some(shared) = &self.0 else { return };
        let (tell, told) = oneshot::channel();
        shared.throttle().ask(device, bytes as u64, tell);
        shared.asked.notify_one();
        // Where the server stops, nobody is told: what is under way ends with its connection.
        let _ = told.await;
    }
}

impl Shared {
    fn throttle(&self) -> MutexGuard<'_, Throttle<oneshot::Sender<()>>> {
        // Each change is whole before anything can go wrong.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn release(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let now = shared.start.elapsed();
        let next = shared
            .throttle()
            .release(now, |waiter| waiter.send(()).is_ok());
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(shared.start + next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.asked.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The polls that are held back because as many devices are at work as may be, by the age of their
/// tasks.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<BTreeMap<TaskId, Arc<Notify>>>>);

/// One poll that is held back; it leaves the line when dropped.
pub(crate) struct Turn {
    turns: Turns,
    task: TaskId,
    notify: Arc<Notify>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands in line. Look again whether it is the turn before waiting: something may have ended
    /// in between.
    pub(crate) fn stand(&self, task: TaskId) -> Turn {
        let notify = Arc::new(Notify::new());
        self.lock().insert(task, notify.clone());
        Turn {
            turns: self.clone(),
            task,
            notify,
        }
    }

    /// A task has changed: the oldest in line looks whether it is its turn. One for each change, so
    /// that a line of thousands is not woken whole.
    pub(crate) fn changed(&self) {
        if let Some((_, notify)) = self.lock().pop_first() {
            notify.notify_one();
        }
    }
}

impl Turn {
    /// Completes when it may be its turn.
    pub(crate) async fn come(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        // A later poll of the same device may stand there by now.
        if line
            .get(&self.task)
            .is_some_and(|notify| Arc::ptr_eq(notify, &self.notify))
        {
            line.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_no_limit_waits_for_nothing() {
        let stop = CancellationToken::new();
        let none = Limiter::start(&DeployLimits::default(), stop.clone());
        assert!(none.pass(DeviceId(1), 1 << 40).now_or_never().is_some());
        let limits = DeployLimits {
            rate: Some(1_000_000),
            ..DeployLimits::default()
        };
        let limiter = Limiter::start(&limits, stop.clone());
        let before = Instant::now();
        for _ in 0..11 {
            limiter.pass(DeviceId(1), 1_000_000).await;
        }
        let took = before.elapsed();
        assert!(
            (Duration::from_millis(9_900)..Duration::from_millis(10_100)).contains(&took),
            "{took:?}"
        );
        // One that gives up is in nobody's way.
        let given_up = limiter.pass(DeviceId(1), 1 << 40);
        assert!(
            tokio::time::timeout(Duration::from_millis(1), given_up)
                .await
                .is_err()
        );
        let before = Instant::now();
        limiter.pass(DeviceId(2), 1).await;
        assert!(before.elapsed() < Duration::from_secs(2));
        stop.cancel();
    }

    #[tokio::test]
    async fn a_change_calls_the_oldest_in_line() {
        let turns = Turns::default();
        let (late, early) = (turns.stand(TaskId(9)), turns.stand(TaskId(2)));
        turns.changed();
        early.come().await;
        assert!(late.come().now_or_never().is_none());
        drop(early);
        turns.changed();
        late.come().await;
        let (old, new) = (turns.stand(TaskId(4)), turns.stand(TaskId(4)));
        drop(old);
        turns.changed();
        new.come().await;
        drop((late, new));
        assert!(turns.lock().is_empty());
    }
}
