//! Sockets and threads.
//!
//! One thread (the worker) has all sockets and all machines, and waits in epoll; a few more (the
//! openers) call the [`Source`], which may take its time. They talk through two bounded queues:
//!
//! ```text
//!             jobs (as many as transfers)
//!   worker ------------------------------> openers
//!      ^                                      |
//!      +---- opened, then an eventfd ---------+
//! ```
//!
//! A thread of its own and not a task: at one block a round trip, the time between an ACK and the
//! next block is all there is, and it is spent on one receive and one send.

mod conn;
mod conns;
mod link;
mod listener;
mod openers;
mod timers;
mod worker;

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Error;
use crate::observer::Observer;
use crate::source::Source;

use listener::Listener;
use openers::Waker;
use worker::Worker;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address and port, 69 by custom. With 0.0.0.0, answers come from the address that the
    /// client asked. Port 0 takes any free port, see [`Handle::local_addrs`].
    pub address: SocketAddrV4,
    /// Hear and answer on this interface only (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
}

impl From<SocketAddrV4> for Listen {
    fn from(address: SocketAddrV4) -> Self {
        Self {
            address,
            interface: None,
        }
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; at least one.
    pub listen: Vec<Listen>,
    /// How many transfers may be under way; what comes beyond is dropped, and the client asks again.
    /// Each takes one file descriptor (two, when it sends a file) and at most about 130 KiB; the limit
    /// of the process on descriptors is raised for them, as far as that is allowed.
    pub max_transfers: usize,
    /// The largest `windowsize` to agree to, in blocks (RFC 7440).
    pub max_windowsize: u16,
    /// How many threads call the [`Source`].
    pub openers: usize,
    /// Answers every request from the port that it came to, in the place of a port of its own for
    /// each transfer (RFC 1350 section 4): for clients behind NAT, and firewalls that let only one
    /// port through. Transfers are told apart by the client's address and port. A client whose port
    /// is closed is then known only by its silence.
    pub single_port: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            max_transfers: 4096,
            max_windowsize: 64,
            openers: 4,
            single_port: false,
        }
    }
}

/// A TFTP server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Listens and serves, on threads of its own, until [`Handle::stop`] or until the handle is
    /// dropped.
    ///
    /// # Errors
    /// [`Error`], when a socket, a descriptor or a thread cannot be had.
    pub fn start(
        config: Config,
        source: Arc<dyn Source>,
        observer: Arc<dyn Observer>,
    ) -> Result<Handle, Error> {
        if config.listen.is_empty() {
            return Err(Error::NothingToListenOn);
        }
        let listeners = config
            .listen
            .iter()
            .map(|listen| Listener::bind(listen, config.single_port))
            .collect::<Result<Vec<_>, Error>>()?;
        let local_addrs = listeners.iter().map(Listener::local_addr).collect();
        raise_file_limit(config.max_transfers);
        let stop = Arc::new(AtomicBool::new(false));
        let waker = Waker::new().map_err(Error::resources("make an eventfd"))?;
        let worker = Worker::new(
            config,
            listeners,
            source,
            observer,
            waker.clone(),
            Arc::clone(&stop),
        )?;
        let thread = thread::Builder::new()
            .name("tftp".into())
            .spawn(move || worker.run())
            .map_err(Error::resources("start its thread"))?;
        Ok(Handle {
            local_addrs,
            stop,
            waker,
            thread: Some(thread),
        })
    }
}

/// Lets this process have the descriptors that so many transfers take, as far as it may: the usual
/// limit of 1024 is there for programs that use `select`.
fn raise_file_limit(transfers: usize) {
    // What the rest of the process needs, generously.
    const OTHERS: u64 = 512;
    let wanted = OTHERS.saturating_add(2 * transfers as u64);
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return;
    }
    let possible = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = Rlimit {
        current: Some(possible.max(current)),
        maximum: limit.maximum,
    };
    if possible < wanted || setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(
            transfers,
            wanted,
            possible,
            "TFTP may run out of file descriptors: raise the limit (LimitNOFILE= or ulimit -n)"
        );
    }
}

/// A running [`Server`]. Dropping it stops the server.
#[derive(Debug)]
pub struct Handle {
    local_addrs: Vec<SocketAddrV4>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Handle {
    /// The addresses that it listens on, in the order of [`Config::listen`], with the ports that were
    /// taken.
    pub fn local_addrs(&self) -> &[SocketAddrV4] {
        &self.local_addrs
    }

    /// Whether it serves. False when its thread ended by itself: then [`stop`](Self::stop) says why.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Ends all transfers, closes all sockets, and waits for all threads.
    ///
    /// # Errors
    /// [`Error`] when the server had ended before, by itself.
    pub fn stop(mut self) -> Result<(), Error> {
        self.join()
    }

    fn join(&mut self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Panicked),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "TFTP ended");
        }
    }
}
