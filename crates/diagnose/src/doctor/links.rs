//! Interfaces: up, carrier, address, MTU, forwarding.

use super::{Check, Dhcp, Level, Subject, Wanted};
use bugler_model::MacAddr;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};
use std::net::{IpAddr, Ipv4Addr};

/// What every Ethernet card and every boot ROM takes.
const USUAL_MTU: u32 = 1500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mac: Option<MacAddr>,
    pub(super) ethernet: bool,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) mtu: u32,
    /// Address, length of the prefix, and whether it stays (not from DHCP).
    pub(super) addresses: Vec<(Ipv4Addr, u8, bool)>,
}

pub(super) async fn gather() -> Result<Vec<Link>, String> {
    let failed = |error: rtnetlink::Error| error.to_string();
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let mut links = vec![];
    let mut found = handle.link().get().execute();
    while let Some(message) = found.try_next().await.map_err(failed)? {
        let flags = message.header.flags;
        let mut link = Link {
            name: String::new(),
            index: message.header.index,
            mac: None,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            mtu: USUAL_MTU,
            addresses: vec![],
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.as_slice().try_into().ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        links.push(link);
    }
    let mut found = handle.address().get().execute();
    while let Some(message) = found.try_next().await.map_err(failed)? {
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
        let stays = message.header.flags.contains(AddressHeaderFlags::Permanent);
        if let Some(address) = address
            && let Some(link) = links
                .iter_mut()
                .find(|link| link.index == message.header.index)
        {
            link.addresses
                .push((address, message.header.prefix_len, stays));
        }
    }
    connection.abort();
    Ok(links)
}

pub(super) fn check(subject: &Subject, links: &[Link]) -> Vec<Check> {
    let mut checks = vec![];
    if subject.interfaces.is_empty() {
        let names: Vec<&str> = links
            .iter()
            .filter(|link| link.ethernet)
            .map(|link| link.name.as_str())
            .collect();
        checks.push(
            Check::new(
                Level::Warning,
                "interface",
                "",
                "no interface is named: nothing would be answered by DHCP and TFTP",
            )
            .remedy(format!(
                "name one with --interface or in the configuration; there are: {}",
                names.join(", ")
            )),
        );
    }
    for wanted in &subject.interfaces {
        match links.iter().find(|link| link.name == wanted.name) {
            None => checks.push(
                Check::new(
                    Level::Problem,
                    "interface",
                    &wanted.name,
                    format!("there is no network interface {}", wanted.name),
                )
                .remedy("`ip link` lists those that there are; correct --interface"),
            ),
            Some(link) => checks.extend(check_link(wanted, link)),
        }
    }
    checks.extend(same_network(subject, links));
    if !subject.interfaces.is_empty() {
        checks.extend(routing(subject));
    }
    checks
}

fn check_link(wanted: &Wanted, link: &Link) -> Vec<Check> {
    let name = &wanted.name;
    let problem = |text: String| Check::new(Level::Problem, "interface", name, text);
    if !link.ethernet {
        return vec![
            problem(format!("{name} is not an Ethernet interface"))
                .remedy("machines boot over Ethernet: name another interface"),
        ];
    }
    if !link.up {
        return vec![problem(format!("{name} is down")).remedy(format!("`ip link set {name} up`"))];
    }
    let Some((address, prefix, stays)) = link.addresses.first().copied() else {
        return vec![
            problem(format!("{name} has no IPv4 address to serve from")).remedy(format!(
                "give it one, for example `ip address add 192.168.77.1/24 dev {name}`"
            )),
        ];
    };
    let mut checks = vec![];
    if !link.carrier {
        checks.push(
            problem(format!("{name} has no carrier"))
                .remedy("plug the cable in at both ends; look at the switch port"),
        );
    } else {
        checks.push(Check::ok(
            "interface",
            name,
            format!("{name} is up and has carrier and the address {address}/{prefix}"),
        ));
    }
    if !stays && wanted.dhcp == Dhcp::Full {
        checks.push(
            Check::new(
                Level::Warning,
                "address",
                name,
                format!("the address {address} of {name} was given by another DHCP server"),
            )
            .remedy("a server that gives addresses should have one of its own: set it by hand"),
        );
    }
    let mtu = link.mtu;
    checks.push(match mtu {
        USUAL_MTU => Check::ok("mtu", name, format!("the MTU of {name} is {mtu}")),
        0..USUAL_MTU => Check::new(
            Level::Warning,
            "mtu",
            name,
            format!(
                "the MTU of {name} is {mtu}: machines send packets of up to 1500 bytes, which do \
                 not arrive here"
            ),
        )
        .remedy(format!("`ip link set {name} mtu 1500`")),
        _ => Check::new(
            Level::Warning,
            "mtu",
            name,
            format!(
                "the MTU of {name} is {mtu}: boot ROMs take packets of up to 1500 bytes, and longer \
                 ones vanish"
            ),
        )
        .remedy(format!(
            "`ip link set {name} mtu 1500`, unless every machine and switch of the segment takes {mtu}"
        )),
    });
    checks
}

fn network(address: Ipv4Addr, prefix: u8) -> (u32, u8) {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    (u32::from(address) & mask, prefix)
}

/// Two interfaces in one network: answers leave by either.
fn same_network(subject: &Subject, links: &[Link]) -> Option<Check> {
    let mut seen: Vec<((u32, u8), &str)> = vec![];
    for link in links.iter().filter(|link| link.up && link.ethernet) {
        for (address, prefix, _) in &link.addresses {
            let here = network(*address, *prefix);
            let other = seen
                .iter()
                .find(|(known, name)| *known == here && *name != link.name);
            if let Some((_, other)) = other {
                let serves = |name: &str| subject.interfaces.iter().any(|w| w.name == name);
                if serves(&link.name) || serves(other) {
                    return Some(
                        Check::new(
                            Level::Warning,
                            "address",
                            &link.name,
                            format!(
                                "{other} and {} are in the same network: answers may leave by the \
                                 other one",
                                link.name
                            ),
                        )
                        .remedy("give them different networks, or join them into one bridge"),
                    );
                }
            }
            seen.push((here, &link.name));
        }
    }
    None
}

fn sysctl(path: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/{path}"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Reverse path filter (RFC 3704) and forwarding.
fn routing(subject: &Subject) -> Vec<Check> {
    let mut checks = vec![];
    let all = sysctl("conf/all/rp_filter").unwrap_or_default();
    for wanted in &subject.interfaces {
        let own = sysctl(&format!("conf/{}/rp_filter", wanted.name)).unwrap_or_default();
        // The higher of the two counts (ip-sysctl in the kernel's documentation).
        if all.max(own) == 1 {
            checks.push(
                Check::new(
                    Level::Note,
                    "rp-filter",
                    &wanted.name,
                    format!(
                        "the kernel drops packets on {} whose sender it would not answer there \
                         (rp_filter is 1): requests that a relay forwards from another network are \
                         such, unless there is a route to it",
                        wanted.name
                    ),
                )
                .remedy(format!(
                    "with relays: add routes to their networks, or `sysctl \
                     net.ipv4.conf.{}.rp_filter=2`",
                    wanted.name
                )),
            );
        }
    }
    match sysctl("ip_forward") {
        Some(1) => checks.push(Check::ok("forwarding", "", "this host forwards packets")),
        Some(_) => checks.push(
            Check::new(
                Level::Note,
                "forwarding",
                "",
                "this host does not forward packets: machines on the served segment reach nothing \
                 beyond it through this host",
            )
            .remedy(
                "where they should: `nat` in the configuration, or `sysctl net.ipv4.ip_forward=1`",
            ),
        ),
        None => {}
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, address: [u8; 4]) -> Link {
        Link {
            name: name.into(),
            index: 1,
            mac: None,
            ethernet: true,
            up: true,
            carrier: true,
            mtu: 1500,
            addresses: vec![(address.into(), 24, true)],
        }
    }

    fn found(link: Link) -> Vec<(Level, &'static str)> {
        let wanted = Wanted {
            name: link.name.clone(),
            dhcp: Dhcp::Full,
            has_pool: true,
        };
        let checks = check_link(&wanted, &link);
        for check in &checks {
            assert_eq!(
                check.level > Level::Note,
                check.remedy.is_some(),
                "{check:?}"
            );
        }
        checks
            .iter()
            .map(|check| (check.level, check.about))
            .collect()
    }

    #[test]
    fn each_fault_of_an_interface_is_found() {
        use Level::{Ok, Problem, Warning};
        let good = || link("eth0", [10, 0, 0, 1]);
        assert_eq!(found(good()), [(Ok, "interface"), (Ok, "mtu")]);
        assert_eq!(
            found(Link {
                up: false,
                ..good()
            }),
            [(Problem, "interface")]
        );
        assert_eq!(
            found(Link {
                addresses: vec![],
                ..good()
            }),
            [(Problem, "interface")]
        );
        assert_eq!(
            found(Link {
                ethernet: false,
                ..good()
            }),
            [(Problem, "interface")]
        );
        assert_eq!(
            found(Link {
                carrier: false,
                mtu: 9000,
                ..good()
            }),
            [(Problem, "interface"), (Warning, "mtu")]
        );
        assert_eq!(
            found(Link {
                mtu: 1400,
                ..good()
            })[1],
            (Warning, "mtu")
        );
        let given = vec![([10, 0, 0, 1].into(), 24, false)];
        assert!(
            found(Link {
                addresses: given,
                ..good()
            })
            .contains(&(Warning, "address"))
        );
    }

    #[test]
    fn networks_are_compared_by_their_prefix() {
        assert_eq!(
            network([10, 0, 0, 9].into(), 24),
            network([10, 0, 0, 1].into(), 24)
        );
        assert_ne!(
            network([10, 0, 1, 9].into(), 24),
            network([10, 0, 0, 1].into(), 24)
        );
        assert_eq!(network([10, 0, 0, 9].into(), 0).0, 0);
        assert_eq!(
            network([10, 0, 0, 9].into(), 32).0,
            u32::from_be_bytes([10, 0, 0, 9])
        );
    }
}
