//! Bytes for HTTP: ranges, files, and images as one would read them from the disk.

use crate::error::{ApiError, chain};
use crate::state::AppState;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_images::{Export, ExportFormat, Piece, StoreError as ImageError};
use bugler_protocol::manifest::ChunkHash;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use std::borrow::Cow;
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

/// As [`ranged`], of something whose version is `tag`: its ETag without quotes. A range of another
/// version is not given: RFC 9110 section 13.1.5.
pub(crate) fn ranged_of(
    headers: &HeaderMap,
    size: u64,
    tag: &str,
) -> Result<(ops::Range<u64>, StatusCode, HeaderMap), Box<Response>> {
    let quoted = format!("\"{tag}\"");
    let is_other = headers
        .get(header::IF_RANGE)
        .is_some_and(|wanted| wanted.as_bytes() != quoted.as_bytes());
    let mut answer = if is_other {
        let mut headers = headers.clone();
        headers.remove(header::RANGE);
        ranged(&headers, size)?
    } else {
        ranged(headers, size)?
    };
    if let Ok(value) = HeaderValue::try_from(quoted) {
        answer.2.insert(header::ETAG, value);
    }
    Ok(answer)
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

/// An image that is being given out: not collected as garbage meanwhile.
pub(crate) struct RawImage {
    state: Arc<AppState>,
    export: Arc<Export>,
}

impl RawImage {
    /// Reads the manifest, to give out the bytes of the disk.
    pub(crate) async fn open(state: &Arc<AppState>, manifest: &str) -> Result<Self, ApiError> {
        Self::open_as(state, manifest, ExportFormat::Raw).await
    }

    /// Reads the manifest, to give out the image in any format.
    pub(crate) async fn open_as(
        state: &Arc<AppState>,
        manifest: &str,
        format: ExportFormat,
    ) -> Result<Self, ApiError> {
        let hash: ChunkHash = manifest
            .parse()
            .map_err(|error| ApiError::conflict(format!("{error}")))?;
        let images = state.images.clone();
        let opened = tokio::task::spawn_blocking(move || images.open_export(&hash, format));
        Ok(Self {
            state: state.clone(),
            export: Arc::new(opened.await??),
        })
    }

    /// Length in bytes: the size of the disk, where it is given out raw.
    pub(crate) fn size(&self) -> u64 {
        self.export.size()
    }

    /// Its ETag, without quotes.
    pub(crate) fn tag(&self) -> &str {
        self.export.tag()
    }

    /// These bytes, every chunk checked. Each chunk is one short job of a blocking thread: a client
    /// that reads slowly keeps none.
    pub(crate) fn stream(
        self,
        range: ops::Range<u64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let image = Arc::new(self);
        let export = image.export.clone();
        let mut at = range.start;
        let pieces = std::iter::from_fn(move || {
            let piece = (at < range.end).then(|| export.piece(at))?;
            let asked = at..piece.range.end.min(range.end);
            at = asked.end.max(at + 1);
            Some((piece, asked))
        });
        stream::iter(pieces)
            .map(move |(piece, asked)| {
                let image = image.clone();
                async move {
                    let start = piece.range.start;
                    let bytes = image.piece(piece).await?;
                    let within = |at: u64| usize::try_from(at.saturating_sub(start));
                    match (within(asked.start), within(asked.end)) {
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

    async fn piece(&self, piece: Piece) -> io::Result<Bytes> {
        let into_bytes = |bytes| match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        if let Some(bytes) = piece.made() {
            return Ok(into_bytes(bytes));
        }
        let chunk = piece.chunk();
        let export = self.export.clone();
        let read = tokio::task::spawn_blocking(move || export.read(&piece)).await;
        let error = match read.map_err(io::Error::other)? {
            Ok(bytes) => return Ok(into_bytes(bytes)),
            Err(error) => error,
        };
        if let Some(hash) = chunk {
            tracing::error!("could not give out chunk {hash}: {}", chain(&error));
            if matches!(
                error,
                ImageError::NoChunk(_) | ImageError::DamagedChunk { .. }
            ) {
                let noted = crate::device::note_damage(&self.state, hash, &error.to_string()).await;
                if let Err(error) = noted {
                    tracing::error!("could not record that {hash} is damaged: {error}");
                }
            }
        }
        Err(io::Error::other(error))
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
