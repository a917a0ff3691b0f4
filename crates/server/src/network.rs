//! Starts and stops the services that answer machines: DHCP and TFTP, on each interface.

use crate::adapters::{DhcpPlug, LeasePlug, NdpPlug, TftpPlug};
use crate::boot::BootService;
use crate::config::{Config, DhcpMode, Interface};
use anyhow::{Context, Result};
use bugler_dhcp::{CustomOption, Policy, Subnet};
use bugler_model::Lease;
use bugler_store::Store;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where TFTP servers listen (RFC 1350 section 4).
const TFTP_PORT: u16 = 69;

/// The services that answer machines.
pub(crate) struct Network {
    dhcp: Vec<bugler_dhcp::Handle>,
    tftp: Option<bugler_tftp::Handle>,
    ndp: Vec<bugler_ndp::Handle>,
}

/// Lines for people: what listens where, in which mode.
pub(crate) type Services = Arc<Mutex<Vec<String>>>;

/// Adds a line.
pub(crate) fn tell(services: &Services, line: String) {
    services
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line);
}

/// What the services are plugged into.
pub(crate) struct Parts {
    /// The port of the device plane.
    pub(crate) http_port: u16,
    pub(crate) boot: Arc<BootService>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) services: Services,
}

/// Starts them.
pub(crate) async fn start(config: &Config, parts: &Parts) -> Result<Network> {
    let mut network = Network {
        dhcp: vec![],
        tftp: None,
        ndp: vec![],
    };
    if config.tftp.enabled && !config.interfaces.is_empty() {
        network.tftp = Some(start_tftp(config, parts)?);
        let names: Vec<&str> = config.interfaces.iter().map(|i| i.name.as_str()).collect();
        tell(
            &parts.services,
            format!("TFTP on {}, port {TFTP_PORT}", names.join(", ")),
        );
    }
    let leases = parts
        .store
        .leases()
        .await
        .context("could not read the leases")?;
    for interface in &config.interfaces {
        let policy = match interface.dhcp {
            DhcpMode::Off => {
                tell(&parts.services, format!("{}: DHCP off", interface.name));
                continue;
            }
            DhcpMode::Auto => Policy::Auto,
            DhcpMode::Full => Policy::Full,
            DhcpMode::Proxy => Policy::Proxy,
        };
        let link = bugler_dhcp::Interface::find(&interface.name).await?;
        let dhcp = start_dhcp(interface, &link, policy, leases.clone(), parts)
            .with_context(|| format!("could not start DHCP on {}", interface.name))?;
        network.dhcp.push(dhcp);
        network.ndp.extend(start_ndp(&link, &parts.boot));
        tell(
            &parts.services,
            format!("{}: DHCP {}", interface.name, word(policy)),
        );
    }
    Ok(network)
}

impl Network {
    /// Stops them, and waits until they have.
    pub(crate) async fn stop(self) {
        for handle in self.dhcp {
            handle.stop().await;
        }
        if let Some(tftp) = self.tftp
            && let Ok(Err(error)) = tokio::task::spawn_blocking(move || tftp.stop()).await
        {
            tracing::error!("TFTP had ended before: {}", crate::clock::chain(&error));
        }
    }
}

fn word(policy: Policy) -> &'static str {
    match policy {
        Policy::Auto => "auto",
        Policy::Full => "full",
        Policy::Proxy => "proxy",
    }
}

fn start_tftp(config: &Config, parts: &Parts) -> Result<bugler_tftp::Handle> {
    let listen = config
        .interfaces
        .iter()
        .map(|interface| bugler_tftp::Listen {
            address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, TFTP_PORT),
            interface: Some(interface.name.clone()),
        })
        .collect();
    let plug = Arc::new(TftpPlug {
        boot: parts.boot.clone(),
        runtime: tokio::runtime::Handle::current(),
        http_port: parts.http_port,
    });
    let config = bugler_tftp::Config {
        listen,
        ..bugler_tftp::Config::default()
    };
    bugler_tftp::Server::start(config, plug.clone(), plug).context("could not start TFTP")
}

fn start_dhcp(
    interface: &Interface,
    link: &bugler_dhcp::Interface,
    policy: Policy,
    leases: Vec<Lease>,
    parts: &Parts,
) -> Result<bugler_dhcp::Handle> {
    let mut subnet = Subnet::new(link.network);
    subnet.pools = interface
        .pools
        .iter()
        .map(|pool| bugler_dhcp::Pool {
            first: pool.first,
            last: pool.last,
        })
        .collect();
    subnet.reservations = interface
        .reservations
        .iter()
        .map(|reservation| bugler_dhcp::Reservation {
            mac: reservation.mac,
            uuid: reservation.uuid,
            address: reservation.address,
            hostname: reservation.hostname.clone(),
        })
        .collect();
    subnet.router = interface.router;
    subnet.dns.clone_from(&interface.dns);
    subnet.domain.clone_from(&interface.domain);
    subnet.ntp.clone_from(&interface.ntp);
    subnet.options = interface
        .options
        .iter()
        .map(|option| {
            Ok(CustomOption {
                code: option.code,
                value: option.bytes()?,
                always: true,
            })
        })
        .collect::<Result<_>>()?;
    subnet.lease = seconds(interface.lease, bugler_dhcp::DEFAULT_LEASE);
    subnet.boot_lease = seconds(interface.boot_lease, bugler_dhcp::DEFAULT_BOOT_LEASE);
    let config = bugler_dhcp::Config {
        interface: link.clone(),
        policy,
        subnets: vec![subnet],
        http_port: parts.http_port,
        leases,
    };
    let plug = Arc::new(DhcpPlug {
        boot: parts.boot.clone(),
        services: parts.services.clone(),
    });
    let log = Arc::new(LeasePlug {
        store: parts.store.clone(),
        boot: parts.boot.clone(),
    });
    Ok(bugler_dhcp::Server::start(config, plug.clone(), log, plug)?)
}

/// Spares boot loaders the wait for an IPv6 router. A host without IPv6 goes without.
fn start_ndp(link: &bugler_dhcp::Interface, boot: &Arc<BootService>) -> Option<bugler_ndp::Handle> {
    let plug = Arc::new(NdpPlug(boot.clone()));
    bugler_ndp::Server::start(&link.name, link.index, plug)
        .inspect_err(|error| {
            tracing::info!(
                "iPXE will wait 17 s for an IPv6 router on {}, unless there is one: {}",
                link.name,
                crate::clock::chain(error)
            );
        })
        .ok()
}

fn seconds(told: Option<u32>, otherwise: Duration) -> Duration {
    told.map_or(otherwise, |seconds| Duration::from_secs(seconds.into()))
}
