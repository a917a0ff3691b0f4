//! Interfaces, the networks on them, and what machines there are told.

use super::ConfigError;
use super::subnet::{Subnet, Tagged};
use bugler_model::MacAddr;
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::str::FromStr;
use uuid::Uuid;

/// One interface and its network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// Kernel name, for example `eth1`.
    pub name: String,
    /// What to do about DHCP.
    pub dhcp: DhcpMode,
    /// Whether to wait for the interface and its address where they are not there at the start.
    pub wait: bool,
    /// The interface through which machines here reach other networks, behind the address of this
    /// host. Default: they do not.
    pub nat: Option<String>,
    /// Addresses to give out.
    pub pools: Vec<Pool>,
    /// The router to hand out. Default: none, and with `nat` this host.
    pub router: Option<Ipv4Addr>,
    /// Name servers to hand out. Default: none, and with `nat` those of this host.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name to hand out.
    pub domain: Option<String>,
    /// Time servers to hand out.
    pub ntp: Vec<Ipv4Addr>,
    /// Any other option, by number.
    #[serde(rename = "option")]
    pub options: Vec<DhcpOption>,
    /// Lease time of an operating system or the agent, in seconds (60 to 31,536,000).
    pub lease: Option<u32>,
    /// Lease time in the PXE phase, in seconds (30 to 3,600).
    pub boot_lease: Option<u32>,
    /// Addresses that belong to one machine.
    #[serde(rename = "reservation")]
    pub reservations: Vec<Reservation>,
    /// What devices with a tag are given instead.
    pub tagged: Vec<Tagged>,
    /// Networks behind relays, whose requests come in on this interface.
    #[serde(rename = "subnet")]
    pub subnets: Vec<Subnet>,
}

/// What to do about DHCP on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhcpMode {
    /// Look for another server, then pick; addresses only with a pool.
    #[default]
    Auto,
    /// Be the DHCP server.
    Full,
    /// Leave addresses to another server.
    Proxy,
    /// Say nothing.
    Off,
}

/// A run of addresses, both ends included, written `10.0.0.100-10.0.0.200`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The first address.
    pub first: Ipv4Addr,
    /// The last address.
    pub last: Ipv4Addr,
}

impl FromStr for Pool {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| {
            ConfigError::Wrong(format!(
                "the pool {text:?} {why}; write it as first-last, for example 10.0.0.100-10.0.0.200"
            ))
        };
        let (first, last) = text.split_once('-').ok_or_else(|| wrong("has no '-'"))?;
        let address = |part: &str| {
            part.trim()
                .parse::<Ipv4Addr>()
                .map_err(|_| wrong("has an end that is not an IPv4 address"))
        };
        let pool = Self {
            first: address(first)?,
            last: address(last)?,
        };
        if pool.first > pool.last {
            return Err(wrong("ends before it begins"));
        }
        Ok(pool)
    }
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A DHCP option by number, with exactly one kind of value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpOption {
    /// Its number, 1 to 254.
    pub code: u8,
    /// Its value as text.
    pub text: Option<String>,
    /// Its value as addresses.
    pub addresses: Option<Vec<Ipv4Addr>>,
    /// Its value as hexadecimal bytes.
    pub hex: Option<String>,
}

impl DhcpOption {
    /// The bytes that go into the packet.
    ///
    /// # Errors
    /// Where there is not exactly one value, it is longer than 255 bytes, or the option is one
    /// that the server itself answers for.
    pub fn bytes(&self) -> Result<Vec<u8>, ConfigError> {
        let code = self.code;
        let wrong = |why: &str| ConfigError::Wrong(format!("DHCP option {code}: {why}"));
        // Those that the protocol itself fills in (RFC 2132 sections 9.1 to 9.14, RFC 3046).
        if matches!(code, 0 | 50..=54 | 56..=61 | 82 | 255) {
            return Err(wrong("the server fills in this one itself"));
        }
        let bytes = match (&self.text, &self.addresses, &self.hex) {
            (Some(text), None, None) => text.clone().into_bytes(),
            (None, Some(addresses), None) => addresses.iter().flat_map(Ipv4Addr::octets).collect(),
            (None, None, Some(hex)) => {
                unhex(hex).ok_or_else(|| wrong("its hex is not pairs of hex digits"))?
            }
            _ => return Err(wrong("give exactly one of text, addresses and hex")),
        };
        if bytes.is_empty() || bytes.len() > 255 {
            return Err(wrong("its value must have 1 to 255 bytes"));
        }
        Ok(bytes)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !b" :".contains(b))
        .map(|b| (b as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect())
}

/// An address that belongs to one machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// The machine, by MAC address.
    pub mac: Option<MacAddr>,
    /// The machine, by UUID.
    pub uuid: Option<Uuid>,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host name that it is told.
    pub hostname: Option<String>,
}

impl Interface {
    /// Checks what one value alone does not show.
    ///
    /// # Errors
    /// The first thing that cannot be meant, and what to do about it.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let name = &self.name;
        let wrong = |text: String| Err(ConfigError::Wrong(text));
        let tagged_pools = self.tagged.iter().any(|tagged| !tagged.pools.is_empty());
        if self.dhcp == DhcpMode::Full
            && self.pools.is_empty()
            && self.reservations.is_empty()
            && self.subnets.is_empty()
            && !tagged_pools
        {
            return wrong(format!(
                "full DHCP on {name} has no addresses to give out: say which with --pool \
                 first-last, or with reservations"
            ));
        }
        check_options(&self.options)?;
        check_reservations(name, &self.reservations)?;
        check_tagged(name, &self.tagged)?;
        check_times(name, self.lease, self.boot_lease)?;
        if self.dhcp == DhcpMode::Off && !self.subnets.is_empty() {
            return wrong(format!(
                "DHCP on {name} is off, and there are subnets behind relays for it: remove them, or \
                 say dhcp = \"full\""
            ));
        }
        for subnet in &self.subnets {
            subnet.check(name)?;
        }
        let Some(uplink) = &self.nat else {
            return Ok(());
        };
        if uplink == name {
            return wrong(format!(
                "{name} cannot be its own way out: nat names the interface through which machines on \
                 {name} reach other networks"
            ));
        }
        if !is_interface_name(uplink) {
            return wrong(format!(
                "nat = {uplink:?} on {name} is not an interface name"
            ));
        }
        if self.dhcp == DhcpMode::Proxy {
            return wrong(format!(
                "nat on {name} needs this server to give out the addresses, because it makes this \
                 host their router: say dhcp = \"full\" and pools, or remove nat"
            ));
        }
        Ok(())
    }
}

/// Whether the kernel would take this name (IFNAMSIZ is 16 with the closing zero).
pub(super) fn is_interface_name(name: &str) -> bool {
    let odd = |c: char| c == '/' || c == '"' || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= 15 && !name.contains(odd)
}

pub(super) fn check_options(options: &[DhcpOption]) -> Result<(), ConfigError> {
    options
        .iter()
        .try_for_each(|option| option.bytes().map(drop))
}

pub(super) fn check_reservations(
    place: &str,
    reservations: &[Reservation],
) -> Result<(), ConfigError> {
    let nobody =
        |reservation: &&Reservation| reservation.mac.is_none() && reservation.uuid.is_none();
    match reservations.iter().find(nobody) {
        Some(reservation) => Err(ConfigError::Wrong(format!(
            "the reservation of {} on {place} needs a mac or a uuid",
            reservation.address
        ))),
        None => Ok(()),
    }
}

pub(super) fn check_tagged(place: &str, tagged: &[Tagged]) -> Result<(), ConfigError> {
    for (index, one) in tagged.iter().enumerate() {
        check_options(&one.options)?;
        let wrong = |what: &str| {
            Err(ConfigError::Wrong(format!(
                "the table for the tag {:?} on {place} {what}",
                one.tag
            )))
        };
        if one.tag.is_empty() {
            return wrong("names no tag: say which devices are meant");
        }
        if tagged.iter().take(index).any(|other| other.tag == one.tag) {
            return wrong("is there twice: join the two");
        }
    }
    Ok(())
}

pub(super) fn check_times(
    place: &str,
    lease: Option<u32>,
    boot_lease: Option<u32>,
) -> Result<(), ConfigError> {
    if lease.is_some_and(|s| !(60..=31_536_000).contains(&s)) {
        return Err(ConfigError::Wrong(format!(
            "the lease time on {place} must be 60 to 31536000 seconds"
        )));
    }
    if boot_lease.is_some_and(|s| !(30..=3600).contains(&s)) {
        return Err(ConfigError::Wrong(format!(
            "the boot lease time on {place} must be 30 to 3600 seconds"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let interface: Interface = toml::from_str(text).map_err(|error| error.to_string())?;
        interface.check().map_err(|error| error.to_string())
    }

    #[test]
    fn subnets_behind_relays_are_checked() {
        check(
            "name = \"eth1\"\ndhcp = \"full\"\n[[subnet]]\nnetwork = \"10.1.0.0/24\"\n\
             pools = [\"10.1.0.10-10.1.0.20\"]\nrouter = \"10.1.0.1\"\n",
        )
        .unwrap();
        for (text, why) in [
            ("pools = [\"10.1.0.10-10.1.0.20\"]", "needs a router"),
            (
                "router = \"10.1.0.1\"\npools = [\"10.2.0.10-10.2.0.20\"]",
                "not within 10.1.0.0/24",
            ),
            ("router = \"10.1.0.1\"\nlease = 5", "60 to 31536000"),
            ("gateway = \"10.1.0.1\"", "unknown field"),
        ] {
            let error = check(&format!(
                "name = \"eth1\"\n[[subnet]]\nnetwork = \"10.1.0.0/24\"\n{text}\n"
            ))
            .unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for network in ["10.1.0.0", "10.1.0.0/33", "x/24"] {
            let error = check(&format!(
                "name = \"eth1\"\n[[subnet]]\nnetwork = \"{network}\"\n"
            ))
            .unwrap_err();
            assert!(error.contains("10.0.1.0/24"), "{error}");
        }
    }

    #[test]
    fn nat_that_cannot_be_meant_is_refused() {
        check("name = \"eth1\"\nnat = \"eth0\"\npools = [\"10.1.0.10-10.1.0.20\"]").unwrap();
        for (text, why) in [
            ("nat = \"eth1\"", "its own way out"),
            ("nat = \"eth0\\\"; accept\"", "not an interface name"),
            ("nat = \"eth0\"\ndhcp = \"proxy\"", "give out the addresses"),
        ] {
            let error = check(&format!("name = \"eth1\"\n{text}")).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_tag_has_a_name_and_is_there_once() {
        for (text, why) in [
            ("[[tagged]]\ntag = \"\"", "names no tag"),
            ("[[tagged]]\ntag = \"a\"\n[[tagged]]\ntag = \"a\"", "twice"),
            ("[[tagged]]\npools = []", "missing field `tag`"),
        ] {
            let error = check(&format!("name = \"eth1\"\n{text}")).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn pools_are_read_or_refused_with_the_reason() {
        let pool: Pool = "10.0.0.1 - 10.0.0.9".parse().unwrap();
        assert_eq!(
            (pool.first, pool.last),
            ([10, 0, 0, 1].into(), [10, 0, 0, 9].into())
        );
        for (text, why) in [
            ("10.0.0.1", "no '-'"),
            ("10.0.0.9-10.0.0.1", "before it begins"),
            ("a-b", "IPv4"),
        ] {
            assert!(
                text.parse::<Pool>().unwrap_err().to_string().contains(why),
                "{text}"
            );
        }
    }

    #[test]
    fn an_option_has_one_value_and_is_not_the_protocols_own() {
        let option = |code, text: Option<&str>, hex: Option<&str>| {
            DhcpOption {
                code,
                text: text.map(Into::into),
                addresses: None,
                hex: hex.map(Into::into),
            }
            .bytes()
        };
        assert_eq!(
            option(43, None, Some("06 01 08 ff")).unwrap(),
            [6, 1, 8, 0xff]
        );
        assert_eq!(option(17, Some("/srv"), None).unwrap(), b"/srv");
        assert!(option(53, Some("x"), None).is_err());
        assert!(option(43, Some("x"), Some("00")).is_err());
        assert!(option(43, None, Some("0")).is_err());
        assert!(option(43, None, Some("0g")).is_err());
    }
}
