//! What the DHCP server is told of its networks, from the configuration.

use crate::config::{
    ConfigError, DhcpOption, Interface, Pool, Reservation, Subnet as RemoteSubnet, Tagged,
};
use bugler_dhcp::{CustomOption, Network, Subnet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The subnet of the interface itself, then those behind relays. `resolvers` are the name servers of
/// this host.
///
/// # Errors
/// Where an option cannot be meant.
pub(crate) fn of(
    interface: &Interface,
    network: Network,
    resolvers: &[Ipv4Addr],
) -> Result<Vec<Subnet>, ConfigError> {
    let mut link = Subnet::new(network);
    link.pools = pools(&interface.pools);
    link.reservations = reservations(&interface.reservations);
    link.router = interface.router;
    link.dns.clone_from(&interface.dns);
    if interface.nat.is_some() {
        link.router = link.router.or(Some(network.address));
        if link.dns.is_empty() {
            link.dns = resolvers.to_vec();
        }
    }
    link.domain.clone_from(&interface.domain);
    link.ntp.clone_from(&interface.ntp);
    link.options = options(&interface.options)?;
    link.tagged = tagged(&interface.tagged)?;
    link.lease = seconds(interface.lease, bugler_dhcp::DEFAULT_LEASE);
    link.boot_lease = seconds(interface.boot_lease, bugler_dhcp::DEFAULT_BOOT_LEASE);
    let mut all = vec![link];
    for subnet in &interface.subnets {
        let mut remote = remote(subnet)?;
        if interface.nat.is_some() && remote.dns.is_empty() {
            remote.dns = resolvers.to_vec();
        }
        all.push(remote);
    }
    Ok(all)
}

/// A subnet behind a relay.
///
/// # Errors
/// Where an option cannot be meant.
pub(crate) fn remote(subnet: &RemoteSubnet) -> Result<Subnet, ConfigError> {
    let mut remote = Subnet::new(subnet.network.0);
    remote.pools = pools(&subnet.pools);
    remote.reservations = reservations(&subnet.reservations);
    remote.router = subnet.router;
    remote.dns.clone_from(&subnet.dns);
    remote.domain.clone_from(&subnet.domain);
    remote.ntp.clone_from(&subnet.ntp);
    remote.options = options(&subnet.options)?;
    remote.tagged = tagged(&subnet.tagged)?;
    remote.lease = seconds(subnet.lease, bugler_dhcp::DEFAULT_LEASE);
    remote.boot_lease = seconds(subnet.boot_lease, bugler_dhcp::DEFAULT_BOOT_LEASE);
    Ok(remote)
}

fn pools(pools: &[Pool]) -> Vec<bugler_dhcp::Pool> {
    pools
        .iter()
        .map(|pool| bugler_dhcp::Pool {
            first: pool.first,
            last: pool.last,
        })
        .collect()
}

fn reservations(reservations: &[Reservation]) -> Vec<bugler_dhcp::Reservation> {
    reservations
        .iter()
        .map(|reservation| bugler_dhcp::Reservation {
            mac: reservation.mac,
            uuid: reservation.uuid,
            address: reservation.address,
            hostname: reservation.hostname.clone(),
        })
        .collect()
}

fn options(options: &[DhcpOption]) -> Result<Vec<CustomOption>, ConfigError> {
    options
        .iter()
        .map(|option| {
            Ok(CustomOption {
                code: option.code,
                value: option.bytes()?,
                always: true,
            })
        })
        .collect()
}

fn tagged(tagged: &[Tagged]) -> Result<Vec<bugler_dhcp::Tagged>, ConfigError> {
    tagged
        .iter()
        .map(|one| {
            Ok(bugler_dhcp::Tagged {
                tag: one.tag.clone(),
                pools: pools(&one.pools),
                router: one.router,
                dns: one.dns.clone(),
                domain: one.domain.clone(),
                ntp: one.ntp.clone(),
                options: options(&one.options)?,
            })
        })
        .collect()
}

fn seconds(told: Option<u32>, otherwise: Duration) -> Duration {
    told.map_or(otherwise, |seconds| Duration::from_secs(seconds.into()))
}
