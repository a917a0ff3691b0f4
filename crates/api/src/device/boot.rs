//! The boot tree over HTTP.

use crate::error::ApiError;
use crate::extract::{Peer, Segment};
use crate::raw::ranged;
use crate::state::{AppState, BootContent, BootTreeError};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Bytes that are read from a file at a time.
const BUFFER: usize = 1 << 20;

/// Bytes of something in memory that are handed on at a time.
const PIECE: usize = 256 << 10;

pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Peer(peer): Peer,
    Segment(path): Segment,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let content = state
        .boot
        .open(peer, host, &path)
        .await
        .map_err(|error| match error {
            BootTreeError::NotFound(text) => ApiError::not_found(text),
            BootTreeError::Broken(text) => {
                tracing::error!("boot tree, {path} for {peer}: {text}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        })?;
    let content = match content {
        BootContent::File(name) => match state.shared.get(&name).await {
            Ok(Some(bytes)) => BootContent::Bytes(bytes),
            // What went wrong is told where it is opened.
            Ok(None) | Err(_) => BootContent::File(name),
        },
        bytes => bytes,
    };
    let (size, mut file) = match &content {
        BootContent::Bytes(bytes) => (bytes.len() as u64, None),
        BootContent::File(name) => {
            let open = async {
                let file = tokio::fs::File::open(name).await?;
                let length = file.metadata().await?.len();
                io::Result::Ok((length, Some(file)))
            };
            open.await.map_err(|error| {
                let text = format!("could not open {} for {path}: {error}", name.display());
                tracing::error!("{text}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            })?
        }
    };
    let (range, status, mut answer) = match ranged(&headers, size) {
        Ok(head) => head,
        Err(refusal) => return Ok(*refusal),
    };
    let plain = HeaderValue::from_static("application/octet-stream");
    answer.insert(header::CONTENT_TYPE, plain);
    if method == Method::HEAD {
        return Ok((status, answer).into_response());
    }
    let length = range.end - range.start;
    let sending = Sending {
        state,
        peer,
        path,
        length,
        sent: 0,
    };
    let body = match (content, file.take()) {
        (BootContent::Bytes(bytes), _) => {
            let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
            else {
                return Err(ApiError::bad_request(
                    "a range beyond this machine's memory",
                ));
            };
            // In pieces, so that it is known how much of it went out.
            let pieces = (start..end).step_by(PIECE);
            let parts = pieces.map(move |at| io::Result::Ok(bytes.slice(at..end.min(at + PIECE))));
            count(stream::iter(parts), sending)
        }
        (BootContent::File(_), Some(mut file)) => {
            file.seek(io::SeekFrom::Start(range.start))
                .await
                .map_err(|error| {
                    ApiError::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        format!("could not read {}: {error}", sending.path),
                    )
                })?;
            // A file that grew is cut, so that the length that was announced is true.
            count(
                ReaderStream::with_capacity(file.take(length), BUFFER),
                sending,
            )
        }
        (BootContent::File(_), None) => Body::empty(),
    };
    Ok((status, answer, body).into_response())
}

/// A body on its way; when it is dropped it tells the boot tree how much of it went out.
struct Sending {
    state: Arc<AppState>,
    peer: SocketAddr,
    path: String,
    length: u64,
    sent: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let complete = self.sent == self.length;
        self.state
            .boot
            .delivered(self.peer, &self.path, self.sent, complete);
    }
}

impl Sending {
    fn count(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }
}

fn count(
    bytes: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static,
    mut sending: Sending,
) -> Body {
    // A method call, so that the closure takes all of `sending` with it, to be dropped with the
    // body.
    Body::from_stream(
        bytes
            .inspect_ok(move |bytes| sending.count(bytes.len()))
            .boxed(),
    )
}
