//! The agent's HTTP client for the device plane ([`bugler_protocol::agent`]): registering, asking for
//! tasks, telling how they go. What a task moves has connections of its own: [`Bulk`].

mod answer;
mod bulk;
mod error;

pub use bulk::Bulk;
pub use error::ApiError;

use crate::pace::{Pace, Paced};
use crate::stop::Stop;
use answer::{describe, finish, nonsense, read_json};
use bugler_model::TaskId;
use bugler_protocol::agent::{Assignment, Heartbeat, Register, Registered, Report, ReportAnswer};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::http::{Request, Response, StatusCode};
use ureq::{Agent, AsSendBody, Body, SendBody};

/// Time to make a connection, and time without a byte before a request counts as failed.
const CONNECT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(20);

/// Where an agent introduces itself.
const REGISTER: &str = "/agent/v1/register";

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
        Bulk::new(Self {
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
        self.with_token(|token| {
            let request = self.request(method, path, Some(token));
            self.send(request, body, silence)
        })
    }

    /// Does what needs the token; registers and does it again, once, where the server has forgotten
    /// it.
    fn with_token<T>(
        &self,
        mut ask: impl FnMut(&str) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let token = {
            let mut registered = self.registered();
            match &*registered {
                Some(known) => known.token.clone(),
                None => self.register_now(&mut registered)?.token,
            }
        };
        match ask(&token) {
            Err(ApiError::Status { status: 401, .. }) => {
                let token = {
                    let mut registered = self.registered();
                    match &*registered {
                        // Another thread was faster.
                        Some(known) if known.token != token => known.token.clone(),
                        _ => self.register_now(&mut registered)?.token,
                    }
                };
                ask(&token)
            }
            other => other,
        }
    }

    /// Sends bytes, no faster than `pace` where there is one.
    fn upload(
        &self,
        path: &str,
        media_type: &str,
        bytes: &[u8],
        pace: Option<&Pace>,
        stop: &Stop,
    ) -> Result<Response<Body>, ApiError> {
        self.with_token(|token| {
            let request = self
                .request("POST", path, Some(token))
                .header("content-type", media_type)
                .header("content-length", bytes.len());
            let name = describe(&request);
            let mut body = Paced::new(bytes, pace, stop);
            let answered = self.run(request.body(SendBody::from_reader(&mut body)), SILENCE);
            finish(name, answered)
        })
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
        finish(name, answered)
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
}
