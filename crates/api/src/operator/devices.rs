//! Devices.

use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bugler_model::{BootSession, Device, DevicePatch};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::SetNetboot;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// Most boot sessions in one answer.
const MAX_SESSIONS: usize = 50;

/// Every device, by id.
#[utoipa::path(get, path = "/devices", operation_id = "list_devices", tag = "devices", responses((status = 200, body = Vec<Device>)))]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let devices = state.store.devices().await?;
    let devices: Vec<&Device> = devices.iter().map(Arc::as_ref).collect();
    Ok(Json(devices).into_response())
}

/// One device, by its id, name, MAC address or UUID, or an unambiguous start of one.
#[utoipa::path(
    get, path = "/devices/{device}", operation_id = "show_device", tag = "devices",
    params(("device" = String, Path)),
    responses(
        (status = 200, body = Device),
        (status = 404, body = ErrorBody, description = "no device is called so"),
        (status = 409, body = ErrorBody, description = "several could be meant; the text names them"),
    ),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
) -> Result<Response, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    Ok(Json(&*device).into_response())
}

/// Changes a device.
#[utoipa::path(
    patch, path = "/devices/{device}", operation_id = "change_device", tag = "devices",
    params(("device" = String, Path)),
    request_body = DevicePatch,
    responses(
        (status = 200, body = Device),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "the name is taken, or the device ambiguous"),
    ),
)]
pub(super) async fn patch(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
    Body(patch): Body<DevicePatch>,
) -> Result<Response, ApiError> {
    check_words(&patch)?;
    let device = state.store.resolve_device(&device).await?;
    let device = state
        .store
        .patch_device(device.id, patch, state.now())
        .await?;
    Ok(Json(&*device).into_response())
}

/// Most tags that one request may add or take away.
const MAX_TAGS: usize = 100;

/// Names and tags are typed and shown: short, and without control characters.
fn check_words(patch: &DevicePatch) -> Result<(), ApiError> {
    let tags = patch.add_tags.iter().chain(&patch.remove_tags);
    if tags.clone().count() > MAX_TAGS {
        return Err(ApiError::bad_request(format!(
            "more than {MAX_TAGS} tags at once"
        )));
    }
    let words = patch
        .name
        .iter()
        .map(|name| ("name", name))
        .chain(tags.map(|tag| ("tag", tag)));
    for (what, word) in words {
        let empty_tag = what == "tag" && word.trim().is_empty();
        if empty_tag || word.chars().count() > 64 || word.chars().any(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "{:?} is not a good {what}: use 1 to 64 characters that can be printed",
                word.chars().take(80).collect::<String>()
            )));
        }
    }
    Ok(())
}

/// Forgets a device. If it boots again, it is a new one.
#[utoipa::path(
    delete, path = "/devices/{device}", operation_id = "remove_device", tag = "devices",
    params(("device" = String, Path)),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "it has an open task"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
) -> Result<StatusCode, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    state.store.remove_device(device.id, state.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Turns a device's network boot on or off, or on for one boot.
#[utoipa::path(
    post, path = "/devices/{device}/netboot", operation_id = "set_netboot", tag = "devices",
    params(("device" = String, Path)),
    request_body = SetNetboot,
    responses((status = 200, body = Device), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn netboot(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
    Body(SetNetboot { mode }): Body<SetNetboot>,
) -> Result<Response, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    let patch = DevicePatch {
        netboot: Some(mode),
        ..DevicePatch::default()
    };
    let device = state
        .store
        .patch_device(device.id, patch, state.now())
        .await?;
    Ok(Json(&*device).into_response())
}

/// Which sessions to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionQuery {
    /// At most this many; 1 to 50.
    limit: Option<usize>,
}

/// A device's boots, latest first.
#[utoipa::path(
    get, path = "/devices/{device}/sessions", operation_id = "list_sessions", tag = "devices",
    params(("device" = String, Path), SessionQuery),
    responses((status = 200, body = Vec<BootSession>), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn sessions(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
    Params(query): Params<SessionQuery>,
) -> Result<Json<Vec<BootSession>>, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    let limit = query.limit.unwrap_or(MAX_SESSIONS).min(MAX_SESSIONS);
    Ok(Json(state.store.sessions(device.id, limit).await?))
}
