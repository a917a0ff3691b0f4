//! The device plane: what machines reach.

mod agent;
mod boot;
mod capture;
mod chunks;
mod damage;
mod diskless;
mod frames;
mod inventory;
mod log;
mod manifests;
mod phone_home;
mod sending;

pub(crate) use capture::Receiving;
pub use capture::split_commit;
pub(crate) use damage::note as note_damage;
pub use frames::{FrameError, Frames};
pub(crate) use log::{LogBudget, safe_line};
pub(crate) use manifests::Manifests;

use crate::error::ApiError;
use crate::field;
use crate::state::AppState;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::routing::{get, post};
use std::sync::Arc;

/// Largest body of a device's request, in bytes: an inventory of many disks.
const MAX_BODY: usize = 1 << 20;

/// The device plane: `/boot/` (the boot tree), `/agent/v1/` (Bugler's agent), `/phone-home/`
/// (operating systems that were deployed), `/api/` (shell clients). Serve it with the peer's address as connect info, as [`crate::serve`] does.
pub fn router(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/boot/{*path}", get(boot::get))
        .route("/agent/v1/register", post(agent::register))
        .route("/agent/v1/task", get(agent::next_task))
        .route("/agent/v1/tasks/{id}/report", post(agent::report))
        .route("/agent/v1/heartbeat", post(agent::heartbeat))
        .route("/agent/v1/manifests/{hash}", get(chunks::manifest))
        .route("/agent/v1/chunks", post(chunks::chunks))
        .route("/agent/v1/damaged", post(chunks::damaged))
        .route("/agent/v1/diskless", post(diskless::report))
        .route("/agent/v1/captures/{id}/missing", post(capture::missing))
        .route("/agent/v1/captures/{id}/chunks", post(capture::chunks))
        .route("/agent/v1/captures/{id}/commit", post(capture::commit))
        .route(
            "/phone-home/{token}",
            get(phone_home::call).post(phone_home::call),
        )
        .merge(field::router())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// For paths that a plane does not have.
pub(crate) async fn unknown_path(request: Request) -> ApiError {
    ApiError::not_found(format!("this server has no path {}", request.uri().path()))
}

/// For paths that take other methods.
pub(crate) async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!(
            "{} does not take the method {}",
            request.uri().path(),
            request.method()
        ),
    )
}
