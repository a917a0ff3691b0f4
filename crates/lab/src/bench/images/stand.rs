//! What captures and deploys are measured on: a server, one agent that runs as a process, and what both
//! take of memory.

use super::disk;
use crate::bench::figures::{peak_memory, reset_peak, resident};
use crate::process::output_of;
use crate::run::Run;
use crate::workbench::{Station, Workbench};
use anyhow::{Context, Result, ensure};
use bugler_model::{Task, TaskState};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Most memory of an agent that captures or deploys, in MB.
pub(super) const AGENT_MEMORY: f64 = 128.0;
/// Most memory of the server for each deploy, in MB.
pub(super) const SERVER_MEMORY: f64 = 16.0;
/// How often a program's memory is looked at while it runs.
const LOOK: Duration = Duration::from_millis(20);

/// The server, the agent's host and the disk.
pub(super) struct Stand<'r> {
    pub(super) station: Station,
    pub(super) disk: PathBuf,
    pub(super) size: u64,
    pub(super) work: Workbench<'r>,
}

/// One task, as it was measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// From the agent's start to its end.
    pub(super) seconds: f64,
    /// The most memory that the agent had, in MB.
    pub(super) agent: f64,
    /// How much memory the server had more at the most than before, in MB.
    pub(super) server: f64,
    pub(super) task: Task,
}

impl<'r> Stand<'r> {
    pub(super) fn set_up(run: &'r Run) -> Result<Self> {
        let disk = disk::ensure(&|text| eprintln!("{text}"))?;
        let size = fs::metadata(&disk).context("cannot size the disk")?.len();
        let mut work = Workbench::new(run, None, &[])?;
        work.server.start()?;
        Ok(Self {
            station: work.station(1, size)?,
            disk,
            size,
            work,
        })
    }

    /// Lets an agent do a task that was ordered, with `disk` as its disk.
    pub(super) fn go(&self, task: &Task, disk: &Path) -> Result<Measured> {
        let mut command = self.station.client.agent(disk)?;
        let log = self.work.run.file(&format!("agent-{}.log", task.id));
        let log = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        rustix::fs::sync();
        let server = self.work.server.process()?.id();
        let before = resident(server)?;
        reset_peak(server)?;
        let began = Instant::now();
        let mut agent = command.spawn().context("cannot start the agent")?;
        let mut most: f64 = 0.0;
        let status = loop {
            if let Some(status) = agent.try_wait().context("cannot wait for the agent")? {
                break status;
            }
            // It may have ended since.
            most = most.max(peak_memory(agent.id()).unwrap_or_default());
            thread::sleep(LOOK);
        };
        let seconds = began.elapsed().as_secs_f64();
        let server = peak_memory(server)? - before;
        let task = self.work.task(task)?;
        ensure!(
            status.success() && task.state == TaskState::Done,
            "the agent ended with {status}, the task as {}: {:?}",
            task.state,
            task.message
        );
        Ok(Measured {
            seconds,
            agent: most,
            server,
            task,
        })
    }
}

/// Puts everything that waits to be written on the disk, and forgets what is kept of a file: it is
/// read from the disk the next time.
pub(super) fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.sync_all().context("cannot flush a file")?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .context("cannot forget a file")
}

/// Runs a shell pipeline with `$1` and `$2`; `2>` goes to the file `log`. It has to end well.
pub(super) fn pipeline(script: &str, from: &Path, to: &Path, log: &Path) -> Result<f64> {
    rustix::fs::sync();
    let began = Instant::now();
    output_of(
        Command::new("bash")
            .args(["-c", &format!("exec 2>\"$3\"; set -eo pipefail; {script}")])
            .arg("bash")
            .args([from, to, log])
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
    )
    .with_context(|| format!("`{script}` failed; what it said is in {}", log.display()))?;
    Ok(began.elapsed().as_secs_f64())
}

/// The memory lines of a table.
pub(super) fn memory_lines(measured: &[Measured], server_target: Option<f64>) -> String {
    let most = |of: fn(&Measured) -> f64| measured.iter().map(of).fold(0.0, f64::max);
    let (agent, server) = (most(|m| m.agent), most(|m| m.server));
    let verdict = crate::bench::figures::verdict;
    let mut text = format!(
        "most memory of the agent: {agent:.1} MB, under {AGENT_MEMORY} asked: {}\n\
         most memory of the server beyond what it had before: {server:.1} MB",
        verdict(agent < AGENT_MEMORY)
    );
    match server_target {
        Some(target) => text += &format!(", under {target} asked: {}\n", verdict(server < target)),
        None => text.push('\n'),
    }
    text
}
