//! What a device would boot now, and why.

use crate::error::ApiError;
use crate::extract::Segment;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::operator::PlanView;
use std::sync::Arc;

/// What a device would boot if it asked now, and why.
#[utoipa::path(
    get, path = "/devices/{device}/plan", operation_id = "show_plan", tag = "devices",
    params(("device" = String, Path)),
    responses(
        (status = 200, body = PlanView),
        (status = 404, body = ErrorBody, description = "no device is called so"),
        (status = 409, body = ErrorBody, description = "several could be meant; the text names them"),
        (status = 503, body = ErrorBody, description = "this server boots no devices"),
    ),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
) -> Result<Json<PlanView>, ApiError> {
    let device = state.store.resolve_device(&device).await?;
    let view = state.boot.explain(&device).ok_or_else(|| {
        ApiError::busy("this server boots no devices, so there is no plan for one")
    })?;
    Ok(Json(view))
}
