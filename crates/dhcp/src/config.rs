//! What the machine is told: its interface, the subnets it serves, and what clients are given.

use crate::options::code;
use bugler_model::MacAddr;
use std::net::Ipv4Addr;
use std::time::Duration;
use uuid::Uuid;

/// Lease time of an operating system or the agent, unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(3600);

/// Lease time in the PXE phase, unless told otherwise: the operating system asks again anyway, and
/// a machine that fails to boot does not hold its address.
pub const DEFAULT_BOOT_LEASE: Duration = Duration::from_secs(120);

/// An IPv4 network: an address in it and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// An address in the network.
    pub address: Ipv4Addr,
    /// Bits of the prefix, 0 to 32.
    pub prefix: u8,
}

impl Network {
    /// The netmask.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(
            u32::MAX
                .checked_shl(32 - u32::from(self.prefix.min(32)))
                .unwrap_or(0),
        )
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask().to_bits() == 0
    }

    /// Its broadcast address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask().to_bits())
    }

    /// Whether the address is one that a host in this network can have.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let host = address.to_bits() & !self.mask().to_bits();
        // RFC 3021: the two addresses of a /31 are both hosts.
        self.contains(address) && (self.prefix >= 31 || (host != 0 && address != self.broadcast()))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = Ipv4Addr::from_bits(self.address.to_bits() & self.mask().to_bits());
        write!(f, "{first}/{}", self.prefix)
    }
}

/// A run of addresses to give out, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The first address.
    pub first: Ipv4Addr,
    /// The last address.
    pub last: Ipv4Addr,
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// An address that belongs to one machine, by MAC address, by UUID, or by either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The machine, by the MAC address that asks.
    pub mac: Option<MacAddr>,
    /// The machine, by option 97, or a UUID in option 61.
    pub uuid: Option<Uuid>,
    /// Its address.
    pub address: Ipv4Addr,
    /// The host name that it is told.
    pub hostname: Option<String>,
}

/// An option that an operator gives by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomOption {
    /// Its number.
    pub code: u8,
    /// Its value.
    pub value: Vec<u8>,
    /// Whether clients get it that did not ask for it.
    pub always: bool,
}

/// What devices with one tag are given in a subnet, in the place of what others are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// The tag, as [`Advisor::tags`](crate::Advisor::tags) names it.
    pub tag: String,
    /// Addresses for these devices alone. They get others only when none of these is left.
    pub pools: Vec<Pool>,
    /// The router. `None`: the subnet's.
    pub router: Option<Ipv4Addr>,
    /// Name servers, best first. None: the subnet's.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name. `None`: the subnet's.
    pub domain: Option<String>,
    /// NTP servers, best first. None: the subnet's.
    pub ntp: Vec<Ipv4Addr>,
    /// Other options; each wins over one of the same number of the subnet.
    pub options: Vec<CustomOption>,
}

/// One subnet: its addresses and what its clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Where it is.
    pub network: Network,
    /// Addresses for anybody. Reserved ones, this server's and the router's are left out.
    pub pools: Vec<Pool>,
    /// Addresses that belong to one machine; inside or outside of the pools.
    pub reservations: Vec<Reservation>,
    /// The router.
    pub router: Option<Ipv4Addr>,
    /// Name servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// NTP servers, best first.
    pub ntp: Vec<Ipv4Addr>,
    /// Other options. One that the fields above also make wins over the field.
    pub options: Vec<CustomOption>,
    /// What devices with a tag are given instead. Of a device with several of these tags the first
    /// here wins.
    pub tagged: Vec<Tagged>,
    /// Lease time of clients that do not boot. T1 is half of it, T2 seven eighths
    /// (RFC 2131 section 4.4.5).
    pub lease: Duration,
    /// Lease time of boot clients.
    pub boot_lease: Duration,
    /// Whether this server knows all leases of the subnet, and so may tell a client that its
    /// address is wrong.
    pub authoritative: bool,
}

impl Subnet {
    /// A subnet with nothing to give out, default times, authoritative.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self {
            network,
            pools: vec![],
            reservations: vec![],
            router: None,
            dns: vec![],
            domain: None,
            ntp: vec![],
            options: vec![],
            tagged: vec![],
            lease: DEFAULT_LEASE,
            boot_lease: DEFAULT_BOOT_LEASE,
            authoritative: true,
        }
    }

    /// Whether there is any address to give out.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        self.every_pool().next().is_some() || !self.reservations.is_empty()
    }

    /// The pools for anybody, then those for devices with a tag.
    fn every_pool(&self) -> impl Iterator<Item = Pool> {
        let tagged = self.tagged.iter().flat_map(|tagged| &tagged.pools);
        self.pools.iter().chain(tagged).copied()
    }

    /// What devices with these tags are given, what wins first.
    pub(crate) fn tagged<'a>(&'a self, tags: &'a [String]) -> impl Iterator<Item = &'a Tagged> {
        self.tagged
            .iter()
            .filter(|tagged| tags.contains(&tagged.tag))
    }

    /// Checks what cannot be meant.
    ///
    /// # Errors
    /// The first thing found.
    pub fn check(&self) -> Result<(), ConfigError> {
        let network = self.network;
        for pool in self.every_pool() {
            if pool.first > pool.last {
                return Err(ConfigError::PoolBackwards(pool));
            }
            if !network.contains(pool.first) || !network.contains(pool.last) {
                return Err(ConfigError::PoolOutside { pool, network });
            }
        }
        let groups = self.tagged.iter().map(|tagged| &tagged.pools);
        for pools in std::iter::once(&self.pools).chain(groups) {
            // The free addresses are bits between the lowest and the highest one.
            let lowest = pools.iter().map(|pool| pool.first.to_bits()).min();
            let highest = pools.iter().map(|pool| pool.last.to_bits()).max();
            if let (Some(lowest), Some(highest)) = (lowest, highest)
                && highest - lowest >= 1 << 24
            {
                return Err(ConfigError::PoolTooLarge(network));
            }
        }
        self.check_tagged()?;
        for reservation in &self.reservations {
            if !network.is_host(reservation.address) {
                return Err(ConfigError::ReservationOutside {
                    address: reservation.address,
                    network,
                });
            }
            if reservation.mac.is_none() && reservation.uuid.is_none() {
                return Err(ConfigError::ReservationOfNobody(reservation.address));
            }
        }
        let tagged = self.tagged.iter().flat_map(|tagged| &tagged.options);
        for option in self.options.iter().chain(tagged) {
            // RFC 2132 section 9, RFC 3046: what the protocol itself says.
            if matches!(
                option.code,
                code::PAD | code::END | 50..=61 | code::RELAY_INFO
            ) {
                return Err(ConfigError::ProtocolOption(option.code));
            }
        }
        for lease in [self.lease, self.boot_lease] {
            if !(30..=31_536_000).contains(&lease.as_secs()) {
                return Err(ConfigError::LeaseTime(lease));
            }
        }
        Ok(())
    }

    /// Each tag once, and each of its addresses in one pool only: otherwise it would be a matter of
    /// chance who gets it.
    fn check_tagged(&self) -> Result<(), ConfigError> {
        let mut earlier: Vec<&[Pool]> = vec![&self.pools];
        for (index, tagged) in self.tagged.iter().enumerate() {
            let tag = tagged.tag.clone();
            if tag.is_empty() {
                return Err(ConfigError::TagEmpty(self.network));
            }
            if self.tagged.iter().take(index).any(|other| other.tag == tag) {
                return Err(ConfigError::TagTwice(tag));
            }
            for &pool in &tagged.pools {
                let shares = |other: &&Pool| pool.first <= other.last && other.first <= pool.last;
                if let Some(&other) = earlier.iter().copied().flatten().find(shares) {
                    return Err(ConfigError::PoolShared { tag, pool, other });
                }
            }
            earlier.push(&tagged.pools);
        }
        Ok(())
    }
}

/// Checks the subnets of one interface together: a relay's address must tell which one is meant.
///
/// # Errors
/// The first two that overlap.
pub(crate) fn check_together(subnets: &[Subnet]) -> Result<(), ConfigError> {
    for (index, subnet) in subnets.iter().enumerate() {
        for other in subnets.iter().take(index) {
            let (one, two) = (other.network, subnet.network);
            if one.contains(two.address) || two.contains(one.address) {
                return Err(ConfigError::Overlap { one, two });
            }
        }
    }
    Ok(())
}

/// What is wrong with a [`Subnet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// First and last are in the wrong order.
    #[error("the pool {0} ends before it begins")]
    PoolBackwards(Pool),
    /// Not in the network.
    #[error(
        "the pool {pool} is not within {network}, the network that it is for: give out addresses of \
         that network, or change the network or the interface's address"
    )]
    PoolOutside {
        /// Which pool.
        pool: Pool,
        /// The network.
        network: Network,
    },
    /// Too far apart to be one table.
    #[error("the pools of {0} span more than 16,777,216 addresses: make them smaller")]
    PoolTooLarge(Network),
    /// Not in the network.
    #[error(
        "the reserved address {address} is no host address of {network}, the network that it is for"
    )]
    ReservationOutside {
        /// Which address.
        address: Ipv4Addr,
        /// The network.
        network: Network,
    },
    /// No machine.
    #[error("the reservation of {0} names no machine: give its MAC address or its UUID")]
    ReservationOfNobody(Ipv4Addr),
    /// Not the operator's to say.
    #[error("DHCP option {0} is one that the server fills in itself: remove it")]
    ProtocolOption(u8),
    /// A tag without a name.
    #[error("a tag of {0} has no name: say which devices are meant")]
    TagEmpty(Network),
    /// One tag, two descriptions.
    #[error("the tag {0:?} is there twice in one subnet: join the two")]
    TagTwice(String),
    /// An address that is for two kinds of devices.
    #[error(
        "the pool {pool} for devices with the tag {tag:?} shares addresses with the pool {other}: \
         an address can be in one pool only"
    )]
    PoolShared {
        /// Which tag.
        tag: String,
        /// Its pool.
        pool: Pool,
        /// The pool that was there first.
        other: Pool,
    },
    /// Two subnets that share addresses.
    #[error(
        "the networks {one} and {two} of one interface overlap: an address has to tell which of \
         them it belongs to"
    )]
    Overlap {
        /// The first.
        one: Network,
        /// The second.
        two: Network,
    },
    /// Full mode with nothing to give.
    #[error(
        "full DHCP on {0} has no addresses to give out: say which with --pool FIRST-LAST, or with reservations"
    )]
    NoAddresses(Network),
    /// Too short or too long.
    #[error("a lease of {} s is not within 30 to 31536000 s", .0.as_secs())]
    LeaseTime(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        Subnet::new(Network {
            address: [10, 0, 0, 1].into(),
            prefix: 24,
        })
    }

    #[test]
    fn a_network_knows_its_hosts() {
        let network = subnet().network;
        assert_eq!(network.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(network.to_string(), "10.0.0.0/24");
        assert!(network.is_host([10, 0, 0, 254].into()));
        for no_host in [[10, 0, 0, 0], [10, 0, 0, 255], [10, 0, 1, 1]] {
            assert!(!network.is_host(no_host.into()), "{no_host:?}");
        }
        let all = Network {
            address: [1, 2, 3, 4].into(),
            prefix: 0,
        };
        assert!(all.contains([200, 0, 0, 1].into()));
        let pair = Network {
            address: [10, 0, 0, 0].into(),
            prefix: 31,
        };
        assert!(pair.is_host([10, 0, 0, 0].into()) && pair.is_host([10, 0, 0, 1].into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let pool = |first: [u8; 4], last: [u8; 4]| Pool {
            first: first.into(),
            last: last.into(),
        };
        let mut config = subnet();
        config.pools = vec![pool([10, 0, 0, 10], [10, 0, 0, 20])];
        config.check().unwrap();
        config.pools = vec![pool([10, 0, 0, 10], [10, 0, 1, 20])];
        assert!(matches!(
            config.check(),
            Err(ConfigError::PoolOutside { .. })
        ));
        config.pools = vec![pool([10, 0, 0, 20], [10, 0, 0, 10])];
        assert!(matches!(config.check(), Err(ConfigError::PoolBackwards(_))));
        config.pools = vec![pool([0, 0, 0, 0], [255, 0, 0, 0])];
        config.network.prefix = 0;
        assert!(matches!(config.check(), Err(ConfigError::PoolTooLarge(_))));

        let mut config = subnet();
        let reservation = |mac, address: [u8; 4]| Reservation {
            mac,
            uuid: None,
            address: address.into(),
            hostname: None,
        };
        config.reservations = vec![reservation(None, [10, 0, 0, 5])];
        assert!(matches!(
            config.check(),
            Err(ConfigError::ReservationOfNobody(_))
        ));
        config.reservations = vec![reservation(Some(MacAddr([2; 6])), [10, 0, 0, 255])];
        assert!(matches!(
            config.check(),
            Err(ConfigError::ReservationOutside { .. })
        ));

        let mut config = subnet();
        config.options = vec![CustomOption {
            code: 53,
            value: vec![1],
            always: true,
        }];
        assert_eq!(config.check(), Err(ConfigError::ProtocolOption(53)));
        let mut config = subnet();
        config.lease = Duration::from_secs(1);
        assert!(matches!(config.check(), Err(ConfigError::LeaseTime(_))));
    }
}
