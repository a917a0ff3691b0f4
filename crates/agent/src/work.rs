//! The agent's life once it can reach its server: registers, asks for tasks, does them.
//!
//! ```text
//!  main thread       register ──> long poll ──> task ──> final report ──> (reboot)
//!  heartbeat thread  every few seconds: a sign of life with new log lines
//! ```
//!
//! Every failure of the network or the server is shown, waited out and tried again, for ever: an
//! agent has nothing better to do, and nobody is there to start it again. One is not: a server
//! that does not know this boot's token will never know it, and only a new boot brings a new one.

use crate::api::{Api, ApiError};
use crate::backoff::{self, Backoff};
use crate::capture::{self, CaptureError};
use crate::deploy::{self, Context, DeployError, Settings};
use crate::log::{Log, chain};
use crate::power::Power;
use crate::stop::Stop;
use crate::wipe::{self, WipeError};
use bugler_model::{Disk, Inventory, Progress, TaskAction, TaskId, TaskState};
use bugler_protocol::agent::{Assignment, Heartbeat, Registered, Report};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one poll for a task may wait at the server, in a boot's first minute and later. At
/// first short, because disks and links still appear, and the inventory is looked at in between.
const FIRST_POLL: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_secs(30);
const FIRST_MINUTE: Duration = Duration::from_secs(60);

/// Most lines in one heartbeat, as [`Heartbeat`] says.
const MAX_LINES: usize = 200;

/// How long a refused boot token is tried again: a server that was just restored from a backup, or
/// another one at its address, may be put right meanwhile.
pub const TOKEN_PATIENCE: Duration = Duration::from_secs(120);

/// What the work needs from the machine, or from whoever stands for one.
pub struct Machine<'a> {
    /// Its disks and interfaces, looked at afresh.
    pub inventory: &'a (dyn Fn() -> Inventory + Sync),
    /// Whether the disks of the last look are all there are; see [`Context::settled`].
    pub settled: &'a (dyn Fn() -> bool + Sync),
    /// How long the server may refuse this boot's token, without any other answer in between,
    /// before the agent gives this boot up; [`TOKEN_PATIENCE`] outside tests.
    pub token_patience: Duration,
    /// Time and threads for deploys.
    pub settings: Settings,
    /// Whether to end after the first task instead of asking for the next one.
    pub once: bool,
}

/// The server does not know the token of this boot: only a new boot helps.
#[derive(Debug, thiserror::Error)]
#[error(
    "{server} has refused the token of this boot for {} s; only a new boot brings a new token: \
     boot this machine again from its server", refused.as_secs()
)]
pub struct TokenRefused {
    /// Where the server is.
    pub server: String,
    /// For how long.
    pub refused: Duration,
    /// What came back last.
    #[source]
    pub source: ApiError,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// `Done`, `Failed` or `Cancelled`.
    pub state: TaskState,
    /// What is to follow: nothing after a task that failed, so that somebody can look.
    pub power: Option<Power>,
}

/// Registers and works. Returns when the machine is to reboot or to power off, or after the first
/// task where that is asked for.
///
/// # Errors
/// [`TokenRefused`], never while a task is under way.
pub fn run(api: &Api, machine: &Machine<'_>, log: &Log) -> Result<Ended, TokenRefused> {
    let heartbeat_s = AtomicU32::new(10);
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let known = register(api, machine, log, &heartbeat_s)?;
        scope.spawn(|| heartbeats(api, log, &heartbeat_s, &stop));
        let ended = tasks(api, machine, log, &heartbeat_s, known);
        stop.set();
        // The last lines, so that the server knows how it ended.
        let _ = send_lines(api, log);
        ended
    })
}

/// Asks for tasks and does them; registers again when what it is made of changes.
fn tasks(
    api: &Api,
    machine: &Machine<'_>,
    log: &Log,
    heartbeat_s: &AtomicU32,
    mut known: Shape,
) -> Result<Ended, TokenRefused> {
    let began = Instant::now();
    let mut trouble = Trouble::new(api, machine, log);
    loop {
        let wait = if began.elapsed() < FIRST_MINUTE {
            FIRST_POLL
        } else {
            POLL
        };
        match api.next_task(wait) {
            Ok(Some(assignment)) => {
                trouble.over();
                let ended = perform(api, machine, log, &assignment)?;
                if machine.once || ended.power.is_some() {
                    return Ok(ended);
                }
            }
            Ok(None) => {
                trouble.over();
                let now = shape(&(machine.inventory)());
                if now != known {
                    log.line("disks or network interfaces have changed");
                    known = register(api, machine, log, heartbeat_s)?;
                }
            }
            Err(error) => trouble.wait(error)?,
        }
    }
}

type Shape = (Vec<Disk>, Vec<(String, bool)>);

/// What of an inventory is told again when it changes.
fn shape(inventory: &Inventory) -> Shape {
    let nics = inventory.nics.iter();
    let nics = nics.map(|nic| (nic.mac.to_string(), nic.link)).collect();
    (inventory.disks.clone(), nics)
}

/// Registers, however long it takes while there is hope.
fn register(
    api: &Api,
    machine: &Machine<'_>,
    log: &Log,
    heartbeat_s: &AtomicU32,
) -> Result<Shape, TokenRefused> {
    let mut trouble = Trouble::new(api, machine, log);
    loop {
        let known = shape(&(machine.inventory)());
        match api.register() {
            Ok(registered) => {
                heartbeat_s.store(registered.heartbeat_s, Ordering::Relaxed);
                log.line(format!(
                    "registered as {} with {}",
                    title(&registered),
                    api.server()
                ));
                return Ok(known);
            }
            Err(error) => trouble.wait(error)?,
        }
    }
}

/// `d3 (rack1-07)`, or `d3` where the device has no name.
fn title(registered: &Registered) -> String {
    let id = registered.device.to_string();
    if registered.label == id {
        id
    } else {
        format!("{id} ({})", registered.label)
    }
}

/// Does one task and tells the server how it ended, however long that takes: a machine that
/// reboots before the server knows would be given the same task again.
fn perform(
    api: &Api,
    machine: &Machine<'_>,
    log: &Log,
    assignment: &Assignment,
) -> Result<Ended, TokenRefused> {
    let Assignment {
        task,
        action,
        attempt,
    } = assignment;
    log.line(format!("task {task}: {}, attempt {attempt}", action.word()));
    let (state, progress, disk, message) = match action {
        TaskAction::Reboot | TaskAction::PowerOff => {
            (TaskState::Done, Progress::default(), None, None)
        }
        TaskAction::Deploy(deploy) => {
            let (result, last, disk) = at_work(api, machine, log, *task, |context| {
                deploy::run(deploy, *attempt, context)
            });
            match result {
                Ok(deployed) => (TaskState::Done, deployed.progress, disk, None),
                Err(error) => {
                    let state = match error {
                        DeployError::Cancelled => TaskState::Cancelled,
                        _ => TaskState::Failed,
                    };
                    (state, last, disk, Some(chain(&error)))
                }
            }
        }
        TaskAction::Wipe(wipe) => {
            let (result, last, disk) =
                at_work(api, machine, log, *task, |context| wipe::run(wipe, context));
            match result {
                Ok(wiped) => (TaskState::Done, wiped.progress, disk, Some(wiped.told())),
                Err(error) => {
                    let state = match error {
                        WipeError::Cancelled => TaskState::Cancelled,
                        _ => TaskState::Failed,
                    };
                    (state, last, disk, Some(chain(&error)))
                }
            }
        }
        TaskAction::Capture(capture) => {
            let (result, last, disk) = at_work(api, machine, log, *task, |context| {
                capture::run(capture, *task, context)
            });
            match result {
                Ok(taken) => (TaskState::Done, taken.progress, disk, None),
                Err(error) => {
                    let state = match error {
                        CaptureError::Cancelled => TaskState::Cancelled,
                        _ => TaskState::Failed,
                    };
                    (state, last, disk, Some(chain(&error)))
                }
            }
        }
    };
    match &message {
        Some(text) => log.line(format!("task {task} is {state}: {text}")),
        None => log.line(format!("task {task} is {state}")),
    }
    // The log goes first: once the report is there, a person may look.
    let _ = send_lines(api, log);
    let report = Report {
        state,
        progress,
        message,
        disk,
    };
    let mut trouble = Trouble::new(api, machine, log);
    let state = loop {
        match api.report(*task, &report) {
            // Somebody was faster: it stays as it is.
            Ok(answer) if answer.cancel => break TaskState::Cancelled,
            Ok(_) => break state,
            Err(error) if error.is_temporary() => trouble.wait(error)?,
            Err(error) => {
                log.line(format!(
                    "the server does not take the report: {}",
                    chain(&error)
                ));
                break state;
            }
        }
    };
    let power = match (state, action) {
        (TaskState::Done, TaskAction::PowerOff) => Some(Power::Off),
        (TaskState::Done, TaskAction::Wipe(_)) => None,
        (TaskState::Done, _) => Some(Power::Reboot),
        _ => None,
    };
    Ok(Ended { state, power })
}

/// Gives a task what it works with; returns what it gave, how far it was in its last report, and
/// the disk that it had chosen.
fn at_work<T>(
    api: &Api,
    machine: &Machine<'_>,
    log: &Log,
    task: TaskId,
    work: impl FnOnce(&Context<'_>) -> T,
) -> (T, Progress, Option<String>) {
    let last = Mutex::new((Progress::default(), None));
    let report = |state, progress, disk: Option<&str>| {
        let disk = disk.map(str::to_owned);
        if let Ok(mut last) = last.lock() {
            *last = (progress, disk.clone());
        }
        let report = Report {
            state,
            progress,
            message: None,
            disk,
        };
        match api.report(task, &report) {
            Ok(answer) => Ok(answer.cancel),
            // It has ended there: nobody waits for the rest.
            Err(error) if error.is_gone() => {
                log.line(format!(
                    "task {task} is over for the server: {}",
                    chain(&error)
                ));
                Ok(true)
            }
            Err(error) => Err(error),
        }
    };
    let bulk = api.bulk();
    let disks = || (machine.inventory)().disks;
    let context = Context {
        bulk: &bulk,
        disks: &disks,
        settled: machine.settled,
        report: &report,
        log,
        settings: machine.settings,
    };
    let result = work(&context);
    let (progress, disk) = last.into_inner().unwrap_or_else(PoisonError::into_inner);
    (result, progress, disk)
}

/// Signs of life until `stop`; new log lines go out within two seconds.
fn heartbeats(api: &Api, log: &Log, every_s: &AtomicU32, stop: &Stop) {
    let mut last = Instant::now();
    while !stop.sleep(Duration::from_secs(2)) {
        let every = Duration::from_secs(every_s.load(Ordering::Relaxed).clamp(1, 300).into());
        if log.is_empty() && last.elapsed() < every {
            continue;
        }
        // A failure is not logged: the poll, which fails too, says it, and these lines would
        // only make the next heartbeat longer.
        if send_lines(api, log).is_err() && stop.sleep(every) {
            return;
        }
        last = Instant::now();
    }
}

fn send_lines(api: &Api, log: &Log) -> Result<(), ApiError> {
    let lines = log.take(MAX_LINES);
    let heartbeat = Heartbeat { log: lines };
    api.heartbeat(&heartbeat)
        .inspect_err(|_| log.put_back(heartbeat.log.clone()))
}

/// Failures of one kind of request: told when they begin, once a minute while they last, and when
/// they are over. A boot token that is refused for too long ends it.
struct Trouble<'a> {
    server: &'a str,
    log: &'a Log,
    token_patience: Duration,
    refused_since: Option<Instant>,
    backoff: Backoff,
    told: Option<Instant>,
}

impl<'a> Trouble<'a> {
    fn new(api: &'a Api, machine: &Machine<'_>, log: &'a Log) -> Self {
        let longest = Duration::from_secs(10);
        Self {
            server: api.server(),
            log,
            token_patience: machine.token_patience,
            refused_since: None,
            backoff: Backoff::new(Duration::from_millis(250), longest, backoff::seed()),
            told: None,
        }
    }

    fn wait(&mut self, error: ApiError) -> Result<(), TokenRefused> {
        let refused = self.refused_for(&error, Instant::now());
        if let Some(refused) = refused.filter(|time| *time >= self.token_patience) {
            return Err(TokenRefused {
                server: self.server.into(),
                refused,
                source: error,
            });
        }
        let minute = Duration::from_secs(60);
        if self.told.is_none_or(|told| told.elapsed() > minute) {
            self.told = Some(Instant::now());
            self.log.line(format!("{}; trying again", chain(&error)));
        }
        std::thread::sleep(self.backoff.wait());
        Ok(())
    }

    /// For how long the boot token has been refused, and nothing else has happened.
    fn refused_for(&mut self, error: &ApiError, now: Instant) -> Option<Duration> {
        if !error.is_unknown_boot() {
            self.refused_since = None;
            return None;
        }
        let since = *self.refused_since.get_or_insert(now);
        Some(now.saturating_duration_since(since))
    }

    fn over(&mut self) {
        self.refused_since = None;
        if self.told.take().is_some() {
            self.log.line(format!("{} answers again", self.server));
        }
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_refusal_of_the_token_counts() {
        let mut trouble = Trouble {
            server: "http://s",
            log: &Log::stderr(),
            token_patience: TOKEN_PATIENCE,
            refused_since: None,
            backoff: Backoff::new(Duration::ZERO, Duration::ZERO, 0),
            told: None,
        };
        let answer = |request: &str, status| ApiError::Status {
            request: request.into(),
            status,
            message: "no".into(),
        };
        let refused = || answer("POST http://s/agent/v1/register", 401);
        let start = Instant::now();
        let mut after = |error: ApiError, s| {
            let refused = trouble.refused_for(&error, start + Duration::from_secs(s));
            refused.map(|time| time.as_secs())
        };
        assert_eq!(after(refused(), 0), Some(0));
        assert_eq!(after(refused(), 119), Some(119));
        assert_eq!(
            after(answer("POST http://s/agent/v1/register", 503), 120),
            None
        );
        assert_eq!(after(refused(), 121), Some(0));
        assert_eq!(after(answer("GET http://s/agent/v1/task", 401), 300), None);
        assert_eq!(after(refused(), 400), Some(0));
        trouble.over();
        assert_eq!(trouble.refused_since, None);
    }
}
