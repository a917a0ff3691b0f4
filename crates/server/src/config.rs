//! The configuration: a TOML file, then the command line over it.

mod deploy;
mod diskless;
mod images;
mod interface;
mod power;
mod subnet;

pub use deploy::Deploy;
pub use diskless::Diskless;
pub use images::Images;
pub use interface::{DhcpMode, DhcpOption, Interface, Pool, Reservation};
pub use power::Power;
pub use subnet::{Network, Subnet, Tagged};

use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

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
    /// What deploys and captures may take.
    pub deploy: Deploy,
    /// How machines run without a disk.
    pub diskless: Diskless,
    /// How images are looked after.
    pub images: Images,
    /// How machines are switched.
    pub power: Power,
    /// The TFTP server.
    pub tftp: Tftp,
    /// The boot environment that is built on first start.
    pub bootenv: Bootenv,
    /// The same for 64-bit Arm. It is built where an agent for it is there.
    pub bootenv_arm64: Bootenv,
    /// Where Raspberry Pis get the files that are not made for them.
    pub raspberry_pi: RaspberryPi,
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
            deploy: Deploy::default(),
            diskless: Diskless::default(),
            images: Images::default(),
            power: Power::default(),
            tftp: Tftp::default(),
            bootenv: Bootenv::default(),
            bootenv_arm64: Bootenv::default(),
            raspberry_pi: RaspberryPi::default(),
        }
    }
}

/// What machines are given to boot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// The folder with undionly.kpxe and snponly.efi. What else it has of the boot loaders goes before
    /// what Debian's packages have.
    pub loaders: PathBuf,
    /// The folder of files that profiles boot, served under `/boot/files/`. Default: `files` in the
    /// state directory.
    pub files: Option<PathBuf>,
    /// More kernel arguments for the boot environment.
    pub cmdline: String,
    /// The same for 64-bit Arm, where a serial console has another name on every board, and the kernel
    /// takes the one that the firmware tells of when no console is named.
    pub cmdline_arm64: String,
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            // Where Debian's package `ipxe` puts them.
            loaders: "/usr/lib/ipxe".into(),
            files: None,
            cmdline: "console=tty0 console=ttyS0,115200 quiet".into(),
            cmdline_arm64: "quiet".into(),
        }
    }
}

/// Where Raspberry Pis get the files that are not made for them: the boot loader's stages
/// (`bootcode.bin`, `start4.elf`, ...), overlays, a `config.txt` to add to. The first place that has
/// a file counts; last comes `/usr/lib/raspi-firmware`, where Debian's package is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RaspberryPi {
    /// A folder that is laid out as a boot partition is. Default: `pi` in the folder of boot files.
    pub folder: Option<PathBuf>,
    /// A folder into which Debian's packages raspi-firmware and linux-image-...-arm64 were unpacked.
    pub debian: Option<PathBuf>,
    /// An image whose boot partition has the files, by its name.
    pub image: Option<String>,
}

/// The TFTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tftp {
    /// Whether it runs.
    pub enabled: bool,
    /// Whether all answers come from port 69, for clients behind NAT or a firewall that lets nothing
    /// else through. Costs a little speed.
    pub single_port: bool,
}

impl Default for Tftp {
    fn default() -> Self {
        Self {
            enabled: true,
            single_port: false,
        }
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

    /// The folder of files that profiles boot.
    #[must_use]
    pub fn boot_files(&self) -> PathBuf {
        let own = || self.state_dir.join("files");
        self.boot.files.clone().unwrap_or_else(own)
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
        self.deploy.limits()?;
        self.images.verify_rate()?;
        self.power.every()?;
        for (i, interface) in self.interfaces.iter().enumerate() {
            let name = &interface.name;
            if !interface::is_interface_name(name) {
                return wrong(format!("{name:?} is not an interface name"));
            }
            if self.interfaces[..i].iter().any(|other| &other.name == name) {
                return wrong(format!("the interface {name} is there twice"));
            }
            interface.check()?;
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
}
