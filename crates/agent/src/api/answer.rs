//! What comes back from the server, as the value that was asked for or as an error.

use super::ApiError;
use bugler_protocol::agent::ErrorBody;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::{Response, request};

/// Longest answer that is read as JSON, in bytes. None is near it.
const MAX_JSON: u64 = 1 << 20;

/// An answer that is none of success is an error, with what the server says of it.
pub(super) fn finish(
    request: String,
    answered: Result<Response<Body>, ureq::Error>,
) -> Result<Response<Body>, ApiError> {
    let mut answer = match answered {
        Ok(answer) if answer.status().is_success() => return Ok(answer),
        Ok(answer) => answer,
        Err(source) => {
            let source = Box::new(source);
            return Err(ApiError::Transport { request, source });
        }
    };
    let body = answer.body_mut().with_config().limit(MAX_JSON);
    let text = body.read_to_string().unwrap_or_default();
    let message = match serde_json::from_str::<ErrorBody>(&text) {
        Ok(body) => body.error,
        Err(_) if text.trim().is_empty() => "(without a reason)".into(),
        Err(_) => text.trim().chars().take(300).collect(),
    };
    Err(ApiError::Status {
        request,
        status: answer.status().as_u16(),
        message,
    })
}

pub(super) fn describe(request: &request::Builder) -> String {
    let method = request.method_ref().map(ToString::to_string);
    let url = request.uri_ref().map(ToString::to_string);
    [method, url].map(Option::unwrap_or_default).join(" ")
}

pub(super) fn read_json<T: DeserializeOwned>(
    request: &str,
    mut answer: Response<Body>,
) -> Result<T, ApiError> {
    let body = answer.body_mut().with_config().limit(MAX_JSON);
    let bytes = body.read_to_vec().map_err(|source| ApiError::Transport {
        request: request.into(),
        source: Box::new(source),
    })?;
    serde_json::from_slice(&bytes).map_err(|e| nonsense(request, e))
}

pub(super) fn nonsense(request: &str, source: serde_json::Error) -> ApiError {
    ApiError::Answer {
        request: request.into(),
        source: Box::new(source),
    }
}
