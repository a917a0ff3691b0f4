//! Asks machines now and then whether they are on.

use crate::service::Power;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How many are asked at once: dead ones take their time.
const AT_ONCE: usize = 16;

impl Power {
    /// Asks every device whose driver can tell, each once within `every`, evenly: no burst. Ends with
    /// `stop`. A driver that cannot work until somebody changes something, such as one with a wrong
    /// password, is not asked again before.
    pub async fn poll(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let round = self.round().await;
            let gap = every / u32::try_from(round.len()).unwrap_or(u32::MAX).max(1);
            if round.is_empty() && !pause(gap, &stop).await {
                return;
            }
            for entry in round {
                let Ok(place) = room.clone().acquire_owned().await else {
                    return;
                };
                let power = self.clone();
                self.tasks.spawn(async move {
                    if let Ok(device) = power.store.device(entry.device).await
                        && let Err(error) = power.ask(&device, false).await
                    {
                        tracing::debug!("the power state of {}: {error}", device.label());
                    }
                    drop(place);
                });
                if !pause(gap, &stop).await {
                    return;
                }
            }
        }
    }

    /// Those to ask, each device once.
    async fn round(&self) -> Vec<bugler_model::PowerEntry> {
        let Ok(mut entries) = self.store.power_entries(None).await else {
            return Vec::new();
        };
        let mut devices = HashSet::new();
        entries.retain(|entry| entry.driver.tells_state() && devices.insert(entry.device));
        entries.retain(|entry| self.is_worth_asking(entry));
        entries
    }
}

/// False: it is time to stop.
async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = stop.cancelled() => false,
    }
}
