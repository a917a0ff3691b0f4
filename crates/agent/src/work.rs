//! The agent's life once it can reach its server: registers, asks for tasks, does them.
//!
//! ```text
//!  main thread       register ──> long poll ──> task ──> final report ──> (reboot)
//!  heartbeat thread  every few seconds: a sign of life with new log lines
//! ```
//!
//! Every failure of the network or the server is shown, waited out and tried again, for ever: an
//! agent has nothing better to do, and nobody is there to start it again.

use crate::api::{Api, ApiError};
use crate::backoff::{self, Backoff};
use crate::deploy::{self, Context, DeployError, Settings};
use crate::log::{Log, chain};
use crate::power::Power;
use crate::stop::Stop;
use bugler_model::{Disk, Inventory, Progress, TaskAction, TaskState};
use bugler_protocol::agent::{Assignment, Heartbeat, Registered, Report};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long one poll for a task may wait at the server, in a boot's first minute and later. At
/// first short, because disks and links still appear, and the inventory is looked at in between.
const FIRST_POLL: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_secs(30);
const FIRST_MINUTE: Duration = Duration::from_secs(60);

/// Most lines in one heartbeat, as [`Heartbeat`] says.
const MAX_LINES: usize = 200;

/// What the work needs from the machine, or from whoever stands for one.
pub struct Machine<'a> {
    /// Its disks and interfaces, looked at afresh.
    pub inventory: &'a (dyn Fn() -> Inventory + Sync),
    /// Time and threads for deploys.
    pub settings: Settings,
    /// Whether to end after the first task instead of asking for the next one.
    pub once: bool,
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
pub fn run(api: &Api, machine: &Machine<'_>, log: &Log) -> Ended {
    let heartbeat_s = AtomicU32::new(10);
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let mut known = register(api, machine, log, &heartbeat_s);
        scope.spawn(|| heartbeats(api, log, &heartbeat_s, &stop));
        let began = Instant::now();
        let mut trouble = Trouble::new(log);
        let ended = loop {
            let wait = if began.elapsed() < FIRST_MINUTE {
                FIRST_POLL
            } else {
                POLL
            };
            match api.next_task(wait) {
                Ok(Some(assignment)) => {
                    trouble.over(api);
                    let ended = perform(api, machine, log, &assignment);
                    if machine.once || ended.power.is_some() {
                        break ended;
                    }
                }
                Ok(None) => {
                    trouble.over(api);
                    let now = shape(&(machine.inventory)());
                    if now != known {
                        log.line("disks or network interfaces have changed");
                        known = register(api, machine, log, &heartbeat_s);
                    }
                }
                Err(error) => trouble.wait(&error),
            }
        };
        stop.set();
        // The last lines, so that the server knows how it ended.
        let _ = send_lines(api, log);
        ended
    })
}

/// What of an inventory is told again when it changes.
fn shape(inventory: &Inventory) -> (Vec<Disk>, Vec<(String, bool)>) {
    let nics = inventory.nics.iter();
    let nics = nics.map(|nic| (nic.mac.to_string(), nic.link)).collect();
    (inventory.disks.clone(), nics)
}

/// Registers, however long it takes.
fn register(
    api: &Api,
    machine: &Machine<'_>,
    log: &Log,
    heartbeat_s: &AtomicU32,
) -> (Vec<Disk>, Vec<(String, bool)>) {
    let mut trouble = Trouble::new(log);
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
                return known;
            }
            Err(error) => trouble.wait(&error),
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
fn perform(api: &Api, machine: &Machine<'_>, log: &Log, assignment: &Assignment) -> Ended {
    let Assignment {
        task,
        action,
        attempt,
    } = assignment;
    log.line(format!("task {task}: {}, attempt {attempt}", action.word()));
    let (state, progress, message) = match action {
        TaskAction::Reboot | TaskAction::PowerOff => (TaskState::Done, Progress::default(), None),
        TaskAction::Deploy(deploy) => {
            let last = std::sync::Mutex::new(Progress::default());
            let lost = AtomicBool::new(false);
            let report = |state, progress| {
                if let Ok(mut last) = last.lock() {
                    *last = progress;
                }
                let report = Report {
                    state,
                    progress,
                    message: None,
                };
                match api.report(*task, &report) {
                    Ok(answer) => {
                        lost.store(false, Ordering::Relaxed);
                        answer.cancel
                    }
                    // It has ended there: nobody waits for the rest.
                    Err(error) if error.is_gone() => {
                        log.line(format!(
                            "task {task} is over for the server: {}",
                            chain(&error)
                        ));
                        true
                    }
                    Err(error) => {
                        if !lost.swap(true, Ordering::Relaxed) {
                            let why = chain(&error);
                            log.line(format!("cannot report progress: {why}; the work goes on"));
                        }
                        false
                    }
                }
            };
            let bulk = api.bulk();
            let disks = || (machine.inventory)().disks;
            let context = Context {
                bulk: &bulk,
                disks: &disks,
                report: &report,
                log,
                settings: machine.settings,
            };
            match deploy::run(deploy, *attempt, &context) {
                Ok(deployed) => (TaskState::Done, deployed.progress, None),
                Err(error) => {
                    let state = match error {
                        DeployError::Cancelled => TaskState::Cancelled,
                        _ => TaskState::Failed,
                    };
                    let progress = last.lock().map(|last| *last).unwrap_or_default();
                    (state, progress, Some(chain(&error)))
                }
            }
        }
    };
    match &message {
        Some(why) => log.line(format!("task {task} is {state}: {why}")),
        None => log.line(format!("task {task} is {state}")),
    }
    // The log goes first: once the report is there, a person may look.
    let _ = send_lines(api, log);
    let report = Report {
        state,
        progress,
        message,
    };
    let mut trouble = Trouble::new(log);
    let state = loop {
        match api.report(*task, &report) {
            // Somebody was faster: it stays as it is.
            Ok(answer) if answer.cancel => break TaskState::Cancelled,
            Ok(_) => break state,
            Err(error) if error.is_temporary() => trouble.wait(&error),
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
        (TaskState::Done, _) => Some(Power::Reboot),
        _ => None,
    };
    Ended { state, power }
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
/// they are over.
struct Trouble<'a> {
    log: &'a Log,
    backoff: Backoff,
    told: Option<Instant>,
}

impl<'a> Trouble<'a> {
    fn new(log: &'a Log) -> Self {
        let longest = Duration::from_secs(10);
        Self {
            log,
            backoff: Backoff::new(Duration::from_millis(250), longest, backoff::seed()),
            told: None,
        }
    }

    fn wait(&mut self, error: &ApiError) {
        let minute = Duration::from_secs(60);
        if self.told.is_none_or(|told| told.elapsed() > minute) {
            self.told = Some(Instant::now());
            self.log.line(format!("{}; trying again", chain(error)));
        }
        std::thread::sleep(self.backoff.wait());
    }

    fn over(&mut self, api: &Api) {
        if self.told.take().is_some() {
            self.log.line(format!("{} answers again", api.server()));
        }
        self.backoff.reset();
    }
}
