//! One BMC: who may talk to it, when, and what is done when no answer comes.

mod turn;

use crate::breaker::{Breaker, Limits, Resting};
use crate::console::Console;
use crate::credentials::Credentials;
use crate::error::Error;
use crate::ipmi::commands::{self, BootFlags, Control, DeviceId};
use crate::ipmi::crypto::Suite;
use crate::ipmi::machine::{Config, Failure, Known, Patience};
use crate::ipmi::net::Hub;
use crate::ipmi::packet::Role;
use crate::power::{Action, Boot, Outcome, PowerDriver, State};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use turn::Turn;

/// How a BMC is to be treated.
#[derive(Debug, Clone)]
pub struct Options {
    /// The privilege that sessions ask for. An operator may switch; boot devices need an administrator
    /// on some.
    pub role: Role,
    /// The suites that may be used, the best first.
    pub suites: Vec<Suite>,
    /// Whether IPMI 1.5 may be used, which sends everything in clear.
    pub allow_v15: bool,
    /// How long answers are waited for.
    pub patience: Patience,
    /// When it is left alone.
    pub limits: Limits,
    /// The least time between a command that switches and the next command.
    pub cool_down: Duration,
    /// How long the power state is asked for after a command whose answer never came.
    pub confirm: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            role: Role::Administrator,
            suites: Suite::ALL.to_vec(),
            allow_v15: false,
            patience: Patience::default(),
            limits: Limits::default(),
            cool_down: Duration::from_secs(1),
            confirm: Duration::from_secs(60),
        }
    }
}

/// How often a power state that did not come about is asked for again by the same command: only `on` and
/// `off`, which do nothing the second time.
const REPEATS: u32 = 2;
/// The wait between two looks at the power state.
const LOOK: Duration = Duration::from_secs(1);

/// One BMC. Clones are the same: they take turns.
#[derive(Debug, Clone)]
pub struct Bmc(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    credentials: Credentials,
    options: Options,
    memory: Mutex<Memory>,
    /// One session at a time; the time of the last command that switched.
    turn: Arc<tokio::sync::Mutex<Option<Duration>>>,
}

#[derive(Debug)]
struct Memory {
    known: Option<Known>,
    breaker: Breaker,
}

impl Bmc {
    /// The BMC at this address; its port is 623 by custom. Nothing is sent yet.
    pub fn new(hub: &Hub, address: SocketAddr, credentials: Credentials, options: Options) -> Self {
        Self(Arc::new(Inner {
            hub: hub.clone(),
            address,
            credentials,
            memory: Mutex::new(Memory {
                known: None,
                breaker: Breaker::new(options.limits),
            }),
            turn: Arc::default(),
            options,
        }))
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// How sessions with it are had, once there was one.
    pub fn known(&self) -> Option<Known> {
        self.0.memory().known
    }

    /// Says how sessions with it were had before, so that it need not be asked again.
    pub fn set_known(&self, known: Known) {
        self.0.memory().known = Some(known);
    }

    /// Closes the circuit: the next command is tried, whatever failed before.
    pub fn try_again(&self) {
        self.0.memory().breaker = Breaker::new(self.0.options.limits);
    }

    /// Waits until nothing is under way with it and its last session is closed.
    pub async fn settled(&self) {
        drop(self.0.turn.lock().await);
    }

    /// Switches the machine.
    ///
    /// A command that switches is sent once. When no answer comes, the power state is looked at: `on` and
    /// `off` are sent again where it shows that they have not happened; the others never are.
    ///
    /// # Errors
    /// When there is no session, the BMC refuses, or the machine is off and the action is for one that is
    /// on.
    pub async fn power(&self, action: Action) -> Result<Outcome, Error> {
        let mut turn = self.turn().await?;
        let on = turn.is_on().await?;
        match (action, on) {
            (Action::On, true) | (Action::Off | Action::Soft, false) => {
                return Ok(Outcome::Already);
            }
            // Some BMCs say that they have reset a machine that is off.
            (Action::Cycle | Action::Reset | Action::Diag, false) => {
                return Err(Error::MachineOff {
                    action,
                    what: format!("the BMC {}", self.0.address),
                });
            }
            _ => {}
        }
        if turn.control(control_of(action)).await? {
            return Ok(Outcome::Done);
        }
        // The connection is given up, the turn is not: nobody else gets between.
        self.confirm(turn, action).await
    }

    /// Finds out what became of a command that had no answer.
    async fn confirm(&self, mut turn: Turn, action: Action) -> Result<Outcome, Error> {
        let address = self.0.address;
        tracing::warn!(
            "the BMC {address} did not answer to power {action}: looking at the power state"
        );
        let until = self.0.hub.now() + self.0.options.confirm;
        let mut repeats = 0;
        let mut last = None;
        while self.0.hub.now() < until {
            match self.look(&mut turn).await {
                Ok(on) => {
                    last = Some(on);
                    match action {
                        Action::On if on => return Ok(Outcome::Done),
                        Action::Off | Action::Soft if !on => return Ok(Outcome::Done),
                        Action::On | Action::Off if repeats < REPEATS => {
                            repeats += 1;
                            if turn.control(control_of(action)).await.unwrap_or(false) {
                                return Ok(Outcome::Done);
                            }
                        }
                        // It went off and has not come on again: the second half is safe to ask for.
                        Action::Cycle if !on && repeats < REPEATS => {
                            repeats += 1;
                            tokio::time::sleep(LOOK).await;
                            match self.look(&mut turn).await {
                                Ok(true) => return Ok(Outcome::Done),
                                Ok(false) if turn.control(Control::On).await.unwrap_or(false) => {
                                    return Ok(Outcome::Done);
                                }
                                _ => {}
                            }
                        }
                        // The state tells nothing more about these.
                        Action::Reset | Action::Diag | Action::Cycle | Action::Soft => break,
                        Action::On | Action::Off => {}
                    }
                }
                Err(error) => {
                    if error.is_final() {
                        return Err(error);
                    }
                    tracing::debug!("{error}");
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        let state = match last {
            Some(true) => "the machine is on",
            Some(false) => "the machine is off",
            None => "the BMC has not answered since",
        };
        Ok(Outcome::Unconfirmed(format!(
            "power {action} was sent to the BMC {address} and not answered; {state}; it was not sent \
             again, because it may have happened: look at the machine"
        )))
    }

    /// The power state, in a session of its own: the one before may have died.
    async fn look(&self, turn: &mut Turn) -> Result<bool, Error> {
        turn.end().await;
        turn.begin().await?;
        turn.is_on().await
    }

    /// Whether the machine has power.
    ///
    /// # Errors
    /// When there is no session, or the BMC refuses.
    pub async fn status(&self) -> Result<State, Error> {
        let mut turn = self.turn().await?;
        Ok(if turn.is_on().await? {
            State::On
        } else {
            State::Off
        })
    }

    /// What the BMC says about itself.
    ///
    /// # Errors
    /// When there is no session, or the BMC refuses.
    pub async fn device_id(&self) -> Result<DeviceId, Error> {
        let mut turn = self.turn().await?;
        let data = turn.ask(commands::device_id()).await?;
        turn.read("Get Device ID", &data, DeviceId::read(&data))
    }

    /// Sets what the machine boots next, or each time.
    ///
    /// # Errors
    /// When there is no session, or the BMC refuses the flags themselves: the parameters around them are
    /// optional and may be refused.
    pub async fn set_boot_device(&self, boot: Boot) -> Result<(), Error> {
        let flags = BootFlags {
            device: boot.device,
            persistent: boot.persistent,
            efi: boot.efi,
        };
        let mut turn = self.turn().await?;
        for (request, needed) in commands::set_boot_flags(flags) {
            match turn.ask(request).await {
                Err(Error::Refused { completion, .. }) if !needed => {
                    tracing::debug!(
                        "the BMC {} takes no such parameter: {completion}",
                        self.0.address
                    );
                }
                answered => drop(answered?),
            }
        }
        Ok(())
    }

    /// What the machine boots next, as the BMC has it; None for a device that is not known here.
    ///
    /// # Errors
    /// When there is no session, or the BMC refuses.
    pub async fn boot_device(&self) -> Result<Option<Boot>, Error> {
        let mut turn = self.turn().await?;
        let data = turn.ask(commands::boot_flags()).await?;
        if data.len() < 4 {
            turn.read("Get System Boot Options", &data, None::<()>)?;
        }
        Ok(BootFlags::read(&data).map(|flags| Boot {
            device: flags.device,
            persistent: flags.persistent,
            efi: flags.efi,
        }))
    }

    /// The machine's console, by Serial over LAN. It is connected in the background, and again whenever
    /// it is lost. `take_over` takes it away from whoever has it.
    pub fn sol(&self, take_over: bool) -> Console {
        Console::start(Arc::clone(&self.0), take_over)
    }

    /// Waits for the turn, and begins a session.
    async fn turn(&self) -> Result<Turn, Error> {
        let mut turn = Turn {
            connection: None,
            turn: Some(Arc::clone(&self.0.turn).lock_owned().await),
            address: self.0.address,
            inner: Arc::clone(&self.0),
        };
        self.0.check()?;
        turn.begin().await?;
        Ok(turn)
    }
}

fn control_of(action: Action) -> Control {
    match action {
        Action::On => Control::On,
        Action::Off => Control::Off,
        Action::Soft => Control::Soft,
        Action::Cycle => Control::Cycle,
        Action::Reset => Control::Reset,
        Action::Diag => Control::Diag,
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a session with it is to be.
    pub(crate) fn config(&self) -> Config {
        Config {
            role: self.options.role,
            suites: self.options.suites.clone(),
            allow_v15: self.options.allow_v15,
            known: self.memory().known,
            patience: self.options.patience,
            ..Config::new(self.credentials.clone())
        }
    }

    /// Whether it may be asked now.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let now = self.hub.now();
        self.memory().breaker.check(now).map_err(|resting| {
            let Resting {
                failures,
                remaining,
                last,
            } = resting;
            Error::Resting {
                address: self.address,
                failures,
                remaining,
                last,
            }
        })
    }

    /// There is a session.
    pub(crate) fn succeeded(&self, known: Known) {
        let mut memory = self.memory();
        memory.known = Some(known);
        let was_open = memory.breaker.succeeded();
        drop(memory);
        if was_open {
            tracing::info!("the BMC {} answers again", self.address);
        }
    }

    /// There is none, or it ended.
    pub(crate) fn failed(&self, error: &Error) {
        let now = self.hub.now();
        let mut memory = self.memory();
        let what = match error {
            Error::Session { failure, .. } => failure.to_string(),
            other => other.to_string(),
        };
        let resting = memory.breaker.failed(what, error.is_final(), now);
        // What worked last time works no more: the next session asks.
        memory.known = None;
        drop(memory);
        if let Some(rest) = resting {
            tracing::warn!("{error}; the BMC is left alone for {} s", rest.as_secs());
        }
    }

    pub(crate) fn session_error(&self, failure: Failure) -> Error {
        Error::Session {
            address: self.address,
            user: self.credentials.user().to_owned(),
            failure,
        }
    }
}

#[async_trait::async_trait]
impl PowerDriver for Bmc {
    fn name(&self) -> &'static str {
        "IPMI"
    }

    async fn power(&self, action: Action) -> Result<Outcome, Error> {
        Self::power(self, action).await
    }

    async fn state(&self) -> Result<State, Error> {
        self.status().await
    }

    async fn set_boot(&self, boot: Boot) -> Result<(), Error> {
        self.set_boot_device(boot).await
    }
}
