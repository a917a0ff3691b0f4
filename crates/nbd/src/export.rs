//! What the server of the server decides: who gets which disk.

use bugler_disk::BlockDevice;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Where it reached this server.
    pub local: SocketAddr,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// Why an export is not given. The text goes to the client, as far as its protocol has room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of that name, for this client. Also said of one that belongs to another client, so
    /// that names cannot be guessed.
    Unknown,
    /// It is there and is not given now, for this reason.
    Denied(String),
    /// Only over an encrypted connection.
    NeedsTls,
}

/// Decides who gets what. Called from threads of connections, and may block for a while: a disk may
/// be opened in it.
pub trait Exports: Send + Sync + 'static {
    /// Gives the export of a name to a client. Names are up to 4096 bytes of whatever the client was
    /// told: one that carries a token made for this boot shows that it was. Connections of one client to
    /// the same disk must get the same [`Export`], because a flush on one of them is for all.
    ///
    /// # Errors
    /// [`Refusal`].
    fn open(&self, name: &str, peer: &Peer) -> Result<Arc<Export>, Refusal>;

    /// Names that a client may see. None by default: names are secrets.
    fn list(&self, peer: &Peer) -> Vec<String> {
        let _ = peer;
        Vec::new()
    }

    /// A client begins to use an export.
    fn attached(&self, name: &str, peer: &Peer, export: &Arc<Export>) {
        let _ = (name, peer, export);
    }

    /// A client has ended, with the reason where it did not say goodbye. Each `attached` is followed by
    /// one of these.
    fn detached(&self, name: &str, peer: &Peer, export: &Arc<Export>, why: Option<&str>) {
        let _ = (name, peer, export, why);
    }
}

/// A disk that is served, and what has become of it.
pub struct Export {
    device: Arc<dyn BlockDevice>,
    description: String,
    since: Instant,
    requests: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    errors: AtomicU64,
    clients: AtomicU64,
    /// Milliseconds after `since`.
    last_seen: AtomicU64,
}

/// What an export has served. Numbers only grow, but for `clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportStats {
    /// Requests that were answered.
    pub requests: u64,
    /// Bytes that were read by clients.
    pub read_bytes: u64,
    /// Bytes that were written by clients, without zeros that were not sent.
    pub written_bytes: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Connections now.
    pub clients: u64,
    /// How long nothing has come from a client.
    pub idle: Duration,
}

impl Export {
    /// Serves a device. `description` is for people who ask what it is.
    pub fn new(device: Arc<dyn BlockDevice>, description: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            device,
            description: description.into(),
            since: Instant::now(),
            requests: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            clients: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
        })
    }

    /// The disk.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The text for people.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What it has served.
    #[must_use]
    pub fn stats(&self) -> ExportStats {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let last = Duration::from_millis(get(&self.last_seen));
        ExportStats {
            requests: get(&self.requests),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
            clients: get(&self.clients),
            idle: self.since.elapsed().saturating_sub(last),
        }
    }

    pub(crate) fn count(&self, read: u64, written: u64, failed: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if read > 0 {
            self.read_bytes.fetch_add(read, Ordering::Relaxed);
        }
        if written > 0 {
            self.written_bytes.fetch_add(written, Ordering::Relaxed);
        }
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn seen(&self, now: Instant) {
        let since = now.saturating_duration_since(self.since).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.last_seen.store(since, Ordering::Relaxed);
    }

    pub(crate) fn client_came(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn client_went(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("description", &self.description)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
