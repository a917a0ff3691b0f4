//! Versions of images: their notes, what each takes, removing one or all of a name.

use crate::error::ApiError;
use crate::extract::{Body, Params, Segment};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bugler_images::Sizes;
use bugler_model::{Image, ImageId};
use bugler_protocol::agent::ErrorBody;
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::{ImageChange, ImageSizes};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::Mutex;
use utoipa::IntoParams;

/// Longest note in characters.
const MAX_NOTE: usize = 1000;

/// A note that can be kept: one line.
pub(super) fn check_note(note: &str) -> Result<String, ApiError> {
    let note = note.trim();
    let length = note.chars().count();
    if length > MAX_NOTE || note.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "this note has {length} characters: use one line of at most {MAX_NOTE}"
        )));
    }
    Ok(note.to_owned())
}

/// Changes what people say of an image; a name alone means its latest version.
#[utoipa::path(
    patch, path = "/images/{image}", operation_id = "change_image", tag = "images",
    params(("image" = String, Path)),
    request_body = ImageChange,
    responses(
        (status = 200, body = Image),
        (status = 400, body = ErrorBody, description = "the note is no line, or too long"),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
    ),
)]
pub(super) async fn patch(
    State(state): State<Arc<AppState>>,
    Segment(image): Segment,
    Body(change): Body<ImageChange>,
) -> Result<Json<Image>, ApiError> {
    let note = check_note(&change.note)?;
    let image = state.store.image(&image).await?;
    let changed = state.store.set_image_note(image.id, note, state.now());
    Ok(Json(changed.await?))
}

/// What is to be removed.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Every version of the name, where it has several.
    #[serde(default)]
    all_versions: bool,
}

/// Forgets one version, or all of a name where that has one version or `all_versions` says so. The
/// chunks go with the next garbage collection.
#[utoipa::path(
    delete, path = "/images/{image}", operation_id = "remove_image", tag = "images",
    params(("image" = String, Path, description = "i7, name@version, or name"), RemoveQuery),
    responses(
        (status = 204),
        (status = 400, body = ErrorBody, description = "all versions of one version"),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "an open task needs it, or the name has several versions"),
    ),
)]
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    Segment(text): Segment,
    Params(query): Params<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let image = state.store.image(&text).await?;
    let ids = if text == image.name.as_str() {
        let all = state.store.images().await?;
        let versions: Vec<_> = all.into_iter().filter(|i| i.name == image.name).collect();
        if versions.len() > 1 && !query.all_versions {
            let latest = image.label();
            return Err(ApiError::conflict(format!(
                "{text} has {} versions, the latest is {latest}: name the one to remove, or say \
                 that all of them go (all_versions=true, `--all-versions`)",
                versions.len()
            )));
        }
        versions.iter().map(|image| image.id).collect()
    } else if query.all_versions {
        return Err(ApiError::bad_request(format!(
            "{text} is one version: name {} alone to remove all of them",
            image.name
        )));
    } else {
        vec![image.id]
    };
    state.store.remove_images(ids, state.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What images take, as long as there are no others.
type Known = Option<(Vec<(ImageId, String)>, Vec<Option<Sizes>>)>;

/// The sizes that were computed last.
#[derive(Default)]
pub(crate) struct SizesCache(Mutex<Known>);

/// What every version of every image takes in the store: by name, the latest version first. One
/// whose manifest is damaged is left out.
#[utoipa::path(
    get, path = "/image-sizes", operation_id = "list_image_sizes", tag = "images",
    responses((status = 200, body = Vec<ImageSizes>)),
)]
pub(super) async fn sizes(
    State(state): State<Arc<AppState>>,
) -> Result<Json<Vec<ImageSizes>>, ApiError> {
    // Held over the computing, so that those who ask meanwhile wait for the same answer.
    let mut known = state.sizes.0.lock().await;
    let images = state.store.images().await?;
    let key: Vec<_> = images
        .iter()
        .map(|image| (image.id, image.manifest.clone()))
        .collect();
    let sizes = match &*known {
        Some((of, sizes)) if *of == key => sizes.clone(),
        _ => {
            let manifests = manifests(&images)?;
            let store = state.images.clone();
            let sizes = tokio::task::spawn_blocking(move || store.sizes(&manifests)).await?;
            *known = Some((key, sizes.clone()));
            sizes
        }
    };
    let told = images.iter().zip(sizes).filter_map(|(image, sizes)| {
        let Sizes { distinct, own } = sizes?;
        Some(ImageSizes {
            image: image.id,
            label: image.label(),
            size: image.size,
            used: image.used,
            stored: distinct,
            own,
            shared: distinct.saturating_sub(own),
        })
    });
    Ok(Json(told.collect()))
}

/// The names of the images' manifests, in their order.
pub(crate) fn manifests(images: &[Image]) -> Result<Vec<ChunkHash>, ApiError> {
    let parse = |image: &Image| {
        image.manifest.parse().map_err(|error| {
            let label = image.label();
            ApiError::conflict(format!("{label} names no manifest: {error}; remove it"))
        })
    };
    images.iter().map(parse).collect()
}
