//! Talks to the operator plane of a server.

use anyhow::{Context, Result};
use bugler_protocol::agent::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::{Body, SendBody};

/// What a failed command ends with; see the help of `bugler`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The server answered with an error.
    #[error("{message}")]
    Answer {
        /// Its HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// There was no answer.
    #[error(
        "could not reach the server at {server}: is `bugler serve` running there? \
         (--server or BUGLER_SERVER names another)"
    )]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// What came back.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A task that was waited for did not end well.
    #[error("{0}")]
    TaskFailed(String),
}

/// The exit code that an error stands for.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Answer { status, .. }) if *status == StatusCode::NOT_FOUND => 3,
        Some(ClientError::Answer { status, .. })
            if matches!(
                *status,
                StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED
            ) =>
        {
            4
        }
        Some(ClientError::Unreachable { .. }) => 5,
        Some(ClientError::TaskFailed(_)) => 6,
        _ => 1,
    }
}

/// A server's operator plane.
pub(crate) struct Client {
    server: String,
    agent: ureq::Agent,
}

impl Client {
    pub(crate) fn new(server: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("bugler/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self {
            server: server.trim_end_matches('/').to_owned(),
            agent,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.server)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(self.agent.get(self.url(path)).call())
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.json(self.agent.post(self.url(path)).send_json(body))
    }

    /// As [`post`](Self::post), the answer to be read as it comes.
    pub(crate) fn post_stream(&self, path: &str, body: &impl Serialize) -> Result<Response<Body>> {
        self.answer(self.agent.post(self.url(path)).send_json(body))
    }

    /// As [`post`](Self::post), where the answer is that it was done.
    pub(crate) fn post_quietly(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.answer(self.agent.post(self.url(path)).send_json(body))
            .map(drop)
    }

    pub(crate) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.json(self.agent.patch(self.url(path)).send_json(body))
    }

    pub(crate) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.json(self.agent.put(self.url(path)).send_json(body))
    }

    /// What is there, with its version (ETag) for [`replace`](Self::replace); `None` where the server
    /// tells none.
    pub(crate) fn get_version<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(T, Option<String>)> {
        let response = self.answer(self.agent.get(self.url(path)).call())?;
        let version = response.headers().get(header::ETAG);
        let version = version.and_then(|version| version.to_str().ok());
        let version = version.map(str::to_owned);
        Ok((self.json(Ok(response))?, version))
    }

    /// Puts something in the place of what has this version. `None` where that is there no more.
    pub(crate) fn replace<T: DeserializeOwned>(
        &self,
        path: &str,
        version: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Option<T>> {
        let mut request = self.agent.put(self.url(path));
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, version);
        }
        let result = request.send_json(body);
        if result
            .as_ref()
            .is_ok_and(|answer| answer.status() == StatusCode::PRECONDITION_FAILED)
        {
            return Ok(None);
        }
        self.json(result).map(Some)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        self.answer(self.agent.delete(self.url(path)).call())
            .map(drop)
    }

    /// Sends a stream as the body; `length` where it is known.
    pub(crate) fn put_stream<T: DeserializeOwned>(
        &self,
        path: &str,
        length: Option<u64>,
        body: &mut dyn Read,
    ) -> Result<T> {
        let mut request = self
            .agent
            .put(self.url(path))
            .header("content-type", "application/octet-stream");
        if let Some(length) = length {
            request = request.header("content-length", length.to_string());
        }
        self.json(request.send(SendBody::from_reader(&mut { body })))
    }

    /// The body of an answer, to be read as it comes.
    pub(crate) fn stream(&self, path: &str) -> Result<Response<Body>> {
        self.answer(self.agent.get(self.url(path)).call())
    }

    fn json<T: DeserializeOwned>(&self, result: Result<Response<Body>, ureq::Error>) -> Result<T> {
        let mut response = self.answer(result)?;
        response
            .body_mut()
            .with_config()
            .limit(256 << 20)
            .read_json()
            .with_context(|| {
                format!(
                    "{} gave an answer that this version does not understand",
                    self.server
                )
            })
    }

    fn answer(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut response = result.map_err(|source| ClientError::Unreachable {
            server: self.server.clone(),
            source: Box::new(source),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(1 << 20)
            .read_to_string()
            .unwrap_or_default();
        let message = serde_json::from_str::<ErrorBody>(&text)
            .map(|body| body.error)
            .unwrap_or_else(|_| format!("the server answered {status}: {}", text.trim()));
        Err(ClientError::Answer { status, message }.into())
    }
}

/// A part of a URL path or query, as RFC 3986 wants it.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_part_cannot_leave_its_place() {
        assert_eq!(encode("a/../b?c#d e"), "a%2F..%2Fb%3Fc%23d%20e");
        assert_eq!(encode("52:54:00"), "52%3A54%3A00");
    }

    #[test]
    fn a_server_that_is_not_there_is_named_with_what_to_do() {
        // Port 1 of loopback: nobody listens there.
        let error = Client::new("http://127.0.0.1:1")
            .get::<()>("server")
            .unwrap_err();
        assert_eq!(exit_code(&error), 5);
        assert!(format!("{error:#}").contains("bugler serve"), "{error:#}");
    }
}
