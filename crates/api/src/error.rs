//! Errors as answers.

use crate::keys::KeyError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bugler_images::{AddError, StoreError as ImageError};
use bugler_power::PowerError;
use bugler_protocol::agent::ErrorBody;
use bugler_store::{ResolveError, StoreError};

/// An error answer: a status, and a text for people in a JSON [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    status: StatusCode,
    text: String,
}

impl ApiError {
    /// An error with this status; `text` says what was tried, on what, and what to do.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(crate) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    pub(crate) fn busy(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// The server itself failed: the text goes to the log as well.
    fn internal(error: &dyn std::error::Error) -> Self {
        let text = chain(error);
        tracing::error!("{text}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.text })).into_response()
    }
}

/// An error with its sources: `could not X: because Y: because Z`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::not_found(text),
            StoreError::Conflict(_) => Self::conflict(text),
            StoreError::RulesChanged => Self::new(StatusCode::PRECONDITION_FAILED, text),
            StoreError::Closed => Self::busy(text),
            StoreError::Database { .. } => Self::internal(&error),
        }
    }
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        let text = error.to_string();
        match error {
            ResolveError::Unknown(_) => Self::not_found(text),
            ResolveError::Ambiguous { .. } => Self::conflict(text),
            ResolveError::Store(error) => error.into(),
        }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Collecting => Self::conflict(error.to_string()),
            error => Self::internal(&error),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        Self::internal(&error)
    }
}

impl From<AddError> for ApiError {
    fn from(error: AddError) -> Self {
        let status = match &error {
            AddError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            AddError::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
            AddError::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            AddError::Read { .. } | AddError::Length { .. } => StatusCode::BAD_REQUEST,
            AddError::Store(_) => return Self::internal(&error),
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, chain(&error))
    }
}

impl From<PowerError> for ApiError {
    fn from(error: PowerError) -> Self {
        let status = match error {
            PowerError::Store(error) => return error.into(),
            PowerError::Vault(_) => return Self::internal(&error),
            PowerError::Invalid(_) => StatusCode::BAD_REQUEST,
            PowerError::NoDriver(_) => StatusCode::CONFLICT,
            PowerError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            PowerError::Driver(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, chain(&error))
    }
}

impl From<tokio::task::JoinError> for ApiError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::internal(&error)
    }
}
