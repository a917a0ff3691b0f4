//! What follows when a chunk is found damaged in the store.

use crate::error::ApiError;
use crate::state::AppState;
use bugler_model::{EventKind, ImageState, NewEvent};
use bugler_protocol::manifest::ChunkHash;

/// Marks every image that needs this chunk as damaged, and says so.
pub(crate) async fn note(state: &AppState, chunk: ChunkHash, detail: &str) -> Result<(), ApiError> {
    for image in state.store.images().await? {
        if image.state == ImageState::Damaged {
            continue;
        }
        let Ok(manifest) = image.manifest.parse() else {
            continue;
        };
        let needs_it = match state.manifests.chunks(&state.images, manifest).await {
            Ok(chunks) => chunks.contains(&chunk),
            Err(error) => {
                tracing::warn!(image = %image.name, %error, "could not look for a damaged chunk");
                continue;
            }
        };
        if needs_it {
            let text = format!(
                "image {}: chunk {chunk} is damaged in the store ({detail}); remove the image and \
                 add it again",
                image.name
            );
            let mut event = NewEvent::new(EventKind::Image, text);
            event.image = Some(image.id);
            state
                .store
                .set_image_state(image.id, ImageState::Damaged, state.now())
                .await?;
            state.store.append_event(event, state.now()).await?;
        }
    }
    Ok(())
}
