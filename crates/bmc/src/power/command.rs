//! A program of the user's.

use super::{Action, Boot, Outcome, PowerDriver, State};
use crate::error::Error;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How much of what a program prints is kept, from its end.
const KEEP: usize = 2000;
/// Most that is in a pipe when the program has ended: the largest that Linux gives without asking for
/// privileges (pipe(7)). What is left running may go on writing.
const MOST_LEFT: usize = 1 << 20;
/// Runs a program with a list of arguments. No shell reads them, so nothing in them has a meaning.
///
/// In every argument `{action}` becomes the name of the action (`on`, `off`, `soft`, `cycle`, `reset`,
/// `diag`, `status`, `boot`), `{device}` the boot device (`pxe`, `disk`, ...; empty otherwise). The
/// action counts as done when the program ends with 0. For `status` it prints `on` or `off`.
#[derive(Debug, Clone)]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    limit: Duration,
    asks: bool,
    boots: bool,
}

impl Command {
    /// This program with these arguments; it is killed when it takes longer than `limit`.
    pub fn new(
        program: impl Into<String>,
        arguments: impl IntoIterator<Item = impl Into<String>>,
        limit: Duration,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            limit,
            asks: false,
            boots: false,
        }
    }

    /// The program also knows `status`.
    #[must_use]
    pub fn with_status(mut self) -> Self {
        self.asks = true;
        self
    }

    /// The program also knows `boot`.
    #[must_use]
    pub fn with_boot(mut self) -> Self {
        self.boots = true;
        self
    }

    async fn run(&self, action: &str, device: &str) -> Result<String, Error> {
        let failed = |what: String| Error::Command {
            program: self.program.clone(),
            action: action.to_owned(),
            what,
        };
        let arguments = self
            .arguments
            .iter()
            .map(|text| text.replace("{action}", action).replace("{device}", device));
        let mut child = process::Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("it cannot be started: {error}")))?;
        let printed = Tail::of(child.stdout.take());
        let complaints = Tail::of(child.stderr.take());
        let Ok(status) = tokio::time::timeout(self.limit, child.wait()).await else {
            let _ = child.kill().await;
            return Err(failed(format!(
                "it took longer than {} s and was killed; what it does may have happened",
                self.limit.as_secs_f32()
            )));
        };
        let (printed, complaints) = tokio::join!(printed.text(), complaints.text());
        let status = status.map_err(|error| failed(format!("cannot wait for it: {error}")))?;
        if status.success() {
            return Ok(printed);
        }
        let said = complaints.trim();
        let said = if said.is_empty() {
            printed.trim()
        } else {
            said
        };
        Err(failed(if said.is_empty() {
            format!("{status}, and it printed nothing")
        } else {
            format!("{status}, and it printed: {said}")
        }))
    }
}

/// Reads the last part of what comes out of a pipe.
struct Tail {
    reader: JoinHandle<Vec<u8>>,
    /// Tells the reader that the program has ended.
    ended: Option<oneshot::Sender<()>>,
}

impl Tail {
    fn of(pipe: Option<impl AsyncRead + AsFd + Send + Unpin + 'static>) -> Self {
        let (ended, mut has_ended) = oneshot::channel();
        let reader = tokio::spawn(async move {
            let mut kept = Vec::new();
            let Some(mut pipe) = pipe else { return kept };
            let mut buffer = [0; 4096];
            loop {
                let read = tokio::select! {
                    read = pipe.read(&mut buffer) => read,
                    _ = &mut has_ended => break,
                };
                match read {
                    Ok(length @ 1..) => keep(&mut kept, &buffer[..length]),
                    Ok(0) | Err(_) => return kept,
                }
            }
            // What it left running may keep the pipe open, and would be waited for in vain. But all that the
            // program itself has printed is in the pipe, which never blocks.
            let mut room = MOST_LEFT;
            while room > 0 {
                let limit = buffer.len().min(room);
                match rustix::io::read(&pipe, &mut buffer[..limit]) {
                    Ok(length @ 1..) => {
                        keep(&mut kept, &buffer[..length]);
                        room -= length;
                    }
                    Err(Errno::INTR) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            kept
        });
        Self {
            reader,
            ended: Some(ended),
        }
    }

    /// What came until the program's end. Only for one that has ended.
    async fn text(mut self) -> String {
        drop(self.ended.take());
        let kept = (&mut self.reader).await.unwrap_or_default();
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Adds to the end, and takes away from the beginning what is too much.
fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    let surplus = kept.len().saturating_sub(KEEP);
    kept.drain(..surplus);
}

#[async_trait::async_trait]
impl PowerDriver for Command {
    fn name(&self) -> &'static str {
        "the power command"
    }

    async fn power(&self, action: Action) -> Result<Outcome, Error> {
        self.run(action.as_str(), "").await?;
        Ok(Outcome::Done)
    }

    async fn state(&self) -> Result<State, Error> {
        if !self.asks {
            return Ok(State::Unknown);
        }
        let printed = self.run("status", "").await?;
        match printed.trim().to_ascii_lowercase().as_str() {
            "on" => Ok(State::On),
            "off" => Ok(State::Off),
            other => Err(Error::Command {
                program: self.program.clone(),
                action: "status".to_owned(),
                what: format!("it printed {other:?}, and not `on` or `off`"),
            }),
        }
    }

    async fn set_boot(&self, boot: Boot) -> Result<(), Error> {
        if !self.boots {
            return Err(Error::Unsupported {
                driver: self.name(),
                what: format!("the boot device {}", boot.device),
            });
        }
        self.run("boot", boot.device.as_str()).await.map(|_| ())
    }
}
