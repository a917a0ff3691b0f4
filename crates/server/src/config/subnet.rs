//! Networks behind relays, and what devices with a tag are given.

use super::ConfigError;
use super::interface::{
    DhcpOption, Pool, Reservation, check_options, check_reservations, check_tagged, check_times,
};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network behind a relay, chosen by the relay's address in it, or by what relay or client ask for
/// (RFC 3527, RFC 3011).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Subnet {
    /// Where it is.
    pub network: Network,
    /// Addresses to give out.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// The router to hand out. Without it machines there do not reach this server.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers to hand out.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Domain name to hand out.
    #[serde(default)]
    pub domain: Option<String>,
    /// Time servers to hand out.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Any other option, by number.
    #[serde(default, rename = "option")]
    pub options: Vec<DhcpOption>,
    /// Lease time of an operating system or the agent, in seconds (60 to 31,536,000).
    #[serde(default)]
    pub lease: Option<u32>,
    /// Lease time in the PXE phase, in seconds (30 to 3,600).
    #[serde(default)]
    pub boot_lease: Option<u32>,
    /// Addresses that belong to one machine.
    #[serde(default, rename = "reservation")]
    pub reservations: Vec<Reservation>,
    /// What devices with a tag are given instead.
    #[serde(default)]
    pub tagged: Vec<Tagged>,
}

/// What devices with a tag are given, in the place of what others are. Of a device with several tags
/// the first of these wins.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tagged {
    /// The tag.
    pub tag: String,
    /// Addresses for these devices alone. They get others only when none of these is left.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// The router to hand out.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers to hand out.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Domain name to hand out.
    #[serde(default)]
    pub domain: Option<String>,
    /// Time servers to hand out.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Any other option, by number.
    #[serde(default, rename = "option")]
    pub options: Vec<DhcpOption>,
}

/// An IPv4 network, written `10.0.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub bugler_dhcp::Network);

impl FromStr for Network {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || {
            ConfigError::Wrong(format!(
                "the network {text:?} is not an IPv4 network: write it as 10.0.1.0/24"
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network = bugler_dhcp::Network {
            address: address.trim().parse().map_err(|_| wrong())?,
            prefix: prefix.trim().parse().map_err(|_| wrong())?,
        };
        if network.prefix > 32 {
            return Err(wrong());
        }
        Ok(Self(network))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Subnet {
    /// What is known of the subnet without an interface.
    ///
    /// # Errors
    /// The first thing that cannot be meant.
    pub(super) fn check(&self, interface: &str) -> Result<(), ConfigError> {
        let place = format!("{} behind {interface}", self.network.0);
        let wrong = |text: String| Err(ConfigError::Wrong(text));
        check_options(&self.options)?;
        check_reservations(&place, &self.reservations)?;
        check_tagged(&place, &self.tagged)?;
        check_times(&place, self.lease, self.boot_lease)?;
        // RFC 3442 has a way to name routers of its own.
        let says_router = |option: &DhcpOption| matches!(option.code, 3 | 121);
        if self.router.is_none() && !self.options.iter().any(says_router) {
            return wrong(format!(
                "the subnet {place} needs a router: machines there could not reach this server to \
                 fetch what they boot"
            ));
        }
        let built = crate::subnets::remote(self)?;
        built.check().map_err(|error| {
            ConfigError::Wrong(format!("the subnet {place} cannot be meant: {error}"))
        })
    }
}
