//! Receives an image from an agent that captures it, chunk by chunk: only what the store lacks.
//!
//! Everything belongs to one task, which is the agent's open capture. What has come waits in the
//! chunk store under the task's id until the commit; it is thrown away when the task ends without one.

use super::frames::{FrameError, Frames};
use super::log::safe_line;
use crate::error::{ApiError, chain};
use crate::extract::{Agent, Body as JsonBody, Segment};
use crate::state::AppState;
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::StatusCode;
use bugler_images::{CaptureError, CaptureSession, ChunkStore};
use bugler_model::{Capture, Image, NewImage, Origin, Task, TaskAction, TaskId, TaskState};
use bugler_protocol::agent::{Captured, Capturing, ChunkRequest, MAX_HASHES_PER_QUESTION, Missing};
use bugler_protocol::manifest::ChunkHash;
use bugler_store::{AgentAuth, TaskReport};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a sender may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// Longest commit, in bytes: the manifest of an image with 4 TiB that are not zero.
const MAX_COMMIT: usize = 160 << 20;

/// Longest [`Capturing`] in a commit, in bytes of JSON.
const MAX_CAPTURING: u32 = 1 << 20;

/// Most lines of [`Capturing::reading`], and characters of each text.
const MAX_READING: usize = 200;
const MAX_TEXT: usize = 500;

/// The captures that are being received.
#[derive(Clone, Default)]
pub(crate) struct Receiving(Arc<Mutex<HashMap<TaskId, Receiver>>>);

#[derive(Clone)]
struct Receiver {
    session: Arc<CaptureSession>,
    /// Held by a commit: there is one at a time.
    committing: Arc<tokio::sync::Mutex<()>>,
}

impl Receiving {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Receiver>> {
        // Each change is of one entry: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a task, begun or gone on with where there is none.
    async fn of(&self, images: &Arc<ChunkStore>, task: TaskId) -> Result<Receiver, ApiError> {
        if let Some(receiver) = self.lock().get(&task) {
            return Ok(receiver.clone());
        }
        let images = images.clone();
        let begin = move || images.begin_capture(&task.to_string());
        let session = tokio::task::spawn_blocking(begin).await??;
        let new = Receiver {
            session,
            committing: Arc::default(),
        };
        Ok(self.lock().entry(task).or_insert(new).clone())
    }

    /// The tasks whose chunks are held.
    pub(crate) fn tasks(&self) -> Vec<TaskId> {
        self.lock().keys().copied().collect()
    }

    /// Throws away what has come for a task and is no image yet.
    pub(crate) async fn discard(
        &self,
        images: &Arc<ChunkStore>,
        task: TaskId,
    ) -> Result<(), ApiError> {
        self.lock().remove(&task);
        let images = images.clone();
        let discard = move || images.discard_capture(&task.to_string());
        Ok(tokio::task::spawn_blocking(discard).await??)
    }
}

/// The agent's open capture by this id.
async fn open_capture(
    state: &AppState,
    auth: AgentAuth,
    id: &str,
) -> Result<(Task, Capture), ApiError> {
    let task = own_task(state, auth, id).await?;
    let TaskAction::Capture(capture) = task.action.clone() else {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{} is no capture: it takes nothing", task.id),
        ));
    };
    if task.state == TaskState::Queued {
        return Err(ApiError::conflict(format!(
            "{} is queued: ask for a task first",
            task.id
        )));
    }
    if !task.state.is_open() {
        return Err(ApiError::conflict(format!(
            "{} is {}: what was read is not wanted any more",
            task.id, task.state
        )));
    }
    Ok((task, capture))
}

async fn own_task(state: &AppState, auth: AgentAuth, id: &str) -> Result<Task, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no task {id:.20} of this device"));
    let task = state.store.task(id.parse().map_err(|_| unknown())?).await;
    let task = task.map_err(|_| unknown())?;
    if task.device == auth.device {
        Ok(task)
    } else {
        Err(unknown())
    }
}

pub(super) async fn missing(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Segment(id): Segment,
    JsonBody(request): JsonBody<ChunkRequest>,
) -> Result<Json<Missing>, ApiError> {
    if request.hashes.len() > MAX_HASHES_PER_QUESTION {
        return Err(ApiError::bad_request(format!(
            "{} chunks were asked about: at most {MAX_HASHES_PER_QUESTION} at a time",
            request.hashes.len()
        )));
    }
    let hashes: Vec<ChunkHash> = request
        .hashes
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let (task, _) = open_capture(&state, agent.auth, &id).await?;
    let session = state.receiving.of(&state.images, task.id).await?.session;
    let asked = tokio::task::spawn_blocking(move || session.missing(&hashes)).await?;
    let missing = asked.map_err(ApiError::from)?;
    Ok(Json(Missing { missing }))
}

pub(super) async fn chunks(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Segment(id): Segment,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let (task, _) = open_capture(&state, agent.auth, &id).await?;
    let session = state.receiving.of(&state.images, task.id).await?.session;
    let mut body = body.into_data_stream();
    let mut frames = Frames::default();
    while let Some(part) = next_part(&state, &mut body).await? {
        frames.push(&part);
        while let Some(frame) = frames.next_frame()? {
            let (session, length) = (session.clone(), frame.len());
            let taken = tokio::task::spawn_blocking(move || session.take(&frame)).await?;
            if let Err(error) = taken {
                return Err(refuse(&state, &task, error).await);
            }
            // The sender waits meanwhile: nothing more is read of what it sends.
            state.limiter.pass(task.device, length).await;
        }
    }
    frames.end()?;
    Ok(StatusCode::NO_CONTENT)
}

/// The next part of a body.
async fn next_part(state: &AppState, body: &mut BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    let next = tokio::select! {
        next = tokio::time::timeout(MAX_SILENCE, body.next()) => next,
        () = state.stop.cancelled() => return Err(ApiError::busy("the server is stopping")),
    };
    match next {
        Ok(part) => part
            .transpose()
            .map_err(|error| ApiError::bad_request(format!("the body was cut off: {error}"))),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("nothing came for {} s", MAX_SILENCE.as_secs()),
        )),
    }
}

impl From<FrameError> for ApiError {
    fn from(error: FrameError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<CaptureError> for ApiError {
    fn from(error: CaptureError) -> Self {
        let status = match &error {
            CaptureError::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
            CaptureError::Missing { .. } | CaptureError::Ended => StatusCode::CONFLICT,
            CaptureError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let text = chain(&error);
        if status.is_server_error() {
            tracing::error!("a capture: {text}");
        }
        Self::new(status, text)
    }
}

/// An error as an answer. Where there is no room, the capture is over: what has come is removed, so
/// that there is room for others, and the task has failed.
async fn refuse(state: &AppState, task: &Task, error: CaptureError) -> ApiError {
    let full = matches!(error, CaptureError::NoRoom { .. });
    let error = ApiError::from(error);
    if full {
        if let Err(error) = state.receiving.discard(&state.images, task.id).await {
            tracing::error!("{} is not cleared away: {error}", task.id);
        }
        let report = TaskReport {
            device: task.device,
            task: task.id,
            state: TaskState::Failed,
            progress: task.progress,
            message: Some(safe_line(&error.to_string())),
            disk: None,
        };
        if let Err(error) = state.store.report_task(report, state.now()).await {
            tracing::error!("{} could not be ended: {error}", task.id);
        }
    }
    error
}

pub(super) async fn commit(
    State(state): State<Arc<AppState>>,
    agent: Agent,
    Segment(id): Segment,
    body: Body,
) -> Result<Json<Captured>, ApiError> {
    let task = own_task(&state, agent.auth, &id).await?;
    // The answer to an earlier commit was lost: the task can have ended since.
    if let Some(image) = state.store.captured(task.id).await? {
        return Ok(Json(captured(&image)));
    }
    let (task, capture) = open_capture(&state, agent.auth, &id).await?;
    let receiver = state.receiving.of(&state.images, task.id).await?;
    let (told, manifest) = read_commit(&state, body).await?;
    // A task of its own: it ends as it should whatever becomes of the request.
    let work = tokio::spawn(async move {
        let _one = receiver.committing.lock().await;
        if let Some(image) = state.store.captured(task.id).await? {
            return Ok(image);
        }
        enter(&state, &task, capture, &receiver, told, manifest).await
    });
    Ok(Json(captured(&work.await??)))
}

fn captured(image: &Image) -> Captured {
    Captured {
        image: image.id,
        version: image.version,
    }
}

/// Reads the body of a commit: what the agent says, and the manifest.
async fn read_commit(state: &AppState, body: Body) -> Result<(Capturing, Vec<u8>), ApiError> {
    let mut body = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(part) = next_part(state, &mut body).await? {
        if bytes.len() + part.len() > MAX_COMMIT {
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a commit of more than {MAX_COMMIT} bytes: the disk has too much in use"),
            ));
        }
        bytes.extend_from_slice(&part);
    }
    let (told, manifest) = split_commit(&bytes)?;
    let manifest = manifest.to_vec();
    Ok((told, manifest))
}

/// Takes a commit apart: see [`bugler_protocol::agent::CAPTURE_COMMIT`].
///
/// # Errors
/// 400 where it is none.
pub fn split_commit(bytes: &[u8]) -> Result<(Capturing, &[u8]), ApiError> {
    let wrong = |why: &str| ApiError::bad_request(format!("this is no commit of a capture: {why}"));
    let (length, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| wrong("it is shorter than its first length"))?;
    let length = u32::from_le_bytes(*length);
    if length > MAX_CAPTURING {
        return Err(wrong("its JSON is too long"));
    }
    let (json, manifest) = rest
        .split_at_checked(length as usize)
        .ok_or_else(|| wrong("it ends within its JSON"))?;
    let told = serde_json::from_slice(json).map_err(|error| wrong(&error.to_string()))?;
    Ok((told, manifest))
}

/// Makes an image of what has come.
async fn enter(
    state: &AppState,
    task: &Task,
    capture: Capture,
    receiver: &Receiver,
    told: Capturing,
    manifest: Vec<u8>,
) -> Result<Image, ApiError> {
    let session = receiver.session.clone();
    let committed = tokio::task::spawn_blocking(move || session.commit(&manifest)).await?;
    let made = match committed {
        Ok(made) => made,
        Err(error) => return Err(refuse(state, task, error).await),
    };
    // It has ended, whatever the registry says: a commit that comes again begins a new one, and finds
    // every chunk in the store.
    state.receiving.lock().remove(&task.id);
    let device = state.store.device(task.device).await?;
    let short = |text: &str| -> String { safe_line(text).chars().take(MAX_TEXT).collect() };
    let new = NewImage {
        name: capture.image_name,
        note: capture.note,
        origin: Some(Origin {
            device: device.id,
            label: device.label(),
            disk: short(&told.disk),
            agent_version: short(&told.agent_version),
            reading: told
                .reading
                .iter()
                .take(MAX_READING)
                .map(|l| short(l))
                .collect(),
        }),
        manifest: made.manifest.to_string(),
        size: made.disk_size,
        used: made.used_bytes,
        stored: made.stored_bytes,
        sector_size: made.sector_size,
    };
    // `made` holds the chunks until the registry has the image.
    Ok(state.store.add_captured(task.id, new, state.now()).await?)
}
