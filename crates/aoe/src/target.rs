//! A disk that clients reach, and who reaches which.

use crate::error::KeepError;
use crate::identify::{Identity, identify};
use crate::keep::{Keep, State};
use crate::lane::Lane;
use crate::packet::{Address, SECTOR};
use bugler_disk::{BlockDevice, Durability};
use bugler_model::MacAddr;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// The targets that one machine sees.
pub type Seen = Arc<[Arc<Target>]>;

/// Knows which targets a machine sees.
pub trait Targets: Send + Sync + 'static {
    /// Those of the machine with this MAC address, each address at most once. `None` for a machine that
    /// is not known. It is asked for every few frames, on the thread that all machines wait for: what
    /// takes time (a disk that has to be opened) is begun here and done elsewhere, and the client asks
    /// again.
    fn targets_for(&self, mac: MacAddr) -> Option<Seen>;
}

/// How a target is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name in files and messages, and no other target's.
    pub name: String,
    /// Where it is. Targets of different machines may have the same address.
    pub address: Address,
    /// Who it says that it is.
    pub identity: Identity,
    /// When a write is acknowledged. The Linux driver never asks for a flush, so what is only cached
    /// then is lost with this computer's power, whatever the machine did to save it.
    pub durability: Durability,
}

/// A disk that clients reach.
pub struct Target {
    options: Options,
    device: Arc<dyn BlockDevice>,
    identify: [u8; SECTOR],
    keep: Arc<dyn Keep>,
    /// Held while a change is kept, so that changes come one after the other.
    changing: Mutex<()>,
    shown: Mutex<Shown>,
    /// Writes under way.
    pub(crate) lane: Mutex<Lane>,
    pub(crate) counters: Counters,
}

struct Shown {
    state: State,
    seen: Option<(MacAddr, Instant)>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// What a target has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// Commands to read that were answered with data.
    pub reads: u64,
    /// Commands to write that were acknowledged.
    pub writes: u64,
    /// Flushes of the disk, whoever asked for them.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Commands that the disk failed.
    pub failed: u64,
    /// Commands that were dropped because too many waited; clients send them again.
    pub dropped: u64,
    /// Who sent a command last, and when.
    pub seen: Option<(MacAddr, Instant)>,
}

impl Target {
    /// Opens it, with what clients had set on it.
    ///
    /// # Errors
    /// [`KeepError`], where that cannot be read.
    pub fn open(
        options: Options,
        device: Arc<dyn BlockDevice>,
        keep: Arc<dyn Keep>,
    ) -> Result<Self, KeepError> {
        let state = keep.load(&options.name)?;
        let sectors = device.size() / SECTOR as u64;
        let cached = options.durability == Durability::Cached;
        Ok(Self {
            identify: identify(&options.identity, sectors, cached),
            options,
            device,
            keep,
            changing: Mutex::default(),
            shown: Mutex::new(Shown { state, seen: None }),
            lane: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> Address {
        self.options.address
    }

    /// When its writes are acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    /// The disk.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// The data of IDENTIFY DEVICE.
    #[must_use]
    pub fn identify(&self) -> &[u8; SECTOR] {
        &self.identify
    }

    /// What clients have set.
    #[must_use]
    pub fn state(&self) -> State {
        self.shown().state.clone()
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> TargetCounts {
        let counters = &self.counters;
        TargetCounts {
            reads: counters.reads.load(Relaxed),
            writes: counters.writes.load(Relaxed),
            flushes: counters.flushes.load(Relaxed),
            bytes_read: counters.bytes_read.load(Relaxed),
            bytes_written: counters.bytes_written.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            seen: self.shown().seen,
        }
    }

    /// Has `look` see what clients have set, and notes that this client sent a command.
    pub(crate) fn look<T>(&self, from: MacAddr, now: Instant, look: impl FnOnce(&State) -> T) -> T {
        let mut shown = self.shown();
        shown.seen = Some((from, now));
        look(&shown.state)
    }

    /// Changes what clients have set as `change` says, once it is kept. Blocks. Returns what holds
    /// afterwards and what `change` returned beside the new state.
    ///
    /// # Errors
    /// What `change` refused with; or that of keeping it, from which `unkept` makes one.
    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(&State) -> Result<(State, T), E>,
        unkept: impl FnOnce(KeepError) -> E,
    ) -> Result<(State, T), E> {
        let _one = lock(&self.changing);
        let old = self.state();
        let (new, more) = change(&old)?;
        if new != old {
            self.keep.keep(self.name(), &new).map_err(unkept)?;
            self.shown().state = new.clone();
        }
        Ok((new, more))
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        lock(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("options", &self.options)
            .field("size", &self.device.size())
            .finish_non_exhaustive()
    }
}

/// A lock that a thread that panicked has not spoiled: nothing is left half-done under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table of who sees what.
#[derive(Debug, Default)]
pub struct Table {
    machines: RwLock<HashMap<MacAddr, Seen>>,
}

impl Table {
    /// From now on the machine sees these targets and no others.
    pub fn set(&self, mac: MacAddr, targets: Vec<Arc<Target>>) {
        let mut machines = self
            .machines
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        machines.insert(mac, targets.into());
    }

    /// From now on the machine is not known.
    pub fn remove(&self, mac: MacAddr) {
        let mut machines = self
            .machines
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        machines.remove(&mac);
    }
}

impl Targets for Table {
    fn targets_for(&self, mac: MacAddr) -> Option<Seen> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines.get(&mac).cloned()
    }
}
