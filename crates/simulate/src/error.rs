//! What can go wrong.

use std::io;
use std::net::SocketAddrV4;

/// Why a simulation cannot be run. That a server does not answer, or answers badly, is in the
/// report instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The relay agent's socket.
    #[error(
        "could not play a relay agent on {relay} towards {server}: the address must be one of this \
         host's, its port 67 must be free (see `ss -lunp`), and ports below 1024 need root or \
         CAP_NET_BIND_SERVICE"
    )]
    Relay {
        /// The address and port that the server was to answer to.
        relay: SocketAddrV4,
        /// The server.
        server: SocketAddrV4,
        /// What the system said.
        source: io::Error,
    },
    /// A socket failed while the simulation ran.
    #[error("the simulation's socket failed")]
    Socket {
        /// What the system said.
        source: io::Error,
    },
    /// Options that cannot be meant.
    #[error("{0}")]
    Options(String),
}
