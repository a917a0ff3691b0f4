//! How far machines without a disk have come on the way to their roots.

use super::log::safe_line;
use crate::error::ApiError;
use crate::extract::{Body, Peer};
use crate::state::AppState;
use crate::token;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_model::{EventKind, NewEvent, Outcome, Stage};
use bugler_protocol::agent::{Diskless, DisklessStage};
use std::net::IpAddr;
use std::sync::Arc;

/// `POST /agent/v1/diskless`. Once its root is attached a machine is up, and belongs to its own system.
pub(super) async fn report(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    Body(body): Body<Diskless>,
) -> Result<StatusCode, ApiError> {
    let boot = state
        .store
        .boot_token(token::hash(&body.boot_token))
        .await?;
    let Some((device, session)) = boot else {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "this boot token was never given, or the device has booted several times since: boot \
             again",
        ));
    };
    let now = state.now();
    state.store.reach_stage(session, Stage::Agent, now).await?;
    let label = state.store.device(device).await?.label();
    let detail = safe_line(&body.detail);
    let text = match body.stage {
        DisklessStage::RootAttached => {
            state.store.end_session(session, Outcome::Up, now).await?;
            state.store.end_next(device, now).await?;
            format!("{label} has its root: {detail}")
        }
        DisklessStage::RootFailed => format!("{label} cannot reach its root: {detail}"),
    };
    if let IpAddr::V4(address) = peer.ip() {
        state.store.touch(device, Some(address), now);
    }
    let event = NewEvent::new(EventKind::Boot, text).device(device);
    state.store.append_event(event, now).await?;
    Ok(StatusCode::NO_CONTENT)
}
