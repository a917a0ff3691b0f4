//! The threads that call the source, so that a slow one holds up no transfer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::EventfdFlags;

use super::listener::Route;
use crate::error::Error;
use crate::observer::Transfer;
use crate::packet::{Mode, Options};
use crate::source::{Content, OpenError, Request, Source};
use crate::stage;

/// A source renders scripts and reads registries; it needs no deep stack.
const STACK: usize = 512 * 1024;

/// The largest content that is sent as netascii, in bytes: it is read twice, and is text.
const MAX_NETASCII: u64 = 64 * 1024 * 1024;

/// Wakes the worker out of epoll.
#[derive(Debug, Clone)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the worker is being woken already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Takes all wakes so far.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A read request on its way through an opener.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) transfer: Transfer,
    pub(super) route: Route,
    /// The file name as it was sent.
    pub(super) raw: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) options: Options,
    /// Tells a request sent twice from a different one.
    pub(super) fingerprint: u64,
    pub(super) received: Duration,
}

/// A request that an opener is done with: the content, and the bytes that will be sent of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) job: Job,
    pub(super) result: Result<(Content, u64), OpenError>,
}

/// The threads. Dropping this ends them, after what they are at.
#[derive(Debug)]
pub(super) struct Openers {
    jobs: Option<SyncSender<Job>>,
    opened: Receiver<Opened>,
    threads: Vec<JoinHandle<()>>,
}

impl Openers {
    /// Starts `count` threads (at least one), with room for `queue` jobs.
    pub(super) fn start(
        count: usize,
        queue: usize,
        source: &Arc<dyn Source>,
        waker: &Waker,
    ) -> Result<Self, Error> {
        let (jobs, todo) = mpsc::sync_channel(queue);
        let (done, opened) = mpsc::channel();
        let todo = Arc::new(Mutex::new(todo));
        let mut openers = Self {
            jobs: Some(jobs),
            opened,
            threads: Vec::new(),
        };
        for index in 0..count.max(1) {
            let (todo, done) = (Arc::clone(&todo), done.clone());
            let (source, waker) = (Arc::clone(source), waker.clone());
            let thread = thread::Builder::new()
                .name(format!("tftp-open-{index}"))
                .stack_size(STACK)
                .spawn(move || work(&todo, &done, &*source, &waker))
                .map_err(Error::resources("start a thread that opens files"))?;
            openers.threads.push(thread);
        }
        Ok(openers)
    }

    /// Queues a job; gives false when the queue is full.
    pub(super) fn submit(&self, job: Job) -> bool {
        self.jobs
            .as_ref()
            .is_some_and(|jobs| jobs.try_send(job).is_ok())
    }

    /// Takes one that is done.
    pub(super) fn done(&self) -> Option<Opened> {
        self.opened.try_recv().ok()
    }
}

impl Drop for Openers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic of the source is caught below; there is no other.
            let _ = thread.join();
        }
    }
}

fn work(
    todo: &Mutex<Receiver<Job>>,
    done: &mpsc::Sender<Opened>,
    source: &dyn Source,
    waker: &Waker,
) {
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        let request = Request {
            peer: job.transfer.peer,
            local: job.transfer.local,
            path: job.transfer.path.clone(),
            raw: job.raw.clone(),
        };
        let result = panic::catch_unwind(AssertUnwindSafe(|| open(source, &request, job.mode)))
            .unwrap_or_else(|_| {
                Err(OpenError::Failed(
                    "a bug: the source of boot files panicked, see the log".into(),
                ))
            });
        if done.send(Opened { job, result }).is_err() {
            return;
        }
        waker.wake();
    }
}

fn open(source: &dyn Source, request: &Request, mode: Mode) -> Result<(Content, u64), OpenError> {
    let content = source.open(request)?;
    if mode == Mode::Netascii && content.len() > MAX_NETASCII {
        return Err(OpenError::Denied(
            "it is too large for netascii, ask for octet".into(),
        ));
    }
    let size = stage::size(&content, mode)
        .map_err(|error| OpenError::Failed(format!("reading {}: {error}", request.path)))?;
    Ok((content, size))
}
