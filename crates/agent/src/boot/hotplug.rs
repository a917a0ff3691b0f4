//! Drivers for what the machine is made of: modules by modalias, at start and for everything
//! that appears later.

use super::netlink::Uevents;
use crate::log::{Log, chain};
use bugler_kmod::Modules;
use rustix::io::Errno;
use rustix::system::finit_module;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How deep `/sys/devices` is walked; real trees end at half of it.
const MAX_DEPTH: usize = 32;

/// finit_module(2): the kernel is to unpack the file itself (Linux 5.17).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Counts what appears, so that others can wait for it.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    count: Mutex<u64>,
    changed: Condvar,
    settled: AtomicBool,
}

impl Arrivals {
    fn add(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn settle(&self) {
        self.settled.store(true, Ordering::SeqCst);
        self.add();
    }

    /// Whether drivers for everything that was there at the start have been loaded.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    /// Calls `look` now and after every arrival until it finds something, at most until `end`.
    pub(crate) fn wait_for<T>(
        &self,
        end: Instant,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        loop {
            let seen = *self.count.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = look() {
                return Some(found);
            }
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            while *count == seen {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                (count, _) = self
                    .changed
                    .wait_timeout(count, left)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Loads modules for ever: first for all that is there, then for what the kernel announces.
pub(crate) fn run(arrivals: &Arrivals, log: &Log) {
    // Before the walk, so that nothing that appears during it is missed.
    let uevents = Uevents::open();
    let mut loader = Loader::new(arrivals, log);
    if let Some(loader) = &mut loader {
        loader.load_for_everything(Path::new("/sys/devices"));
    }
    arrivals.settle();
    let uevents = match uevents {
        Ok(uevents) => uevents,
        Err(error) => {
            log.line(format!(
                "cannot listen to the kernel's announcements of devices: {error}; devices that \
                 appear from now on get no driver"
            ));
            return;
        }
    };
    loop {
        match uevents.next() {
            Ok(event) => {
                let alias = added_modalias(&event);
                if let (Some(loader), Some(alias)) = (&mut loader, alias) {
                    loader.load_for(&alias);
                }
            }
            // Announcements were lost: look at everything again.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                if let Some(loader) = &mut loader {
                    loader.load_for_everything(Path::new("/sys/devices"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                log.line(format!(
                    "the kernel's announcements of devices ended: {error}"
                ));
                return;
            }
        }
        arrivals.add();
    }
}

/// The modalias of an announcement of a new device.
fn added_modalias(event: &[u8]) -> Option<String> {
    let mut fields = event.split(|&byte| byte == 0);
    let mut is_new = false;
    let mut alias = None;
    fields.by_ref().for_each(|field| {
        if field == b"ACTION=add" {
            is_new = true;
        }
        if let Some(value) = field.strip_prefix(b"MODALIAS=") {
            alias = String::from_utf8(value.to_vec()).ok();
        }
    });
    alias.filter(|_| is_new)
}

/// Every different modalias below a folder of sysfs.
fn modaliases(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    if let Ok(text) = fs::read_to_string(dir.join("modalias")) {
        let text = text.trim();
        if !text.is_empty() {
            found.insert(text.to_owned());
        }
    }
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Links lead to other parts of the tree, and round in circles.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            modaliases(&entry.path(), depth - 1, found);
        }
    }
}

/// Whether a modalias is that of a network interface, or of what carries one: class 2 on PCI, an
/// interface on virtio.
fn is_network(alias: &str) -> bool {
    alias.starts_with("virtio:d00000001") || (alias.starts_with("pci:") && alias.contains("bc02"))
}

struct Loader<'a> {
    modules: Modules,
    arrivals: &'a Arrivals,
    log: &'a Log,
    aliases: BTreeSet<String>,
    tried: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    /// `None`, and a line in the log, where the boot environment has no modules for this kernel.
    fn new(arrivals: &'a Arrivals, log: &'a Log) -> Option<Self> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let dir = Path::new("/lib/modules").join(&release);
        match Modules::load(&dir) {
            Ok(modules) => Some(Self {
                modules,
                arrivals,
                log,
                aliases: BTreeSet::new(),
                tried: BTreeSet::new(),
            }),
            Err(error) => {
                let why = chain(&error);
                log.line(format!(
                    "no kernel modules: {why}; only built-in drivers work"
                ));
                None
            }
        }
    }

    /// Walks until a walk finds nothing new: a driver for a bus brings devices with it. Network
    /// interfaces come first, so that an address is asked for while the rest is loaded.
    fn load_for_everything(&mut self, devices: &Path) {
        let began = Instant::now();
        loop {
            let mut found = BTreeSet::new();
            modaliases(devices, MAX_DEPTH, &mut found);
            found.retain(|alias| !self.aliases.contains(alias));
            if found.is_empty() {
                break;
            }
            if found.iter().any(|alias| is_network(alias)) {
                found.retain(|alias| is_network(alias));
            }
            for alias in found {
                self.load_for(&alias);
            }
        }
        let (count, time) = (self.tried.len(), began.elapsed().as_millis());
        self.log.line(format!(
            "{count} kernel modules for this machine, in {time} ms"
        ));
    }

    fn load_for(&mut self, alias: &str) {
        if !self.aliases.insert(alias.to_owned()) {
            return;
        }
        let wanted = self.modules.resolve_alias(alias);
        for name in self.modules.closure(wanted) {
            if self.tried.insert(name.clone()) {
                self.load(&name);
                self.arrivals.add();
            }
        }
    }

    fn load(&self, name: &str) {
        let Some(path) = self.modules.path(name) else {
            return;
        };
        match insert(&path, c"") {
            Ok(()) => {}
            Err(error) => {
                let known = Errno::from_io_error(&error);
                match known {
                    Some(Errno::EXIST) => {}
                    // The driver looked and found nothing of its own: usual.
                    Some(Errno::NODEV) => {}
                    _ => self.log.line(format!(
                        "cannot load the kernel module {}: {error}; hardware that needs it will \
                         be missing",
                        path.display()
                    )),
                }
            }
        }
    }
}

/// Loads a module from its file, with parameters.
pub(crate) fn insert(path: &Path, parameters: &CStr) -> io::Result<()> {
    let file = File::open(path)?;
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if is_plain {
        0
    } else {
        MODULE_INIT_COMPRESSED_FILE
    };
    Ok(finit_module(&file, parameters, flags)?)
}

/// How long to look for something before saying that it is not there yet.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_device_is_told_from_the_rest() {
        let event = b"add@/devices/x\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v1\0SEQNUM=1\0";
        assert_eq!(added_modalias(event).as_deref(), Some("pci:v1"));
        let gone = b"remove@/devices/x\0ACTION=remove\0MODALIAS=pci:v1\0";
        assert_eq!(added_modalias(gone), None);
        assert_eq!(added_modalias(b"add@/x\0ACTION=add\0"), None);
        assert_eq!(added_modalias(b"\xff\0ACTION=add\0MODALIAS=\xff\0"), None);
    }

    #[test]
    fn interfaces_are_told_from_the_rest() {
        assert!(is_network(
            "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"
        ));
        assert!(is_network("virtio:d00000001v00001AF4"));
        assert!(!is_network(
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
        ));
        assert!(!is_network("virtio:d00000002v00001AF4") && !is_network("acpi:bc02:"));
    }

    #[test]
    fn modaliases_are_found_at_any_depth_once() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("modalias"), text).unwrap();
        };
        put("pci0/0.1", "pci:v1\n");
        put("pci0/0.1/virtio0", "virtio:d1\n");
        put("pci0/0.2", "pci:v1\n");
        put("platform", "\n");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("pci0/round")).unwrap();
        let mut found = BTreeSet::new();
        modaliases(dir.path(), MAX_DEPTH, &mut found);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["pci:v1", "virtio:d1"]
        );
    }

    #[test]
    fn an_arrival_wakes_who_waits_for_it() {
        let arrivals = Arrivals::default();
        let far = Instant::now() + Duration::from_secs(3600);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut looks = 0;
                arrivals.wait_for(far, || {
                    looks += 1;
                    (looks > 1).then_some("here")
                })
            });
            while !waiter.is_finished() {
                arrivals.add();
            }
            assert_eq!(waiter.join().unwrap(), Some("here"));
        });
        assert_eq!(arrivals.wait_for(Instant::now(), || None::<()>), None);
    }
}
