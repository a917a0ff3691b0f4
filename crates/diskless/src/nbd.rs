//! NBD: a machine shows by the name that it asks for, a secret of its boot, whose disk it may have.

use crate::live::{Disk, Live};
use crate::service::Service;
use bugler_model::{ExportId, ExportProtocol};
use bugler_nbd::{Export, Exports, Peer, Refusal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Which disk a machine gets.
pub struct NbdExports {
    service: Arc<Service>,
    /// All connections to one layer use one export: a flush on one of them is for all.
    open: Mutex<HashMap<ExportId, Served>>,
}

/// A layer, and what is served of it.
type Served = (Arc<Live>, Arc<Export>);

impl NbdExports {
    /// Those of a service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Arc<Self> {
        Arc::new(Self {
            service,
            open: Mutex::default(),
        })
    }

    fn live_of(&self, export: &Arc<Export>) -> Option<Arc<Live>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values()
            .find(|(_, other)| Arc::ptr_eq(export, other))
            .map(|(live, _)| live.clone())
    }
}

impl Exports for NbdExports {
    fn open(&self, name: &str, _peer: &Peer) -> Result<Arc<Export>, Refusal> {
        let export = self
            .service
            .of_token(name, ExportProtocol::Nbd)
            .ok_or(Refusal::Unknown)?;
        let live = self.service.live(&export).map_err(|error| {
            tracing::warn!("the layer {} cannot be served over NBD: {error}", export.id);
            Refusal::Denied(error.to_string())
        })?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, export)) = open.get(&export.id)
            && Arc::ptr_eq(known, &live)
        {
            return Ok(export.clone());
        }
        let shown = Export::new(
            Arc::new(Disk(live.clone())),
            format!("{} ({})", export.label, export.id),
        );
        open.insert(export.id, (live, shown.clone()));
        Ok(shown)
    }

    fn attached(&self, _name: &str, peer: &Peer, export: &Arc<Export>) {
        if let Some(live) = self.live_of(export) {
            live.came(peer.address.to_string());
        }
    }

    fn detached(&self, _name: &str, peer: &Peer, export: &Arc<Export>, why: Option<&str>) {
        let Some(live) = self.live_of(export) else {
            return;
        };
        live.went(&peer.address.to_string());
        if let Some(why) = why {
            tracing::info!("{} has left its disk {}: {why}", peer.address, live.id);
        }
        if !live.is_connected() {
            // The next connection makes it again; a layer is not held open by who has left.
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|id, _| *id != live.id);
        }
    }
}
