//! Bytes for HTTP: ranges, files, and images as one would read them from the disk.

use crate::error::{ApiError, chain};
use crate::state::AppState;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_images::{Hold, StoreError as ImageError};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, Manifest};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use std::io;
use std::ops;
use std::sync::Arc;

/// What a request asks for of something that is `size` bytes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// These bytes; at least one.
    Part(ops::Range<u64>),
    /// Bytes that it does not have: 416.
    Unsatisfiable,
}

/// Reads a `Range` header (RFC 9110 section 14.2) for something of `size` bytes. One that is
/// malformed, of another unit, or for several ranges is ignored, as that section allows.
#[must_use]
pub fn parse_range(header: Option<&str>, size: u64) -> Range {
    let parsed = header
        .and_then(|text| text.trim().strip_prefix("bytes="))
        .and_then(|spec| spec.trim().split_once('-'));
    let Some((first, last)) = parsed else {
        return Range::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than fit say "more than there is".
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return Range::Whole,
    };
    if range.is_empty() {
        Range::Unsatisfiable
    } else {
        Range::Part(range)
    }
}

/// The head of an answer that gives `size` bytes or a part of them, and which part that is.
pub(crate) fn ranged(
    headers: &HeaderMap,
    size: u64,
) -> Result<(ops::Range<u64>, StatusCode, HeaderMap), Box<Response>> {
    let asked = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let mut answer = HeaderMap::new();
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let mut content_range = |text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            answer.insert(header::CONTENT_RANGE, value);
        }
    };
    let (range, status) = match parse_range(asked, size) {
        Range::Whole => (0..size, StatusCode::OK),
        Range::Part(range) => {
            content_range(format!("bytes {}-{}/{size}", range.start, range.end - 1));
            (range, StatusCode::PARTIAL_CONTENT)
        }
        Range::Unsatisfiable => {
            content_range(format!("bytes */{size}"));
            let error = ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("a range was asked for that lies behind the end, at {size} bytes"),
            );
            return Err(Box::new((answer, error).into_response()));
        }
    };
    answer.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    Ok((range, status, answer))
}

/// Chunks that are read ahead of the network.
const READ_AHEAD: usize = 3;

static ZEROS: [u8; CHUNK_SIZE as usize] = [0; CHUNK_SIZE as usize];

/// An image that is being given out: not collected as garbage meanwhile.
pub(crate) struct RawImage {
    state: Arc<AppState>,
    manifest: Manifest,
    _hold: Hold,
}

impl RawImage {
    /// Reads the manifest.
    pub(crate) async fn open(state: &Arc<AppState>, manifest: &str) -> Result<Self, ApiError> {
        let hash: ChunkHash = manifest
            .parse()
            .map_err(|error| ApiError::conflict(format!("{error}")))?;
        let images = state.images.clone();
        let (hold, manifest) = tokio::task::spawn_blocking(move || images.hold(&hash)).await??;
        Ok(Self {
            state: state.clone(),
            manifest,
            _hold: hold,
        })
    }

    /// Size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.manifest.disk_size
    }

    /// These bytes of the disk, every chunk checked. Each chunk is one short job of a blocking
    /// thread: a client that reads slowly keeps none.
    pub(crate) fn stream(
        self,
        range: ops::Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let chunk = u64::from(CHUNK_SIZE);
        let image = Arc::new(self);
        stream::iter(range.start / chunk..range.end.div_ceil(chunk))
            .map(move |index| {
                let (image, range) = (image.clone(), range.clone());
                async move {
                    let offset = index * chunk;
                    let bytes = image
                        .chunk(u32::try_from(index).unwrap_or(u32::MAX))
                        .await?;
                    let end = (offset + bytes.len() as u64).min(range.end);
                    let start = range.start.max(offset);
                    let within = |at: u64| usize::try_from(at.saturating_sub(offset));
                    match (within(start), within(end)) {
                        (Ok(start), Ok(end)) if start <= end && end <= bytes.len() => {
                            Ok(bytes.slice(start..end))
                        }
                        _ => Err(io::Error::other(
                            "a chunk is shorter than its manifest says",
                        )),
                    }
                }
            })
            .buffered(READ_AHEAD)
    }

    async fn chunk(&self, index: u32) -> io::Result<Bytes> {
        let length = self.manifest.chunk_len(index) as usize;
        let chunks = &self.manifest.chunks;
        let listed = chunks
            .binary_search_by_key(&index, |chunk| chunk.index)
            .ok();
        let Some(hash) = listed.and_then(|at| chunks.get(at)).map(|chunk| chunk.hash) else {
            return Ok(Bytes::from_static(ZEROS.get(..length).unwrap_or(&ZEROS)));
        };
        let images = self.state.images.clone();
        let read = tokio::task::spawn_blocking(move || images.read_chunk(&hash)).await;
        match read.map_err(io::Error::other)? {
            Ok(content) if content.len() == length => Ok(content.into()),
            Ok(content) => Err(io::Error::other(format!(
                "chunk {hash} has {} bytes where its place has {length}",
                content.len()
            ))),
            Err(error) => {
                tracing::error!("could not give out chunk {hash}: {}", chain(&error));
                if matches!(
                    error,
                    ImageError::NoChunk(_) | ImageError::DamagedChunk { .. }
                ) {
                    let noted =
                        crate::device::note_damage(&self.state, hash, &error.to_string()).await;
                    if let Err(error) = noted {
                        tracing::error!("could not record that {hash} is damaged: {error}");
                    }
                }
                Err(io::Error::other(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (text, range) in [
            ("bytes=0-0", Range::Part(0..1)),
            ("bytes=2-", Range::Part(2..10)),
            ("bytes=-3", Range::Part(7..10)),
            ("bytes=-30", Range::Part(0..10)),
            ("bytes=5-99999999999999999999999", Range::Part(5..10)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=3-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=-", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=+1-2", Range::Whole),
        ] {
            assert_eq!(parse_range(Some(text), 10), range, "{text}");
        }
        assert_eq!(parse_range(None, 10), Range::Whole);
        assert_eq!(parse_range(Some("bytes=0-"), 0), Range::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_within(text in "bytes=[0-9]{0,22}-[0-9]{0,22}|.{0,30}", size: u64) {
            if let Range::Part(range) = parse_range(Some(&text), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
