//! The same for many devices.

use crate::error::{PowerError, chain};
use crate::service::{Done, Power};
use bugler_model::{Device, PowerAction, PowerState};
use bugler_protocol::operator::{PowerResult, PowerVerdict, SetBoot};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

/// What is to be done; at least one of the two.
#[derive(Clone, Copy, Debug, Default)]
pub struct What {
    /// What they boot; set first.
    pub boot: Option<SetBoot>,
    /// How they are switched.
    pub action: Option<PowerAction>,
    /// With the driver for hard power alone.
    pub hard: bool,
}

/// An order for many devices.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// What is to be done.
    pub what: What,
    /// From one device to the next.
    pub every: Duration,
    /// How many are at work at once.
    pub at_once: usize,
    /// How long each may take. What had begun by then goes on.
    pub timeout: Duration,
}

impl Power {
    /// Carries an order out, the devices in their order. Results come as they are known; when nobody
    /// takes them any more, what has not begun is given up.
    ///
    /// # Errors
    /// [`PowerError::Busy`] where too many orders run already.
    pub fn order(
        self: &Arc<Self>,
        devices: Vec<Arc<Device>>,
        order: Order,
    ) -> Result<mpsc::Receiver<PowerResult>, PowerError> {
        let place = self.orders.clone().try_acquire_owned().map_err(|_| {
            PowerError::Busy("too many power orders run already: wait for one to end".to_owned())
        })?;
        // Room for all: who is slow to read holds nobody up.
        let (sender, receiver) = mpsc::channel(devices.len().max(1));
        let power = self.clone();
        self.tasks.spawn(async move {
            let _place = place;
            let room = Arc::new(Semaphore::new(order.at_once.max(1)));
            for (place, device) in devices.into_iter().enumerate() {
                if place > 0 && !order.every.is_zero() {
                    tokio::select! {
                        () = tokio::time::sleep(order.every) => {}
                        () = sender.closed() => return,
                    }
                }
                let room = tokio::select! {
                    room = room.clone().acquire_owned() => room,
                    () = sender.closed() => return,
                };
                if sender.is_closed() || power.tasks.is_closed() {
                    return;
                }
                let (power, sender) = (power.clone(), sender.clone());
                power.clone().tasks.spawn(async move {
                    let result = power.one(device, order).await;
                    drop(room);
                    // Who has gone does not want to know.
                    let _ = sender.send(result).await;
                });
            }
        });
        Ok(receiver)
    }

    async fn one(self: &Arc<Self>, device: Arc<Device>, order: Order) -> PowerResult {
        let begun = Instant::now();
        let (power, target) = (self.clone(), device.clone());
        // A task of its own: what a BMC was asked is seen through, however long that takes.
        let mut work = self
            .tasks
            .spawn(async move { power.carry_out(&target, order.what).await });
        let ended = tokio::time::timeout(order.timeout, &mut work).await;
        let done = match ended {
            Ok(Ok(Ok(done))) => done,
            Ok(Ok(Err(error))) => failed(chain(&error)),
            Ok(Err(error)) => failed(format!("it ended early: {error}")),
            Err(_) => Done {
                verdict: PowerVerdict::Timeout,
                text: format!(
                    "not done after {} s, and may happen yet: look at its power state",
                    order.timeout.as_secs()
                ),
                state: PowerState::Unknown,
            },
        };
        PowerResult {
            device: device.id,
            label: device.label(),
            verdict: done.verdict,
            text: done.text,
            state: done.state,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn carry_out(&self, device: &Device, what: What) -> Result<Done, PowerError> {
        let mut done = Done {
            verdict: PowerVerdict::Done,
            text: String::new(),
            state: PowerState::Unknown,
        };
        if let Some(boot) = what.boot {
            self.set_boot(device, boot).await?;
            done.text = format!("boots {}", boot.device);
        }
        if let Some(action) = what.action {
            let switched = self.switch(device, action, what.hard).await?;
            let parts = [done.text, switched.text.clone()];
            done = Done {
                text: parts
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
                    .join("; "),
                ..switched
            };
        }
        Ok(done)
    }
}

fn failed(text: String) -> Done {
    Done {
        verdict: PowerVerdict::Failed,
        text,
        state: PowerState::Unknown,
    }
}
