//! The server itself.

use crate::error::ApiError;
use crate::keys::ServerKeys;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use bugler_model::{EventKind, NewEvent};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::{KeyChanged, ServerKey, ServerStatus};
use std::sync::{Arc, PoisonError};

fn keys(state: &AppState) -> Result<Arc<ServerKeys>, ApiError> {
    let keys = state.info.keys.clone();
    keys.ok_or_else(|| {
        ApiError::not_found("this server signs nothing: it was started without keys")
    })
}

fn shown(keys: &ServerKeys) -> ServerKey {
    let changes = keys.changes().into_iter().map(|change| KeyChanged {
        old: change.old.to_string(),
        new: change.new.to_string(),
    });
    ServerKey {
        key: keys.public().to_string(),
        changes: changes.collect(),
    }
}

/// The public key by which images are signed.
#[utoipa::path(
    get, path = "/server/key", operation_id = "show_key", tag = "server",
    responses((status = 200, body = ServerKey), (status = 404, body = ErrorBody, description = "nothing is signed")),
)]
pub(super) async fn key(State(state): State<Arc<AppState>>) -> Result<Json<ServerKey>, ApiError> {
    Ok(Json(shown(&*keys(&state)?)))
}

/// Makes another key, signed by the present one, which takes its place. Machines whose agent runs
/// go on; machines that boot from now on get the new key.
#[utoipa::path(
    post, path = "/server/key/rotate", operation_id = "rotate_key", tag = "server",
    responses(
        (status = 200, body = ServerKey),
        (status = 404, body = ErrorBody, description = "nothing is signed"),
        (status = 500, body = ErrorBody, description = "the key cannot be written: the present one stays"),
    ),
)]
pub(super) async fn rotate(
    State(state): State<Arc<AppState>>,
) -> Result<Json<ServerKey>, ApiError> {
    let keys = keys(&state)?;
    let rotating = keys.clone();
    let new = tokio::task::spawn_blocking(move || rotating.rotate()).await??;
    let text = format!("the key that images are signed by was changed: it is {new} now");
    let event = NewEvent::new(EventKind::Server, text);
    state.store.append_event(event, state.now()).await?;
    Ok(Json(shown(&keys)))
}

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
