//! What both planes are made from.

use crate::device::{LogBudget, Manifests, Receiving};
use crate::field::Streaming;
use crate::keys::ServerKeys;
use crate::limits::{DeployLimits, Limiter, Turns};
use crate::operator::{SizesCache, Uploads};
use crate::overlays::Overlays;
use crate::shared::SharedFiles;
use crate::token::TaskTokens;
use crate::wake::Wakes;
use bugler_boot::pi::eeprom::Image;
use bugler_images::ChunkStore;
use bugler_model::{Device, DeviceId, Event, EventKind, MacAddr, Task, Timestamp};
use bugler_power::Power;
use bugler_protocol::operator::PlanView;
use bugler_store::Store;
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The wall clock. A clock before 1970 counts as 1970.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    })
}

/// What a path of the boot tree holds.
#[derive(Clone, Debug)]
pub enum BootContent {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file that does not change while it is open.
    File(PathBuf),
}

/// Why a path of the boot tree gives nothing. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootTreeError {
    /// The tree has no such path, or this client may not have it.
    #[error("{0}")]
    NotFound(String),
    /// It should be there, but cannot be given.
    #[error("{0}")]
    Broken(String),
}

/// The boot tree, and what is known of those who ask for it.
#[async_trait::async_trait]
pub trait BootTree: Send + Sync + 'static {
    /// What `path`, without its leading `/boot/`, holds for this client. `host` is how the client
    /// calls this server: its `Host` header.
    ///
    /// # Errors
    /// [`BootTreeError`], which becomes 404 or 500.
    async fn open(
        &self,
        client: SocketAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<BootContent, BootTreeError>;

    /// Told when a body has been sent: `bytes` of it, and whether that was all.
    fn delivered(&self, client: SocketAddr, path: &str, bytes: u64, complete: bool);

    /// Whether `client` may speak for the interface `mac`: not when another interface is known to
    /// stand behind its address.
    fn may_act_for(&self, client: SocketAddr, mac: MacAddr) -> bool;

    /// Version of the boot environment that machines get now.
    fn bootenv(&self) -> Option<String>;

    /// What a device would boot if it asked now, and why. `None`: this tree boots no devices.
    fn explain(&self, _device: &Device) -> Option<PlanView> {
        None
    }

    /// The boot loader update that waits for a Raspberry Pi, and since when. Blocks.
    ///
    /// # Errors
    /// [`BootTreeError::NotFound`] where there is none.
    fn eeprom_update(&self, device: DeviceId) -> Result<(Vec<u8>, Timestamp), BootTreeError> {
        let text = format!("no boot loader update waits for {device}");
        Err(BootTreeError::NotFound(text))
    }

    /// Keeps a boot loader update for a Raspberry Pi, in the place of an earlier one. Blocks.
    ///
    /// # Errors
    /// Where it cannot be kept.
    fn offer_eeprom_update(&self, _device: DeviceId, _image: &Image) -> Result<(), BootTreeError> {
        Err(BootTreeError::Broken(
            "this server boots no devices, so no update can wait for one".into(),
        ))
    }

    /// Takes the boot loader update back that waits for a Raspberry Pi. Blocks.
    ///
    /// # Errors
    /// [`BootTreeError::NotFound`] where there is none.
    fn withdraw_eeprom_update(&self, device: DeviceId) -> Result<(), BootTreeError> {
        self.eeprom_update(device).map(drop)
    }
}

/// What the server tells of itself.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// Names by which a browser may call this host, besides `localhost` and any IP address.
    pub operator_names: Vec<String>,
    /// The interfaces that it serves, by name.
    pub interfaces: Vec<String>,
    /// The TCP port of the device plane.
    pub device_port: u16,
    /// The address of the device plane, where it listens on one alone.
    pub device_address: Option<Ipv4Addr>,
    /// One line for each network service: what it listens on, and in which mode.
    pub services: Arc<Mutex<Vec<String>>>,
    /// What signs manifests; `None` serves them without a signature.
    pub keys: Option<Arc<ServerKeys>>,
    /// The layers of diskless machines; `None`: there are no such machines here.
    pub overlays: Option<Arc<dyn Overlays>>,
    /// What switches machines; `None`: nothing does here.
    pub power: Option<Arc<Power>>,
}

/// What both planes are made from.
pub struct AppState {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// The chunk store.
    pub images: Arc<ChunkStore>,
    /// The boot tree.
    pub boot: Arc<dyn BootTree>,
    /// What the server tells of itself.
    pub info: ServerInfo,
    /// Ends long polls and event streams, so that the server can stop.
    pub stop: CancellationToken,
    clock: Clock,
    pub(crate) started: Timestamp,
    pub(crate) wakes: Wakes,
    pub(crate) manifests: Manifests,
    pub(crate) log_budget: LogBudget,
    pub(crate) uploads: Uploads,
    pub(crate) sizes: SizesCache,
    pub(crate) task_tokens: TaskTokens,
    pub(crate) streaming: Streaming,
    pub(crate) shared: SharedFiles,
    /// Captures that are being received.
    pub(crate) receiving: Receiving,
    pub(crate) limiter: Limiter,
    pub(crate) turns: Turns,
    /// How many devices may be at work at once.
    pub(crate) at_once: u32,
    /// Event streams that may be open at a time.
    pub(crate) streams: Arc<Semaphore>,
    /// Images that may be read or packed whole at a time on behalf of operators.
    pub(crate) image_jobs: Arc<Semaphore>,
    /// Captures of devices' packets that may run at a time.
    pub(crate) captures: Arc<Semaphore>,
}

/// Dashboards, command lines and scripts that follow events.
const MAX_EVENT_STREAMS: usize = 256;

/// Each of these keeps a thread and the disk busy.
const MAX_IMAGE_JOBS: usize = 4;

/// Each of these keeps a thread, and 8 MiB of the kernel for each interface.
const MAX_CAPTURES: usize = 8;

impl AppState {
    /// As [`limited`](Self::limited), without limits.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        images: Arc<ChunkStore>,
        boot: Arc<dyn BootTree>,
        info: ServerInfo,
        clock: Clock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let limits = DeployLimits::default();
        Self::limited(store, images, boot, info, clock, stop, &limits)
    }

    /// Puts the parts together, and starts the tasks that wake long polls, keep to the rates and clear
    /// away after captures that were given up; they end with `stop`. Needs a Tokio runtime.
    #[must_use]
    pub fn limited(
        store: Arc<dyn Store>,
        images: Arc<ChunkStore>,
        boot: Arc<dyn BootTree>,
        info: ServerInfo,
        clock: Clock,
        stop: CancellationToken,
        limits: &DeployLimits,
    ) -> Arc<Self> {
        let wakes = Wakes::default();
        tokio::spawn(wakes.clone().run(store.subscribe(), stop.clone()));
        let changes = store.subscribe();
        let limiter = Limiter::start(limits, stop.clone());
        let state = Arc::new(Self {
            store,
            images,
            boot,
            info,
            stop,
            started: clock(),
            clock,
            wakes,
            manifests: Manifests::default(),
            log_budget: LogBudget::default(),
            uploads: Uploads::default(),
            sizes: SizesCache::default(),
            task_tokens: TaskTokens::new(),
            streaming: Streaming::default(),
            shared: SharedFiles::default(),
            streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
            image_jobs: Arc::new(Semaphore::new(MAX_IMAGE_JOBS)),
            captures: Arc::new(Semaphore::new(MAX_CAPTURES)),
            receiving: Receiving::default(),
            limiter,
            turns: Turns::default(),
            at_once: limits.at_once.unwrap_or(u32::MAX),
        });
        tokio::spawn(follow_tasks(Arc::downgrade(&state), changes));
        state
    }

    /// Base URL of the device plane as this device reaches it: `http://10.0.0.1:8480`. `None` where
    /// neither the server's address nor the device's is known.
    pub(crate) fn device_plane(&self, device: &Device) -> Option<String> {
        let address = self.info.device_address.or_else(|| {
            // The kernel knows from which of its addresses it would reach the device. Nothing is sent.
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
            socket.connect((device.address?, 9)).ok()?;
            match socket.local_addr().ok()?.ip() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }
        })?;
        Some(format!("http://{address}:{}", self.info.device_port))
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Calls the next in line whenever a task has changed, and clears away what captures leave that end
/// without an image. Ends with the state, or with its `stop`.
async fn follow_tasks(state: Weak<AppState>, mut events: broadcast::Receiver<Arc<Event>>) {
    let Some(stop) = state.upgrade().map(|state| state.stop.clone()) else {
        return;
    };
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = stop.cancelled() => return,
        };
        let Some(state) = state.upgrade() else { return };
        let task = match event {
            Ok(event) if event.kind == EventKind::Task => event.task,
            Ok(_) => continue,
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return,
        };
        state.turns.changed();
        let mut held = state.receiving.tasks();
        held.retain(|id| task.is_none_or(|task| task == *id));
        for id in held {
            let is_open = |task: Task| task.state.is_open();
            // One that cannot be asked about is looked at with the next change.
            if state.store.task(id).await.is_ok_and(|task| !is_open(task))
                && let Err(error) = state.receiving.discard(&state.images, id).await
            {
                tracing::warn!("what {id} has sent is not cleared away: {error}");
            }
        }
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
