//! AoE: a machine is told from others by its MAC address, and sees its own disk alone.

use crate::live::{Disk, Live};
use crate::service::{PrepareError, Service};
use bugler_aoe::{Address, Identity, Keep, Options, Seen, Target, Targets};
use bugler_disk::Durability;
use bugler_model::{Export, ExportId, ExportProtocol, MacAddr};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which disk a machine sees.
pub struct AoeTargets {
    service: Arc<Service>,
    keep: Arc<dyn Keep>,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Default)]
struct Shown {
    open: HashMap<ExportId, (Arc<Live>, Seen)>,
    /// Those that a thread is opening.
    opening: HashSet<ExportId>,
}

impl AoeTargets {
    /// Those of a service. What clients set on their targets is kept by `keep`.
    #[must_use]
    pub fn new(service: Arc<Service>, keep: Arc<dyn Keep>) -> Arc<Self> {
        Arc::new(Self {
            service,
            keep,
            shown: Arc::default(),
        })
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a disk on a thread of its own: it may have to wait for one.
    fn open(&self, export: Export) {
        let (service, keep, shown) = (self.service.clone(), self.keep.clone(), self.shown.clone());
        let id = export.id;
        let work = move || {
            let opened = open(&service, keep, &export);
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.opening.remove(&export.id);
            match opened {
                Ok(opened) => {
                    shown.open.insert(export.id, opened);
                }
                Err(error) => {
                    tracing::warn!("the layer {} cannot be served over AoE: {error}", export.id);
                }
            }
        };
        let started = std::thread::Builder::new()
            .name("aoe-open".into())
            .spawn(work);
        if let Err(error) = started {
            tracing::warn!("no thread to open a layer: {error}");
            self.shown().opening.remove(&id);
        }
    }
}

fn open(
    service: &Arc<Service>,
    keep: Arc<dyn Keep>,
    export: &Export,
) -> Result<(Arc<Live>, Seen), PrepareError> {
    let failed = |why: String| PrepareError::NotServed(ExportProtocol::Aoe, why);
    let address = Address::new(export.aoe_address.shelf, export.aoe_address.slot)
        .map_err(|error| failed(error.to_string()))?;
    let live = service.live(export)?;
    let options = Options {
        name: export.id.to_string(),
        address,
        identity: Identity {
            model: "Bugler".into(),
            serial: export.id.to_string(),
        },
        durability: if export.durable {
            Durability::Durable
        } else {
            Durability::Cached
        },
    };
    let disk = Arc::new(Disk(live.clone()));
    let target = Target::open(options, disk, keep).map_err(|error| failed(error.to_string()))?;
    Ok((live, [Arc::new(target)].into()))
}

impl Targets for AoeTargets {
    fn targets_for(&self, mac: MacAddr) -> Option<Seen> {
        let export = self.service.of_mac(mac)?;
        if export.over != ExportProtocol::Aoe {
            return Some([].into());
        }
        let current = self.service.lives().get(&export.id).cloned();
        let mut shown = self.shown();
        if let Some((live, seen)) = shown.open.get(&export.id) {
            if current.is_some_and(|current| Arc::ptr_eq(&current, live)) {
                return Some(seen.clone());
            }
            // It was closed, or is another boot's: the old one must be gone before it is opened again.
            shown.open.remove(&export.id);
        }
        if shown.opening.insert(export.id) {
            drop(shown);
            self.open(export);
        }
        Some([].into())
    }
}
