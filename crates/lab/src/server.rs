//! The server under test: the real program, on a host of the lab.

use crate::api::Api;
use crate::net::{Host, INTERFACE};
use crate::process::Process;
use crate::run::Run;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where its operator plane listens, on its own host's loopback.
const OPERATOR: &str = "127.0.0.1:8481";
/// How long it may take until it answers. It may build a boot environment first.
const START: Duration = Duration::from_secs(180);
/// How long it may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(120);

/// `bugler serve` and what it needs to be started again. It ends when dropped.
#[derive(Debug)]
pub struct Server {
    host: Host,
    program: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    starts: u32,
    process: Option<Process>,
}

impl Server {
    /// Prepares `program serve` on `host` with a state folder of its own in the run's folder, serving
    /// the host's interface; `arguments` are added. It is not started.
    #[must_use]
    pub fn new(run: &Run, host: Host, program: &Path, arguments: &[&str]) -> Self {
        let state = run.file("state");
        let mut all = vec!["serve".into(), format!("--state-dir={}", state.display())];
        all.push(format!("--interface={INTERFACE}"));
        all.push(format!("--operator-listen={OPERATOR}"));
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Self {
            host,
            program: program.to_owned(),
            arguments: all,
            dir: run.dir().to_owned(),
            starts: 0,
            process: None,
        }
    }

    /// Starts it, and returns when its operator plane answers. What it prints goes to
    /// `server-<n>.log`.
    ///
    /// # Errors
    ///
    /// When it runs already, ends, or does not answer in time.
    pub fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the server runs already");
        }
        self.starts += 1;
        let mut command = self.host.command(&self.program.display().to_string());
        command.args(&self.arguments);
        let log = self.dir.join(format!("server-{}.log", self.starts));
        let mut process = Process::start("the server", command, &log)?;
        let end = Instant::now() + START;
        self.api()
            .wait("the server to answer", START + STOP, |api| match api
                .get::<serde_json::Value>("server")
            {
                Ok(_) => Ok(Some(())),
                Err(error) if !process.is_running()? => Err(error).with_context(|| {
                    format!(
                        "the server ended; it said:\n{}",
                        process.transcript().tail()
                    )
                }),
                Err(error) if Instant::now() >= end => Err(error).with_context(|| {
                    format!(
                        "the server does not answer; it said:\n{}",
                        process.transcript().tail()
                    )
                }),
                Err(_) => Ok(None),
            })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it at once (`kill -9`), as a power cut would.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .context("the server does not run")?
            .kill()
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it does not run, does not end, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        let status = process.stop(STOP)?;
        if !status.success() {
            bail!(
                "the server ended with {status}; it said:\n{}",
                process.transcript().tail()
            );
        }
        Ok(())
    }

    /// The running program and what it prints.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the server does not run")
    }

    /// Its operator plane.
    #[must_use]
    pub fn api(&self) -> Api<'_> {
        Api::new(&self.host, OPERATOR)
    }

    /// Where its operator plane listens, on its own host.
    #[must_use]
    pub fn operator(&self) -> &'static str {
        OPERATOR
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}
