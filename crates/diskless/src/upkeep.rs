//! What is done without anybody asking for it: layers that nobody uses are closed, and kernels that no
//! machine starts are removed.

use crate::live::Live;
use crate::service::Service;
use bugler_model::ExportId;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// A layer that nobody has used for so long is closed, in seconds.
const CLOSE_AFTER_S: u64 = 600;

/// How often kernels that no machine starts are looked for, and how long one is kept after somebody asked
/// for it.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

impl Service {
    /// Removes kernels and initramfs that no machine was started with at its latest boot, and that nobody
    /// has asked for in the last `grace`. Blocks.
    pub fn prune_starts(&self, grace: Duration) {
        let devices = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let current = known.iter().filter(|known| known.export.current);
            current.map(|known| known.export.device).collect()
        };
        match self.starts.prune(&devices, grace) {
            Ok(removed) => {
                for start in removed {
                    tracing::info!("removed the initramfs {start}, which no machine starts");
                }
            }
            Err(error) => {
                tracing::warn!("kernels that no machine starts could not be removed: {error}");
            }
        }
    }

    /// Closes layers that nobody uses, for ever. What they hold is durable before that.
    pub async fn close_idle(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(60));
        let mut pruned = Instant::now();
        loop {
            ticks.tick().await;
            if pruned.elapsed() >= PRUNE_EVERY {
                pruned = Instant::now();
                let own = self.clone();
                let _ = tokio::task::spawn_blocking(move || own.prune_starts(PRUNE_EVERY)).await;
            }
            let idle: Vec<Arc<Live>> = {
                let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
                let mut live = self.lives();
                let is_idle =
                    |live: &Arc<Live>| !live.is_connected() && live.idle_s() >= CLOSE_AFTER_S;
                let ids: Vec<ExportId> = live
                    .values()
                    .filter(|live| is_idle(live))
                    .map(|live| live.id)
                    .collect();
                let idle: Vec<Arc<Live>> = ids.iter().filter_map(|id| live.remove(id)).collect();
                for live in &idle {
                    closed.insert(live.id, Arc::downgrade(&live.disk));
                }
                idle
            };
            // Dropped where blocking is allowed: the last flush waits for a disk.
            let _ = tokio::task::spawn_blocking(move || drop(idle)).await;
        }
    }

    /// Makes all that machines wrote durable; for the end of the server. Blocks.
    pub fn flush_all(&self) {
        self.close_trees();
        let all: Vec<Arc<Live>> = self.lives().values().cloned().collect();
        for live in all {
            if let Err(error) = live.disk.checkpoint() {
                tracing::warn!("the layer {} could not be flushed: {error}", live.id);
            }
        }
    }
}
