//! A program that a scenario starts: what it prints is a transcript, and it ends with its owner.

use crate::console::{Seen, Transcript};
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a program is asked whether it has ended; the kernel has no wait with a limit.
const POLL: Duration = Duration::from_millis(10);

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    transcript: Transcript,
}

impl Process {
    /// Starts `command`; its standard output and error go to the file `log` and to the transcript.
    /// `what` is a noun for errors.
    ///
    /// # Errors
    ///
    /// When the program or the log file cannot be had.
    pub fn start(what: &str, mut command: Command, log: &Path) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().context("cannot copy a pipe")?)
            .stderr(writer);
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start {what} ({}); `make setup` installs what the lab needs",
                command.get_program().to_string_lossy()
            )
        })?;
        // The command still holds the write ends: without this the transcript would never end.
        drop(command);
        let stdin = child.stdin.take();
        let transcript = Transcript::record(what, log, reader)?;
        Ok(Self {
            what: what.to_owned(),
            child,
            stdin,
            transcript,
        })
    }

    /// What it prints.
    #[must_use]
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its user and system time so far, its ended threads included.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.id());
        let stat = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {path}: has {} ended?", self.what))?;
        let ticks = ticks(&stat).with_context(|| format!("{path} reads {stat:?}"))?;
        // USER_HZ: 100 on every architecture that Linux runs on here.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// See [`Transcript::wait_for`].
    ///
    /// # Errors
    ///
    /// See [`Transcript::wait_for`].
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<Seen> {
        self.transcript.wait_for(pattern, limit)
    }

    /// Types `text` on its standard input.
    ///
    /// # Errors
    ///
    /// When it has closed it.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| anyhow!("{} takes no input", self.what))?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .with_context(|| format!("cannot type on {}", self.what))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        let status = self.child.try_wait();
        Ok(status
            .with_context(|| format!("cannot ask for {}", self.what))?
            .is_none())
    }

    /// Ends it at once (`kill -9`).
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.what))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.what))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    ///
    /// When it has not ended within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself; the wait below tells.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.wait_exit(limit)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            let status = self.child.try_wait();
            if let Some(status) =
                status.with_context(|| format!("cannot wait for {}", self.what))?
            {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{} still runs after {} s; its last lines:\n{}",
                    self.what,
                    limit.as_secs(),
                    self.transcript.tail()
                );
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// utime and stime of a line of /proc/PID/stat (proc(5)): fields 14 and 15. The second field, the
/// program's name in parentheses, may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
///
/// When it cannot be started, or fails; the error has what it said on standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("cannot run `{shown}`; `make setup` installs what the lab needs")
    })?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(120);

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let process = Process::start("a shell", command, &dir.path().join("log")).unwrap();
        (dir, process)
    }

    #[test]
    fn output_input_and_end() {
        let (_dir, mut process) = shell("echo ready >&2; read -r x; echo got $x; exit 3");
        process.wait_for("ready", SOON).unwrap();
        process.type_text("hello\n").unwrap();
        assert_eq!(process.wait_for("got", SOON).unwrap().line, "got hello");
        assert_eq!(process.wait_exit(SOON).unwrap().code(), Some(3));
        assert!(!process.is_running().unwrap());
    }

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "77 (a b) c) S 1 77 77 0 -1 4194560 100 0 0 0 321 45 6 7 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(366));
        assert_eq!(ticks("77 (short) S 1"), None);
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let (_dir, process) = shell("echo ready; exec sleep 600");
        process.wait_for("ready", SOON).unwrap();
        let proc_dir = format!("/proc/{}", process.id());
        assert!(Path::new(&proc_dir).exists());
        drop(process);
        assert!(!Path::new(&proc_dir).exists());
    }

    #[test]
    fn a_failed_command_says_what_it_said() {
        let error = output_of(Command::new("sh").args(["-c", "echo no luck >&2; exit 4"]));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("exit status: 4") && error.contains("no luck"),
            "{error}"
        );
    }
}
