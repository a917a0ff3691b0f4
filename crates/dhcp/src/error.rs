//! Why a server could not be started.

use crate::config::ConfigError;
use std::io;

/// Why a server could not be started on an interface.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel did not tell about interfaces.
    #[error("could not ask the kernel about the interface {interface}")]
    Netlink {
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is none of this name.
    #[error("there is no network interface {0}: `ip link` lists those that there are")]
    NoInterface(String),
    /// Loopback, a tunnel, or anything else without Ethernet addresses.
    #[error("{0} is not an Ethernet interface: machines cannot boot from it")]
    NotEthernet(String),
    /// Not switched on.
    #[error("the interface {0} is down: `ip link set {0} up` switches it on")]
    Down(String),
    /// No IPv4 address to serve from.
    #[error(
        "the interface {0} has no IPv4 address to serve from: give it one, for example \
         `ip address add 192.168.77.1/24 dev {0}`"
    )]
    NoAddress(String),
    /// Somebody listens there.
    #[error(
        "UDP port {port} on {interface} is in use by another program, probably a DHCP server: \
         `ss -ulpn sport = :{port}` shows which. Stop it, or serve another interface"
    )]
    PortInUse {
        /// Which port.
        port: u16,
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Not allowed.
    #[error(
        "not permitted to open {what} on {interface}: run as root, or grant the capabilities \
         CAP_NET_RAW and CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// What was to be opened.
        what: &'static str,
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// Anything else about a socket.
    #[error("could not open {what} on {interface}")]
    Socket {
        /// What was to be opened.
        what: &'static str,
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// The configuration cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
