//! Threads for requests that may have to wait for a disk, and a limit for what they hold in memory.

use crate::error::NbdError;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads that take jobs in turn.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    pub(crate) fn start(count: usize) -> Result<Self, NbdError> {
        let workers = Self {
            shared: Arc::default(),
            threads: Mutex::default(),
        };
        for _ in 0..count.max(1) {
            let shared = Arc::clone(&workers.shared);
            let thread = thread::Builder::new()
                .name("nbd-worker".to_owned())
                .stack_size(256 << 10)
                .spawn(move || shared.work())
                .map_err(|source| NbdError::Start {
                    action: "start a thread",
                    source,
                })?;
            guard(&workers.threads).push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn give(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = guard(&self.shared.queue);
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.more.notify_one();
    }

    /// Has them end when all jobs are done, and waits for it.
    pub(crate) fn stop(&self) {
        guard(&self.shared.queue).closed = true;
        self.shared.more.notify_all();
        for thread in std::mem::take(&mut *guard(&self.threads)) {
            // A job that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        guard(&self.shared.queue).closed = true;
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = guard(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                // A panic ends one request, not the thread that others need.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                queue = guard(&self.queue);
                continue;
            }
            if queue.closed {
                return;
            }
            queue = self
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// So many bytes, and so many requests, at once.
pub(crate) struct Budget {
    held: Mutex<(u64, u32)>,
    freed: Condvar,
    bytes: u64,
    requests: u32,
}

/// A part of a budget, given back when it is dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64, requests: u32) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new((0, 0)),
            freed: Condvar::new(),
            bytes,
            requests,
        })
    }

    /// Waits until there is room. One that is larger than everything gets everything.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Share {
        let bytes = bytes.min(self.bytes);
        let held = guard(&self.held);
        let full = |held: &mut (u64, u32)| held.0 + bytes > self.bytes || held.1 >= self.requests;
        let waited = self.freed.wait_while(held, full);
        let mut held = waited.unwrap_or_else(PoisonError::into_inner);
        held.0 += bytes;
        held.1 += 1;
        Share {
            budget: Arc::clone(self),
            bytes,
        }
    }

    /// Waits until nobody holds anything.
    pub(crate) fn wait_empty(&self) {
        let held = guard(&self.held);
        let busy = |held: &mut (u64, u32)| held.1 > 0;
        drop(self.freed.wait_while(held, busy));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = guard(&self.budget.held);
        held.0 -= self.bytes;
        held.1 -= 1;
        drop(held);
        self.budget.freed.notify_all();
    }
}
