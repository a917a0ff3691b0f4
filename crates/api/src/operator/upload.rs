//! Taking an image in.
//!
//! ```text
//!   body --> bounded channel --> blocking thread: ChunkStore::add --> registry
//! ```
//!
//! The work is a task of its own: it ends as it should whatever becomes of the request, either
//! with an image that is whole and in the registry, or with nothing.

use super::images::{Binary, TELL_EVERY, tell};
use super::versions;
use crate::error::ApiError;
use crate::extract::{Params, Segment};
use crate::state::AppState;
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use bugler_images::{AddError, AddOptions, AddPhase, AddProgress, Added};
use bugler_model::{Image, ImageName, NewImage};
use bugler_protocol::agent::ErrorBody;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use serde::Deserialize;
use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// Uploads at a time: each uses every processor already.
const MAX_UPLOADS: usize = 4;

/// Parts of the body, of some ten kilobytes each, that wait for the adding thread.
const QUEUE: usize = 32;

/// How long a sender may be silent.
const MAX_SILENCE: Duration = Duration::from_secs(300);

/// How much of a refused body is read, and for how long, so that the sender gets to see the
/// refusal: one whose connection is cut while it sends often does not.
const DRAIN_BYTES: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The names under which images are arriving.
#[derive(Clone, Default)]
pub(crate) struct Uploads(Arc<Mutex<HashSet<ImageName>>>);

/// The right to upload under a name; ends when dropped.
struct Reserved {
    uploads: Uploads,
    name: ImageName,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashSet<ImageName>> {
        // Each change is one insert or removal: a panic elsewhere leaves the set whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, name: &ImageName) -> Result<Reserved, ApiError> {
        let mut names = self.lock();
        if names.contains(name) {
            return Err(ApiError::conflict(format!(
                "an image named {name} is being uploaded right now: wait for it, or choose another \
                 name"
            )));
        }
        if names.len() >= MAX_UPLOADS {
            return Err(ApiError::busy(format!(
                "{MAX_UPLOADS} images are being uploaded already: try again when one has finished"
            )));
        }
        names.insert(name.clone());
        Ok(Reserved {
            uploads: self.clone(),
            name: name.clone(),
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.uploads.lock().remove(&self.name);
    }
}

/// How an image is taken in.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    /// Logical sector size of the disks that the image is for: 512, 1024, 2048 or 4096. Where it
    /// is not given it is taken from the image's partition table, else it is 512.
    sector_size: Option<u32>,
    /// What people say of this version: one line of at most 1,000 characters.
    #[serde(default)]
    note: String,
}

/// Adds the next version of an image from the request's body: raw, packed as .gz, .xz, .zst or .bz2, of any size, or
/// qcow2 of up to 256 GiB without a backing file, which is kept aside until it has been read. An
/// upload that is cut off leaves nothing.
#[utoipa::path(
    put, path = "/images/{image}", operation_id = "add_image", tag = "images",
    params(("image" = String, Path, description = "its name"), PutQuery),
    request_body(content = Binary, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Image),
        (status = 400, body = ErrorBody, description = "the name, the note or the length is wrong"),
        (status = 409, body = ErrorBody, description = "one of this name is arriving right now"),
        (status = 413, body = ErrorBody, description = "the disk would be too large"),
        (status = 422, body = ErrorBody, description = "it is no disk image, or damaged"),
        (status = 507, body = ErrorBody, description = "the server's disk is full"),
    ),
)]
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    Segment(name): Segment,
    Params(query): Params<PutQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Image>), ApiError> {
    // Nothing of the body is read before it is known to be wanted: a client that asks with
    // `Expect: 100-continue` sends nothing of it then.
    let asks_first = headers.contains_key(header::EXPECT);
    let accepted = match versions::check_note(&query.note) {
        Ok(note) => accept(&state, &name).await.map(|name| (name, note)),
        Err(refusal) => Err(refusal),
    };
    let (reserved, note) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            if !asks_first {
                tokio::spawn(drain(body.into_data_stream()));
            }
            return Err(refusal);
        }
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let expected = length.and_then(|text| text.parse().ok());
    let work = take_in(state, reserved, note, body, query.sector_size, expected);
    let work = tokio::spawn(work);
    let image = work.await??;
    Ok((StatusCode::CREATED, Json(image)))
}

/// Whether an image by this name may come.
async fn accept(state: &AppState, name: &str) -> Result<Reserved, ApiError> {
    let name: ImageName = name
        .parse()
        .map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let reserved = state.uploads.reserve(&name)?;
    Ok(reserved)
}

async fn drain(mut body: BodyDataStream) {
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(bytes)) = body.next().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whether it was all is of no interest: the request has been refused.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

async fn take_in(
    state: Arc<AppState>,
    reserved: Reserved,
    note: String,
    body: Body,
    sector_size: Option<u32>,
    expected_bytes: Option<u64>,
) -> Result<Image, ApiError> {
    let name = reserved.name.clone();
    let added = receive(&state, &name, body, sector_size, expected_bytes).await?;
    let new = NewImage {
        name,
        note,
        origin: None,
        manifest: added.manifest.to_string(),
        size: added.disk_size,
        used: added.used_bytes,
        stored: added.stored_bytes,
        sector_size: added.sector_size,
    };
    // `added` holds the chunks until the registry has the image.
    Ok(state.store.add_image(new, state.now()).await?)
}

/// Takes a body into the chunk store; `name` is for those who follow how it goes. What the future
/// gives holds the chunks until it is dropped.
pub(crate) async fn receive(
    state: &Arc<AppState>,
    name: &ImageName,
    body: Body,
    sector_size: Option<u32>,
    expected_bytes: Option<u64>,
) -> Result<Added, ApiError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let adding = {
        let (state, name) = (state.clone(), name.clone());
        tokio::task::spawn_blocking(move || {
            add(
                &state,
                &name,
                BodyReader::new(receiver),
                sector_size,
                expected_bytes,
            )
        })
    };
    // A thread that gave up has the better error: that the body then has nowhere to go follows.
    feed(state, body, sender).await;
    Ok(adding.await??)
}

/// What comes through the channel. A channel that closes without an `End` was cut off.
enum Part {
    Data(Bytes),
    End,
    Failed(io::Error),
}

/// Passes the body on until its end, an error, or nobody wants it any more.
async fn feed(state: &AppState, body: Body, sender: mpsc::Sender<Part>) {
    let mut body = body.into_data_stream();
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(MAX_SILENCE, body.next()) => next,
            () = state.stop.cancelled() => {
                let error = io::Error::other("the server is stopping");
                let _ = sender.send(Part::Failed(error)).await;
                return;
            }
            () = sender.closed() => {
                drain(body).await;
                return;
            }
        };
        let (part, last) = match next {
            Ok(Some(Ok(bytes))) => (Part::Data(bytes), false),
            Ok(Some(Err(error))) => (Part::Failed(io::Error::other(error)), true),
            Ok(None) => (Part::End, true),
            Err(_) => {
                let text = format!("nothing came for {} seconds", MAX_SILENCE.as_secs());
                (
                    Part::Failed(io::Error::new(io::ErrorKind::TimedOut, text)),
                    true,
                )
            }
        };
        if sender.send(part).await.is_err() {
            drain(body).await;
            return;
        }
        if last {
            return;
        }
    }
}

/// Reads the body from a blocking thread.
struct BodyReader {
    parts: mpsc::Receiver<Part>,
    current: Bytes,
    ended: bool,
}

impl BodyReader {
    fn new(parts: mpsc::Receiver<Part>) -> Self {
        Self {
            parts,
            current: Bytes::new(),
            ended: false,
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.parts.blocking_recv() {
                Some(Part::Data(bytes)) => self.current = bytes,
                Some(Part::End) => self.ended = true,
                Some(Part::Failed(error)) => return Err(error),
                None => return Err(io::Error::other("the upload was cut off")),
            }
        }
        let length = buffer.len().min(self.current.len());
        let (filled, _) = buffer.split_at_mut(length);
        self.current.copy_to_slice(filled);
        Ok(length)
    }
}

fn add(
    state: &AppState,
    name: &ImageName,
    body: BodyReader,
    sector_size: Option<u32>,
    expected_bytes: Option<u64>,
) -> Result<Added, AddError> {
    let mut told = Instant::now();
    let mut progress = |now: &AddProgress| {
        if told.elapsed() < TELL_EVERY && now.phase == AddPhase::Reading {
            return;
        }
        told = Instant::now();
        let read = now.read_bytes / 1_000_000;
        let of = expected_bytes
            .map(|all| format!(" of {}", all / 1_000_000))
            .unwrap_or_default();
        let text = match now.phase {
            AddPhase::Reading => format!(
                "adding image {name}: {read}{of} MB read, {} MB of disk, {} new chunks",
                now.disk_bytes / 1_000_000,
                now.new_chunks
            ),
            AddPhase::Syncing => format!("adding image {name}: making {read} MB durable"),
        };
        tell(state, None, text);
    };
    let options = AddOptions {
        sector_size,
        expected_bytes,
        progress: Some(&mut progress),
        ..AddOptions::default()
    };
    state.images.add(body, options)
}
