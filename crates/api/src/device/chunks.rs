//! Hands an agent the image of its own open task, and nothing else.

use super::damage;
use super::log::safe_line;
use super::manifests::ChunkSet;
use super::sending;
use crate::error::ApiError;
use crate::extract::{Agent, Body, Segment};
use crate::state::AppState;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_images::ChunkState;
use bugler_model::{Deploy, DeviceId, EventKind, NewEvent, Task, TaskAction};
use bugler_protocol::agent::{
    CHUNK_STREAM, ChunkRequest, Damaged, MAX_CHUNKS_PER_REQUEST, SIGNATURE_HEADER,
    SUCCESSION_HEADER,
};
use bugler_protocol::manifest::ChunkHash;
use std::sync::Arc;

/// The deploy that this device is to do now.
async fn open_deploy(
    state: &AppState,
    device: DeviceId,
) -> Result<(Task, Deploy, ChunkHash), ApiError> {
    let task = state.store.open_task(device).await?;
    let Some((task, deploy)) = task.and_then(|task| match task.action.clone() {
        TaskAction::Deploy(deploy) => Some((task, deploy)),
        TaskAction::Capture(_)
        | TaskAction::Wipe(_)
        | TaskAction::Reboot
        | TaskAction::PowerOff => None,
    }) else {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{device} has no open task that writes an image: ask for a task first"),
        ));
    };
    let manifest = deploy.manifest.parse().map_err(|error| {
        ApiError::conflict(format!("{} names no manifest: {error}; cancel it", task.id))
    })?;
    Ok((task, deploy, manifest))
}

/// What this device may be given, from the cache of manifests.
async fn own_chunks(
    state: &AppState,
    device: DeviceId,
) -> Result<(Task, Deploy, Arc<ChunkSet>), ApiError> {
    let (task, deploy, manifest) = open_deploy(state, device).await?;
    let chunks = state.manifests.chunks(&state.images, manifest).await?;
    Ok((task, deploy, chunks))
}

fn parse_hash(text: &str) -> Result<ChunkHash, ApiError> {
    text.parse()
        .map_err(|error| ApiError::bad_request(format!("{error}")))
}

fn not_its_own(chunk: &str, task: &Task) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        format!(
            "{chunk} is no part of the image of {}, the open task of this device",
            task.id
        ),
    )
}

pub(super) async fn manifest(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Segment(text): Segment,
) -> Result<Response, ApiError> {
    let hash = parse_hash(&text)?;
    let (task, _, own) = open_deploy(&state, agent.auth.device).await?;
    if hash != own {
        return Err(not_its_own(&format!("manifest {hash}"), &task));
    }
    let images = state.images.clone();
    let bytes =
        tokio::task::spawn_blocking(move || images.manifest(&hash).map(|m| m.encode())).await??;
    let mut headers = HeaderMap::new();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    if let Some(keys) = &state.info.keys {
        let (signature, succession) = keys.sign(&hash);
        let both = [
            (SIGNATURE_HEADER, Some(signature)),
            (SUCCESSION_HEADER, succession),
        ];
        for (name, value) in both {
            // Hex digits, colons and commas.
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
    }
    Ok((headers, bytes).into_response())
}

pub(super) async fn chunks(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Body(request): Body<ChunkRequest>,
) -> Result<Response, ApiError> {
    if request.hashes.len() > MAX_CHUNKS_PER_REQUEST {
        return Err(ApiError::bad_request(format!(
            "{} chunks were asked for: at most {MAX_CHUNKS_PER_REQUEST} at a time",
            request.hashes.len()
        )));
    }
    let (task, _, own) = own_chunks(&state, agent.auth.device).await?;
    let mut hashes = Vec::with_capacity(request.hashes.len());
    for text in &request.hashes {
        let hash = parse_hash(text)?;
        if !own.contains(&hash) {
            return Err(not_its_own(&format!("chunk {hash}"), &task));
        }
        hashes.push(hash);
    }
    let frames = sending::frames(state.clone(), task.device, hashes);
    let body = axum::body::Body::from_stream(frames);
    Ok(([(header::CONTENT_TYPE, CHUNK_STREAM)], body).into_response())
}

pub(super) async fn damaged(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Body(report): Body<Damaged>,
) -> Result<StatusCode, ApiError> {
    let hash = parse_hash(&report.hash)?;
    let (task, deploy, own) = own_chunks(&state, agent.auth.device).await?;
    if !own.contains(&hash) {
        return Err(not_its_own(&format!("chunk {hash}"), &task));
    }
    let images = state.images.clone();
    let found = tokio::task::spawn_blocking(move || images.check_chunk(&hash)).await??;
    let found_here = match found {
        ChunkState::Missing => Some("it is missing".to_owned()),
        ChunkState::Damaged { detail } => Some(detail),
        ChunkState::Good => None,
    };
    if let Some(detail) = found_here {
        damage::note(&state, hash, &detail).await?;
    } else {
        let text = format!(
            "chunk {hash} of {} arrived damaged ({}); it is right in the store, so it was damaged \
             on the way or in the machine's memory",
            deploy.image_name,
            safe_line(&report.detail)
        );
        let event = NewEvent::new(EventKind::Task, text)
            .device(agent.auth.device)
            .task(task.id);
        state.store.append_event(event, state.now()).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
