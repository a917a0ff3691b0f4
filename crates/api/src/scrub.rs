//! Reading everything in the image store again, to find what its disk has damaged while nobody
//! looked.
//!
//! Every chunk that an image needs is read and hashed, each once, in the order of their names:
//! either all at once because an operator asks ([`verify_all`]), or in the background at a set pace
//! ([`verify_slowly`]), which goes on after a restart where it was. A round that has ended is
//! followed by the next one a week after it began. The first one begins a day after the first
//! start: what has just been added has just been read.
//!
//! What is damaged is moved away by the store; the images that need it are marked, which is told as
//! an event and keeps them from being deployed. Deploys of other images go on. An image whose chunks
//! are all there again, because somebody added it once more, is read in the background and marked as
//! good ([`heal`]).

mod heal;

use crate::error::{ApiError, chain};
use crate::operator::manifests;
use crate::state::AppState;
use bugler_images::{ChunkState, StoreError};
use bugler_model::{Image, ImageState, Timestamp};
use bugler_protocol::manifest::ChunkHash;
use bugler_protocol::operator::{DamagedImage, VerifiedAll};
use heal::Healer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Chunks that are listed at a time: 512 KiB of names. Listing reads every manifest.
const LISTED: usize = 1 << 14;

/// Chunks that are read between two looks at the clock and the registry.
const BATCH: usize = 64;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const FIRST_ROUND_MS: i64 = DAY_MS;
const ROUND_MS: i64 = 7 * DAY_MS;

/// How often the clock is looked at between two rounds, and how long is waited after an error.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Where the background is; kept in a file of the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The round begins at this time, in Unix milliseconds; it may be one that is under way.
    begins: Timestamp,
    /// The last chunk of the round that was read.
    after: Option<ChunkHash>,
}

impl Position {
    /// Where a server begins that has never verified anything.
    fn first(now: Timestamp) -> Self {
        Self {
            begins: Timestamp(now.0.saturating_add(FIRST_ROUND_MS)),
            after: None,
        }
    }

    /// What was kept, unless a clock that was wrong then or is now would have it wait for longer
    /// than a round.
    fn sane(self, now: Timestamp) -> Self {
        let latest = now.0.saturating_add(ROUND_MS);
        Self {
            begins: Timestamp(self.begins.0.min(latest)),
            ..self
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.begins
    }

    /// The round has ended.
    fn next(self, now: Timestamp) -> Self {
        let next = Self {
            begins: Timestamp(self.begins.0.saturating_add(ROUND_MS).max(now.0)),
            after: None,
        };
        next.sane(now)
    }
}

/// A position's file.
struct Kept(PathBuf);

impl Kept {
    /// One that cannot be read begins anew: at worst something is read twice.
    fn load(&self, now: Timestamp) -> Position {
        let kept = std::fs::read(&self.0).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Position>(&bytes).ok());
        kept.map_or_else(|| Position::first(now), |position| position.sane(now))
    }

    fn save(&self, position: Position) {
        if let Err(error) = self.write(position) {
            let path = self.0.display();
            tracing::warn!("could not keep how far images are verified in {path}: {error}");
        }
    }

    fn write(&self, position: Position) -> std::io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&position)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.0)
    }
}

/// What was found of some chunks.
#[derive(Default)]
struct Found {
    bytes: u64,
    chunks: u64,
    /// Where it stopped, for it may end early.
    last: Option<ChunkHash>,
    bad: BTreeSet<ChunkHash>,
}

/// Reads these chunks, until `stop`.
async fn read(
    state: &AppState,
    chunks: Vec<ChunkHash>,
    stop: CancellationToken,
) -> Result<Found, ApiError> {
    let images = state.images.clone();
    let reading = move || -> Result<Found, StoreError> {
        let mut found = Found::default();
        for chunk in chunks {
            if stop.is_cancelled() {
                break;
            }
            let (is, length) = images.measure_chunk(&chunk)?;
            if is != ChunkState::Good {
                found.bad.insert(chunk);
            }
            found.bytes += length;
            found.chunks += 1;
            found.last = Some(chunk);
        }
        Ok(found)
    };
    Ok(tokio::task::spawn_blocking(reading).await??)
}

/// Marks the images that need one of these chunks; gives them, and the chunks that are still bad.
async fn mark(
    state: &AppState,
    bad: BTreeSet<ChunkHash>,
) -> Result<(Vec<Image>, BTreeSet<ChunkHash>), ApiError> {
    let images = state.store.images().await?;
    let names = manifests(&images)?;
    // A chunk of an image that was removed meanwhile is rightly gone, and one that was added again
    // since is good: looked at once more, after the images were listed.
    let (bad, needing) = {
        let store = state.images.clone();
        let looking = move || -> Result<_, StoreError> {
            let mut still = BTreeSet::new();
            for chunk in bad {
                if store.check_chunk(&chunk)? != ChunkState::Good {
                    still.insert(chunk);
                }
            }
            let needing = store.manifests_with(&names, &still)?;
            Ok((still, needing))
        };
        tokio::task::spawn_blocking(looking).await??
    };
    let needing: BTreeSet<usize> = needing.into_iter().collect();
    let mut marked = Vec::new();
    for (number, image) in images.into_iter().enumerate() {
        if needing.contains(&number) {
            let marking = state
                .store
                .set_image_state(image.id, ImageState::Damaged, state.now());
            marking.await?;
            marked.push(image);
        }
    }
    Ok((marked, bad))
}

/// Reads every chunk of every image and compares it with its hash; marks each image as damaged or
/// good. `tell` is called now and then with how many chunks have been read. Ends early, with an
/// error, once `stop` is cancelled.
///
/// # Errors
/// Where the registry or the store cannot be read, which says nothing about any image.
pub(crate) async fn verify_all(
    state: &AppState,
    stop: CancellationToken,
    mut tell: impl FnMut(u64),
) -> Result<VerifiedAll, ApiError> {
    let images = state.store.images().await?;
    let names = manifests(&images)?;
    let mut all = VerifiedAll {
        images: images.len() as u64,
        ..VerifiedAll::default()
    };
    let (mut after, mut bad) = (None, BTreeSet::new());
    loop {
        let listed = list(state, names.clone(), after).await?;
        if listed.is_empty() {
            break;
        }
        for batch in listed.chunks(BATCH) {
            let found = read(state, batch.to_vec(), stop.clone()).await?;
            if stop.is_cancelled() {
                return Err(ApiError::busy(
                    "verifying was ended early: verify again later",
                ));
            }
            after = found.last;
            all.chunks += found.chunks;
            bad.extend(found.bad);
            tell(all.chunks);
        }
    }
    let (damaged, bad) = mark(state, bad).await?;
    all.damaged_chunks = bad.len() as u64;
    for image in images.iter().filter(|i| i.state == ImageState::Damaged) {
        if !damaged.iter().any(|marked| marked.id == image.id) {
            let marking = state
                .store
                .set_image_state(image.id, ImageState::Good, state.now());
            marking.await?;
        }
    }
    all.damaged = damaged
        .iter()
        .map(|image| DamagedImage {
            image: image.id,
            label: image.label(),
        })
        .collect();
    Ok(all)
}

async fn list(
    state: &AppState,
    names: Vec<ChunkHash>,
    after: Option<ChunkHash>,
) -> Result<Vec<ChunkHash>, ApiError> {
    let store = state.images.clone();
    let listing = move || store.chunks_after(&names, after, LISTED);
    Ok(tokio::task::spawn_blocking(listing).await?)
}

/// Verifies everything, round after round, reading at most `rate` bytes a second; 0: does nothing.
/// Keeps how far it is in `file`. Marks damaged images that are whole again as good. Ends with the
/// state's `stop`.
pub async fn verify_slowly(state: Arc<AppState>, rate: u64, file: &Path) {
    if rate == 0 {
        return;
    }
    let kept = Kept(file.to_path_buf());
    let mut position = kept.load(state.now());
    kept.save(position);
    let stop = state.stop.clone();
    let mut healer = Healer::default();
    while !stop.is_cancelled() {
        healer.look(&state, rate).await;
        let pause = if position.is_due(state.now()) {
            match some(&state, rate, &kept, position).await {
                Ok(next) => {
                    if next.begins != position.begins {
                        healer.forget();
                    }
                    position = next;
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!("images are not verified: {}", chain(&error));
                    LOOK_AGAIN
                }
            }
        } else {
            LOOK_AGAIN
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Goes on with a round: the chunks of one listing.
async fn some(
    state: &AppState,
    rate: u64,
    kept: &Kept,
    mut position: Position,
) -> Result<Position, ApiError> {
    let names = manifests(&state.store.images().await?)?;
    let listed = list(state, names, position.after).await?;
    if listed.is_empty() {
        position = position.next(state.now());
        kept.save(position);
        return Ok(position);
    }
    for batch in listed.chunks(batch_of(rate)) {
        let found = read(state, batch.to_vec(), state.stop.clone()).await?;
        if !found.bad.is_empty() {
            let (images, bad) = mark(state, found.bad).await?;
            let labels: Vec<_> = images.iter().map(Image::label).collect();
            if !bad.is_empty() {
                let (count, labels) = (bad.len(), labels.join(", "));
                tracing::error!(
                    "{count} chunks of the image store are damaged; needed by: {labels}"
                );
            }
        }
        position.after = found.last.or(position.after);
        kept.save(position);
        // As long as reading this much may take, and no shorter for what reading it has taken.
        let pause = Duration::from_secs_f64(found.bytes as f64 / rate as f64);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = state.stop.cancelled() => break,
        }
    }
    Ok(position)
}

/// About a second's worth of chunks.
fn batch_of(rate: u64) -> usize {
    usize::try_from(rate >> 20).unwrap_or(BATCH).clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn later(ms: i64) -> Timestamp {
        Timestamp(NOW.0 + ms)
    }

    #[test]
    fn rounds_begin_a_day_after_the_first_start_and_then_weekly() {
        let first = Position::first(NOW);
        assert!(!first.is_due(later(DAY_MS - 1)));
        assert!(first.is_due(later(DAY_MS)));
        let ended = later(DAY_MS + 5000);
        let next = first.next(ended);
        assert_eq!(next.begins, later(8 * DAY_MS));
        // A round that took longer than a week is followed at once.
        let late = later(30 * DAY_MS);
        assert!(first.next(late).is_due(late));
        // A clock that was wrong cannot put it off for years.
        let wrong = Position {
            begins: later(9000 * DAY_MS),
            after: None,
        };
        assert_eq!(wrong.sane(NOW).begins, later(ROUND_MS));
    }

    #[test]
    fn where_it_was_is_kept_and_nonsense_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept(dir.path().join("verified"));
        assert_eq!(kept.load(NOW), Position::first(NOW));
        let position = Position {
            begins: later(5),
            after: Some(ChunkHash([7; 32])),
        };
        kept.save(position);
        assert_eq!(kept.load(NOW), position);
        std::fs::write(&kept.0, b"{\"begins\": 3, \"after\": \"xyz\"}").unwrap();
        assert_eq!(kept.load(NOW), Position::first(NOW));
    }
}
