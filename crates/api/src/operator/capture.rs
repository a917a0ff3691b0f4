//! One device's boot traffic, recorded as it crosses the interfaces that this server serves.

use super::images::Binary;
use crate::error::{ApiError, chain};
use crate::extract::{Params, Segment};
use crate::state::AppState;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bugler_diagnose::capture::{Capture, Error, Filter};
use bugler_protocol::agent::ErrorBody;
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

/// Longest capture, in seconds: a day.
const MOST_SECONDS: u64 = 86_400;

/// Pieces of at most 64 KiB that may wait for a client that is slow.
const WAITING: usize = 16;

/// How long to capture.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CaptureQuery {
    /// Seconds, 1 to 86,400; where it is not given, until the client ends the connection.
    duration: Option<u64>,
}

/// Records a device's boot traffic from now on: DHCP, ARP and ICMP, its TFTP transfers, and TCP
/// between it and the device plane, as pcapng with whole packets. What was lost because the client
/// was slow is counted at the file's end.
#[utoipa::path(
    get, path = "/devices/{device}/packets", operation_id = "capture_packets", tag = "devices",
    params(("device" = String, Path), CaptureQuery),
    responses(
        (status = 200, content_type = "application/x-pcapng", body = Binary),
        (status = 404, body = ErrorBody, description = "there is no such thing"),
        (status = 409, body = ErrorBody, description = "the server serves no interface, or one is gone"),
        (status = 503, body = ErrorBody, description = "too many captures run already"),
    ),
)]
pub(super) async fn packets(
    State(state): State<Arc<AppState>>,
    Segment(device): Segment,
    Params(CaptureQuery { duration }): Params<CaptureQuery>,
) -> Result<Response, ApiError> {
    if duration.is_some_and(|seconds| !(1..=MOST_SECONDS).contains(&seconds)) {
        return Err(ApiError::bad_request(format!(
            "a capture takes 1 to {MOST_SECONDS} seconds"
        )));
    }
    let device = state.store.resolve_device(&device).await?;
    let place = state
        .captures
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::busy("several captures run already: end one, then try again"))?;
    let filter = Filter::new(
        device.macs.clone(),
        device.address.into_iter().collect(),
        vec![state.info.device_port],
    );
    let capture = Capture::open(&state.info.interfaces, filter).map_err(|error| {
        let status = match error {
            Error::Nowhere | Error::NoInterface { .. } => StatusCode::CONFLICT,
            Error::Open { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError::new(status, chain(&error))
    })?;
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(WAITING);
    let stop = state.stop.clone();
    let gone = sender.clone();
    let label = device.label();
    // A thread of its own: it waits for frames, and for the client where that is slow.
    let thread = std::thread::Builder::new().name("capture".into());
    let spawned = thread.spawn(move || {
        let _place = place;
        let ended = capture.run(
            duration.map(Duration::from_secs),
            || stop.is_cancelled() || gone.is_closed(),
            |piece| sender.blocking_send(Ok(piece.into())).is_ok(),
        );
        if let Err(error) = ended {
            tracing::warn!("the capture of {label} ended early: {error}");
        }
    });
    spawned.map_err(|error| {
        ApiError::busy(format!("no thread could be started for a capture: {error}"))
    })?;
    let disposition = format!("attachment; filename=\"{}.pcapng\"", device.id);
    let headers = [
        (header::CONTENT_TYPE, "application/x-pcapng".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok((headers, body).into_response())
}
