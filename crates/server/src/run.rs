//! `bugler serve`.
//!
//! ```text
//!            DHCP (a machine an interface)      TFTP thread          HTTP: device plane   operator plane
//!                 | advise      | leases            | open              | boot tree, agent API   | API, dashboard
//!                 v             v                   v                   v                        v
//!              BootService ----------------------------------------------             Store, ChunkStore
//!                 |  Seen                                    \-- tokens, sessions --> Store   Power -- BMCs
//!                 v
//!              Timeline (one task) --> Store --> broadcast of events --> SSE, long polls
//! ```
//!
//! Everything is started before the first machine is answered, and a service that cannot start
//! ends the program with what was tried and what to do. At the end the services that answer
//! machines stop first, the registry last.

use crate::adapters::HttpPlug;
use crate::boot::{BootService, Places};
use crate::config::Config;
use crate::diskless::Diskless;
use crate::loaders::Loaders;
use crate::timeline::Timeline;
use crate::{bootenv, clock, limits, network, pi_files};
use anyhow::{Context, Result};
use bugler_api::{AppState, ServerInfo, ServerKeys};
use bugler_bootenv::BootEnv;
use bugler_diskless::Shared;
use bugler_images::ChunkStore;
use bugler_model::{Arch, EventKind, NewEvent};
use bugler_power::{Options as PowerOptions, Power};
use bugler_store::{SqliteStore, Store};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs the server until `stop` is cancelled.
///
/// # Errors
/// Where a service cannot start, or the registry fails at the end.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<()> {
    config.check()?;
    limits::raise_open_files();
    prepare_state_dir(&config.state_dir)?;
    let sqlite = Arc::new(
        SqliteStore::open(config.state_dir.join("registry.sqlite"))
            .context("could not open the registry")?,
    );
    let store: Arc<dyn Store> = sqlite.clone();
    let images = open_images(&config.state_dir, &*store).await?;
    let keys = Arc::new(ServerKeys::open(&config.state_dir).context("cannot sign images")?);

    let services: network::Services = Arc::default();
    let diskless =
        Diskless::start(&config, store.clone(), images.clone(), services.clone()).await?;

    let power = Power::open(
        store.clone(),
        PowerOptions {
            state_dir: config.state_dir.clone(),
            commands: config.power.commands.clone(),
            clock: bugler_api::system_clock(),
        },
    )
    .context("cannot switch machines")?;

    let (recorder, timeline) = Timeline::new(store.clone());
    let places = Places {
        loaders: Loaders::read(&config.boot.loaders)?,
        bootenvs: bootenv::dir(&config.state_dir),
        files: config.boot_files(),
        pi: Arc::new(pi_files::sources(&config, &*store, &images).await?),
        eeproms: config.state_dir.join("eeprom"),
        cmdline: config.boot.cmdline.clone(),
        cmdline_arm64: config.boot.cmdline_arm64.clone(),
        diskless: Some(diskless.clone()),
        keys: Some(keys.clone()),
    };
    let boot = Arc::new(BootService::new(store.clone(), recorder, places));
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
    network::tell(&services, format!("device plane: HTTP on {device_addr}"));
    network::tell(
        &services,
        format!("operator plane: HTTP on {operator_addr}"),
    );

    let parts = network::Parts {
        http_port: device_addr.port(),
        boot: boot.clone(),
        store: store.clone(),
        services: services.clone(),
    };
    let network = network::start(&config, &parts).await?;
    start_bootenvs(&config, &boot, &store).await?;

    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        operator_names: config.operator_names.clone(),
        interfaces: config.interfaces.iter().map(|i| i.name.clone()).collect(),
        device_port: device_addr.port(),
        device_address: match device_addr.ip() {
            IpAddr::V4(address) if !address.is_unspecified() => Some(address),
            _ => None,
        },
        services: services.clone(),
        keys: Some(keys),
        overlays: Some(Arc::new(Shared(diskless.service.clone()))),
        power: Some(power.clone()),
    };
    let state = AppState::limited(
        store.clone(),
        images,
        Arc::new(HttpPlug(boot.clone())),
        info,
        bugler_api::system_clock(),
        stop.clone(),
        &config.deploy.limits()?,
    );
    let presence = tokio::spawn(bugler_api::watch_presence(state.clone(), stop.clone()));
    let verifying = {
        let (state, rate) = (state.clone(), config.images.verify_rate()?);
        let file = config.state_dir.join("verified");
        tokio::spawn(async move { bugler_api::verify_slowly(state, rate, &file).await })
    };
    if let Some(every) = config.power.every()? {
        tokio::spawn(power.clone().poll(every, stop.clone()));
    }
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
    diskless.stop().await;
    // Each gives open requests a few seconds of its own, then cuts them off.
    for plane in [device_plane, operator_plane] {
        plane.await.context("a listener ended by itself")?;
    }
    power.settle().await;
    presence.abort();
    verifying.abort();
    say(&*store, "the server stops".to_owned()).await;
    drop((boot, parts, power));
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
    if let Err(error) = bugler_api::clear_captures(store, &images).await {
        tracing::warn!("what interrupted captures left was not removed: {error}");
    }
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

/// Uses the latest boot environment of each architecture; where there is none, or its agent is not
/// the one that came with this program, builds one beside everything else. One after the other: they
/// lie in one folder.
async fn start_bootenvs(
    config: &Config,
    boot: &Arc<BootService>,
    store: &Arc<dyn Store>,
) -> Result<()> {
    let mut wanted = Vec::new();
    for arch in bootenv::ARCHS {
        let made_of = match arch {
            Arch::Aarch64 => &config.bootenv_arm64,
            _ => &config.bootenv,
        };
        let name = bugler_bootenv::arch_name(arch);
        let latest = bootenv::latest(&config.state_dir, arch)?;
        let has_agent = made_of.agent.is_some() || bootenv::has_agent(arch);
        let why = match latest {
            // An agent for other processors is not built everywhere.
            None if !has_agent && arch != bootenv::OWN => {
                let text = format!(
                    "{name} machines cannot boot the agent: there is no bugler-agent.{name} beside \
                     this program. Others can"
                );
                say(&**store, text).await;
                continue;
            }
            None => format!("there is no boot environment for {name}"),
            Some(latest) => {
                let fresh = bootenv::has_current_agent(&latest, made_of);
                use_bootenv(boot, &latest);
                if fresh {
                    continue;
                }
                format!("the agent is another than the one in the boot environment for {name}")
            }
        };
        wanted.push((arch, made_of.clone(), why));
    }
    if !wanted.is_empty() {
        let (boot, store, state_dir) = (boot.clone(), store.clone(), config.state_dir.clone());
        tokio::spawn(async move {
            for (arch, made_of, why) in wanted {
                say(&*store, format!("{why}: building one")).await;
                let text = build_bootenv(&boot, &state_dir, arch, made_of).await;
                say(&*store, text).await;
            }
        });
    }
    Ok(())
}

/// Builds a boot environment and uses it. Returns what became of it, for people.
async fn build_bootenv(
    boot: &BootService,
    state_dir: &Path,
    arch: Arch,
    made_of: crate::config::Bootenv,
) -> String {
    let name = bugler_bootenv::arch_name(arch);
    let dir = state_dir.to_owned();
    let built = tokio::task::spawn_blocking(move || {
        bootenv::build(&dir, arch, &made_of, &mut |line| tracing::info!("{line}"))
    })
    .await;
    match built {
        Ok(Ok(built)) => {
            use_bootenv(boot, &built);
            format!("built the boot environment {}", built.version)
        }
        Ok(Err(error)) => match bootenv::latest(state_dir, arch) {
            Ok(Some(older)) => format!("machines go on booting {}: {error:#}", older.version),
            _ => format!(
                "no {name} machine can boot the agent: {error:#}. Build a boot environment with \
                 `bugler bootenv build --arch {name}` and start the server again"
            ),
        },
        Err(panic) => format!("building the boot environment for {name} ended early: {panic}"),
    }
}

/// Machines of its architecture get this boot environment from now on.
fn use_bootenv(boot: &BootService, built: &BootEnv) {
    boot.set_bootenv(built.arch, built.version.clone());
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
