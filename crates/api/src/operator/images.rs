//! Images: everything but taking them in, which is in [`super::upload`].

use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::gc::collect_garbage;
use crate::raw::{RawImage, ranged_of};
use crate::scrub::verify_all;
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
use bugler_protocol::operator::{CollectGarbage, Collected, DamagedChunk, Verified, VerifiedAll};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

/// How often progress is told.
pub(super) const TELL_EVERY: Duration = Duration::from_millis(500);

/// Every version of every image: by name, the latest version first.
#[utoipa::path(get, path = "/images", operation_id = "list_images", tag = "images", responses((status = 200, body = Vec<Image>)))]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Result<Json<Vec<Image>>, ApiError> {
    Ok(Json(state.store.images().await?))
}

/// One version of an image: `i7`, `name@version`, or `name` for the latest version.
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
    /// The bytes of the disk, zeros included.
    #[default]
    #[serde(rename = "raw")]
    Raw,
    /// The same, packed with zstd.
    #[serde(rename = "raw.zst")]
    Zstd,
    /// qcow2, version 3.
    #[serde(rename = "qcow2")]
    Qcow2,
    /// qcow2 with clusters packed with zstd, for QEMU 5.1 and later.
    #[serde(rename = "qcow2-zstd")]
    Qcow2Zstd,
}

impl Format {
    fn export(self) -> ExportFormat {
        match self {
            Self::Raw => ExportFormat::Raw,
            Self::Zstd => ExportFormat::Zstd,
            Self::Qcow2 => ExportFormat::Qcow2,
            Self::Qcow2Zstd => ExportFormat::Qcow2Zstd,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Raw => "img",
            Self::Zstd => "img.zst",
            Self::Qcow2 | Self::Qcow2Zstd => "qcow2",
        }
    }
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

/// The whole image, or a range of it, in any format. A body that ends early was cut off, because a
/// chunk is damaged.
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
    // An image's name is safe in a quoted string: see `ImageName`.
    let disposition = format!(
        "attachment; filename=\"{}.{}\"",
        image.name,
        format.extension()
    );
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    let content = RawImage::open_as(&state, &image.manifest, format.export()).await?;
    let (range, status, mut answer) = match ranged_of(&headers, content.size(), content.tag()) {
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

/// The image's block map, as bmaptool takes it: version 2.0, with SHA-256. Every chunk is read for it
/// first. A client that goes away ends it.
#[utoipa::path(
    get, path = "/images/{image}/bmap", operation_id = "read_block_map", tag = "images",
    params(("image" = String, Path)),
    responses(
        (status = 200, content_type = "application/xml", body = String),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 503, body = ErrorBody, description = "too many such jobs at once"),
    ),
)]
pub(super) async fn block_map(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
) -> Result<Response, ApiError> {
    let image = state.store.image(&image).await?;
    let hash: ChunkHash = image
        .manifest
        .parse()
        .map_err(|error| ApiError::conflict(format!("{error}")))?;
    let place = job(&state)?;
    let gone = CancellationToken::new();
    let _end_with_the_request = gone.clone().drop_guard();
    let made = {
        let (images, stop) = (state.images.clone(), state.stop.clone());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            images.block_map(&hash, |_, _| !gone.is_cancelled() && !stop.is_cancelled())
        })
    };
    let Some(text) = made.await?? else {
        return Err(ApiError::busy("the server is stopping: ask again later"));
    };
    let disposition = format!("attachment; filename=\"{}.bmap\"", image.name);
    let head = [
        (header::CONTENT_TYPE, "application/xml".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((head, text).into_response())
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

/// Reads every chunk of every image, each once, and compares it with its hash; marks each image as
/// damaged or good. A client that goes away ends it.
#[utoipa::path(
    post, path = "/images/verify", operation_id = "verify_images", tag = "images",
    responses(
        (status = 200, body = VerifiedAll),
        (status = 503, body = ErrorBody, description = "too many such jobs at once"),
    ),
)]
pub(super) async fn verify_every(
    State(state): State<Arc<AppState>>,
) -> Result<Json<VerifiedAll>, ApiError> {
    let _place = job(&state)?;
    let gone = state.stop.child_token();
    let _end_with_the_request = gone.clone().drop_guard();
    let mut told = Instant::now();
    let telling = |done| {
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(&state, None, format!("verifying all images: {done} chunks"));
        }
    };
    Ok(Json(verify_all(&state, gone, telling).await?))
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
