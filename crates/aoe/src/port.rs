//! Where answers go, and what is counted.

use crate::link::{Link, Outbox};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What a server has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames with commands.
    pub received: u64,
    /// Answers.
    pub sent: u64,
    /// Answers that could not be sent; clients ask again.
    pub unsent: u64,
    /// Commands dropped because too many waited; clients send them again.
    pub dropped: u64,
    /// Frames that the kernel dropped, as they came faster than they were taken.
    pub overrun: u64,
    /// Frames that are not AoE, or end too early.
    pub malformed: u64,
    /// Commands of machines that are not known.
    pub unknown: u64,
    /// Commands to targets that the machine does not have.
    pub not_for_us: u64,
    /// Commands of machines that a target's MAC mask leaves out.
    pub masked: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) unsent: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) overrun: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) not_for_us: AtomicU64,
    pub(crate) masked: AtomicU64,
}

impl Counters {
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            unsent: self.unsent.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            overrun: self.overrun.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            not_for_us: self.not_for_us.load(Relaxed),
            masked: self.masked.load(Relaxed),
        }
    }
}

/// An interface as long as its socket is good, for whoever has an answer to send there.
pub(crate) struct Port {
    pub(crate) link: Link,
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    /// It has been said that answers could not be sent.
    said: AtomicBool,
}

impl Port {
    pub(crate) fn new(link: Link, name: &str, counters: Arc<Counters>) -> Self {
        Self {
            link,
            name: name.to_owned(),
            counters,
            said: AtomicBool::new(false),
        }
    }

    /// Sends what is in the outbox.
    pub(crate) fn send(&self, outbox: &mut Outbox) {
        if outbox.is_empty() {
            return;
        }
        let all = outbox.len() as u64;
        let (unsent, error) = self.link.send(outbox);
        self.counters.sent.fetch_add(all - unsent, Relaxed);
        if let Some(error) = error {
            self.counters.unsent.fetch_add(unsent, Relaxed);
            if !self.said.swap(true, Relaxed) {
                tracing::warn!(
                    interface = %self.name,
                    "could not send {unsent} AoE answers: {error}; clients ask again, and further ones \
                     are only counted"
                );
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::new(Link::unconnected(), "nowhere", Arc::default())
    }
}
