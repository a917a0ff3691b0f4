//! The disk that `dd | curl -T -` sends: it becomes an image.

use super::image::{REPORT_EVERY, Token, task_of};
use super::step;
use crate::device::safe_line;
use crate::error::ApiError;
use crate::extract::{Params, Segment};
use crate::operator::receive;
use crate::state::AppState;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bugler_model::{
    Capture, DiskRule, Image, NewImage, Origin, Phase, Progress, Task, TaskAction, TaskState,
};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

/// What is said of how a disk was read that came this way.
const READING: &str = "every byte that the client sent";

/// `PUT /api/uploads/<task>?token=...`: a disk, raw or packed, as its next version of the name.
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Params(Token { token }): Params<Token>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let task = task_of(&state, &token).await?;
    let TaskAction::Capture(capture) = task.action.clone() else {
        return Err(ApiError::conflict(format!("{} takes no upload", task.id)));
    };
    if text != task.id.to_string() {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("this token is for {}, not {text:.20}", task.id),
        ));
    }
    if let Some(image) = state.store.captured(task.id).await? {
        return Err(ApiError::conflict(format!(
            "{} has been taken as {} already: POST /api/action-done",
            task.id,
            image.label()
        )));
    }
    let place = state.image_jobs.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy("several images are being taken or given already: try again later")
    })?;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let expected = length.and_then(|text| text.parse().ok());
    let task = step(&state, &task, TaskState::Running, None).await?;
    // A task of its own: it ends as it should whatever becomes of the request.
    let work = tokio::spawn(async move {
        let _place = place;
        let watched = watch(state.clone(), task.clone(), body, expected);
        let name = capture.image_name.clone();
        let body = Body::from_stream(watched);
        let added = receive(&state, &name, body, None, expected).await?;
        let new = NewImage {
            origin: Some(origin(&state, &task, &capture).await?),
            note: capture.note,
            name,
            manifest: added.manifest.to_string(),
            size: added.disk_size,
            used: added.used_bytes,
            stored: added.stored_bytes,
            sector_size: added.sector_size,
        };
        // `added` holds the chunks until the registry has the image.
        let image = state.store.add_captured(task.id, new, state.now()).await?;
        Ok::<Image, ApiError>(image)
    });
    let image = work.await??;
    let answer = json!({
        "status": "ok",
        "image": image.label(),
        "size": image.size.to_string(),
        "task": text,
    });
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn origin(state: &AppState, task: &Task, capture: &Capture) -> Result<Origin, ApiError> {
    let device = state.store.device(task.device).await?;
    Ok(Origin {
        device: device.id,
        label: device.label(),
        disk: match &capture.disk {
            DiskRule::Named(disk) => safe_line(disk),
            DiskRule::Auto => String::new(),
        },
        agent_version: "shell client".into(),
        reading: vec![READING.into()],
    })
}

/// Passes a body on at the rate that is allowed, and tells the task how far it is. Ends with an error
/// where the task has ended.
fn watch(
    state: Arc<AppState>,
    task: Task,
    body: Body,
    expected: Option<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let began = Instant::now();
    let parts = Box::pin(body.into_data_stream());
    stream::try_unfold(
        (parts, state, task, began, 0),
        move |(mut parts, state, mut task, mut reported, mut done)| async move {
            let Some(part) = parts.next().await else {
                return Ok(None);
            };
            let part = part.map_err(io::Error::other)?;
            state.limiter.pass(task.device, part.len()).await;
            done += part.len() as u64;
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                task.progress = Progress {
                    phase: Phase::Capturing,
                    done,
                    total: expected.unwrap_or_default(),
                    skipped: 0,
                    fetched: done,
                    elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                };
                task = step(&state, &task, TaskState::Running, None)
                    .await
                    .map_err(io::Error::other)?;
                if !task.state.is_open() {
                    let text = format!("{} is {}", task.id, task.state);
                    return Err(io::Error::other(text));
                }
            }
            Ok(Some((part, (parts, state, task, reported, done))))
        },
    )
}
