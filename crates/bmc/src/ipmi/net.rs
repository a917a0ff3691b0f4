//! The socket and the clock.
//!
//! ```text
//!   Hub: one UDP socket for all BMCs
//!    │  reader task: by the sender's address
//!    ├──> Connection (a session's machine, driven by whoever asks for its next event)
//!    ├──> Connection
//!    └──> ...
//! ```
//!
//! A datagram goes to every session with its sender; the machines know by numbers and keys what is
//! theirs. Queues are bounded: what does not fit is lost, as on any network, and comes again.

use crate::error::Error;
use crate::ipmi::machine::{Config, Event, Failure, Session};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Datagrams that may wait for one session.
const WAITING: usize = 64;
/// The longest datagram that is read, in bytes: SOL packets are the longest, below 400.
const LONGEST: usize = 2048;

type Routes = Arc<Mutex<HashMap<SocketAddr, Vec<(u64, mpsc::Sender<Vec<u8>>)>>>>;

/// The way to every BMC. Clones are the same.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    v4: Arc<UdpSocket>,
    /// None where the host has no IPv6.
    v6: Option<Arc<UdpSocket>>,
    routes: Routes,
    readers: Vec<JoinHandle<()>>,
    start: Instant,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Hub {
    /// Opens the sockets. To be called inside of a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn new() -> Result<Self, Error> {
        let v4 = Arc::new(
            socket((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(|source| Error::Socket { source })?,
        );
        let v6 = socket((Ipv6Addr::UNSPECIFIED, 0).into()).ok().map(Arc::new);
        let routes = Routes::default();
        let readers = [Some(&v4), v6.as_ref()]
            .into_iter()
            .flatten()
            .map(|socket| tokio::spawn(read(Arc::clone(socket), Arc::clone(&routes))))
            .collect();
        Ok(Self(Arc::new(Inner {
            v4,
            v6,
            routes,
            readers,
            start: Instant::now(),
        })))
    }

    /// The time that machines and circuits go by.
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    async fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = match (to, &self.0.v6) {
            (SocketAddr::V4(_), _) => &self.0.v4,
            (SocketAddr::V6(_), Some(socket)) => socket,
            (SocketAddr::V6(_), None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        match socket.send_to(bytes, to).await {
            // The kernel's queue is full: that is loss, and is met as such.
            Err(error) if error.raw_os_error() == Some(NO_BUFFERS) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Begins a session with a BMC. It is [driven](Connection::next) by the caller.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn connect(&self, address: SocketAddr, config: Config) -> Result<Connection, Error> {
        let mut seed = [0; 32];
        let mut id = [0; 8];
        for part in [&mut seed[..], &mut id[..]] {
            getrandom::fill(part).map_err(|error| Error::Socket {
                source: io::Error::other(error.to_string()),
            })?;
        }
        let id = u64::from_le_bytes(id);
        let (sender, inbox) = mpsc::channel(WAITING);
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.entry(address).or_default().push((id, sender));
        drop(routes);
        Ok(Connection {
            session: Session::new(config, seed, self.now()),
            hub: self.clone(),
            address,
            id,
            inbox,
        })
    }
}

/// ENOBUFS of Linux (errno(3)).
const NO_BUFFERS: i32 = 105;

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn read(socket: Arc<UdpSocket>, routes: Routes) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An unreachable BMC may be told here; its session finds out by the silence.
                tracing::debug!("receiving from BMCs: {error}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, sender) in routes.get(&from).into_iter().flatten() {
            if sender.try_send(buffer[..length].to_vec()).is_err() {
                tracing::trace!("a datagram of the BMC {from} found no room");
            }
        }
    }
}

/// A session and its way to the BMC. When it is dropped, the BMC is not told: see
/// [`close`](Self::close).
#[derive(Debug)]
pub struct Connection {
    /// The machine. Whatever is asked of it goes out at the next call of [`next`](Self::next).
    pub session: Session,
    hub: Hub,
    address: SocketAddr,
    id: u64,
    inbox: mpsc::Receiver<Vec<u8>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut routes = self
            .hub
            .0
            .routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = routes.get_mut(&self.address) {
            sessions.retain(|(id, _)| *id != self.id);
            if sessions.is_empty() {
                routes.remove(&self.address);
            }
        }
    }
}

impl Connection {
    /// The time that the machine goes by.
    pub fn now(&self) -> Duration {
        self.hub.now()
    }

    /// Sends, receives and waits until something happens; None once the session is over. A call may be
    /// given up at any time and made again.
    ///
    /// # Errors
    /// When the kernel refuses to send to the BMC.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(datagram) = self.session.poll_transmit() {
                self.hub
                    .send(&datagram, self.address)
                    .await
                    .map_err(|source| Error::Send {
                        address: self.address,
                        source,
                    })?;
            }
            if let Some(event) = self.session.poll_event() {
                return Ok(Some(event));
            }
            if self.session.is_over() {
                return Ok(None);
            }
            let deadline = self.session.deadline();
            let at = self.hub.0.start + deadline.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                biased;
                Some(bytes) = self.inbox.recv() => {
                    let now = self.now();
                    self.session.receive(&bytes, now);
                }
                () = tokio::time::sleep_until(at) => {
                    let now = self.now();
                    self.session.timeout(now);
                }
            }
        }
    }

    /// Ends the session and waits until the BMC has said so, or for two attempts.
    pub async fn close(&mut self) {
        let now = self.now();
        self.session.close(now);
        while let Ok(Some(event)) = self.next().await {
            if let Event::Failed(Failure::Silent(what)) = event {
                tracing::debug!("the BMC {} did not answer {what}", self.address);
            }
        }
    }
}
