//! The configuration: a TOML file, then the command line over it.

use bugler_model::MacAddr;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use uuid::Uuid;

/// Where machines reach the device plane unless told otherwise.
pub const DEVICE_PORT: u16 = 8480;

/// Where operators reach the dashboard and the API unless told otherwise.
pub const OPERATOR_PORT: u16 = 8481;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be; the source names the line.
    #[error("the configuration file {path} is wrong")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be meant.
    #[error("{0}")]
    Wrong(String),
}

/// Everything that `bugler serve` can be told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where devices, images and boot environments are kept.
    pub state_dir: PathBuf,
    /// Where machines reach boot files and the agent API.
    pub device_listen: SocketAddr,
    /// Where operators reach the dashboard and the API.
    pub operator_listen: SocketAddr,
    /// Whether `operator_listen` may be other than loopback although nobody has to log in.
    pub operator_without_login: bool,
    /// More names by which operators call this host in a browser.
    pub operator_names: Vec<String>,
    /// The interfaces to serve.
    #[serde(rename = "interface")]
    pub interfaces: Vec<Interface>,
    /// What machines are given to boot.
    pub boot: Boot,
    /// The TFTP server.
    pub tftp: Tftp,
    /// The boot environment that is built on first start.
    pub bootenv: Bootenv,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/bugler".into(),
            device_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEVICE_PORT)),
            operator_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, OPERATOR_PORT)),
            operator_without_login: false,
            operator_names: vec![],
            interfaces: vec![],
            boot: Boot::default(),
            tftp: Tftp::default(),
            bootenv: Bootenv::default(),
        }
    }
}

/// One interface and its network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// Kernel name, for example `eth1`.
    pub name: String,
    /// What to do about DHCP.
    pub dhcp: DhcpMode,
    /// Addresses to give out.
    pub pools: Vec<Pool>,
    /// The router to hand out. Default: none.
    pub router: Option<Ipv4Addr>,
    /// Name servers to hand out.
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

/// What machines are given to boot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// The folder with undionly.kpxe and snponly.efi.
    pub loaders: PathBuf,
    /// More kernel arguments for the boot environment.
    pub cmdline: String,
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            // Where Debian's package `ipxe` puts them.
            loaders: "/usr/lib/ipxe".into(),
            cmdline: "console=tty0 console=ttyS0,115200 quiet".into(),
        }
    }
}

/// The TFTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tftp {
    /// Whether it runs.
    pub enabled: bool,
}

impl Default for Tftp {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// The boot environment that is built on first start, when there is none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bootenv {
    /// The agent. Default: `bugler-agent` beside this program.
    pub agent: Option<PathBuf>,
    /// A .deb, or a folder with vmlinuz and lib/modules. Default: the running kernel, else
    /// Debian's.
    pub kernel: Option<PathBuf>,
    /// A static busybox for the rescue shell. Default: /bin/busybox.
    pub busybox: Option<PathBuf>,
    /// A folder such as /lib/firmware: the files in it that network and disk drivers name are put
    /// in. Default: none.
    pub firmware: Option<PathBuf>,
    /// Names of kernel modules to put in beyond those for network and disks.
    pub modules: Vec<String>,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Where it cannot be read, or has a key that is not known or a value that cannot be meant.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Checks what one value alone does not show.
    ///
    /// # Errors
    /// The first thing that cannot be meant, and what to do about it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Wrong(text));
        let loopback = match self.operator_listen.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        };
        if !loopback && !self.operator_without_login {
            return wrong(format!(
                "operators would reach {} without logging in, and could overwrite every disk: \
                 listen on 127.0.0.1, or say --operator-without-login",
                self.operator_listen
            ));
        }
        if !self.device_listen.is_ipv4() {
            return wrong(format!(
                "device-listen {} is not an IPv4 address: firmware reaches it by IPv4",
                self.device_listen
            ));
        }
        for (i, interface) in self.interfaces.iter().enumerate() {
            let name = &interface.name;
            if name.is_empty() || name.len() > 15 || name.contains('/') {
                return wrong(format!("{name:?} is not an interface name"));
            }
            if self.interfaces[..i].iter().any(|other| &other.name == name) {
                return wrong(format!("the interface {name} is there twice"));
            }
            if interface.dhcp == DhcpMode::Full
                && interface.pools.is_empty()
                && interface.reservations.is_empty()
            {
                return wrong(format!(
                    "full DHCP on {name} has no addresses to give out: say which with --pool \
                     first-last, or with reservations"
                ));
            }
            for option in &interface.options {
                option.bytes()?;
            }
            for reservation in &interface.reservations {
                if reservation.mac.is_none() && reservation.uuid.is_none() {
                    return wrong(format!(
                        "the reservation of {} on {name} needs a mac or a uuid",
                        reservation.address
                    ));
                }
            }
            if interface
                .lease
                .is_some_and(|s| !(60..=31_536_000).contains(&s))
            {
                return wrong(format!(
                    "the lease time on {name} must be 60 to 31536000 seconds"
                ));
            }
            if interface
                .boot_lease
                .is_some_and(|s| !(30..=3600).contains(&s))
            {
                return wrong(format!(
                    "the boot lease time on {name} must be 30 to 3600 seconds"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotated_example_is_valid_and_shows_the_defaults() {
        let text = include_str!("../../../bugler.example.toml");
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config, Config::default());
        // What is commented out must be valid as well: every line that begins with `# ` and holds
        // an assignment or a table header is a line that a user may uncomment.
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[')
                        || rest
                            .split_once(" = ")
                            .is_some_and(|(k, _)| !k.contains(' ')) =>
                {
                    rest
                }
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        let config: Config = toml::from_str(&uncommented).unwrap();
        config.check().unwrap();
        assert_eq!(config.interfaces.len(), 1);
        assert_eq!(config.interfaces[0].reservations.len(), 1);
    }

    #[test]
    fn a_key_that_is_not_known_is_refused() {
        let error = toml::from_str::<Config>("state_dir = \"x\"").unwrap_err();
        assert!(error.to_string().contains("state-dir"), "{error}");
    }

    #[test]
    fn an_open_operator_plane_must_be_asked_for() {
        let mut config = Config {
            operator_listen: "0.0.0.0:8481".parse().unwrap(),
            ..Config::default()
        };
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("--operator-without-login")
        );
        config.operator_without_login = true;
        config.check().unwrap();
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
