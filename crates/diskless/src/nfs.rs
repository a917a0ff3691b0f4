//! NFS: a machine shows by the path that it mounts, a secret of its boot, whose tree it may have. The
//! handles that it gets there are proof from then on, after a restart of the server as well.

use crate::root::System;
use crate::service::{PrepareError, Service};
use bugler_fsread::Window;
use bugler_model::{Export, ExportId, ExportProtocol, OverlayKind};
use bugler_nfs::{
    Export as Shown, ExportId as HandleId, Exports, ImageTree, Layer, LayerOptions, MountStatus,
    Status, Tree, Usage,
};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The trees of machines that run over NFS.
#[derive(Default)]
pub(crate) struct Trees {
    open: Mutex<HashMap<ExportId, Arc<Shown>>>,
    /// Shared trees, by the image's content.
    shared: Mutex<HashMap<String, Weak<dyn Tree>>>,
}

fn handle_id(id: ExportId) -> HandleId {
    let mut bytes = [0; 16];
    if let Some(low) = bytes.last_chunk_mut::<8>() {
        *low = id.0.to_be_bytes();
    }
    HandleId(bytes)
}

fn export_id(id: HandleId) -> Option<ExportId> {
    let number = u64::from_be_bytes(*id.0.last_chunk()?);
    (handle_id(ExportId(number)) == id).then_some(ExportId(number))
}

fn failed(error: impl std::fmt::Display) -> PrepareError {
    PrepareError::NotServed(ExportProtocol::Nfs, error.to_string())
}

impl Service {
    pub(crate) fn tree_folder(&self, id: ExportId) -> PathBuf {
        self.path(id).with_extension("tree")
    }

    /// The root filesystem of an image, which all its machines share. Blocks.
    fn shared_tree(&self, export: &Export) -> Result<Arc<dyn Tree>, PrepareError> {
        let shared = self.trees.shared.lock();
        let mut shared = shared.unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = shared.get(&export.manifest).and_then(Weak::upgrade) {
            return Ok(tree);
        }
        let base = self.base(&export.label, &export.manifest)?;
        let sector_size = base.manifest().sector_size;
        let place = System::find(&base, sector_size)?.place;
        let volume = Window::new(base, place.start, place.size);
        let tree: Arc<dyn Tree> = Arc::new(ImageTree::open(volume).map_err(failed)?);
        shared.retain(|_, tree| tree.strong_count() > 0);
        shared.insert(export.manifest.clone(), Arc::downgrade(&tree));
        Ok(tree)
    }

    /// The tree that a machine sees; opened where it is not. Blocks.
    pub(crate) fn shown_tree(&self, export: &Export) -> Result<Arc<Shown>, PrepareError> {
        let open = self.trees.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = open.get(&export.id)
            && !shown.is_stopped()
        {
            return Ok(shown.clone());
        }
        let options = LayerOptions {
            export: handle_id(export.id),
            base: export.manifest.clone(),
            quota: Some(export.overlay_size),
            durable: export.overlay == OverlayKind::Persistent && export.durable,
        };
        let tree = self.shared_tree(export)?;
        let layer = Layer::open(&self.tree_folder(export.id), tree, &options).map_err(failed)?;
        let shown = Arc::new(Shown::start(layer).map_err(failed)?);
        open.insert(export.id, shown.clone());
        Ok(shown)
    }

    /// What the tree of a machine has done, where it is open.
    pub(crate) fn tree_usage(&self, id: ExportId) -> Option<Usage> {
        let open = self.trees.open.lock();
        let open = open.unwrap_or_else(PoisonError::into_inner);
        open.get(&id).map(|shown| shown.usage())
    }

    /// Ends the service of a tree. Blocks.
    pub(crate) fn close_tree(&self, id: ExportId) {
        let shown = {
            let open = self.trees.open.lock();
            open.unwrap_or_else(PoisonError::into_inner).remove(&id)
        };
        if let Some(shown) = shown {
            shown.stop();
        }
    }

    /// Ends the service of all trees. Blocks.
    pub(crate) fn close_trees(&self) {
        let all = {
            let open = self.trees.open.lock();
            std::mem::take(&mut *open.unwrap_or_else(PoisonError::into_inner))
        };
        for shown in all.into_values() {
            shown.stop();
        }
    }

    /// Removes the layer of a tree that was closed.
    pub(crate) fn remove_tree(&self, id: ExportId) -> io::Result<()> {
        match fs::remove_dir_all(self.tree_folder(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Which tree a machine gets.
pub struct NfsExports(Arc<Service>);

impl NfsExports {
    /// Those of a service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Arc<Self> {
        Arc::new(Self(service))
    }
}

impl Exports for NfsExports {
    fn open(&self, peer: SocketAddr, path: &[u8]) -> Result<Arc<Shown>, MountStatus> {
        let name = std::str::from_utf8(path).map_err(|_| MountStatus::NoEntry)?;
        let token = name.trim_start_matches('/');
        let export = self
            .0
            .of_token(token, ExportProtocol::Nfs)
            .ok_or(MountStatus::NoEntry)?;
        self.0.shown_tree(&export).map_err(|error| {
            tracing::warn!("{peer} cannot have the tree of {}: {error}", export.id);
            MountStatus::Fault
        })
    }

    fn find(&self, peer: SocketAddr, export: HandleId) -> Result<Arc<Shown>, Status> {
        let id = export_id(export).ok_or(Status::Stale)?;
        let known = self.0.export(id).ok_or(Status::Stale)?;
        if !known.current || known.over != ExportProtocol::Nfs {
            return Err(Status::Stale);
        }
        self.0.shown_tree(&known).map_err(|error| {
            tracing::warn!("{peer} cannot have the tree of {id}: {error}");
            Status::Later
        })
    }
}
