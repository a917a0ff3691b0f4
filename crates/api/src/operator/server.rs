//! The server itself.

use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use bugler_protocol::operator::ServerStatus;
use std::sync::{Arc, PoisonError};

/// What the server is and what it serves.
#[utoipa::path(get, path = "/server", operation_id = "show_server", tag = "server", responses((status = 200, body = ServerStatus)))]
pub(super) async fn show(State(state): State<Arc<AppState>>) -> Json<ServerStatus> {
    let uptime_ms = state.now().millis_since(state.started);
    // Lines are only ever pushed: a panic elsewhere leaves them whole.
    let services = state
        .info
        .services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Json(ServerStatus {
        version: state.info.version.clone(),
        uptime_s: u64::try_from(uptime_ms / 1000).unwrap_or_default(),
        bootenv: state.boot.bootenv(),
        services,
    })
}
