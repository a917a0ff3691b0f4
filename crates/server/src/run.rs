//! `bugler serve`.
//!
//! ```text
//!            DHCP (a machine an interface)      TFTP thread          HTTP: device plane   operator plane
//!                 | advise      | leases            | open              | boot tree, agent API   | API, dashboard
//!                 v             v                   v                   v                        v
//!              BootService ----------------------------------------------             Store, ChunkStore
//!                 |  Seen                                    \-- tokens, sessions --> Store
//!                 v
//!              Timeline (one task) --> Store --> broadcast of events --> SSE, long polls
//! ```
//!
//! Everything is started before the first machine is answered, and a service that cannot start
//! ends the program with what was tried and what to do. At the end the services that answer
//! machines stop first, the registry last.

use crate::adapters::HttpPlug;
use crate::boot::BootService;
use crate::config::Config;
use crate::timeline::Timeline;
use crate::{bootenv, clock, network};
use anyhow::{Context, Result};
use bugler_api::{AppState, ServerInfo};
use bugler_images::ChunkStore;
use bugler_model::{EventKind, NewEvent};
use bugler_store::{SqliteStore, Store};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs the server until `stop` is cancelled.
///
/// # Errors
/// Where a service cannot start, or the registry fails at the end.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<()> {
    config.check()?;
    prepare_state_dir(&config.state_dir)?;
    let sqlite = Arc::new(
        SqliteStore::open(config.state_dir.join("registry.sqlite"))
            .context("could not open the registry")?,
    );
    let store: Arc<dyn Store> = sqlite.clone();
    let images = open_images(&config.state_dir, &*store).await?;

    let (recorder, timeline) = Timeline::new(store.clone());
    let boot = Arc::new(BootService::new(
        store.clone(),
        recorder,
        &config.boot.loaders,
        bootenv::dir(&config.state_dir),
        config.boot.cmdline.clone(),
    )?);
    let timeline = tokio::spawn(timeline.run());

    // The listeners come first: a port in use is better known before a machine was answered.
    let device = listen(
        config.device_listen,
        "device-listen",
        "machines reach boot files",
    )
    .await?;
    let operator = listen(
        config.operator_listen,
        "operator-listen",
        "operators reach the dashboard",
    )
    .await?;
    let device_addr = device.local_addr()?;
    let operator_addr = operator.local_addr()?;
    let services: network::Services = Arc::new(Mutex::new(vec![
        format!("device plane: HTTP on {device_addr}"),
        format!("operator plane: HTTP on {operator_addr}"),
    ]));

    let parts = network::Parts {
        http_port: device_addr.port(),
        boot: boot.clone(),
        store: store.clone(),
        services: services.clone(),
    };
    let network = network::start(&config, &parts).await?;
    start_bootenv(&config, &boot, &store)?;

    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        operator_names: config.operator_names.clone(),
        services: services.clone(),
    };
    let state = AppState::new(
        store.clone(),
        images,
        Arc::new(HttpPlug(boot.clone())),
        info,
        bugler_api::system_clock(),
        stop.clone(),
    );
    let presence = tokio::spawn(bugler_api::watch_presence(state.clone(), stop.clone()));
    let device_plane = tokio::spawn(bugler_api::serve(
        device,
        bugler_api::device_router(state.clone()),
        stop.clone(),
    ));
    let operator_plane = tokio::spawn(bugler_api::serve(
        operator,
        bugler_api::operator_router(state.clone()).merge(bugler_web::router(state)),
        stop.clone(),
    ));

    say(
        &*store,
        format!(
            "the server has started: version {}",
            env!("CARGO_PKG_VERSION")
        ),
    )
    .await;
    for line in services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        tracing::info!("{line}");
    }
    tracing::info!("ready: dashboard at http://{operator_addr}/");

    stop.cancelled().await;
    tracing::info!("stopping");
    network.stop().await;
    // Each gives open requests a few seconds of its own, then cuts them off.
    for plane in [device_plane, operator_plane] {
        plane.await.context("a listener ended by itself")?;
    }
    presence.abort();
    say(&*store, "the server stops".to_owned()).await;
    drop((boot, parts));
    timeline.abort();
    drop(store);
    sqlite.close().await;
    Ok(())
}

/// Makes the state directory, readable by this user alone: it holds the hashes of tokens.
fn prepare_state_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!(
            "could not make the state directory {}: run as a user who may, or name another with \
             --state-dir",
            dir.display()
        )
    })?;
    tempfile::tempfile_in(dir).map(drop).with_context(|| {
        format!(
            "the state directory {} cannot be written: run as its owner, or name another with \
             --state-dir",
            dir.display()
        )
    })
}

/// Opens the chunk store, and removes what interrupted adds left in it.
async fn open_images(state_dir: &Path, store: &dyn Store) -> Result<Arc<ChunkStore>> {
    let dir = state_dir.join("images");
    let images = tokio::task::spawn_blocking(move || ChunkStore::open(dir))
        .await?
        .context("could not open the image store")?;
    let images = Arc::new(images);
    // A damaged image stops nothing but its own deploys, and nothing is removed beside it.
    if let Err(error) = bugler_api::collect_garbage(store, &images, false).await {
        tracing::warn!("what interrupted adds left was not removed: {error}");
    }
    Ok(images)
}

async fn listen(address: SocketAddr, option: &str, purpose: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "could not listen on {address}, where {purpose}: see what uses that port (`ss -ltnp`), \
             or choose another with --{option}"
        )
    })
}

/// Uses the latest boot environment; where there is none, or its agent is not the one that came with
/// this program, builds one beside everything else.
fn start_bootenv(config: &Config, boot: &Arc<BootService>, store: &Arc<dyn Store>) -> Result<()> {
    let why = match bootenv::latest(&config.state_dir)? {
        None => "there is no boot environment",
        Some(latest) => {
            let fresh = bootenv::has_current_agent(&latest, &config.bootenv);
            boot.set_bootenv(latest.version);
            if fresh {
                return Ok(());
            }
            "the agent is another than the one in the boot environment"
        }
    };
    let (boot, store) = (boot.clone(), store.clone());
    let (state_dir, wanted) = (config.state_dir.clone(), config.bootenv.clone());
    tokio::spawn(async move {
        say(&*store, format!("{why}: building one")).await;
        let built = tokio::task::spawn_blocking(move || {
            bootenv::build(&state_dir, &wanted, &mut |line| tracing::info!("{line}"))
        })
        .await;
        let text = match built {
            Ok(Ok(built)) => {
                boot.set_bootenv(built.version.clone());
                format!("built the boot environment {}", built.version)
            }
            Ok(Err(error)) => match boot.bootenv() {
                Some(older) => format!("machines go on booting {older}: {error:#}"),
                None => format!(
                    "no machine can boot the agent: {error:#}. Build a boot environment with \
                     `bugler bootenv build` and start the server again"
                ),
            },
            Err(panic) => format!("building the boot environment ended early: {panic}"),
        };
        say(&*store, text).await;
    });
    Ok(())
}

/// Puts a line into the events and the log.
async fn say(store: &dyn Store, text: String) {
    tracing::info!("{text}");
    if let Err(error) = store
        .append_event(NewEvent::new(EventKind::Server, text), clock::now())
        .await
    {
        tracing::warn!("an event could not be written: {}", clock::chain(&error));
    }
}
