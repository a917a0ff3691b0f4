//! Images that were damaged, and are whole again because what they lacked was added again.

use crate::error::{ApiError, chain};
use crate::state::AppState;
use bugler_images::{ChunkState, ChunkStore, StoreError};
use bugler_model::{Image, ImageId, ImageState};
use bugler_protocol::manifest::{ChunkRef, Manifest};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Looks after the images that are marked as damaged.
#[derive(Default)]
pub(super) struct Healer {
    /// Those that were read and are damaged although every chunk is there: they are read again only
    /// when [`forget`](Self::forget) says so.
    hopeless: HashSet<ImageId>,
}

impl Healer {
    /// A new round has begun.
    pub(super) fn forget(&mut self) {
        self.hopeless.clear();
    }

    /// Reads each damaged image that has all of its chunks again, at most `rate` bytes a second, and
    /// marks as good what is. What fails is told in the log, and tried again with the next call.
    pub(super) async fn look(&mut self, state: &AppState, rate: u64) {
        let images = match state.store.images().await {
            Ok(images) => images,
            Err(error) => {
                tracing::warn!("damaged images are not looked at: {error}");
                return;
            }
        };
        let damaged = images.into_iter().filter(|image| {
            image.state == ImageState::Damaged && !self.hopeless.contains(&image.id)
        });
        for image in damaged.collect::<Vec<_>>() {
            if let Err(error) = self.try_one(state, &image, rate).await {
                let label = image.label();
                tracing::warn!(
                    "whether {label} is whole again is not known: {}",
                    chain(&error)
                );
            }
        }
    }

    async fn try_one(
        &mut self,
        state: &AppState,
        image: &Image,
        rate: u64,
    ) -> Result<(), ApiError> {
        let Ok(name) = image.manifest.parse() else {
            return Ok(());
        };
        let images = state.images.clone();
        // The hold keeps its chunks from being collected while they are read.
        let held = tokio::task::spawn_blocking(move || match images.hold(&name) {
            Ok((hold, manifest)) => Ok(Some((hold, manifest))),
            Err(StoreError::NoManifest(_) | StoreError::DamagedManifest { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        let Some((_hold, manifest)) = held.await?? else {
            return Ok(());
        };
        let manifest = Arc::new(manifest);
        if !has_all(state, &manifest).await? {
            return Ok(());
        }
        for batch in manifest.chunks.chunks(super::batch_of(rate)) {
            let (bytes, is_good) = read(&state.images, &manifest, batch.to_vec()).await?;
            if !is_good {
                self.hopeless.insert(image.id);
                return Ok(());
            }
            let pause = Duration::from_secs_f64(bytes as f64 / rate as f64);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = state.stop.cancelled() => return Ok(()),
            }
        }
        // One that was found damaged meanwhile, by whoever it was, is gone.
        if has_all(state, &manifest).await? {
            let marking = state
                .store
                .set_image_state(image.id, ImageState::Good, state.now());
            marking.await?;
        }
        Ok(())
    }
}

async fn has_all(state: &AppState, manifest: &Arc<Manifest>) -> Result<bool, ApiError> {
    let (images, manifest) = (state.images.clone(), manifest.clone());
    let looking = move || {
        let mut chunks = manifest.chunks.iter();
        chunks.all(|chunk| images.has_chunk(&chunk.hash))
    };
    Ok(tokio::task::spawn_blocking(looking).await?)
}

/// How many bytes were read for these chunks, and whether all of them are good.
async fn read(
    images: &Arc<ChunkStore>,
    manifest: &Arc<Manifest>,
    chunks: Vec<ChunkRef>,
) -> Result<(u64, bool), ApiError> {
    let (images, manifest) = (images.clone(), manifest.clone());
    let reading = move || -> Result<_, StoreError> {
        let mut bytes = 0;
        for chunk in &chunks {
            let (is, length) = images.measure_place(&manifest, chunk)?;
            bytes += length;
            if is != ChunkState::Good {
                return Ok((bytes, false));
            }
        }
        Ok((bytes, true))
    };
    Ok(tokio::task::spawn_blocking(reading).await??)
}
