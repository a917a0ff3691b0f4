//! The drivers of all devices, and what they last told.

use crate::driver::{Driver, Workshop, checked, known_text};
use crate::error::{PowerError, PowerOpenError, chain, said};
use crate::vault::{Secrets, Vault};
use bugler_bmc::Hub;
use bugler_bmc::power::{Action, Boot, Outcome, State};
use bugler_model::{
    BootDevice, Device, DeviceId, Event, EventId, EventKind, NewEvent, PowerAction, PowerDriver,
    PowerEntry, PowerRole, PowerState, Timestamp,
};
use bugler_protocol::operator::{PowerDriverView, PowerVerdict, PowerView, SetBoot};
use bugler_store::Store;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Orders that may run at a time.
const MAX_ORDERS: usize = 64;
/// How long the end of the server waits for sessions to be closed.
const SETTLE: Duration = Duration::from_secs(10);

/// Tells the time.
type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What switching needs of its surroundings.
pub struct Options {
    /// Where the key of the passwords is kept.
    pub state_dir: PathBuf,
    /// The folder of programs that switch machines.
    pub commands: PathBuf,
    /// Tells the time.
    pub clock: Clock,
}

/// Switches machines.
pub struct Power {
    pub(crate) store: Arc<dyn Store>,
    workshop: Workshop,
    drivers: Mutex<HashMap<(DeviceId, PowerRole), Arc<Driver>>>,
    seen: Mutex<HashMap<DeviceId, Seen>>,
    clock: Clock,
    /// What was begun, and has to end before the server does.
    pub(crate) tasks: TaskTracker,
    pub(crate) orders: Arc<Semaphore>,
}

impl std::fmt::Debug for Power {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Power").finish_non_exhaustive()
    }
}

/// What was last heard of a device.
#[derive(Clone, Debug, Default)]
struct Seen {
    state: PowerState,
    at: Option<Timestamp>,
    problem: Option<String>,
    /// It is not asked again by itself until this is another driver, or somebody asks.
    given_up: Option<PowerEntry>,
}

/// What is wanted of a driver.
#[derive(Clone, Copy, Debug)]
enum Want {
    Switch(Action),
    Boot(Boot),
}

/// What became of one order for one device.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) verdict: PowerVerdict,
    pub(crate) text: String,
    pub(crate) state: PowerState,
}

impl Power {
    /// Opens the key and the sockets. To be called inside of a Tokio runtime.
    ///
    /// # Errors
    /// Where the key cannot be read or made, or there is no socket.
    pub fn open(store: Arc<dyn Store>, options: Options) -> Result<Arc<Self>, PowerOpenError> {
        Ok(Arc::new(Self {
            store,
            workshop: Workshop {
                hub: Hub::new()?,
                vault: Vault::open(&options.state_dir)?,
                commands: options.commands,
            },
            drivers: Mutex::default(),
            seen: Mutex::default(),
            clock: options.clock,
            tasks: TaskTracker::new(),
            orders: Arc::new(Semaphore::new(MAX_ORDERS)),
        }))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<DeviceId, Seen>> {
        // Every change is one assignment: a panic elsewhere leaves the map whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<(DeviceId, PowerRole), Arc<Driver>>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a device a driver, in the place of the one with the same role.
    ///
    /// # Errors
    /// [`PowerError::Invalid`] where it cannot be meant, and what the registry refuses.
    pub async fn set(
        &self,
        device: &Device,
        role: PowerRole,
        driver: PowerDriver,
        secrets: Secrets,
    ) -> Result<(), PowerError> {
        let (driver, secrets) = checked(driver, secrets, &self.workshop.commands)?;
        let sealed = self.workshop.vault.seal(&driver, &secrets)?;
        let entry = PowerEntry {
            device: device.id,
            role,
            driver,
            sealed,
            known: None,
        };
        self.store.set_power(entry, self.now()).await?;
        self.made().remove(&(device.id, role));
        self.seen().remove(&device.id);
        Ok(())
    }

    /// Takes a driver from a device.
    ///
    /// # Errors
    /// Where it has none with this role.
    pub async fn remove(&self, device: &Device, role: PowerRole) -> Result<(), PowerError> {
        self.store.remove_power(device.id, role, self.now()).await?;
        self.made().remove(&(device.id, role));
        self.seen().remove(&device.id);
        Ok(())
    }

    /// Every device that something switches, by id.
    ///
    /// # Errors
    /// Where the registry does not answer.
    pub async fn views(&self) -> Result<Vec<PowerView>, PowerError> {
        let mut views: Vec<PowerView> = Vec::new();
        for entry in self.store.power_entries(None).await? {
            if views.last().is_none_or(|view| view.device != entry.device) {
                let device = self.store.device(entry.device).await?;
                views.push(self.view_of(&device));
            }
            if let Some(view) = views.last_mut() {
                view.drivers.push(driver_view(entry));
            }
        }
        Ok(views)
    }

    /// One device; without drivers where nothing switches it.
    ///
    /// # Errors
    /// Where the registry does not answer.
    pub async fn view(&self, device: &Device) -> Result<PowerView, PowerError> {
        let entries = self.store.power_entries(Some(device.id)).await?;
        let mut view = self.view_of(device);
        view.drivers = entries.into_iter().map(driver_view).collect();
        Ok(view)
    }

    /// Whether a device was on when it was last asked or switched.
    #[must_use]
    pub fn last_state(&self, device: DeviceId) -> PowerState {
        let seen = self.seen().get(&device).map(|seen| seen.state);
        seen.unwrap_or_default()
    }

    fn view_of(&self, device: &Device) -> PowerView {
        let seen = self.seen().get(&device.id).cloned().unwrap_or_default();
        PowerView {
            device: device.id,
            label: device.label(),
            drivers: Vec::new(),
            state: seen.state,
            at: seen.at,
            problem: seen.problem,
        }
    }

    /// The drivers of a device, the one that is used first at the front; at least one.
    pub(crate) async fn entries(
        &self,
        device: &Device,
        hard: bool,
    ) -> Result<Vec<PowerEntry>, PowerError> {
        let mut entries = self.store.power_entries(Some(device.id)).await?;
        let label = device.label();
        if entries.is_empty() {
            return Err(PowerError::NoDriver(format!(
                "nothing switches {label}: say what does with `bugler device power {label} --ipmi ...`"
            )));
        }
        entries.retain(|entry| !hard || entry.role == PowerRole::Hard);
        if entries.is_empty() {
            return Err(PowerError::NoDriver(format!(
                "nothing cuts the power of {label}: say what does with `bugler device power {label} \
                 --hard ...`"
            )));
        }
        Ok(entries)
    }

    pub(crate) async fn driver(
        &self,
        entry: &PowerEntry,
        device: &Device,
    ) -> Result<Arc<Driver>, PowerError> {
        let place = (entry.device, entry.role);
        let before = self.made().get(&place).cloned();
        let driver = self.workshop.driver(entry, device, before).await?;
        let mut made = self.made();
        // Made twice at once: all use the first, and take turns.
        if let Some(first) = made.get(&place)
            && first.is_like(&driver)
        {
            return Ok(first.clone());
        }
        made.insert(place, driver.clone());
        Ok(driver)
    }

    /// Does something with the first driver that can; `Unsupported` where none can.
    async fn with_driver(
        &self,
        device: &Device,
        hard: bool,
        want: Want,
    ) -> Result<(Arc<Driver>, Outcome), PowerError> {
        let mut cannot = None;
        for entry in self.entries(device, hard).await? {
            let done = match self.driver(&entry, device).await {
                Ok(driver) => {
                    let turn = driver.turn.lock().await;
                    let done = match want {
                        Want::Switch(action) => driver.switch.power(action).await,
                        Want::Boot(boot) => {
                            let set = driver.switch.set_boot(boot).await;
                            set.map(|()| Outcome::Done)
                        }
                    };
                    drop(turn);
                    self.learn(&driver).await;
                    done.map(|done| (driver, done)).map_err(PowerError::from)
                }
                Err(error) => Err(error),
            };
            match done {
                Err(error) if error.is_unsupported() => cannot = cannot.or(Some(error)),
                Err(error) => {
                    self.went_wrong(device, &error, &entry);
                    return Err(error);
                }
                done => return done,
            }
        }
        Err(cannot.unwrap_or_else(|| {
            PowerError::NoDriver(format!("nothing switches {}", device.label()))
        }))
    }

    /// Keeps how a session was had, where that is new.
    async fn learn(&self, driver: &Driver) {
        let Some(known) = driver.bmc.as_ref().and_then(bugler_bmc::Bmc::known) else {
            return;
        };
        let known = Some(known_text(known));
        let stored = self.store.power_entries(Some(driver.entry.device)).await;
        let is_new = stored.is_ok_and(|stored| {
            stored.iter().any(|entry| {
                entry.role == driver.entry.role
                    && entry.driver == driver.entry.driver
                    && entry.known != known
            })
        });
        if is_new {
            let entry = PowerEntry {
                known,
                ..driver.entry.clone()
            };
            if let Err(error) = self.store.learn_power(entry).await {
                tracing::warn!("how a BMC is spoken to was not kept: {}", chain(&error));
            }
        }
    }

    /// Switches a device, or asks whether it is on.
    pub(crate) async fn switch(
        &self,
        device: &Device,
        action: PowerAction,
        hard: bool,
    ) -> Result<Done, PowerError> {
        let Some(wanted) = action_of(action) else {
            let state = self.ask(device, hard).await?;
            return Ok(Done {
                verdict: PowerVerdict::Done,
                text: match state {
                    PowerState::Unknown => "what switches it cannot tell".to_owned(),
                    state => format!("it is {state}"),
                },
                state,
            });
        };
        let (driver, outcome) = self.with_driver(device, hard, Want::Switch(wanted)).await?;
        let (how, outcome) = (driver.entry.driver.summary(), &outcome);
        let is_wake = matches!(driver.entry.driver, PowerDriver::Wake { .. });
        let done = Done {
            verdict: match outcome {
                Outcome::Done | Outcome::Already => PowerVerdict::Done,
                // Nothing ever answers such a packet.
                Outcome::Unconfirmed(_) if is_wake => PowerVerdict::Done,
                Outcome::Unconfirmed(_) => PowerVerdict::Unconfirmed,
                Outcome::Told(_) => PowerVerdict::Told,
            },
            text: match (outcome, wanted) {
                (Outcome::Already, Action::On) => "it was on already".to_owned(),
                (Outcome::Already, _) => "it was off already".to_owned(),
                _ => match said(outcome) {
                    Some(said) => said.to_owned(),
                    None => format!("{action}, by {how}"),
                },
            },
            state: self.after(device, wanted, outcome),
        };
        self.tell(device, format!("power {action}: {}", done.text))
            .await;
        Ok(done)
    }

    /// What is known of the state after an action.
    fn after(&self, device: &Device, action: Action, outcome: &Outcome) -> PowerState {
        let state = match (action, outcome) {
            (_, Outcome::Unconfirmed(_) | Outcome::Told(_)) => PowerState::Unknown,
            (Action::On | Action::Cycle | Action::Reset | Action::Diag, _) => PowerState::On,
            (Action::Off, _) | (Action::Soft, Outcome::Already) => PowerState::Off,
            // It takes its time.
            (Action::Soft, _) => PowerState::Unknown,
        };
        self.saw(device, state);
        state
    }

    /// Asks whether a device is on.
    pub(crate) async fn ask(&self, device: &Device, hard: bool) -> Result<PowerState, PowerError> {
        let mut told = PowerState::Unknown;
        for entry in self.entries(device, hard).await? {
            if !entry.driver.tells_state() {
                continue;
            }
            let asked = match self.driver(&entry, device).await {
                Ok(driver) => {
                    let turn = driver.turn.lock().await;
                    let state = driver.switch.state().await;
                    drop(turn);
                    self.learn(&driver).await;
                    state.map_err(PowerError::from)
                }
                Err(error) => Err(error),
            };
            told = match asked {
                Ok(State::On) => PowerState::On,
                Ok(State::Off) => PowerState::Off,
                Ok(State::Unknown) => PowerState::Unknown,
                Err(error) => {
                    self.went_wrong(device, &error, &entry);
                    return Err(error);
                }
            };
            break;
        }
        if self.saw(device, told) {
            let text = format!("{} is {told}", device.label());
            let event = NewEvent::new(EventKind::Power, text).device(device.id);
            if let Err(error) = self.store.append_event(event, self.now()).await {
                tracing::warn!("an event could not be written: {}", chain(&error));
            }
        }
        Ok(told)
    }

    /// Sets what a device boots next, or each time.
    pub(crate) async fn set_boot(&self, device: &Device, boot: SetBoot) -> Result<(), PowerError> {
        let wanted = Boot {
            device: boot_device(boot.device),
            persistent: boot.persistent,
            // Without it, some machines are made to boot by BIOS.
            efi: device.firmware.is_some_and(bugler_model::Firmware::is_uefi),
        };
        self.with_driver(device, false, Want::Boot(wanted)).await?;
        let when = if boot.persistent {
            "each time"
        } else {
            "the next time"
        };
        let text = format!("told to boot {} {when}", boot.device);
        self.tell(device, text).await;
        Ok(())
    }

    /// Notes a state. True where it is another one than was known.
    fn saw(&self, device: &Device, state: PowerState) -> bool {
        let now = self.now();
        let mut all = self.seen();
        let seen = all.entry(device.id).or_default();
        let before = std::mem::replace(&mut seen.state, state);
        let had_problem = seen.problem.take().is_some();
        seen.given_up = None;
        seen.at = Some(now);
        drop(all);
        let changed = before != state;
        let was_known = before != PowerState::Unknown && state != PowerState::Unknown;
        if (changed && !was_known) || had_problem {
            self.refresh(device, format!("{} is {state}", device.label()));
        }
        changed && was_known
    }

    /// Notes that a driver did not do what it should.
    fn went_wrong(&self, device: &Device, error: &PowerError, entry: &PowerEntry) {
        let text = chain(error);
        let mut all = self.seen();
        let seen = all.entry(device.id).or_default();
        let is_new = seen.problem.is_none();
        seen.problem = Some(text.clone());
        seen.state = PowerState::Unknown;
        if error.is_final() {
            seen.given_up = Some(entry.clone());
        }
        drop(all);
        if is_new {
            tracing::warn!("{}: {text}", device.label());
            self.refresh(device, format!("{}: {text}", device.label()));
        }
    }

    /// Whether it makes sense to ask this driver by itself.
    pub(crate) fn is_worth_asking(&self, entry: &PowerEntry) -> bool {
        let all = self.seen();
        let given_up = all
            .get(&entry.device)
            .and_then(|seen| seen.given_up.as_ref());
        given_up.is_none_or(|old| old.driver != entry.driver || old.sealed != entry.sealed)
    }

    /// Has dashboards look again, without an event that is kept.
    fn refresh(&self, device: &Device, text: String) {
        self.store.publish(Event {
            id: EventId(0),
            at: self.now(),
            kind: EventKind::Power,
            device: Some(device.id),
            session: None,
            task: None,
            image: None,
            text,
        });
    }

    /// Puts a line into the events of a device.
    pub(crate) async fn tell(&self, device: &Device, text: String) {
        let text = format!("{}: {text}", device.label());
        let event = NewEvent::new(EventKind::Power, text).device(device.id);
        if let Err(error) = self.store.append_event(event, self.now()).await {
            tracing::warn!("an event could not be written: {}", chain(&error));
        }
    }

    /// Waits until what was begun has ended and the sessions with BMCs are closed, for 10 s at most.
    pub async fn settle(&self) {
        self.tasks.close();
        let drivers: Vec<_> = self.made().values().cloned().collect();
        let settled = async {
            self.tasks.wait().await;
            for driver in drivers {
                if let Some(bmc) = &driver.bmc {
                    bmc.settled().await;
                }
            }
        };
        if tokio::time::timeout(SETTLE, settled).await.is_err() {
            tracing::warn!("some sessions with BMCs were not closed");
        }
    }
}

fn driver_view(entry: PowerEntry) -> PowerDriverView {
    PowerDriverView {
        role: entry.role,
        driver: entry.driver,
        has_secret: entry.sealed.is_some(),
        known: entry.known,
    }
}

/// `None`: it is a question.
fn action_of(action: PowerAction) -> Option<Action> {
    Some(match action {
        PowerAction::On => Action::On,
        PowerAction::Off => Action::Off,
        PowerAction::Soft => Action::Soft,
        PowerAction::Cycle => Action::Cycle,
        PowerAction::Reset => Action::Reset,
        PowerAction::Diag => Action::Diag,
        PowerAction::Status => return None,
    })
}

fn boot_device(device: BootDevice) -> bugler_bmc::power::Device {
    use bugler_bmc::power::Device;
    match device {
        BootDevice::None => Device::None,
        BootDevice::Pxe => Device::Pxe,
        BootDevice::Disk => Device::Disk,
        BootDevice::Cdrom => Device::Cdrom,
        BootDevice::Setup => Device::Setup,
    }
}
