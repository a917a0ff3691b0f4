//! Notices agents that have gone silent.

use crate::state::AppState;
use bugler_model::Presence;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often agents send a heartbeat, in seconds.
pub const HEARTBEAT_S: u32 = 10;

/// An agent that has not been heard for so long is lost: three heartbeats, in milliseconds.
const SILENCE_MS: i64 = 3 * 1000 * HEARTBEAT_S as i64;

/// Marks agents as lost once they have been silent for three heartbeats, until `stop`. Those who
/// were last heard before this server started are given three heartbeats from its start.
pub async fn watch_presence(state: Arc<AppState>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(HEARTBEAT_S.into()) / 2);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = mark_lost(&state).await {
            tracing::warn!("could not look for silent agents: {error}");
        }
    }
}

/// Marks those that are silent now.
async fn mark_lost(state: &AppState) -> Result<(), bugler_store::StoreError> {
    let now = state.now();
    for device in state.store.devices().await? {
        let heard = device.seen.max(state.started);
        if device.presence == Presence::Agent && now.millis_since(heard) > SILENCE_MS {
            state
                .store
                .set_presence(device.id, Presence::Lost, now)
                .await?;
        }
    }
    Ok(())
}
