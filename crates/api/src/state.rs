//! What both planes are made from.

use crate::device::{LogBudget, Manifests};
use crate::field::Streaming;
use crate::operator::Uploads;
use crate::token::TaskTokens;
use crate::wake::Wakes;
use bugler_images::ChunkStore;
use bugler_model::{MacAddr, Timestamp};
use bugler_store::Store;
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
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
}

/// What the server tells of itself.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// Names by which a browser may call this host, besides `localhost` and any IP address.
    pub operator_names: Vec<String>,
    /// One line for each network service: what it listens on, and in which mode.
    pub services: Arc<Mutex<Vec<String>>>,
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
    pub(crate) task_tokens: TaskTokens,
    pub(crate) streaming: Streaming,
    /// Event streams that may be open at a time.
    pub(crate) streams: Arc<Semaphore>,
    /// Images that may be read or packed whole at a time on behalf of operators.
    pub(crate) image_jobs: Arc<Semaphore>,
}

/// Dashboards, command lines and scripts that follow events.
const MAX_EVENT_STREAMS: usize = 256;

/// Each of these keeps a thread and the disk busy.
const MAX_IMAGE_JOBS: usize = 4;

impl AppState {
    /// Puts the parts together, and starts the task that wakes long polls; that task ends with
    /// `stop`. Needs a Tokio runtime.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        images: Arc<ChunkStore>,
        boot: Arc<dyn BootTree>,
        info: ServerInfo,
        clock: Clock,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let wakes = Wakes::default();
        tokio::spawn(wakes.clone().run(store.subscribe(), stop.clone()));
        Arc::new(Self {
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
            task_tokens: TaskTokens::new(),
            streaming: Streaming::default(),
            streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
            image_jobs: Arc::new(Semaphore::new(MAX_IMAGE_JOBS)),
        })
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}
