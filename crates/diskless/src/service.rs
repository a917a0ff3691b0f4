//! Who runs from what.
//!
//! ```text
//! a device asks what to boot --> prepare(): image --> layer --> kernel, initramfs, token
//!                                              registry (exports)
//! NBD: token   --\
//!                 +--> Live: the device's own layer over the version that it booted
//! AoE: MAC     --/                       |
//!                              <state>/layers/x3.layer over the chunk cache
//! NFS: token   -----> its own layer of files, <state>/layers/x3.tree, over the image's root
//! ```
//!
//! The registry says which export each device booted last; it is mirrored here, so that a frame or a
//! connection is answered without asking it. A layer is opened when it is first used and closed when
//! nobody has used it for a while.

use crate::live::Live;
use crate::nfs::Trees;
use crate::root::{RootError, RootPlace, System};
use crate::start::{Start, StartError, Starts};
use bugler_disk::{BaseRead, BlockDevice, Overlay, OverlayError, OverlayOptions};
use bugler_fsread::ReadAt;
use bugler_images::{ChunkCache, ChunkStore, StoreError as ImageError};
use bugler_model::{
    DeviceId, Diskless, DisklessStart, Export, ExportId, ExportProtocol, Image, ImageState,
    MacAddr, NewExport, OverlayKind, Timestamp,
};
use bugler_protocol::manifest::ChunkHash;
use bugler_store::{KnownExport, Store, StoreError, TokenHash};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

/// How long a token is good beside the latest one of its export, and how many are remembered.
const GIVEN_FOR: Duration = Duration::from_secs(60);
const MOST_GIVEN: usize = 4096;

/// How often, and after which pause, a layer is tried that somebody is closing.
const LOCKED_TRIES: u32 = 100;
const LOCKED_WAIT: Duration = Duration::from_millis(50);

/// Why a machine cannot run diskless now. The text is for the operator and for the machine's screen.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chunk store.
    #[error("the image {label} cannot be read")]
    Image {
        /// The image.
        label: String,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// The image is known to be damaged.
    #[error("the image {0} is damaged: `bugler image verify` says where; add it again")]
    Damaged(String),
    /// Nothing here serves that.
    #[error("roots over {0} are not served: {1}")]
    NotServed(ExportProtocol, String),
    /// The machine's own layer.
    #[error(transparent)]
    Layer(#[from] OverlayError),
    /// What is in the image.
    #[error(transparent)]
    Root(#[from] RootError),
    /// What a Raspberry Pi asks for.
    #[error(transparent)]
    Pi(#[from] bugler_pifiles::SourceError),
    /// What it is started with.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Work for a blocking thread ended early.
    #[error("looking into the image ended early: {0}")]
    Ended(String),
}

/// What a machine that boots diskless is told.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What it runs.
    pub export: Export,
    /// Its kernel and initramfs; `None`: its boot sector starts it.
    pub start: Option<Start>,
    /// Where its root is on the disk that it sees.
    pub root: Option<RootPlace>,
}

/// What the service is made from.
pub struct Parts {
    /// The registry.
    pub store: Arc<dyn Store>,
    /// The chunk store.
    pub images: Arc<ChunkStore>,
    /// The folder of layers.
    pub layers: PathBuf,
    /// Most bytes of unpacked chunks that are kept in memory.
    pub cache: u64,
    /// What machines are started with.
    pub starts: Arc<Starts>,
}

/// A token, for which export it was made, and when.
#[derive(Clone, Copy, Debug)]
struct Given {
    token: TokenHash,
    export: ExportId,
    at: Instant,
}

/// The roots of diskless machines.
pub struct Service {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) images: Arc<ChunkStore>,
    cache: Arc<ChunkCache>,
    layers: PathBuf,
    pub(crate) starts: Arc<Starts>,
    pub(crate) known: RwLock<Vec<KnownExport>>,
    /// Tokens that were given a moment ago, the latest at the end: a firmware may fetch its script twice
    /// and run the first.
    given: Mutex<VecDeque<Given>>,
    live: Mutex<HashMap<ExportId, Arc<Live>>>,
    pub(crate) trees: Trees,
    /// Layers that were closed while a client still held them. Taken before `live`.
    pub(crate) closed: Mutex<HashMap<ExportId, Weak<Overlay>>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Opens it: knows what the registry knows, and removes layers that it does not.
    ///
    /// # Errors
    /// Where the registry does not answer, or the folder of layers cannot be made.
    pub async fn open(parts: Parts) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&parts.layers)?;
        let service = Arc::new(Self {
            cache: ChunkCache::new(&parts.images, parts.cache)?,
            store: parts.store,
            images: parts.images,
            layers: parts.layers,
            starts: parts.starts,
            known: RwLock::default(),
            given: Mutex::default(),
            live: Mutex::default(),
            trees: Trees::default(),
            closed: Mutex::default(),
        });
        service.refresh().await.map_err(io::Error::other)?;
        service.remove_strays()?;
        Ok(service)
    }

    /// What the registry has.
    async fn refresh(&self) -> Result<(), StoreError> {
        let known = self.store.exports().await?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Layers whose device was forgotten, and what was being made when the server was killed.
    fn remove_strays(&self) -> io::Result<()> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(&self.layers)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str());
            let id: Option<ExportId> = id.and_then(|id| id.parse().ok());
            let whole = ["layer", "tree"]
                .iter()
                .any(|kind| path.extension().is_some_and(|ext| ext == *kind));
            let is_known = id.is_some_and(|id| known.iter().any(|k| k.export.id == id));
            if !(whole && is_known) {
                tracing::info!("removing {}, which is no device's layer", path.display());
                if path.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else {
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    /// The folder of kernels and initramfs: `<arch>/<version>/{vmlinuz,initrd}`.
    #[must_use]
    pub fn starts(&self) -> &Arc<Starts> {
        &self.starts
    }

    /// Gives a device its root: finds the version, its layer, its kernel; makes what is missing. `token`
    /// is the name by which it will ask for its export.
    ///
    /// # Errors
    /// [`PrepareError`]; [`StartError::NotYet`] where it takes a while: ask again.
    pub async fn prepare(
        self: &Arc<Self>,
        device: DeviceId,
        wanted: &Diskless,
        token: &str,
        now: Timestamp,
    ) -> Result<Ready, PrepareError> {
        let image = self.image_of(wanted).await?;
        let (root, start) = self.look(device, image.clone(), wanted).await?;
        let new = NewExport {
            device,
            image: image.id,
            over: wanted.over,
            overlay: wanted.overlay,
            overlay_size: wanted.overlay_size,
            durable: wanted.durable,
            aoe_address: wanted.aoe_address,
        };
        let export = self.begin(new, token, now).await?;
        let (starts, noted) = (self.starts.clone(), start.clone());
        tokio::task::spawn_blocking(move || starts.boots(device, noted.as_ref()))
            .await
            .map_err(|error| PrepareError::Ended(error.to_string()))?;
        Ok(Ready {
            export,
            start,
            root,
        })
    }

    /// What a device would be started with now. Nothing is changed, but that what is missing is made.
    ///
    /// # Errors
    /// As [`Service::prepare`].
    pub async fn start_of(
        self: &Arc<Self>,
        device: DeviceId,
        wanted: &Diskless,
    ) -> Result<Option<Start>, PrepareError> {
        let image = self.image_of(wanted).await?;
        Ok(self.look(device, image, wanted).await?.1)
    }

    pub(crate) async fn image_of(&self, wanted: &Diskless) -> Result<Image, PrepareError> {
        let image = self.store.image(&wanted.image.to_string()).await?;
        if image.state == ImageState::Damaged {
            return Err(PrepareError::Damaged(image.label()));
        }
        Ok(image)
    }

    /// The layer that a device will find again on an image, where it has one that can be looked into. An
    /// empty layer is as the image is; of a layer of files the image alone is looked at.
    pub(crate) fn old_layer(
        &self,
        device: DeviceId,
        image: &Image,
        wanted: &Diskless,
    ) -> Option<Export> {
        let has_blocks = wanted.over != ExportProtocol::Nfs;
        self.of_image(device, image, wanted.over)
            .filter(|_| wanted.overlay == OverlayKind::Persistent && has_blocks)
    }

    async fn look(
        self: &Arc<Self>,
        device: DeviceId,
        image: Image,
        wanted: &Diskless,
    ) -> Result<(Option<RootPlace>, Option<Start>), PrepareError> {
        let old = self.old_layer(device, &image, wanted);
        let (own, how) = (self.clone(), wanted.start);
        tokio::task::spawn_blocking(move || own.look_into(&image, old.as_ref(), how))
            .await
            .map_err(|error| PrepareError::Ended(error.to_string()))?
    }

    async fn begin(
        self: &Arc<Self>,
        new: NewExport,
        token: &str,
        now: Timestamp,
    ) -> Result<Export, PrepareError> {
        let (device, kind) = (new.device, new.overlay);
        let earlier = self.current(device).map(|known| known.export.id);
        let export = self.store.begin_export(new, token_hash(token), now).await?;
        self.refresh().await?;
        self.give(token_hash(token), export.id);
        // The machine has left what it ran before, and an ephemeral layer ends with its boot.
        if let Some(earlier) = earlier.filter(|earlier| *earlier != export.id) {
            self.close(earlier);
        }
        let (own, opened) = (self.clone(), export.clone());
        tokio::task::spawn_blocking(move || {
            if opened.over == ExportProtocol::Nfs {
                // What it holds open is settled; another quota and an empty layer begin with the boot.
                own.close_tree(opened.id);
                if kind == OverlayKind::Ephemeral {
                    own.remove_tree(opened.id)
                        .map_err(|source| OverlayError::Io {
                            action: "remove",
                            path: own.path(opened.id),
                            source,
                        })?;
                }
                return own.shown_tree(&opened).map(drop);
            }
            if kind == OverlayKind::Ephemeral {
                own.close(opened.id);
                own.remove_layer(opened.id)?;
            }
            let live = own.live(&opened)?;
            // What an operator has given beyond its profile stays.
            let quota = live.disk.usage().quota.max(opened.overlay_size);
            live.disk
                .set_quota(quota)
                .map_err(|error| OverlayError::Io {
                    action: "set the quota of",
                    path: own.path(opened.id),
                    source: io::Error::other(error),
                })?;
            Ok::<_, PrepareError>(())
        })
        .await
        .map_err(|error| PrepareError::Ended(error.to_string()))??;
        Ok(export)
    }

    /// Looks for the root and the kernel of what a device would see. Blocks.
    fn look_into(
        self: &Arc<Self>,
        image: &Image,
        layer: Option<&Export>,
        how: DisklessStart,
    ) -> Result<(Option<RootPlace>, Option<Start>), PrepareError> {
        if how == DisklessStart::Sanboot {
            return Ok((None, None));
        }
        let source = self.seen(image, layer)?;
        let system = System::find(&*source, image.sector_size)?;
        let start = match how {
            DisklessStart::Image => self.starts.with_own(&system)?,
            _ => self.starts.with_agent(&system)?,
        };
        Ok((Some(system.place.clone()), Some(start)))
    }

    /// The disk that a machine sees: the image, with its own layer on top where it has one. Blocks.
    pub(crate) fn seen(
        &self,
        image: &Image,
        layer: Option<&Export>,
    ) -> Result<Box<dyn ReadAt + Send + Sync>, PrepareError> {
        Ok(match layer {
            Some(layer) => Box::new(View(self.live(layer)?)),
            None => Box::new(self.base(&image.label(), &image.manifest)?),
        })
    }

    pub(crate) fn base(
        &self,
        label: &str,
        manifest: &str,
    ) -> Result<bugler_images::CachedImage, PrepareError> {
        let failed = |source| PrepareError::Image {
            label: label.to_owned(),
            source,
        };
        let hash: ChunkHash = manifest
            .parse()
            .map_err(|_| PrepareError::Damaged(label.to_owned()))?;
        self.cache.open(&hash).map_err(failed)
    }

    /// The export of this image that a device has, over blocks or over files.
    fn of_image(&self, device: DeviceId, image: &Image, over: ExportProtocol) -> Option<Export> {
        let files = |over| over == ExportProtocol::Nfs;
        self.find(|export| {
            export.device == device && export.image == image.id && files(export.over) == files(over)
        })
        .map(|known| known.export)
    }

    fn find(&self, wanted: impl Fn(&Export) -> bool) -> Option<KnownExport> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|known| wanted(&known.export)).cloned()
    }

    /// What a device booted last.
    fn current(&self, device: DeviceId) -> Option<KnownExport> {
        self.find(|export| export.device == device && export.current)
    }

    /// The protocols by which machines reach what they run now.
    #[must_use]
    pub fn protocols(&self) -> Vec<ExportProtocol> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let current = known.iter().filter(|known| known.export.current);
        let mut all: Vec<ExportProtocol> = current.map(|known| known.export.over).collect();
        all.dedup();
        all
    }

    pub(crate) fn export(&self, id: ExportId) -> Option<Export> {
        self.find(|export| export.id == id)
            .map(|known| known.export)
    }

    pub(crate) fn exports(&self) -> Vec<Export> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| known.export.clone()).collect()
    }

    fn give(&self, token: TokenHash, export: ExportId) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|old| old.at.elapsed() < GIVEN_FOR);
        while given.len() >= MOST_GIVEN {
            given.pop_front();
        }
        given.push_back(Given {
            token,
            export,
            at: Instant::now(),
        });
    }

    fn was_given(&self, token: TokenHash, export: ExportId) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given
            .iter()
            .any(|one| one.token == token && one.export == export && one.at.elapsed() < GIVEN_FOR)
    }

    /// What the machine runs that was told this token in its latest boot.
    pub(crate) fn of_token(&self, token: &str, over: ExportProtocol) -> Option<Export> {
        let hash = token_hash(token);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut those = known
            .iter()
            .filter(|known| known.export.current && known.export.over == over);
        those
            .find(|known| known.token == hash || self.was_given(hash, known.export.id))
            .map(|known| known.export.clone())
    }

    /// What the machine with this interface booted last.
    pub(crate) fn of_mac(&self, mac: MacAddr) -> Option<Export> {
        let device = self.store.find_client(mac, None)?;
        self.current(device.id).map(|known| known.export)
    }

    pub(crate) fn path(&self, id: ExportId) -> PathBuf {
        self.layers.join(format!("{id}.layer"))
    }

    pub(crate) fn lives(&self) -> MutexGuard<'_, HashMap<ExportId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open layer of an export; opens it where it is not. Blocks.
    pub(crate) fn live(&self, export: &Export) -> Result<Arc<Live>, PrepareError> {
        // One after the other; frames that look for what is open do not wait for this.
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.lives().get(&export.id).cloned();
        if let Some(live) = open {
            if !live.disk.is_stopped() {
                return Ok(live);
            }
            // The server's disk was full, or failed: with what is durable it can go on once that is over.
            live.revoke();
            self.lives().remove(&export.id);
            closed.insert(export.id, Arc::downgrade(&live.disk));
        }
        // A client of an earlier boot, whose power was cut, may still be held for connected.
        let held = closed.remove(&export.id).and_then(|disk| disk.upgrade());
        let held = held.filter(|disk| !disk.give_up());
        let disk = match held {
            Some(disk) => disk,
            None => Arc::new(self.open_layer(export)?),
        };
        let opened = Live::new(export.id, disk);
        self.lives().insert(export.id, opened.clone());
        Ok(opened)
    }

    fn open_layer(&self, export: &Export) -> Result<Overlay, PrepareError> {
        let base: Arc<dyn BaseRead> = Arc::new(self.base(&export.label, &export.manifest)?);
        let path = self.path(export.id);
        let options = OverlayOptions {
            size: None,
            quota: (!path.exists()).then_some(export.overlay_size),
            durable: export.overlay == OverlayKind::Persistent,
        };
        let mut tries = 0;
        loop {
            match Overlay::open_or_create(&path, base.clone(), &options) {
                // The last of its users is just letting go of it.
                Err(OverlayError::Locked(_)) if tries < LOCKED_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCKED_WAIT);
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// Whoever uses it is cut off. What it holds stays as it is.
    pub(crate) fn close(&self, id: ExportId) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.lives().remove(&id);
        if let Some(live) = live {
            live.revoke();
            closed.insert(id, Arc::downgrade(&live.disk));
        }
        closed.retain(|_, disk| disk.strong_count() > 0);
    }

    /// Removes the file of a layer that was closed; who still has it open keeps it to himself.
    pub(crate) fn remove_layer(&self, id: ExportId) -> Result<(), OverlayError> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.remove(&id);
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OverlayError::Io {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Forgets an export in the registry and here.
    pub(crate) async fn forget(&self, id: ExportId, now: Timestamp) -> Result<(), StoreError> {
        self.store.remove_export(id, now).await?;
        self.refresh().await
    }
}

fn token_hash(token: &str) -> TokenHash {
    TokenHash(*blake3::hash(token.as_bytes()).as_bytes())
}

/// A machine's disk, to be looked into.
struct View(Arc<Live>);

impl ReadAt for View {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.disk.read(offset, buf).map_err(io::Error::other)
    }

    fn size(&self) -> u64 {
        self.0.disk.size()
    }
}
