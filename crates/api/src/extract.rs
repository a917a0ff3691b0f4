//! Extractors whose refusals are [`ApiError`]s.

use crate::error::ApiError;
use crate::state::AppState;
use crate::token;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bugler_store::{AgentAuth, TokenHash};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a small body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a body, but not for ever.
async fn in_time<T>(read: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(BODY_TIMEOUT, read).await.map_err(|_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the request's body did not come within {} s",
                BODY_TIMEOUT.as_secs()
            ),
        )
    })
}

fn refuse_body(status: StatusCode, why: &str) -> ApiError {
    ApiError::new(status, format!("the request's body: {why}"))
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match in_time(Json::from_request(request, state)).await? {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(refuse_body(rejection.status(), &rejection.body_text())),
        }
    }
}

/// A small body of whatever content type.
pub(crate) struct SmallBody(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for SmallBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match in_time(Bytes::from_request(request, state)).await? {
            Ok(body) => Ok(Self(body)),
            Err(rejection) => Err(refuse_body(rejection.status(), &rejection.body_text())),
        }
    }
}

/// The query of the URL.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::bad_request(format!(
                "the request's query {:?}: {}",
                parts.uri.query().unwrap_or_default(),
                rejection.body_text()
            ))),
        }
    }
}

/// The one variable part of the path, decoded.
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(ApiError::bad_request(format!(
                "the request's path: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// Where the request came from.
pub(crate) struct Peer(pub(crate) SocketAddr);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
            return Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server does not know where this request came from",
            ));
        };
        Ok(Self(SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    }
}

/// An agent that showed a good token.
#[derive(Clone, Copy)]
pub(crate) struct Agent {
    pub(crate) auth: AgentAuth,
    pub(crate) token: TokenHash,
}

impl FromRequestParts<Arc<AppState>> for Agent {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<AppState>,
    ) -> Result<Self, ApiError> {
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(|token| token::hash(token.trim()))
            .ok_or_else(unknown_token)?;
        let auth = state.store.agent_token(token).ok_or_else(unknown_token)?;
        Ok(Self { auth, token })
    }
}

pub(crate) fn unknown_token() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "this request needs the token of an agent that is registered, and brings none that is \
         known: register again",
    )
}
