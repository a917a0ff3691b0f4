//! Removing what no image needs.

use crate::error::ApiError;
use bugler_images::ChunkStore;
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::Collected;
use bugler_store::{Store, TaskFilter};
use std::collections::HashSet;
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

/// Throws away what captures have left that are no open task any more. Only before the planes are
/// served: a capture that begins meanwhile would lose what it sends.
///
/// # Errors
/// Where the registry or the folder cannot be read.
pub async fn clear_captures(store: &dyn Store, images: &Arc<ChunkStore>) -> Result<(), ApiError> {
    let open = TaskFilter {
        open_only: true,
        limit: usize::MAX,
        ..TaskFilter::default()
    };
    let tasks = store.tasks(open).await?;
    let open: HashSet<String> = tasks.iter().map(|task| task.id.to_string()).collect();
    let images = images.clone();
    let clear = move || images.retain_captures(|key| open.contains(key));
    Ok(tokio::task::spawn_blocking(clear).await??)
}
