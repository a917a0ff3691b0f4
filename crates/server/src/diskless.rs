//! Serves the roots of diskless machines, from when the first profile needs it.

use crate::config::Config;
use crate::{bootenv, clock, network};
use anyhow::{Context, Result};
use bugler_diskless::{AoeTargets, FindAgent, NbdExports, NfsExports, Parts, Service, Starts};
use bugler_images::ChunkStore;
use bugler_model::{Arch, ExportProtocol};
use bugler_store::Store;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// What diskless machines reach.
pub(crate) struct Diskless {
    pub(crate) service: Arc<Service>,
    /// The TCP port of NBD.
    pub(crate) nbd_port: u16,
    nbd_listen: SocketAddr,
    /// The TCP port of NFS.
    pub(crate) nfs_port: u16,
    nfs_listen: SocketAddr,
    interfaces: Vec<String>,
    /// What AoE clients set on their disks.
    kept: PathBuf,
    services: network::Services,
    serving: Mutex<Serving>,
}

/// What listens.
#[derive(Default)]
struct Serving {
    nbd: Option<bugler_nbd::Server>,
    aoe: Option<bugler_aoe::Handle>,
    nfs: Option<JoinHandle<()>>,
}

impl Diskless {
    /// Opens the layers, and listens again for machines that run.
    ///
    /// # Errors
    /// Where the folder of layers cannot be used.
    pub(crate) async fn start(
        config: &Config,
        store: Arc<dyn Store>,
        images: Arc<ChunkStore>,
        services: network::Services,
    ) -> Result<Arc<Self>> {
        let folder = config.state_dir.join("diskless");
        let starts = Starts::new(
            folder.join("boot"),
            agent_of(config),
            config.bootenv.firmware.clone(),
        );
        let parts = Parts {
            store,
            images,
            layers: folder.join("layers"),
            cache: config.diskless.cache()?,
            starts: Arc::new(starts),
        };
        let service = Service::open(parts)
            .await
            .with_context(|| format!("could not open the layers in {}", folder.display()))?;
        let diskless = Arc::new(Self {
            service,
            nbd_port: config.diskless.nbd_listen.port(),
            nbd_listen: config.diskless.nbd_listen,
            nfs_port: config.diskless.nfs_listen.port(),
            nfs_listen: config.diskless.nfs_listen,
            interfaces: config.interfaces.iter().map(|i| i.name.clone()).collect(),
            kept: folder.join("aoe"),
            services,
            serving: Mutex::default(),
        });
        for over in diskless.service.protocols() {
            // Machines wait for it; a server that boots others is worth more than none.
            if let Err(why) = diskless.serve(over).await {
                tracing::warn!("machines that run over {over} do not reach their roots: {why}");
            }
        }
        tokio::spawn(diskless.service.clone().close_idle());
        Ok(diskless)
    }

    /// Sees to it that machines reach their roots by this protocol.
    ///
    /// # Errors
    /// Why they do not.
    pub(crate) async fn serve(&self, over: ExportProtocol) -> Result<(), String> {
        let mut serving = self.serving.lock().await;
        match over {
            ExportProtocol::Nbd if serving.nbd.is_none() => {
                let exports = NbdExports::new(self.service.clone());
                let nbd = bugler_nbd::Server::new(exports, bugler_nbd::Options::default())
                    .map_err(|error| clock::chain(&error))?;
                let listener = bind(self.nbd_listen, "nbd-listen")?;
                nbd.listen(listener).map_err(|error| clock::chain(&error))?;
                serving.nbd = Some(nbd);
                let line = format!("diskless machines: NBD on {}", self.nbd_listen);
                network::tell(&self.services, line);
            }
            ExportProtocol::Nfs if serving.nfs.is_none() => {
                let listener = bind(self.nfs_listen, "nfs-listen")?;
                listener
                    .set_nonblocking(true)
                    .map_err(|error| error.to_string())?;
                let listener =
                    TcpListener::from_std(listener).map_err(|error| error.to_string())?;
                let exports = NfsExports::new(self.service.clone());
                let options = bugler_nfs::ServeOptions::default();
                serving.nfs = Some(tokio::spawn(async move {
                    if let Err(error) = bugler_nfs::serve(listener, exports, options).await {
                        tracing::error!("NFS is served no more: {error}");
                    }
                }));
                let line = format!("diskless machines: NFS on {}", self.nfs_listen);
                network::tell(&self.services, line);
            }
            ExportProtocol::Aoe if serving.aoe.is_none() => {
                std::fs::create_dir_all(&self.kept).map_err(|error| error.to_string())?;
                let keep = bugler_aoe::Files::new(&self.kept);
                let targets = AoeTargets::new(self.service.clone(), Arc::new(keep));
                let config = bugler_aoe::Config::new(self.interfaces.clone());
                let started = tokio::task::spawn_blocking(move || {
                    bugler_aoe::Server::start(&config, targets)
                });
                let handle = started
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| clock::chain(&error))?;
                serving.aoe = Some(handle);
                let line = format!("diskless machines: AoE ({})", self.interfaces.join(", "));
                network::tell(&self.services, line);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends what listens, and makes everything durable.
    pub(crate) async fn stop(&self) {
        let serving = std::mem::take(&mut *self.serving.lock().await);
        if let Some(nfs) = &serving.nfs {
            nfs.abort();
        }
        let service = self.service.clone();
        let ended = tokio::task::spawn_blocking(move || {
            drop(serving);
            service.flush_all();
        });
        if let Err(error) = ended.await {
            tracing::warn!("the layers were not closed: {error}");
        }
    }
}

fn bind(address: SocketAddr, option: &str) -> Result<std::net::TcpListener, String> {
    std::net::TcpListener::bind(address).map_err(|error| {
        format!(
            "could not listen on {address}: {error}: see what uses that port (`ss -ltnp`), or choose \
             another with [diskless] {option}"
        )
    })
}

/// The agent for an architecture, as boot environments get it.
fn agent_of(config: &Config) -> FindAgent {
    let (own, arm64) = (
        config.bootenv.agent.clone(),
        config.bootenv_arm64.agent.clone(),
    );
    Arc::new(move |arch: Arch| {
        let named = match arch {
            Arch::Aarch64 => &arm64,
            _ => &own,
        };
        match named {
            Some(path) => Ok(Path::to_path_buf(path)),
            None => bootenv::find_agent(arch).map_err(|error| format!("{error:#}")),
        }
    })
}
