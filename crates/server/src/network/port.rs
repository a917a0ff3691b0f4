//! One interface and its services.

use super::{Parts, forget, tell};
use crate::adapters::{DhcpPlug, LeasePlug, NdpPlug, TftpPlug};
use crate::boot::BootService;
use crate::config::{DhcpMode, Interface, Tftp};
use crate::{clock, nat, subnets};
use anyhow::{Context, Result};
use bugler_dhcp::{Error, Interface as Link, Policy};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

/// Where TFTP servers listen (RFC 1350 section 4).
const TFTP_PORT: u16 = 69;

/// One interface, with its services while it is up and has an address.
pub(super) struct Port {
    config: Interface,
    tftp: Tftp,
    /// What was found and is not yet served.
    found: Option<Link>,
    running: Option<Running>,
    /// Whether it ever was.
    was_served: bool,
    /// Why it is not served, as it was said.
    said: Option<String>,
}

/// Services, and what they were started with.
struct Running {
    link: Link,
    /// The name servers of this host that machines are told.
    resolvers: Vec<Ipv4Addr>,
    dhcp: Option<bugler_dhcp::Handle>,
    tftp: Option<bugler_tftp::Handle>,
    ndp: Option<bugler_ndp::Handle>,
}

impl Port {
    pub(super) fn new(config: Interface, tftp: Tftp) -> Self {
        Self {
            config,
            tftp,
            found: None,
            running: None,
            was_served: false,
            said: None,
        }
    }

    pub(super) fn config(&self) -> &Interface {
        &self.config
    }

    /// Looks the interface up before the start.
    ///
    /// # Errors
    /// Where it cannot be served, and is not to be waited for.
    pub(super) async fn find(&mut self) -> Result<()> {
        match Link::find(&self.config.name).await {
            Ok(link) => self.found = Some(link),
            Err(error) if self.config.wait && may_come(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Starts the services on what was found; where nothing was, says what is waited for.
    ///
    /// # Errors
    /// Where a service cannot start.
    pub(super) async fn start(&mut self, parts: &Parts) -> Result<()> {
        match self.found.take() {
            Some(link) => self.serve(link, parts).await,
            None => {
                self.look(parts).await;
                Ok(())
            }
        }
    }

    /// Starts, restarts or ends the services as the interface is now.
    pub(super) async fn look(&mut self, parts: &Parts) {
        let name = self.config.name.clone();
        let failed = match Link::find(&name).await {
            Ok(link) => {
                let before = self.running.as_ref().map(|running| &running.link);
                let news = match before {
                    None => None,
                    Some(before) if *before != link => Some(change(before, &link)),
                    Some(_) if self.resolvers_changed() => {
                        Some("the name servers of this host have changed".to_owned())
                    }
                    Some(_) => return,
                };
                match self.serve(link.clone(), parts).await {
                    Ok(()) => {
                        let served = format!("{name} is served as {}", link.network_text());
                        parts.say(match news {
                            Some(news) => format!("{news}: {served}"),
                            None => served,
                        });
                        self.said = None;
                        return;
                    }
                    Err(error) => format!("{name} is not served, and tried again: {error:#}"),
                }
            }
            Err(error) => {
                self.stop().await;
                let until = if self.was_served {
                    "is no longer served, until that changes"
                } else {
                    "is not served yet, and waited for"
                };
                format!("{name} {until}: {error}")
            }
        };
        if self.said.as_ref() != Some(&failed) {
            forget(&parts.services, &name);
            tell(&parts.services, format!("{name}: not served: {failed}"));
            parts.say(failed.clone());
            self.said = Some(failed);
        }
    }

    /// Serves this link in the place of what was served before. TFTP goes on where the interface is
    /// the same, so that no transfer is cut off by a change of the address.
    async fn serve(&mut self, link: Link, parts: &Parts) -> Result<()> {
        let name = link.name.clone();
        let kept = match self.running.take() {
            Some(Running {
                link: before,
                dhcp,
                tftp,
                ndp,
                ..
            }) if before.index == link.index => {
                stop_dhcp(dhcp).await;
                (tftp, ndp)
            }
            Some(running) => {
                running.stop().await;
                (None, None)
            }
            None => (None, None),
        };
        forget(&parts.services, &name);
        let mut running = Running {
            link,
            resolvers: self.resolvers(),
            dhcp: None,
            tftp: kept.0,
            ndp: kept.1,
        };
        let started = self.start_services(&mut running, parts).await;
        if started.is_err() {
            running.stop().await;
        } else {
            self.running = Some(running);
            self.was_served = true;
        }
        started
    }

    async fn start_services(&self, running: &mut Running, parts: &Parts) -> Result<()> {
        let link = &running.link;
        let name = &self.config.name;
        if self.tftp.enabled {
            if running.tftp.is_none() {
                running.tftp = Some(start_tftp(link, self.tftp, parts)?);
            }
            let single = if self.tftp.single_port { " alone" } else { "" };
            let line = format!("{name}: TFTP on port {TFTP_PORT}{single}");
            tell(&parts.services, line);
        }
        if let Some(rule) = self.nat_of(link) {
            let networks: Vec<String> = rule.networks.iter().map(ToString::to_string).collect();
            let (networks, outside) = (networks.join(", "), rule.outside);
            let line = format!("{name}: {networks} reaches other networks through {outside} (NAT)");
            tell(&parts.services, line);
        }
        let policy = match self.config.dhcp {
            DhcpMode::Off => {
                tell(&parts.services, format!("{name}: DHCP off"));
                return Ok(());
            }
            DhcpMode::Auto => Policy::Auto,
            DhcpMode::Full => Policy::Full,
            DhcpMode::Proxy => Policy::Proxy,
        };
        running.dhcp = Some(
            self.start_dhcp(link, &running.resolvers, policy, parts)
                .await
                .with_context(|| format!("could not start DHCP on {name}"))?,
        );
        if running.ndp.is_none() {
            running.ndp = start_ndp(link, &parts.boot);
        }
        let line = format!("{name}: DHCP {} at {}", word(policy), link.network_text());
        tell(&parts.services, line);
        Ok(())
    }

    async fn start_dhcp(
        &self,
        link: &Link,
        resolvers: &[Ipv4Addr],
        policy: Policy,
        parts: &Parts,
    ) -> Result<bugler_dhcp::Handle> {
        let name = &self.config.name;
        if self.config.nat.is_some() && self.config.dns.is_empty() && resolvers.is_empty() {
            parts.say(format!(
                "machines on {name} are told no name server, because /etc/resolv.conf names none that \
                 they reach: say dns = [\"...\"]"
            ));
        }
        let leases = parts
            .store
            .leases()
            .await
            .context("could not read the leases")?;
        let config = bugler_dhcp::Config {
            interface: link.clone(),
            policy,
            subnets: subnets::of(&self.config, link.network, resolvers)?,
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

    /// The name servers of this host, where machines are to be told them.
    fn resolvers(&self) -> Vec<Ipv4Addr> {
        if self.config.nat.is_some() && self.config.dns.is_empty() {
            nat::resolvers()
        } else {
            vec![]
        }
    }

    /// Whether machines are told name servers that this host no longer uses. A host that has none for
    /// the moment is between two networks.
    fn resolvers_changed(&self) -> bool {
        let now = self.resolvers();
        let told = self.running.as_ref().map(|running| &running.resolvers);
        !now.is_empty() && told.is_some_and(|told| *told != now)
    }

    /// What NAT is to do for this interface now.
    pub(super) fn nat(&self) -> Option<nat::Rule> {
        self.nat_of(&self.running.as_ref()?.link)
    }

    fn nat_of(&self, link: &Link) -> Option<nat::Rule> {
        let outside = self.config.nat.clone()?;
        let remote = self.config.subnets.iter().map(|subnet| subnet.network.0);
        Some(nat::Rule {
            inside: link.name.clone(),
            networks: std::iter::once(link.network).chain(remote).collect(),
            outside,
        })
    }

    /// Ends the services, and waits until they have ended.
    pub(super) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

impl Running {
    async fn stop(self) {
        stop_dhcp(self.dhcp).await;
        let Self { tftp, ndp, .. } = self;
        // Both wait for threads.
        let stopped = tokio::task::spawn_blocking(move || {
            drop(ndp);
            tftp.map_or(Ok(()), bugler_tftp::Handle::stop)
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::error!("TFTP had ended before: {}", clock::chain(&error));
        }
    }
}

async fn stop_dhcp(dhcp: Option<bugler_dhcp::Handle>) {
    if let Some(dhcp) = dhcp {
        dhcp.stop().await;
    }
}

/// Whether an interface that cannot be served now may be able to later.
fn may_come(error: &Error) -> bool {
    matches!(
        error,
        Error::NoInterface(_) | Error::Down(_) | Error::NoAddress(_)
    )
}

/// What is different, for people.
fn change(before: &Link, now: &Link) -> String {
    let name = &now.name;
    if before.network != now.network {
        format!(
            "the address of {name} has changed from {} to {}",
            before.network_text(),
            now.network_text()
        )
    } else if before.index != now.index {
        format!("{name} was taken away and is there again")
    } else if before.mac != now.mac {
        let (before, now) = (before.mac, now.mac);
        format!("the Ethernet address of {name} has changed from {before} to {now}")
    } else {
        format!("the MTU of {name} has changed to {}", now.mtu)
    }
}

/// Adds how people write an interface's address.
trait NetworkText {
    /// `10.0.0.1/24`
    fn network_text(&self) -> String;
}

impl NetworkText for Link {
    fn network_text(&self) -> String {
        format!("{}/{}", self.address(), self.network.prefix)
    }
}

fn word(policy: Policy) -> &'static str {
    match policy {
        Policy::Auto => "auto",
        Policy::Full => "full",
        Policy::Proxy => "proxy",
    }
}

fn start_tftp(link: &Link, tftp: Tftp, parts: &Parts) -> Result<bugler_tftp::Handle> {
    let listen = bugler_tftp::Listen {
        address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, TFTP_PORT),
        interface: Some(link.name.clone()),
    };
    let plug = Arc::new(TftpPlug {
        boot: parts.boot.clone(),
        runtime: tokio::runtime::Handle::current(),
        http_port: parts.http_port,
    });
    let config = bugler_tftp::Config {
        listen: vec![listen],
        single_port: tftp.single_port,
        ..bugler_tftp::Config::default()
    };
    bugler_tftp::Server::start(config, plug.clone(), plug).context("could not start TFTP")
}

/// Spares boot loaders the wait for an IPv6 router. A host without IPv6 goes without.
fn start_ndp(link: &Link, boot: &Arc<BootService>) -> Option<bugler_ndp::Handle> {
    let plug = Arc::new(NdpPlug(boot.clone()));
    bugler_ndp::Server::start(&link.name, link.index, plug)
        .inspect_err(|error| {
            tracing::info!(
                "iPXE will wait 17 s for an IPv6 router on {}, unless there is one: {}",
                link.name,
                clock::chain(error)
            );
        })
        .ok()
}
