//! A layer that is open: the disk that one machine sees, and what is known of its use.

use bugler_disk::{BlockDevice, DeviceError, Durability, Extent, Overlay};
use bugler_model::ExportId;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Seconds that a rate is taken over.
const RATE_WINDOW_S: u64 = 5;

/// The disk of one machine.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: ExportId,
    pub(crate) disk: Arc<Overlay>,
    /// Nobody may use it any more: it was reset, or another boot began.
    revoked: AtomicBool,
    /// Who is connected, and how often.
    clients: Mutex<BTreeMap<String, u32>>,
    begun: Instant,
    read: AtomicU64,
    written: AtomicU64,
    /// Milliseconds from `begun` to the latest request, plus 1; 0: there was none.
    last: AtomicU64,
    rates: Mutex<Rates>,
}

/// What was counted at the beginning of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    at_s: u64,
    read: u64,
    written: u64,
    read_rate: u64,
    write_rate: u64,
}

/// What is told of its use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) clients: Vec<String>,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) read_rate: u64,
    pub(crate) write_rate: u64,
    pub(crate) idle_s: Option<u64>,
}

impl Live {
    pub(crate) fn new(id: ExportId, disk: Arc<Overlay>) -> Arc<Self> {
        Arc::new(Self {
            id,
            disk,
            revoked: AtomicBool::new(false),
            clients: Mutex::default(),
            begun: Instant::now(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            last: AtomicU64::new(0),
            rates: Mutex::default(),
        })
    }

    /// Every further request of whoever uses it is an error.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    /// A client is connected.
    pub(crate) fn came(&self, who: String) {
        *self.clients().entry(who).or_default() += 1;
    }

    /// A client's connection has ended.
    pub(crate) fn went(&self, who: &str) {
        let mut clients = self.clients();
        if let Some(count) = clients.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                clients.remove(who);
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the latest request, or since it was opened.
    pub(crate) fn idle_s(&self) -> u64 {
        let last = self.last.load(Ordering::Relaxed).saturating_sub(1);
        (self.now_ms().saturating_sub(last)) / 1000
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.clients().is_empty()
    }

    pub(crate) fn usage(&self) -> Use {
        let now_s = self.now_ms() / 1000;
        let (read, written) = (
            self.read.load(Ordering::Relaxed),
            self.written.load(Ordering::Relaxed),
        );
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now_s.saturating_sub(rates.at_s);
        if passed >= RATE_WINDOW_S {
            *rates = Rates {
                at_s: now_s,
                read,
                written,
                read_rate: (read - rates.read) / passed,
                write_rate: (written - rates.written) / passed,
            };
        }
        Use {
            clients: self.clients().keys().cloned().collect(),
            read,
            written,
            read_rate: rates.read_rate,
            write_rate: rates.write_rate,
            idle_s: (self.last.load(Ordering::Relaxed) > 0).then(|| self.idle_s()),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn asked(&self, read: usize, written: u64) -> Result<(), DeviceError> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(DeviceError::Io {
                action: "use a root that is the machine's no more",
                source: io::ErrorKind::NotConnected.into(),
            });
        }
        self.last.store(self.now_ms() + 1, Ordering::Relaxed);
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        self.written.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }
}

/// The disk of a [`Live`] layer, as clients use it.
#[derive(Debug)]
pub(crate) struct Disk(pub(crate) Arc<Live>);

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.0.disk.size()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.0.asked(buf.len(), 0)?;
        self.0.disk.read(offset, buf)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DeviceError> {
        let there = self.0.disk.read_now(offset, buf)?;
        if there {
            self.0.asked(buf.len(), 0)?;
        }
        Ok(there)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DeviceError> {
        self.0.asked(0, data.len() as u64)?;
        self.0.disk.write(offset, data, durability)
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Result<bool, DeviceError> {
        self.0.asked(0, 0)?;
        let done = self.0.disk.write_now(offset, data)?;
        if done {
            self.0.asked(0, data.len() as u64)?;
        }
        Ok(done)
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        self.0.asked(0, 0)?;
        self.0.disk.write_zeroes(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        self.0.asked(0, 0)?;
        self.0.disk.discard(offset, length)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.0.asked(0, 0)?;
        self.0.disk.flush()
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, DeviceError> {
        self.0.disk.extents(offset, length, limit)
    }
}
