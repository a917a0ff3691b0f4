//! Images: everything but taking them in, which is in [`super::upload`].

use crate::error::{ApiError, chain};
use crate::extract::{Body, Params, Segment};
use crate::gc::collect_garbage;
use crate::raw::{RawImage, ranged};
use crate::state::AppState;
use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_images::ExportFormat;
use bugler_model::{Event, EventId, EventKind, Image, ImageState};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::{CollectGarbage, Collected, DamagedChunk, Verified};
use bytes::Bytes;
use serde::Deserialize;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

/// How often progress is told.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(500);

/// Every image, by name.
#[utoipa::path(get, path = "/images", operation_id = "list_images", tag = "images", responses((status = 200, body = Vec<Image>)))]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Result<Json<Vec<Image>>, ApiError> {
    Ok(Json(state.store.images().await?))
}

/// One image, by its id or name.
#[utoipa::path(
    get, path = "/images/{image}", operation_id = "show_image", tag = "images",
    params(("image" = String, Path)),
    responses((status = 200, body = Image), (status = 404, body = ErrorBody, description = "there is no such thing")),
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
) -> Result<Json<Image>, ApiError> {
    Ok(Json(state.store.image(&image).await?))
}

/// Forgets an image. Its chunks go with the next garbage collection.
#[utoipa::path(
    delete, path = "/images/{image}", operation_id = "remove_image", tag = "images",
    params(("image" = String, Path)),
    responses(
        (status = 204),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "an open task needs it"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
) -> Result<StatusCode, ApiError> {
    let image = state.store.image(&image).await?;
    state.store.remove_image(image.id, state.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells those who listen how a long job on an image goes; not kept.
pub(super) fn tell(state: &AppState, image: Option<&Image>, text: String) {
    state.store.publish(Event {
        id: EventId(0),
        at: state.now(),
        kind: EventKind::Image,
        device: None,
        session: None,
        task: None,
        image: image.map(|image| image.id),
        text,
    });
}

fn job(state: &AppState) -> Result<OwnedSemaphorePermit, ApiError> {
    state.image_jobs.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy("several images are being read already: try again when one has finished")
    })
}

/// Bytes, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "names a schema")]
pub(super) struct Binary(Vec<u8>);

/// How an image is given out.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
pub(super) enum Format {
    /// The bytes of the disk, zeros included; ranges can be asked for.
    #[default]
    #[serde(rename = "raw")]
    Raw,
    /// The same, packed with zstd.
    #[serde(rename = "raw.zst")]
    Zstd,
}

/// How an image is given out.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RawQuery {
    /// `raw` where it is not given.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// The whole image. A body that ends early was cut off, because a chunk is damaged.
#[utoipa::path(
    get, path = "/images/{image}/raw", operation_id = "read_image", tag = "images",
    params(("image" = String, Path), RawQuery),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Binary),
        (status = 206, content_type = "application/octet-stream", body = Binary),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
    ),
)]
pub(super) async fn raw(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Params(RawQuery { format }): Params<RawQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = state.store.image(&image).await?;
    let extension = match format {
        Format::Raw => "img",
        Format::Zstd => "img.zst",
    };
    // An image's name is safe in a quoted string: see `ImageName`.
    let disposition = format!("attachment; filename=\"{}.{extension}\"", image.name);
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    if let Format::Zstd = format {
        let body = match method {
            Method::HEAD => HttpBody::empty(),
            _ => HttpBody::from_stream(packed(&state, &image)?),
        };
        return Ok((head, body).into_response());
    }
    let content = RawImage::open(&state, &image.manifest).await?;
    let (range, status, mut answer) = match ranged(&headers, content.size()) {
        Ok(parts) => parts,
        Err(refusal) => return Ok(*refusal),
    };
    for (name, value) in head {
        answer.insert(
            name,
            HeaderValue::try_from(value).map_err(|error| {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            })?,
        );
    }
    if method == Method::HEAD {
        return Ok((status, answer).into_response());
    }
    let body = HttpBody::from_stream(content.stream(range));
    Ok((status, answer, body).into_response())
}

/// An image packed with zstd, from a thread of its own that keeps pace with the network.
fn packed(
    state: &Arc<AppState>,
    image: &Image,
) -> Result<ReceiverStream<io::Result<Bytes>>, ApiError> {
    let hash: ChunkHash = image
        .manifest
        .parse()
        .map_err(|error| ApiError::conflict(format!("{error}")))?;
    let place = job(state)?;
    let images = state.images.clone();
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut pipe = Pipe(sender);
        if let Err(error) = images.export(&hash, &mut pipe, ExportFormat::Zstd) {
            tracing::warn!("an export of {hash} ended early: {}", chain(&error));
            // Nobody there to be told: the client went away first.
            let _ = pipe.0.blocking_send(Err(error));
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// A writer into a body.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads every chunk of an image and compares it with its hash; marks the image as damaged or
/// good. A client that goes away ends it.
#[utoipa::path(
    post, path = "/images/{image}/verify", operation_id = "verify_image", tag = "images",
    params(("image" = String, Path)),
    responses(
        (status = 200, body = Verified),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 503, body = ErrorBody, description = "too many such jobs at once"),
    ),
)]
pub(super) async fn verify(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
) -> Result<Json<Verified>, ApiError> {
    let image = state.store.image(&image).await?;
    let hash: ChunkHash = image
        .manifest
        .parse()
        .map_err(|error| ApiError::conflict(format!("{error}")))?;
    let place = job(&state)?;
    let gone = CancellationToken::new();
    let _end_with_the_request = gone.clone().drop_guard();
    let checking = {
        let (state, image) = (state.clone(), image.clone());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let (mut chunks, mut told) = (0, Instant::now());
            let damage = state.images.verify(&hash, |done, total| {
                chunks = done;
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    let text = format!("verifying {}: {done} of {total} chunks", image.name);
                    tell(&state, Some(&image), text);
                }
                !gone.is_cancelled() && !state.stop.is_cancelled()
            });
            damage.map(|damage| (chunks, damage))
        })
    };
    let (chunks, damage) = checking.await??;
    if state.stop.is_cancelled() {
        return Err(ApiError::busy("the server is stopping: verify again later"));
    }
    let found = if damage.is_empty() {
        ImageState::Good
    } else {
        ImageState::Damaged
    };
    state
        .store
        .set_image_state(image.id, found, state.now())
        .await?;
    let damaged = damage
        .into_iter()
        .map(|damage| DamagedChunk {
            hash: damage.hash.to_string(),
            offset: damage.offset,
            detail: damage.detail,
        })
        .collect();
    Ok(Json(Verified { chunks, damaged }))
}

/// Removes chunks that no image needs.
#[utoipa::path(
    post, path = "/images/gc", operation_id = "collect_garbage", tag = "images",
    request_body = CollectGarbage,
    responses(
        (status = 200, body = Collected),
        (status = 409, body = ErrorBody, description = "another collection is running"),
    ),
)]
pub(super) async fn gc(
    State(state): State<Arc<AppState>>,
    Body(CollectGarbage { dry_run }): Body<CollectGarbage>,
) -> Result<Json<Collected>, ApiError> {
    Ok(Json(
        collect_garbage(&*state.store, &state.images, dry_run).await?,
    ))
}
