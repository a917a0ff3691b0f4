//! Wakes long polls.
//!
//! One task listens to the store's events and wakes only the device that a task is for: thousands
//! of agents wait, and each event would wake them all if each listened for itself.

use bugler_model::{DeviceId, Event, EventKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Who waits for which device's tasks.
#[derive(Clone, Default)]
pub(crate) struct Wakes(Arc<Mutex<HashMap<DeviceId, Arc<Notify>>>>);

/// Waits for one device's tasks; forgets itself when dropped.
pub(crate) struct Waiting {
    wakes: Wakes,
    device: DeviceId,
    notify: Arc<Notify>,
}

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Arc<Notify>>> {
        // Every change is one insert or removal: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for changes of this device's tasks.
    pub(crate) fn waiting(&self, device: DeviceId) -> Waiting {
        let notify = self.lock().entry(device).or_default().clone();
        Waiting {
            wakes: self.clone(),
            device,
            notify,
        }
    }

    /// Passes events on until `stop`.
    pub(crate) async fn run(
        self,
        mut events: broadcast::Receiver<Arc<Event>>,
        stop: CancellationToken,
    ) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Ok(event) if event.kind == EventKind::Task => {
                    let notify = event.device.and_then(|id| self.lock().get(&id).cloned());
                    if let Some(notify) = notify {
                        notify.notify_waiters();
                    }
                }
                Ok(_) => {}
                // What was missed may have been for anybody: they look for themselves.
                Err(RecvError::Lagged(_)) => {
                    self.lock()
                        .values()
                        .for_each(|notify| notify.notify_waiters());
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

impl Waiting {
    /// Completes at the first change after this was called, even before it is polled. So: call it,
    /// look whether there is a task, and wait only if there is none.
    pub(crate) fn change(&self) -> impl Future<Output = ()> + Send + '_ {
        let mut notified = Box::pin(self.notify.notified());
        notified.as_mut().enable();
        notified
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut map = self.wakes.lock();
        // This one and the map's own: nobody else waits.
        if Arc::strong_count(&self.notify) == 2 {
            map.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{EventId, Timestamp};

    fn event(kind: EventKind, device: u64) -> Arc<Event> {
        Arc::new(Event {
            id: EventId(1),
            at: Timestamp(0),
            kind,
            device: Some(DeviceId(device)),
            session: None,
            task: None,
            image: None,
            text: String::new(),
        })
    }

    #[tokio::test]
    async fn a_change_between_looking_and_waiting_is_not_missed() {
        let (sender, receiver) = broadcast::channel(8);
        let (wakes, stop) = (Wakes::default(), CancellationToken::new());
        let task = tokio::spawn(wakes.clone().run(receiver, stop.clone()));
        let (first, other) = (wakes.waiting(DeviceId(1)), wakes.waiting(DeviceId(2)));
        let (change, still) = (first.change(), other.change());
        sender.send(event(EventKind::Progress, 2)).unwrap();
        sender.send(event(EventKind::Task, 1)).unwrap();
        change.await;
        assert!(
            futures::FutureExt::now_or_never(still).is_none(),
            "not its task"
        );
        drop((first, other));
        assert!(wakes.lock().is_empty(), "nobody waits");
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn missed_events_wake_everybody() {
        let (sender, receiver) = broadcast::channel(1);
        for n in 0..3 {
            sender.send(event(EventKind::Task, n + 10)).unwrap();
        }
        let wakes = Wakes::default();
        let waiting = wakes.waiting(DeviceId(1));
        let change = waiting.change();
        tokio::spawn(wakes.clone().run(receiver, CancellationToken::new()));
        change.await;
    }
}
