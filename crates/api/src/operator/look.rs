//! Looking into images: `/images/{image}/partitions`, `files`, `file`, `diff`.

use super::images::Binary;
use crate::error::ApiError;
use crate::extract::{Params, Segment};
use crate::look;
use crate::state::AppState;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bugler_images::ImageReader;
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::{ImageDiff, ImageFile, ImagePartition};
use bytes::Bytes;
use serde::Deserialize;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

/// Which file or folder.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FileQuery {
    /// Number of the partition; not needed where only one has files that can be read.
    partition: Option<u32>,
    /// Path from the root of the partition; its root where it is not given.
    #[serde(default)]
    path: String,
}

/// Which other image.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    /// The newer one: `i7`, `name@version`, or `name`.
    to: String,
}

fn place(state: &AppState) -> Result<OwnedSemaphorePermit, ApiError> {
    state.image_jobs.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy("several images are being read already: try again when one has finished")
    })
}

async fn manifest_of(state: &AppState, image: &str) -> Result<ChunkHash, ApiError> {
    let image = state.store.image(image).await?;
    image
        .manifest
        .parse()
        .map_err(|error| ApiError::conflict(format!("{error}")))
}

/// Does something with an image, on a thread that may block.
async fn with_image<T: Send + 'static>(
    state: &Arc<AppState>,
    image: &str,
    work: impl FnOnce(&ImageReader) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let hash = manifest_of(state, image).await?;
    let place = place(state)?;
    let images = state.images.clone();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        work(&images.open_reader(&hash)?)
    })
    .await?
}

/// The partitions of an image.
#[utoipa::path(
    get, path = "/images/{image}/partitions", operation_id = "list_image_partitions", tag = "images",
    params(("image" = String, Path)),
    responses(
        (status = 200, body = Vec<ImagePartition>),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "it cannot be read"),
    ),
)]
pub(super) async fn partitions(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
) -> Result<Json<Vec<ImagePartition>>, ApiError> {
    Ok(Json(with_image(&state, &image, look::partitions).await?))
}

/// What is in a folder of an image's partition with FAT or ext; of a file, the file itself.
#[utoipa::path(
    get, path = "/images/{image}/files", operation_id = "list_image_files", tag = "images",
    params(("image" = String, Path), FileQuery),
    responses(
        (status = 200, body = Vec<ImageFile>),
        (status = 400, body = ErrorBody, description = "several partitions could be meant"),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "it cannot be read"),
    ),
)]
pub(super) async fn files(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Params(FileQuery { partition, path }): Params<FileQuery>,
) -> Result<Json<Vec<ImageFile>>, ApiError> {
    let listing = move |reader: &ImageReader| look::files(reader, partition, &path);
    Ok(Json(with_image(&state, &image, listing).await?))
}

/// What differs between this image and another: ranges by their manifests, and files on the
/// partitions that have such a range.
#[utoipa::path(
    get, path = "/images/{image}/diff", operation_id = "compare_images", tag = "images",
    params(("image" = String, Path, description = "the older one"), DiffQuery),
    responses(
        (status = 200, body = ImageDiff),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "one of them cannot be read"),
    ),
)]
pub(super) async fn diff(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Params(DiffQuery { to }): Params<DiffQuery>,
) -> Result<Json<ImageDiff>, ApiError> {
    let new = manifest_of(&state, &to).await?;
    let images = state.images.clone();
    let comparing = move |old: &ImageReader| look::diff(old, &images.open_reader(&new)?);
    Ok(Json(with_image(&state, &image, comparing).await?))
}

/// The bytes of a file in an image. A body that ends early was cut off, because a chunk or the
/// filesystem is damaged.
#[utoipa::path(
    get, path = "/images/{image}/file", operation_id = "read_image_file", tag = "images",
    params(("image" = String, Path), FileQuery),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Binary),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "it cannot be read"),
    ),
)]
pub(super) async fn file(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Params(FileQuery { partition, path }): Params<FileQuery>,
) -> Result<Response, ApiError> {
    let (sender, receiver) = mpsc::channel(4);
    let (tell_size, size) = oneshot::channel();
    let reading = tokio::spawn(async move {
        let giving = move |reader: &ImageReader| {
            let mut pipe = Pipe(sender);
            let head = |size| {
                // Nobody waits for it any more where the client went away.
                let _ = tell_size.send(size);
            };
            let given = look::cat(reader, partition, &path, &mut pipe, head);
            if let Err(error) = &given {
                // Cuts the body off; before its head it is nobody's.
                let _ = pipe
                    .0
                    .blocking_send(Err(io::Error::other(error.to_string())));
            }
            given
        };
        with_image(&state, &image, giving).await
    });
    let Ok(size) = size.await else {
        // It ended before there was anything to give.
        reading.await??;
        return Err(ApiError::conflict("the file cannot be read"));
    };
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
    ];
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok((head, body).into_response())
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
