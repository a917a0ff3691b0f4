//! Removing what no image needs.

use crate::error::ApiError;
use bugler_images::ChunkStore;
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::Collected;
use bugler_store::Store;
use std::sync::Arc;

/// Removes every chunk and manifest that no image of the registry needs; with `dry_run` it only
/// counts. Uploads and reads may go on meanwhile.
///
/// # Errors
/// 409 while another collection runs; 500 where the registry or the folder cannot be read.
pub async fn collect_garbage(
    store: &dyn Store,
    images: &Arc<ChunkStore>,
    dry_run: bool,
) -> Result<Collected, ApiError> {
    // Begun before the registry is asked: an image that is added in between is kept.
    let collector = images.begin_gc()?;
    let live: Vec<ChunkHash> = store
        .images()
        .await?
        .iter()
        .map(|image| {
            image.manifest.parse().map_err(|error| {
                ApiError::conflict(format!(
                    "nothing was removed: {} has a manifest that cannot be read ({error})",
                    image.name
                ))
            })
        })
        .collect::<Result<_, _>>()?;
    let report = tokio::task::spawn_blocking(move || collector.sweep(&live, dry_run)).await??;
    Ok(Collected {
        chunks: report.chunks,
        bytes: report.bytes,
    })
}
