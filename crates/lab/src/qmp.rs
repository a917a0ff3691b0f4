//! QEMU's control socket: the power button, the reset button and the disk's activity light.
//!
//! The protocol is the QEMU Machine Protocol: one JSON object a line, answers and events mixed.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take for one answer. It answers at once unless the host is very busy.
const ANSWER: Duration = Duration::from_secs(120);
/// Longest line that is read.
const MAX_LINE: u64 = 1 << 20;
/// Most events that are kept for a later wait.
const MAX_EVENTS: usize = 256;

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    inbox: Arc<Inbox>,
}

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name: `RESET`, `SHUTDOWN`, `STOP`.
    pub name: String,
    /// Its data.
    pub data: Value,
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<Received>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Received {
    answers: VecDeque<Value>,
    events: VecDeque<Event>,
    closed: bool,
}

impl Qmp {
    /// Connects to the socket at `path` as soon as QEMU listens there, while `alive` says that QEMU
    /// still runs.
    ///
    /// # Errors
    ///
    /// When QEMU ends, or does not listen within 2 minutes.
    pub fn connect(path: &Path, mut alive: impl FnMut() -> Result<bool>) -> Result<Self> {
        let end = Instant::now() + ANSWER;
        let socket = loop {
            match UnixStream::connect(path) {
                Ok(socket) => break socket,
                Err(error) if Instant::now() >= end => {
                    return Err(error)
                        .with_context(|| format!("cannot reach QEMU at {}", path.display()));
                }
                Err(_) if !alive()? => bail!("QEMU ended before it listened at {}", path.display()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        let inbox = Arc::new(Inbox::default());
        let (reader, receiver) = (socket.try_clone()?, Arc::clone(&inbox));
        thread::Builder::new()
            .name("qmp".into())
            .spawn(move || receiver.receive(reader))?;
        let mut qmp = Self { socket, inbox };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its answer.
    ///
    /// # Errors
    ///
    /// When QEMU refuses it, is gone, or does not answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.socket, "{line}").with_context(|| format!("cannot ask QEMU to {command}"))?;
        let answer = self
            .inbox
            .wait(ANSWER, |received| received.answers.pop_front());
        let answer = answer.with_context(|| format!("no answer from QEMU to {command}"))?;
        match answer.get("error") {
            Some(error) => bail!("QEMU refuses {command}: {error}"),
            None => Ok(answer.get("return").cloned().unwrap_or_default()),
        }
    }

    /// Waits for the next event named `name`; earlier ones of other names are forgotten.
    ///
    /// # Errors
    ///
    /// When `limit` passes or QEMU ends first.
    pub fn wait_event(&self, name: &str, limit: Duration) -> Result<Event> {
        self.inbox
            .wait(limit, |received| {
                while let Some(event) = received.events.pop_front() {
                    if event.name == name {
                        return Some(event);
                    }
                }
                None
            })
            .with_context(|| format!("waited {} s for QEMU's event {name}", limit.as_secs()))
    }

    /// Forgets the events that have come.
    pub fn forget_events(&self) {
        self.inbox.lock().events.clear();
    }

    /// How many bytes the machine has written to the disk whose drive is named `drive`.
    ///
    /// # Errors
    ///
    /// When QEMU does not know the drive or is gone.
    pub fn bytes_written(&mut self, drive: &str) -> Result<u64> {
        let stats = self.execute("query-blockstats", json!({}))?;
        let drives = stats
            .as_array()
            .context("QEMU's block statistics are not a list")?;
        let of_drive = drives.iter().find(|entry| entry["device"] == drive);
        of_drive
            .and_then(|entry| entry["stats"]["wr_bytes"].as_u64())
            .with_context(|| format!("QEMU has no statistics of the drive {drive}"))
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, socket: UnixStream) {
        let mut lines = BufReader::new(socket);
        loop {
            let mut line = String::new();
            match (&mut lines).take(MAX_LINE).read_line(&mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            let mut received = self.lock();
            if let Some(name) = value["event"].as_str() {
                if received.events.len() == MAX_EVENTS {
                    received.events.pop_front();
                }
                let event = Event {
                    name: name.to_owned(),
                    data: value["data"].clone(),
                };
                received.events.push_back(event);
            } else if value.get("return").is_some() || value.get("error").is_some() {
                received.answers.push_back(value);
            }
            drop(received);
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `take` finds what it looks for.
    fn wait<T>(
        &self,
        limit: Duration,
        mut take: impl FnMut(&mut Received) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        let mut received = self.lock();
        loop {
            if let Some(found) = take(&mut received) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if received.closed {
                return Err(anyhow!("QEMU has ended"));
            }
            if left.is_zero() {
                return Err(anyhow!("the time is over"));
            }
            received = self
                .changed
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
