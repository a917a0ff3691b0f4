//! The agent's HTTP client for the device plane ([`bugler_protocol::agent`]).

use bugler_model::TaskId;
use bugler_protocol::agent::{
    Assignment, ChunkRequest, Damaged, ErrorBody, Heartbeat, Register, Registered, Report,
    ReportAnswer,
};
use bugler_protocol::manifest::ChunkHash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::http::{Request, Response, StatusCode};
use ureq::{Agent, AsSendBody, Body};

/// Time to make a connection, and time without a byte before a request counts as failed.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(20);

/// Longest answer that is read as JSON, in bytes. None is near it.
const MAX_JSON: u64 = 1 << 20;

/// Longest manifest in bytes: that of an image with 1.6 TB in use. It is held in memory.
const MAX_MANIFEST: u64 = 64 << 20;

/// Where an agent introduces itself.
const REGISTER: &str = "/agent/v1/register";

/// Why a request to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server's address cannot be used.
    #[error(
        "{server:?} is not the address of a server: it should look like http://10.0.0.1:8480 \
         (kernel argument bugler.server, or --server)"
    )]
    Address {
        /// What was given.
        server: String,
    },
    /// No answer, or one that broke off.
    #[error("{request}: no answer")]
    Transport {
        /// Method and URL.
        request: String,
        /// What came back.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The server answered with an error.
    #[error("{request}: the server answered {status}: {message}")]
    Status {
        /// Method and URL.
        request: String,
        /// HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The server answered something that is not what this protocol says.
    #[error(
        "{request}: the answer makes no sense; is {request} really a Bugler server of this version?"
    )]
    Answer {
        /// Method and URL.
        request: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Tried for long enough.
    #[error("nothing has come for {seconds} s ({why}); check the server and the network")]
    Patience {
        /// For how long, in seconds.
        seconds: u64,
        /// What came back last.
        why: String,
    },
}

impl ApiError {
    /// Whether the same request can succeed later: the server is away, restarting or busy.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status { status, .. } => matches!(status, 401 | 408 | 425 | 429 | 500..),
            Self::Address { .. } | Self::Answer { .. } | Self::Patience { .. } => false,
        }
    }

    /// Whether the server refused to register this boot: it does not know the boot token.
    #[must_use]
    pub fn is_unknown_boot(&self) -> bool {
        matches!(
            self,
            Self::Status { status: 401, request, .. } if request.ends_with(REGISTER)
        )
    }

    /// Whether the server said that there is no such thing (any more), or that it has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 404 | 409 | 410,
                ..
            }
        )
    }
}

/// Makes what the agent says of itself, afresh for every registration.
pub type Introduction = Box<dyn Fn() -> Register + Send + Sync>;

/// A server, and this agent's standing with it. Clones share both.
#[derive(Clone)]
pub struct Api {
    session: Arc<Session>,
    agent: Agent,
}

struct Session {
    /// For example `http://10.0.0.1:8480`, without a slash at its end.
    server: String,
    introduction: Introduction,
    registered: Mutex<Option<Registered>>,
}

impl Api {
    /// A client of the server at `server`, for example `http://10.0.0.1:8480`. Says nothing yet.
    ///
    /// # Errors
    /// [`ApiError::Address`].
    pub fn new(server: &str, introduction: Introduction) -> Result<Self, ApiError> {
        let server = server.trim().trim_end_matches('/');
        let host = server.strip_prefix("http://").unwrap_or("");
        let uri = server.parse::<ureq::http::Uri>();
        if host.is_empty() || uri.is_err() {
            return Err(ApiError::Address {
                server: server.into(),
            });
        }
        Ok(Self {
            session: Arc::new(Session {
                server: server.into(),
                introduction,
                registered: Mutex::new(None),
            }),
            agent: new_agent(),
        })
    }

    /// Where the server is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.session.server
    }

    /// Connections of its own for a deploy, which can be cut without touching the others.
    #[must_use]
    pub fn bulk(&self) -> Bulk {
        Bulk(Self {
            session: self.session.clone(),
            agent: new_agent(),
        })
    }

    /// Introduces the agent. The token that comes back is used for everything that follows.
    ///
    /// # Errors
    /// [`ApiError`]; 401 or 403 mean that the boot token is not known (any more): only a new boot
    /// from this server helps.
    pub fn register(&self) -> Result<Registered, ApiError> {
        let mut registered = self.registered();
        self.register_now(&mut registered)
    }

    /// The lock is held while it asks, so that of several threads with an old token one asks.
    fn register_now(&self, slot: &mut Option<Registered>) -> Result<Registered, ApiError> {
        let body = (self.session.introduction)();
        let request = self.request("POST", REGISTER, None);
        let answer = self.send(request, Some(&body), SILENCE)?;
        let registered: Registered = read_json("POST /agent/v1/register", answer)?;
        *slot = Some(registered.clone());
        Ok(registered)
    }

    /// Asks for a task, and waits up to `wait` for one.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn next_task(&self, wait: Duration) -> Result<Option<Assignment>, ApiError> {
        let path = format!("/agent/v1/task?wait={}", wait.as_secs());
        let answer = self.call("GET", &path, None::<&()>, SILENCE + wait)?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        read_json("GET /agent/v1/task", answer).map(Some)
    }

    /// Tells how a task goes.
    ///
    /// # Errors
    /// [`ApiError`]; [`is_gone`](ApiError::is_gone) when the server has no such task, or it has
    /// ended there.
    pub fn report(&self, task: TaskId, report: &Report) -> Result<ReportAnswer, ApiError> {
        let path = format!("/agent/v1/tasks/{task}/report");
        let answer = self.call("POST", &path, Some(report), SILENCE)?;
        read_json("POST a report", answer)
    }

    /// A sign of life, with log lines.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<(), ApiError> {
        let path = "/agent/v1/heartbeat";
        self.call("POST", path, Some(heartbeat), SILENCE).map(drop)
    }

    /// Sends a request with the token; registers again, once, where the server has forgotten it.
    fn call(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&impl Serialize>,
        silence: Duration,
    ) -> Result<Response<Body>, ApiError> {
        let token = {
            let mut registered = self.registered();
            match &*registered {
                Some(known) => known.token.clone(),
                None => self.register_now(&mut registered)?.token,
            }
        };
        let request = self.request(method, path, Some(&token));
        match self.send(request, body, silence) {
            Err(ApiError::Status { status: 401, .. }) => {
                let token = {
                    let mut registered = self.registered();
                    match &*registered {
                        // Another thread was faster.
                        Some(known) if known.token != token => known.token.clone(),
                        _ => self.register_now(&mut registered)?.token,
                    }
                };
                let request = self.request(method, path, Some(&token));
                self.send(request, body, silence)
            }
            other => other,
        }
    }

    fn request(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&str>,
    ) -> ureq::http::request::Builder {
        let url = format!("{}{path}", self.session.server);
        let builder = Request::builder().method(method).uri(url);
        match token {
            Some(token) => builder.header("authorization", format!("Bearer {token}")),
            None => builder,
        }
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        body: Option<&impl Serialize>,
        silence: Duration,
    ) -> Result<Response<Body>, ApiError> {
        let name = describe(&request);
        let answered = match body {
            Some(body) => {
                let json = serde_json::to_vec(body).map_err(|e| nonsense(&name, e))?;
                let request = request
                    .header("content-type", "application/json")
                    .body(json);
                self.run(request, silence)
            }
            None => self.run(request.body(()), silence),
        };
        let mut answer = answered.map_err(|source| ApiError::Transport {
            request: name.clone(),
            source: Box::new(source),
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_JSON)
            .read_to_string();
        let text = text.unwrap_or_default();
        let message = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => body.error,
            Err(_) if text.trim().is_empty() => "(without a reason)".into(),
            Err(_) => text.trim().chars().take(300).collect(),
        };
        Err(ApiError::Status {
            request: name,
            status: answer.status().as_u16(),
            message,
        })
    }

    fn run(
        &self,
        request: Result<Request<impl AsSendBody>, ureq::http::Error>,
        silence: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request?)
            .timeout_per_read(Some(silence))
            .timeout_recv_response(Some(silence))
            .build();
        self.agent.run(request)
    }

    fn registered(&self) -> MutexGuard<'_, Option<Registered>> {
        let lock = self.session.registered.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections that a deploy uses.
pub struct Bulk(Api);

impl Bulk {
    /// The bytes of a manifest.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn manifest(&self, hash: &str) -> Result<Vec<u8>, ApiError> {
        // A hash from a task, so it is nothing but hex digits in what is asked for.
        let hash: String = hash.chars().filter(char::is_ascii_hexdigit).collect();
        let path = format!("/agent/v1/manifests/{hash}");
        let mut answer = self.0.call("GET", &path, None::<&()>, SILENCE)?;
        let body = answer.body_mut().with_config().limit(MAX_MANIFEST);
        body.read_to_vec().map_err(|source| ApiError::Transport {
            request: format!("GET {path}"),
            source: Box::new(source),
        })
    }

    /// A stream of the chunks, as [`bugler_protocol::agent::CHUNK_STREAM`] says.
    ///
    /// # Errors
    /// [`ApiError`]. Errors in the middle of the stream come from the reader.
    pub fn chunks(&self, hashes: &[ChunkHash]) -> Result<impl Read + use<>, ApiError> {
        let body = ChunkRequest {
            hashes: hashes.iter().map(ToString::to_string).collect(),
        };
        let path = "/agent/v1/chunks";
        let answer = self.0.call("POST", path, Some(&body), SILENCE)?;
        Ok(answer.into_body().into_reader())
    }

    /// Tells the server that a chunk is not what it is named.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn damaged(&self, hash: &ChunkHash, detail: &str) -> Result<(), ApiError> {
        let body = Damaged {
            hash: hash.to_string(),
            detail: detail.into(),
        };
        let path = "/agent/v1/damaged";
        self.0.call("POST", path, Some(&body), SILENCE).map(drop)
    }

    /// Ends every request of these connections at once, now and later, in whatever thread.
    pub fn interrupt(&self) {
        self.0.agent.clone().shutdown();
    }
}

fn new_agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_per_write(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .max_redirects(0)
        .proxy(None)
        .user_agent(concat!("bugler-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

fn describe(request: &ureq::http::request::Builder) -> String {
    let method = request.method_ref().map(ToString::to_string);
    let url = request.uri_ref().map(ToString::to_string);
    [method, url].map(Option::unwrap_or_default).join(" ")
}

fn read_json<T: DeserializeOwned>(
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

fn nonsense(request: &str, source: serde_json::Error) -> ApiError {
    ApiError::Answer {
        request: request.into(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_before_anything_is_sent() {
        let api = |server| Api::new(server, Box::new(|| unreachable!("nothing registers here")));
        assert_eq!(
            api("http://10.0.0.1:8480/").unwrap().server(),
            "http://10.0.0.1:8480"
        );
        for bad in [
            "",
            "http://",
            "10.0.0.1:8480",
            "https://10.0.0.1",
            "http://a b",
        ] {
            let error = api(bad).err().unwrap();
            assert!(matches!(error, ApiError::Address { .. }), "{bad:?}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status| ApiError::Status {
            request: "GET /".into(),
            status,
            message: "no".into(),
        };
        for (code, temporary) in [
            (400, false),
            (401, true),
            (404, false),
            (429, true),
            (503, true),
        ] {
            assert_eq!(status(code).is_temporary(), temporary, "{code}");
        }
        assert!(status(409).is_gone() && !status(503).is_gone());
    }
}
