//! Why something about an AoE target could not be done.

use std::io;
use std::path::PathBuf;

/// Why targets could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The right to open packet sockets is missing.
    #[error(
        "could not open a packet socket for AoE on {interface}: {source}. It needs CAP_NET_RAW: run as \
         root, or give the service that capability"
    )]
    Permission {
        /// Which interface.
        interface: String,
        /// What came back.
        source: io::Error,
    },
    /// There is no such interface.
    #[error(
        "there is no network interface {interface} to serve AoE on; `ip link` lists those there are"
    )]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The system's answer.
    #[error("could not {action} for AoE on {interface}: {source}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Which interface.
        interface: String,
        /// What came back.
        source: io::Error,
    },
}

/// Why what clients set on a target could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The name cannot be that of a file.
    #[error(
        "an AoE target cannot be named {0:?}: only letters, digits, '.', '-' and '_' can stand in the name \
         of its file, and not a '.' first"
    )]
    Name(String),
    /// The system's answer.
    #[error("could not {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The file is not as it was written.
    #[error(
        "{path} does not hold what clients set on an AoE target: {why}. Remove it to begin with no config \
         string, no MAC mask and no reservation",
        path = path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
}
