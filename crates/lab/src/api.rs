//! The operator plane of the server under test, asked over HTTP from the server's own host.

use crate::net::Host;
use anyhow::{Context, Result, bail};
use bugler_model::{Device, MacAddr, Task};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use ureq::Agent;

/// How long one answer may take. An image is added within it.
const ANSWER: Duration = Duration::from_secs(600);
/// How often a state is asked for while it is waited for.
const POLL: Duration = Duration::from_millis(100);

/// A client of one operator plane.
#[derive(Clone, Debug)]
pub struct Api<'h> {
    host: &'h Host,
    base: String,
}

impl<'h> Api<'h> {
    /// A client that runs on `host` and asks `server`, such as `127.0.0.1:8481`.
    #[must_use]
    pub fn new(host: &'h Host, server: &str) -> Self {
        Self {
            host,
            base: format!("http://{server}/api/v1"),
        }
    }

    /// `GET /api/v1/<path>`.
    ///
    /// # Errors
    ///
    /// When there is no answer, it is an error (its text is in the error), or it is not a `T`.
    pub fn get<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T> {
        self.ask("GET", path, |agent, url| agent.get(url).call())
    }

    /// `POST /api/v1/<path>` with a JSON body.
    ///
    /// # Errors
    ///
    /// As [`Api::get`].
    pub fn post<T: DeserializeOwned + Send>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        self.ask("POST", path, |agent, url| agent.post(url).send_json(body))
    }

    /// `PUT /api/v1/<path>` with the content of `file`.
    ///
    /// # Errors
    ///
    /// As [`Api::get`], and when the file cannot be opened.
    pub fn put_file<T: DeserializeOwned + Send>(&self, path: &str, file: &Path) -> Result<T> {
        let file = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        self.ask("PUT", path, |agent, url| {
            agent
                .put(url)
                .header("content-type", "application/octet-stream")
                .send(&file)
        })
    }

    fn ask<T: DeserializeOwned + Send>(
        &self,
        method: &str,
        path: &str,
        request: impl FnOnce(&Agent, &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>
        + Send,
    ) -> Result<T> {
        let url = format!("{}/{path}", self.base);
        let answer = self.host.run(|| {
            let agent: Agent = Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(ANSWER))
                .build()
                .into();
            let mut response = request(&agent, &url)?;
            let body = response
                .body_mut()
                .with_config()
                .limit(64 << 20)
                .read_to_string()?;
            Ok::<_, ureq::Error>((response.status(), body))
        })?;
        let (status, body) = answer.with_context(|| format!("no answer to {method} {url}"))?;
        if !status.is_success() {
            bail!("{method} {url} was answered {status}: {body}");
        }
        // An answer without a body (204) is JSON's null.
        let text = if body.is_empty() { "null" } else { &body };
        serde_json::from_str(text)
            .with_context(|| format!("cannot understand the answer to {method} {url}: {text:.500}"))
    }

    /// The device that has the network address `mac`, if the server knows it.
    ///
    /// # Errors
    ///
    /// As [`Api::get`].
    pub fn device(&self, mac: MacAddr) -> Result<Option<Device>> {
        let devices: Vec<Device> = self.get("devices")?;
        Ok(devices
            .into_iter()
            .find(|device| device.macs.contains(&mac)))
    }

    /// Asks `state` again and again until it has an answer.
    ///
    /// # Errors
    ///
    /// When it fails, or has none within `limit`; `what` says what was waited for.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut state: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = state(self)? {
                return Ok(found);
            }
            if Instant::now() >= end {
                bail!("waited {} s for {what}", limit.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the task `id` has ended, and returns it.
    ///
    /// # Errors
    ///
    /// As [`Api::wait`].
    pub fn wait_task_end(&self, id: &str, limit: Duration) -> Result<Task> {
        self.wait(&format!("the end of task {id}"), limit, |api| {
            let task: Task = api.get(&format!("tasks/{id}"))?;
            Ok((!task.state.is_open()).then_some(task))
        })
    }
}
