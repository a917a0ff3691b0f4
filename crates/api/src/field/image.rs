//! The raw image for `dd`.

use super::step;
use crate::error::ApiError;
use crate::extract::{Params, Segment};
use crate::raw::{RawImage, ranged};
use crate::state::AppState;
use crate::token::TaskTokens;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_model::{Deploy, Phase, Progress, Task, TaskAction, TaskId, TaskState};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often progress is reported.
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Most gaps in what was sent of one image that are told apart; more than any client has that
/// fetches parts at the same time.
const MAX_PARTS: usize = 64;

/// Whose images are being streamed now, and what of each has been sent.
#[derive(Clone, Default)]
pub(crate) struct Streaming(Arc<Mutex<HashMap<TaskId, Streamed>>>);

/// The streams of one task.
#[derive(Default)]
struct Streamed {
    /// How many there are now.
    open: u32,
    sent: Parts,
}

/// Parts of an image, in order, apart from each other.
#[derive(Default)]
struct Parts(Vec<Range<u64>>);

impl Parts {
    fn add(&mut self, mut part: Range<u64>) {
        self.0.retain(|known| {
            let apart = known.end < part.start || part.end < known.start;
            if !apart {
                part = known.start.min(part.start)..known.end.max(part.end);
            }
            apart
        });
        if self.0.len() < MAX_PARTS {
            let at = self.0.partition_point(|known| known.end < part.start);
            self.0.insert(at, part);
        }
    }

    /// Bytes in all.
    fn total(&self) -> u64 {
        self.0.iter().map(|part| part.end - part.start).sum()
    }
}

impl Streaming {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Streamed>> {
        // Each change is of one entry: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this task's image is being streamed.
    pub(crate) fn is_open(&self, task: TaskId) -> bool {
        self.lock().contains_key(&task)
    }

    /// Begins a stream from `start`; one that is not from the beginning adds to the first `before`
    /// bytes, which were sent by streams that have ended.
    fn begin(&self, task: TaskId, start: u64, before: u64) -> Open {
        let mut map = self.lock();
        let streamed = map.entry(task).or_default();
        if streamed.open == 0 && start > 0 && before > 0 {
            streamed.sent.add(0..before);
        }
        streamed.open += 1;
        Open {
            streaming: self.clone(),
            task,
        }
    }
}

/// One stream; ends when dropped.
struct Open {
    streaming: Streaming,
    task: TaskId,
}

impl Open {
    /// Notes that a part is sent; how many bytes of the image that makes.
    fn add(&self, part: Range<u64>) -> u64 {
        let mut map = self.streaming.lock();
        map.get_mut(&self.task).map_or(0, |streamed| {
            streamed.sent.add(part);
            streamed.sent.total()
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut map = self.streaming.lock();
        if let Some(streamed) = map.get_mut(&self.task) {
            streamed.open -= 1;
            if streamed.open == 0 {
                map.remove(&self.task);
            }
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    pub(super) token: String,
}

fn refused() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "this URL is not (or no longer) good: take the one that the next poll gives",
    )
}

/// The open task that `token` was made for.
pub(super) async fn task_of(state: &AppState, token: &str) -> Result<Task, ApiError> {
    let id = TaskTokens::task(token).ok_or_else(refused)?;
    let task = state.store.task(id).await.map_err(|_| refused())?;
    if !state.task_tokens.is_good(token, id, task.device) || !task.state.is_open() {
        return Err(refused());
    }
    Ok(task)
}

/// The open deploy that `token` was made for.
async fn authorized(state: &AppState, token: &str) -> Result<(Task, Deploy), ApiError> {
    let task = task_of(state, token).await?;
    match task.action.clone() {
        TaskAction::Deploy(deploy) => Ok((task, deploy)),
        TaskAction::Capture(_)
        | TaskAction::Wipe(_)
        | TaskAction::Reboot
        | TaskAction::PowerOff => Err(refused()),
    }
}

pub(super) async fn raw(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Params(Token { token }): Params<Token>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (task, deploy) = authorized(&state, &token).await?;
    if image != deploy.image.to_string() {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{} is for image {}, not {image:.40}", task.id, deploy.image),
        ));
    }
    let content = RawImage::open(&state, &deploy.manifest).await?;
    let size = content.size();
    let (range, status, mut answer) = match ranged(&headers, size) {
        Ok(head) => head,
        Err(refusal) => return Ok(*refusal),
    };
    let plain = HeaderValue::from_static("application/octet-stream");
    answer.insert(header::CONTENT_TYPE, plain);
    if method == Method::HEAD {
        return Ok((status, answer).into_response());
    }
    let open = state
        .streaming
        .begin(task.id, range.start, task.progress.done);
    let mut watched = Watched {
        task,
        at: range.start,
        sent: open.add(range.start..range.start),
        end: range.end,
        began: Instant::now(),
        reported: Instant::now(),
        state,
        open,
    };
    watched.task.progress = watched.progress(size);
    watched.task = step(&watched.state, &watched.task, TaskState::Running, None).await?;
    let body = Body::from_stream(watch(content.stream(range), watched, size));
    Ok((status, answer, body).into_response())
}

/// A stream of an image whose task is told how far it is.
struct Watched {
    state: Arc<AppState>,
    task: Task,
    /// Where the next byte belongs.
    at: u64,
    /// Bytes of the image that this and other streams have sent.
    sent: u64,
    end: u64,
    began: Instant,
    reported: Instant,
    open: Open,
}

impl Watched {
    fn progress(&self, total: u64) -> Progress {
        Progress {
            phase: Phase::Writing,
            done: self.sent,
            total,
            skipped: 0,
            fetched: self.sent,
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Counts bytes that go out; an error where the task has ended, which cuts the stream off.
    async fn count(&mut self, bytes: usize, total: u64) -> io::Result<()> {
        let from = self.at;
        self.at += bytes as u64;
        self.sent = self.open.add(from..self.at);
        // The last byte is always reported: the body is not asked for more.
        if self.reported.elapsed() < REPORT_EVERY && self.at < self.end {
            return Ok(());
        }
        self.reported = Instant::now();
        self.task.progress = self.progress(total);
        let after = step(&self.state, &self.task, TaskState::Running, None);
        let after = after.await.map_err(io::Error::other)?;
        if after.state.is_open() {
            return Ok(());
        }
        Err(io::Error::other(format!("{} is {}", after.id, after.state)))
    }
}

fn watch(
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    watched: Watched,
    total: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(
        (Box::pin(content), watched),
        move |(mut content, mut watched)| async move {
            let Some(bytes) = content.next().await.transpose()? else {
                return Ok(None);
            };
            let (limiter, device) = (watched.state.limiter.clone(), watched.task.device);
            limiter.pass(device, bytes.len()).await;
            watched.count(bytes.len(), total).await?;
            Ok(Some((bytes, (content, watched))))
        },
    )
}
