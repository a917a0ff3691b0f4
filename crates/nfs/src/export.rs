//! An export: a layer, and the thread that answers all calls about it, one after the other.
//!
//! ```text
//! connection --call--> queue --> worker: up to 64 calls that wait --> one commit --> answers
//! connection --call-->   |                                                             |
//!     ^                                                                                |
//!     +--------------------------------------------------------------------------------+
//! ```

use crate::handle::{ExportId, HANDLE};
use crate::kinds::{Credential, Status, Time};
use crate::layer::Layer;
use crate::machine;
use crate::packet::Call;
use crate::rpc::{self, Accepted, RpcCall};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Calls that share a commit, at most.
const BATCH: usize = 64;
/// How long writes that may be lost are known in memory alone, when nothing else comes.
const IDLE: Duration = Duration::from_secs(1);

/// What an export has done since it was started, and what it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls that were answered.
    pub calls: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Bytes that were written.
    pub written: u64,
    /// Bytes that the layer takes on the server's disk.
    pub taken: u64,
    /// Most bytes that it may take; `u64::MAX`: as many as there are.
    pub quota: u64,
    /// Connections that have called lately and are open. 0: the client is gone, or has never been there.
    pub connections: u32,
    /// When it was last called: seconds since 1970, UTC; 0 for never.
    pub last_call: u64,
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    taken: AtomicU64,
    quota: AtomicU64,
    connections: AtomicU32,
    last_call: AtomicU64,
    stopped: AtomicBool,
}

/// Where an answer goes: it is given the whole message.
pub type Reply = Box<dyn FnOnce(Vec<u8>) + Send>;

enum Job {
    Call(Vec<u8>, Reply),
    Grow(u64, mpsc::Sender<Result<(), Status>>),
    Stop,
}

/// A layer that is served.
pub struct Export {
    id: ExportId,
    root: [u8; HANDLE],
    queue: mpsc::Sender<Job>,
    counters: Arc<Counters>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Export {
    /// Starts to serve a layer.
    ///
    /// # Errors
    /// Where the system has no thread for it.
    pub fn start(layer: Layer) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        counters.taken.store(layer.taken(), Ordering::Relaxed);
        let quota = layer.quota().unwrap_or(u64::MAX);
        counters.quota.store(quota, Ordering::Relaxed);
        let (id, root) = (layer.export(), layer.handle(layer.root()));
        let worker = Worker {
            layer,
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new().name("nfs-export".into());
        let worker = thread.spawn(move || worker.run(&jobs))?;
        Ok(Self {
            id,
            root,
            queue,
            counters,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Which export it is.
    #[must_use]
    pub fn id(&self) -> ExportId {
        self.id
    }

    /// The handle of its root.
    #[must_use]
    pub fn root(&self) -> [u8; HANDLE] {
        self.root
    }

    /// What it has done, and what it takes.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            calls: get(&counters.calls),
            read: get(&counters.read),
            written: get(&counters.written),
            taken: get(&counters.taken),
            quota: get(&counters.quota),
            connections: counters.connections.load(Ordering::Relaxed),
            last_call: get(&counters.last_call),
        }
    }

    /// Has a call of NFS answered: the whole message, which has been seen to be one. The answer comes
    /// when it is durable.
    ///
    /// # Errors
    /// Gives the call back where the export is stopped.
    pub fn call(&self, message: Vec<u8>, reply: Reply) -> Result<(), (Vec<u8>, Reply)> {
        self.queue
            .send(Job::Call(message, reply))
            .map_err(|error| match error.0 {
                Job::Call(message, reply) => (message, reply),
                Job::Grow(..) | Job::Stop => (vec![], Box::new(drop::<Vec<u8>>) as Reply),
            })
    }

    /// Sets most bytes that the layer may take, and keeps that ([`Layer::grow`]). Returns when that is
    /// done; must not be called by a task of an asynchronous runtime.
    ///
    /// # Errors
    /// [`Status::Io`] or [`Status::NoSpace`] where it could not be kept; [`Status::Stale`] where the export
    /// is stopped.
    pub fn grow(&self, quota: u64) -> Result<(), Status> {
        let (sender, receiver) = mpsc::channel();
        let sent = self.queue.send(Job::Grow(quota, sender));
        sent.map_err(|_| Status::Stale)?;
        receiver.recv().map_err(|_| Status::Stale)?
    }

    /// Answers what waits, and closes the layer. Returns when that is done; must not be called by a
    /// task of an asynchronous runtime.
    pub fn stop(&self) {
        let _ = self.queue.send(Job::Stop);
        let worker = self.worker.lock();
        let worker = worker.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            let _ = worker.join();
        }
    }

    /// Whether it was stopped, or has failed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.counters.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn count_connection(&self, comes: bool) {
        let connections = &self.counters.connections;
        match comes {
            true => connections.fetch_add(1, Ordering::Relaxed),
            false => connections.fetch_sub(1, Ordering::Relaxed),
        };
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Not waited for, as it may be an asynchronous task that drops it.
        let _ = self.queue.send(Job::Stop);
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("id", &self.id)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

struct Worker {
    layer: Layer,
    counters: Arc<Counters>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.counters.stopped.store(true, Ordering::Release);
    }
}

impl Worker {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut goes_on = true;
        while goes_on {
            let first = match self.layer.is_unsettled() {
                false => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                true => jobs.recv_timeout(IDLE),
            };
            let first = match first {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.layer.write_down();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut calls = vec![];
            for job in std::iter::once(first).chain(jobs.try_iter().take(BATCH)) {
                match job {
                    Job::Call(message, reply) => calls.push((message, reply)),
                    // What waits is not part of its transaction.
                    Job::Grow(quota, done) => {
                        if !calls.is_empty() {
                            self.answer(std::mem::take(&mut calls));
                        }
                        let grown = self.layer.grow(quota);
                        if grown.is_ok() {
                            self.counters.quota.store(quota, Ordering::Relaxed);
                        }
                        let _ = done.send(grown);
                    }
                    Job::Stop => {
                        goes_on = false;
                        break;
                    }
                }
            }
            self.answer(calls);
        }
        let _ = self.layer.write_down();
    }

    fn answer(&mut self, calls: Vec<(Vec<u8>, Reply)>) {
        let answers: Vec<_> = calls.iter().map(|call| self.one(&call.0)).collect();
        let settled = self.layer.settle();
        for ((message, reply), answer) in calls.into_iter().zip(answers) {
            reply(match settled {
                Ok(()) => answer,
                Err(_) => self.alone(&message),
            });
        }
        let (taken, now) = (self.layer.taken(), now());
        self.counters.taken.store(taken, Ordering::Relaxed);
        let last = &self.counters.last_call;
        last.store(now.seconds.into(), Ordering::Relaxed);
    }

    /// Does a call again whose commit has failed, with one of its own.
    fn alone(&mut self, message: &[u8]) -> Vec<u8> {
        let answer = self.one(message);
        match self.layer.settle() {
            Ok(()) => answer,
            Err(status) => respond(message, |_, call| machine::refuse(call, status)),
        }
    }

    fn one(&mut self, message: &[u8]) -> Vec<u8> {
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let (layer, counters) = (&mut self.layer, &self.counters);
        respond(message, |who, call| {
            match call {
                Call::Read { count, .. } => {
                    counters.read.fetch_add((*count).into(), Ordering::Relaxed);
                }
                Call::Write { data, .. } => {
                    let length = data.len() as u64;
                    counters.written.fetch_add(length, Ordering::Relaxed);
                }
                _ => {}
            }
            if !call.is_once() {
                return machine::answer(layer, who, call, now());
            }
            once(layer, who, call, message, now())
        })
    }
}

/// Answers a call that must not be done twice: one that has been done gets its first answer.
pub fn once(
    layer: &mut Layer,
    who: &Credential,
    call: &Call<'_>,
    message: &[u8],
    now: Time,
) -> machine::Answer {
    let hash = blake3::hash(message);
    match layer.answered(hash.as_bytes()) {
        Ok(Some(answer)) => return answer,
        Ok(None) => {}
        Err(status) => return machine::refuse(call, status),
    }
    let answer = machine::answer(layer, who, call, now);
    // What went wrong has changed nothing, and may be tried again.
    let went_well = answer.first_chunk() == Some(&[0; 4]);
    if went_well && let Err(status) = layer.remember(hash.as_bytes(), &answer) {
        layer.spoil(status);
        return machine::refuse(call, status);
    }
    answer
}

/// The message that answers a message with a call of NFS.
fn respond(
    message: &[u8],
    answer: impl FnOnce(&Credential, &Call<'_>) -> machine::Answer,
) -> Vec<u8> {
    let Ok(rpc) = RpcCall::decode(message) else {
        return vec![];
    };
    match Call::decode(rpc.procedure, rpc.arguments) {
        Ok(Some(call)) => {
            let answer = answer(&rpc.credential, &call);
            let mut out = rpc::reply(rpc.xid, Accepted::Success);
            out.raw(&answer);
            out.into_bytes()
        }
        Ok(None) => rpc::reply(rpc.xid, Accepted::NoProcedure).into_bytes(),
        Err(_) => rpc::reply(rpc.xid, Accepted::Garbage).into_bytes(),
    }
}

/// The answer to a call whose file is of no export that the client may see.
#[must_use]
pub fn without_export(message: &[u8], status: Status) -> Vec<u8> {
    respond(message, |_, call| machine::refuse(call, status))
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    Time {
        seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}
