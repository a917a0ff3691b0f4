//! Sockets and threads.
//!
//! ```text
//!  accept (one a listener) --> a thread a connection: receives, answers what needs no disk
//!                                   |                                     |
//!                                   +--> workers: what may have to wait --+--> Wire::send
//! ```

use crate::{
    connection::Connection,
    error::NbdError,
    export::Exports,
    machine::TlsPolicy,
    tls::Identity,
    wire::Wire,
    workers::{Budget, Workers},
};
use socket2::{SockRef, TcpKeepalive};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How a server serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What becomes of encryption. All but [`TlsPolicy::Off`] need an identity.
    pub tls: TlsPolicy,
    /// Certificate and key.
    pub identity: Option<Identity>,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_per_address: usize,
    /// Threads for requests that may have to wait for a disk.
    pub workers: usize,
    /// Bytes of data of requests in work, of all connections together.
    pub max_memory: u64,
    /// Seconds until a client must have chosen an export.
    pub negotiation_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: TlsPolicy::Off,
            identity: None,
            max_connections: 1024,
            max_per_address: 64,
            workers: 16,
            max_memory: 256 << 20,
            negotiation_seconds: 15,
        }
    }
}

/// Bytes of data of requests in work, of one connection.
const CONNECTION_BYTES: u64 = 64 << 20;
/// Requests in work, of one connection.
const CONNECTION_REQUESTS: u32 = 128;
/// How long a client may take no reply, and stay silent when it is asked whether it is there.
const GONE_AFTER: Duration = Duration::from_secs(40);

/// A server, and every connection that it has. It ends when [`stop`](Self::stop) is called, or when it is
/// dropped.
pub struct Server {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) options: Options,
    pub(crate) workers: Workers,
    pub(crate) memory: Arc<Budget>,
    stopping: AtomicBool,
    serial: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    listeners: Mutex<HashMap<u64, SocketAddr>>,
}

/// A connection that somebody else may end.
struct Open {
    wire: Arc<Wire>,
    peer: IpAddr,
    local: IpAddr,
}

/// A listening socket of a [`Server`]. It goes on until the server stops or [`close`](Self::close) is
/// called.
#[derive(Debug)]
pub struct Listening {
    number: u64,
    address: SocketAddr,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(action: &'static str) -> impl Fn(io::Error) -> NbdError {
    move |source| NbdError::Start { action, source }
}

impl Server {
    /// Starts its threads. It serves nobody before [`listen`](Self::listen).
    ///
    /// # Errors
    /// [`NbdError::Start`]; [`NbdError::Identity`] where encryption is asked for and there is no
    /// certificate.
    pub fn new(exports: Arc<dyn Exports>, options: Options) -> Result<Self, NbdError> {
        if options.tls != TlsPolicy::Off && options.identity.is_none() {
            return Err(NbdError::Identity {
                action: "offer TLS",
                detail: "no certificate was given".to_owned(),
            });
        }
        let shared = Shared {
            exports,
            workers: Workers::start(options.workers)?,
            memory: Budget::new(options.max_memory, u32::MAX),
            options,
            stopping: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            open: Mutex::default(),
            threads: Mutex::default(),
            listeners: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Takes connections from a socket.
    ///
    /// # Errors
    /// [`NbdError::Start`].
    pub fn listen(&self, listener: TcpListener) -> Result<Listening, NbdError> {
        let address = listener
            .local_addr()
            .map_err(start("ask for the socket's address"))?;
        listener
            .set_nonblocking(false)
            .map_err(start("prepare the socket"))?;
        let number = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        guard(&self.shared.listeners).insert(number, address);
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .stack_size(256 << 10)
            .spawn(move || shared.accept(&listener, number))
            .map_err(start("start a thread"))?;
        guard(&self.shared.threads).push(thread);
        Ok(Listening { number, address })
    }

    /// Takes no more connections there, and with `connections` ends those that came to that address.
    pub fn close(&self, listening: &Listening, connections: bool) {
        guard(&self.shared.listeners).remove(&listening.number);
        wake(listening.address);
        if connections {
            let local = listening.address.ip();
            self.end(|open| local.is_unspecified() || open.local == local);
        }
    }

    /// Ends the connections of one client.
    pub fn disconnect(&self, peer: IpAddr) {
        self.end(|open| open.peer == peer);
    }

    /// Connections that are there now.
    #[must_use]
    pub fn connections(&self) -> usize {
        guard(&self.shared.open).len()
    }

    fn end(&self, which: impl Fn(&Open) -> bool) {
        for open in guard(&self.shared.open).values() {
            if which(open) {
                open.wire.shutdown();
            }
        }
    }

    /// Ends everything, and waits until no request is in work any more. Disks are flushed by who owns
    /// them.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let listeners = std::mem::take(&mut *guard(&self.shared.listeners));
        for address in listeners.into_values() {
            wake(address);
        }
        self.end(|_| true);
        loop {
            let threads = std::mem::take(&mut *guard(&self.shared.threads));
            if threads.is_empty() {
                break;
            }
            for thread in threads {
                // One that panicked has said so.
                let _ = thread.join();
            }
            // One that was being accepted meanwhile.
            self.end(|_| true);
        }
        self.shared.workers.stop();
    }
}

/// Has a thread that waits in `accept` look around.
fn wake(address: SocketAddr) {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    // Where that fails, the address is gone, and `accept` fails as well.
    let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("options", &self.shared.options)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, number: u64) {
        loop {
            let accepted = listener.accept();
            if !guard(&self.listeners).contains_key(&number) || self.stopping.load(Ordering::SeqCst)
            {
                return;
            }
            match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = self.begin(stream, peer) {
                        tracing::warn!(%peer, %error, "an NBD client was turned away");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(error) => {
                    tracing::warn!(%error, "could not accept an NBD client");
                    // Out of file descriptors, mostly: it will not be better at once.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let local = stream.local_addr()?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(5);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
        stream.set_write_timeout(Some(GONE_AFTER))?;
        let wire = Arc::new(Wire::new(stream.try_clone()?));
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = guard(&self.open);
            let same = open.values().filter(|open| open.peer == peer.ip()).count();
            if open.len() >= self.options.max_connections || same >= self.options.max_per_address {
                return Err(io::Error::other(format!(
                    "there are {} connections already, {same} of them from its address",
                    open.len()
                )));
            }
            open.insert(
                number,
                Open {
                    wire: Arc::clone(&wire),
                    peer: peer.ip(),
                    local: local.ip(),
                },
            );
        }
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("nbd-client".to_owned())
            .stack_size(512 << 10)
            .spawn(move || {
                let requests = Budget::new(CONNECTION_BYTES, CONNECTION_REQUESTS);
                Connection::new(&shared, wire, stream, peer, local, requests).run();
                guard(&shared.open).remove(&number);
            });
        match spawned {
            Ok(thread) => {
                let mut threads = guard(&self.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
                Ok(())
            }
            Err(error) => {
                guard(&self.open).remove(&number);
                Err(error)
            }
        }
    }
}
