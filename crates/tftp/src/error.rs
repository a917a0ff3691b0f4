//! What can go wrong with the server as a whole. What goes wrong with one transfer is an
//! [`Event`](crate::Event).

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// Why the server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listening socket could not be made.
    #[error("cannot listen for TFTP on {address}{}: {hint}", on(.interface.as_deref()))]
    Bind {
        /// The address and port.
        address: SocketAddrV4,
        /// The interface that it was to be bound to.
        interface: Option<String>,
        /// What to do.
        hint: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// No address to listen on was given.
    #[error("TFTP has no address to listen on: give at least one, or an interface")]
    NothingToListenOn,
    /// A facility of the kernel, or a thread, could not be had.
    #[error("TFTP cannot {what}: check the limits on open files and threads of this process")]
    Resources {
        /// What was tried.
        what: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// The thread that serves ended by a panic, in an [`Observer`](crate::Observer) maybe.
    #[error("the TFTP thread ended by a panic; the message stands in the log before this line")]
    Panicked,
    /// The folder to serve cannot be opened.
    #[error("cannot serve the folder {} over TFTP: {hint}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// What came back.
        source: io::Error,
    },
}

fn on(interface: Option<&str>) -> String {
    interface.map_or_else(String::new, |name| format!(" (interface {name})"))
}

impl Error {
    pub(crate) fn resources(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Resources { what, source }
    }

    pub(crate) fn bind(address: SocketAddrV4, interface: Option<&str>, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                "another program has the port (find it with `ss -ulpn`), stop it or choose another"
            }
            Some(libc::EACCES | libc::EPERM) => {
                "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
            }
            Some(libc::EADDRNOTAVAIL) => "no interface of this machine has the address",
            Some(libc::ENODEV) => "there is no such interface (list them with `ip link`)",
            _ => "check the address and the interface",
        };
        Self::Bind {
            address,
            interface: interface.map(str::to_owned),
            hint,
            source,
        }
    }
}
