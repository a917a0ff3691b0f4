//! What operators do with layers.

use crate::live::Live;
use crate::service::Service;
use bugler_api::{NewVersion, OverlayError, Overlays};
use bugler_disk::{BlockDevice, Overlay};
use bugler_images::CaptureError;
use bugler_model::{Export, ExportId, ExportProtocol, ImageName, NewImage, Timestamp};
use bugler_nfs::Layer;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkRef, Manifest};
use bugler_protocol::operator::OverlayView;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Effort of zstd for chunks of a commit: as for captures.
const LEVEL: i32 = 1;
/// Runs of a layer that are looked at at once.
const RUNS: usize = 1024;
/// A machine that has asked for something so recently is running, in seconds.
const RUNNING_S: u64 = 30;

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}

fn broken(error: impl Error) -> OverlayError {
    OverlayError::Broken(chain(&error))
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Service {
    fn known(&self, id: ExportId) -> Result<Export, OverlayError> {
        self.export(id).ok_or_else(|| {
            OverlayError::NotFound(format!(
                "there is no layer {id}: `bugler overlay list` shows those that there are"
            ))
        })
    }

    /// Refuses what a running machine would not survive.
    fn check_idle(&self, id: ExportId, running: bool, what: &str) -> Result<(), OverlayError> {
        let on_tree = self
            .tree_usage(id)
            .is_some_and(|usage| usage.connections > 0);
        if on_tree && !running {
            return Err(runs(id, what));
        }
        let live = self.lives().get(&id).cloned();
        let busy = live.filter(|live| {
            let usage = live.usage();
            live.is_connected() || usage.idle_s.is_some_and(|idle| idle < RUNNING_S)
        });
        match busy {
            Some(_) if !running => Err(runs(id, what)),
            _ => Ok(()),
        }
    }

    fn view(&self, mut export: Export) -> OverlayView {
        if export.over == ExportProtocol::Nfs {
            return self.view_tree(export);
        }
        let live = self.lives().get(&export.id).cloned();
        let label = export.device.to_string();
        let (mut used, mut stored, mut problem) = (0, 0, None);
        match &live {
            Some(live) => {
                let usage = live.disk.usage();
                (used, stored) = (usage.data_bytes, usage.file_bytes);
                export.overlay_size = usage.quota;
                if used + (1 << 20) > export.overlay_size {
                    problem = Some("it is full: grow or reset it".to_owned());
                }
            }
            None => match Overlay::inspect(self.path(export.id)) {
                Ok(info) => {
                    (used, stored) = (info.data_bytes.unwrap_or_default(), info.file_bytes);
                    export.overlay_size = info.quota;
                }
                Err(error) if self.path(export.id).exists() => problem = Some(chain(&error)),
                Err(_) => {}
            },
        }
        let mut usage = live.map(|live| live.usage()).unwrap_or_default();
        // AoE has no connections: who asked a moment ago is there.
        if export.over == ExportProtocol::Aoe && usage.idle_s.is_some_and(|idle| idle < RUNNING_S) {
            usage.clients.push("over AoE".to_owned());
        }
        OverlayView {
            export,
            device: label,
            used,
            stored,
            clients: usage.clients,
            read: usage.read,
            written: usage.written,
            read_rate: usage.read_rate,
            write_rate: usage.write_rate,
            idle_s: usage.idle_s,
            problem,
        }
    }

    fn view_tree(&self, mut export: Export) -> OverlayView {
        let usage = self.tree_usage(export.id);
        let now_s = u64::try_from(now().0 / 1000).unwrap_or_default();
        export.overlay_size = match usage {
            Some(usage) => usage.quota,
            None => {
                let granted = Layer::granted(&self.tree_folder(export.id));
                export.overlay_size.max(granted.unwrap_or(0))
            }
        };
        let usage = usage.unwrap_or_default();
        let connected = vec!["over NFS".to_owned(); usage.connections.min(1) as usize];
        OverlayView {
            device: export.device.to_string(),
            used: usage.taken,
            stored: usage.taken,
            clients: connected,
            read: usage.read,
            written: usage.written,
            read_rate: 0,
            write_rate: 0,
            idle_s: (usage.last_call > 0).then(|| now_s.saturating_sub(usage.last_call)),
            problem: None,
            export,
        }
    }

    /// Changes what a layer of files may take. Blocks.
    fn grow_tree(&self, export: &Export, size: u64) -> Result<(), OverlayError> {
        let shown = self.shown_tree(export).map_err(broken)?;
        let holds = shown.usage().taken;
        if size < holds {
            return Err(holds_more(export.id, holds, size));
        }
        shown.grow(size).map_err(|status| {
            OverlayError::Broken(format!(
                "could not keep the new limit of the layer {}: {status}; the server's log says why",
                export.id
            ))
        })
    }

    /// What is for disks alone.
    fn with_blocks(&self, id: ExportId, what: &str, instead: &str) -> Result<Export, OverlayError> {
        let export = self.known(id)?;
        match export.over {
            ExportProtocol::Nfs => Err(OverlayError::Conflict(format!(
                "could not {what} the layer {id}: it is one of files (NFS). {instead}"
            ))),
            _ => Ok(export),
        }
    }

    /// Puts base and layer into the chunk store. Blocks.
    fn make_version(
        &self,
        export: &Export,
        name: ImageName,
        note: String,
    ) -> Result<NewVersion, OverlayError> {
        let live = self.live(export).map_err(broken)?;
        live.disk.flush().map_err(broken)?;
        let base = export.manifest.parse().map_err(broken)?;
        let base = self.images.manifest(&base).map_err(broken)?;
        let key = format!("commit-{}", export.id);
        let session = self.images.begin_capture(&key).map_err(broken)?;
        let made = commit(&live, &base, |frame| session.take(frame));
        let result = made.and_then(|manifest| session.commit(&manifest.encode()).map_err(full));
        let captured = match result {
            Ok(captured) => captured,
            Err(error) => {
                session.discard();
                return Err(error);
            }
        };
        Ok(NewVersion {
            image: NewImage {
                name,
                note,
                origin: None,
                manifest: captured.manifest.to_string(),
                size: captured.disk_size,
                used: captured.used_bytes,
                stored: captured.stored_bytes,
                sector_size: captured.sector_size,
            },
            new: captured.new_bytes,
            hold: Arc::new(captured.hold),
        })
    }
}

fn holds_more(id: ExportId, holds: u64, size: u64) -> OverlayError {
    OverlayError::Conflict(format!(
        "the layer {id} holds {holds} bytes already: it cannot be held to {size}"
    ))
}

fn runs(id: ExportId, what: &str) -> OverlayError {
    OverlayError::Conflict(format!(
        "could not {what} the layer {id}: its machine runs on it. Shut it down first, or say --running"
    ))
}

fn full(error: CaptureError) -> OverlayError {
    match error {
        CaptureError::NoRoom { .. } => OverlayError::Conflict(chain(&error)),
        error => broken(error),
    }
}

/// The manifest of a base with a layer on top. `take` gets each chunk that is not as in the base.
fn commit(
    live: &Live,
    base: &Manifest,
    take: impl Fn(&[u8]) -> Result<bugler_protocol::manifest::ChunkHash, CaptureError>,
) -> Result<Manifest, OverlayError> {
    let mut chunks: BTreeMap<u32, ChunkRef> = base
        .chunks
        .iter()
        .map(|chunk| (chunk.index, *chunk))
        .collect();
    let size = live.disk.size();
    let mut buffer = vec![0; CHUNK_SIZE as usize];
    // The last chunk that was looked at: runs of a layer come in order, and many are in one chunk.
    let mut next = 0_u64;
    let mut from = 0;
    loop {
        let runs = live.disk.held(from, RUNS);
        let Some(last) = runs.last() else { break };
        from = last.offset + last.length;
        for run in runs {
            let first = (run.offset / u64::from(CHUNK_SIZE)).max(next);
            let end = (run.offset + run.length).div_ceil(u64::from(CHUNK_SIZE));
            for number in first..end {
                let start = number * u64::from(CHUNK_SIZE);
                let length = u64::from(CHUNK_SIZE).min(size.saturating_sub(start));
                let length = usize::try_from(length).map_err(broken)?;
                let index = u32::try_from(number).map_err(broken)?;
                let content = buffer.get_mut(..length).unwrap_or_default();
                live.disk.read(start, content).map_err(broken)?;
                if content.iter().all(|byte| *byte == 0) {
                    chunks.remove(&index);
                    continue;
                }
                let hash = bugler_protocol::manifest::ChunkHash(*blake3::hash(content).as_bytes());
                if chunks.get(&index).is_some_and(|chunk| chunk.hash == hash) {
                    continue;
                }
                let frame = zstd::bulk::compress(content, LEVEL).map_err(broken)?;
                let stored_len = u32::try_from(frame.len()).map_err(broken)?;
                let hash = take(&frame).map_err(full)?;
                let chunk = ChunkRef {
                    index,
                    stored_len,
                    hash,
                };
                chunks.insert(index, chunk);
            }
            next = next.max(end);
        }
    }
    Ok(Manifest {
        disk_size: size,
        sector_size: base.sector_size,
        chunks: chunks.into_values().collect(),
    })
}

#[async_trait::async_trait]
impl Overlays for Shared {
    async fn list(&self) -> Result<Vec<OverlayView>, OverlayError> {
        let own = self.0.clone();
        let mut views = tokio::task::spawn_blocking(move || {
            let exports = own.exports().into_iter();
            exports.map(|export| own.view(export)).collect::<Vec<_>>()
        })
        .await
        .map_err(broken)?;
        for view in &mut views {
            if let Ok(device) = self.0.store.device(view.export.device).await {
                view.device = device.label();
            }
        }
        Ok(views)
    }

    async fn reset(&self, id: ExportId, running: bool) -> Result<(), OverlayError> {
        self.0.known(id)?;
        self.0.check_idle(id, running, "reset")?;
        self.0.forget(id, now()).await.map_err(broken)?;
        let own = self.0.clone();
        tokio::task::spawn_blocking(move || {
            own.close(id);
            own.close_tree(id);
            own.remove_tree(id).map_err(broken)?;
            own.remove_layer(id).map_err(broken)
        })
        .await
        .map_err(broken)?
    }

    async fn grow(&self, id: ExportId, size: u64) -> Result<(), OverlayError> {
        let export = self.0.known(id)?;
        let own = self.0.clone();
        tokio::task::spawn_blocking(move || {
            if export.over == ExportProtocol::Nfs {
                return own.grow_tree(&export, size);
            }
            let live = own.live(&export).map_err(broken)?;
            let holds = live.disk.usage().data_bytes;
            if size < holds {
                return Err(holds_more(id, holds, size));
            }
            live.disk.set_quota(size).map_err(broken)
        })
        .await
        .map_err(broken)?
    }

    async fn commit(
        &self,
        id: ExportId,
        name: ImageName,
        note: String,
        running: bool,
    ) -> Result<NewVersion, OverlayError> {
        let instead = "Machines over nbd and aoe can be committed";
        let export = self.0.with_blocks(id, "commit", instead)?;
        self.0.check_idle(id, running, "commit")?;
        let own = self.0.clone();
        tokio::task::spawn_blocking(move || own.make_version(&export, name, note))
            .await
            .map_err(broken)?
    }
}

/// The service as the operator plane knows it.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<Service>);
