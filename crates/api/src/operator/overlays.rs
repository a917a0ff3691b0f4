//! The layers of diskless machines.

use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::overlays::{OverlayError, Overlays};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_model::ExportId;
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::{CommitOverlay, Committed, GrowOverlay, OverlayView};
use serde::Deserialize;
use std::sync::Arc;

/// Longest note, in characters.
const MAX_NOTE: usize = 1000;

impl From<OverlayError> for ApiError {
    fn from(error: OverlayError) -> Self {
        match error {
            OverlayError::NotFound(text) => Self::not_found(text),
            OverlayError::Conflict(text) => Self::conflict(text),
            OverlayError::Broken(text) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

fn overlays(state: &AppState) -> Result<&Arc<dyn Overlays>, ApiError> {
    let missing = || ApiError::conflict("this server serves no diskless machines".to_owned());
    state.info.overlays.as_ref().ok_or_else(missing)
}

fn id(text: &str) -> Result<ExportId, ApiError> {
    text.parse()
        .map_err(|error: bugler_model::IdParseError| ApiError::bad_request(error.to_string()))
}

/// Whether to go on although the machine runs.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Running {
    running: bool,
}

/// Every layer: by device, the one that it booted last first.
#[utoipa::path(get, path = "/overlays", operation_id = "list_overlays", tag = "overlays", responses((status = 200, body = Vec<OverlayView>)))]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
) -> Result<Json<Vec<OverlayView>>, ApiError> {
    match &state.info.overlays {
        Some(overlays) => Ok(Json(overlays.list().await?)),
        None => Ok(Json(Vec::new())),
    }
}

/// Forgets what a machine wrote. Its next boot begins with an empty layer.
#[utoipa::path(
    delete, path = "/overlays/{overlay}", operation_id = "reset_overlay", tag = "overlays",
    params(
        ("overlay" = String, Path, description = "its id: x3"),
        ("running" = Option<bool>, Query, description = "also while its machine runs on it, which it will not survive"),
    ),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such layer"),
        (status = 409, body = ErrorBody, description = "its machine runs on it"),
    ),
)]
pub(super) async fn reset(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Params(query): Params<Running>,
) -> Result<StatusCode, ApiError> {
    overlays(&state)?.reset(id(&text)?, query.running).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets how many bytes a layer may take.
#[utoipa::path(
    post, path = "/overlays/{overlay}/grow", operation_id = "grow_overlay", tag = "overlays",
    params(("overlay" = String, Path, description = "its id: x3")),
    request_body = GrowOverlay,
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such layer"),
        (status = 409, body = ErrorBody, description = "it holds more already"),
    ),
)]
pub(super) async fn grow(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Body(wanted): Body<GrowOverlay>,
) -> Result<StatusCode, ApiError> {
    overlays(&state)?.grow(id(&text)?, wanted.size).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a new version of an image from a base and one machine's layer. The layer stays as it is.
#[utoipa::path(
    post, path = "/overlays/{overlay}/commit", operation_id = "commit_overlay", tag = "overlays",
    params(("overlay" = String, Path, description = "its id: x3")),
    request_body = CommitOverlay,
    responses(
        (status = 201, body = Committed),
        (status = 404, body = ErrorBody, description = "there is no such layer"),
        (status = 409, body = ErrorBody, description = "its machine runs on it"),
    ),
)]
pub(super) async fn commit(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Body(wanted): Body<CommitOverlay>,
) -> Result<(StatusCode, Json<Committed>), ApiError> {
    let name = wanted
        .name
        .parse()
        .map_err(|error: bugler_model::ImageNameError| ApiError::bad_request(error.to_string()))?;
    if wanted.note.chars().count() > MAX_NOTE {
        return Err(ApiError::bad_request(format!(
            "the note has more than {MAX_NOTE} characters"
        )));
    }
    let id = id(&text)?;
    let made = overlays(&state)?
        .commit(id, name, wanted.note, wanted.running)
        .await?;
    let image = state.store.add_image(made.image, state.now()).await?;
    drop(made.hold);
    let new = made.new;
    Ok((StatusCode::CREATED, Json(Committed { image, new })))
}
