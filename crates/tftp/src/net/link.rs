//! The way to one client: a socket of its own, or the one that requests come to.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::Socket;

use super::listener::Route;
use crate::sys;

/// The way to one client.
#[derive(Debug)]
pub(super) struct Link {
    way: Way,
    /// What is sent is cut into datagrams of this many bytes, where it is longer; 0: it is not.
    segment: u16,
}

#[derive(Debug)]
enum Way {
    /// A socket that hears only the client.
    Own(OwnedFd),
    /// The listening socket. What the client sends comes to the listener.
    Shared { socket: Arc<Socket>, route: Route },
}

/// Whether a datagram left. One that the network had no room for counts as sent: it is as good as
/// lost on the way, and repaired in the same manner.
pub(super) enum Sent {
    Yes,
    /// An earlier one reached the client's machine and found its port closed. Not known on a shared
    /// socket, which the kernel tells of no errors of others.
    PortClosed,
}

impl Link {
    /// # Errors
    /// Whatever making the socket brings.
    pub(super) fn new(route: &Route) -> io::Result<Self> {
        let way = match route.shared() {
            Some(socket) => Way::Shared {
                socket: socket.clone(),
                route: route.clone(),
            },
            None => Way::Own(route.connect()?),
        };
        Ok(Self { way, segment: 0 })
    }

    /// The MTU of the route to the client, so never more than the interface's.
    ///
    /// # Errors
    /// Whatever the kernel says; a route that is gone, for example.
    pub(super) fn mtu(&self) -> io::Result<u32> {
        Ok(match &self.way {
            Way::Own(socket) => rustix::net::sockopt::ip_mtu(socket)?,
            // The kernel tells it only of a connected socket. Nothing is sent on this one.
            Way::Shared { route, .. } => rustix::net::sockopt::ip_mtu(route.connect()?)?,
        })
    }

    /// The socket to watch; None where the listener is watched already.
    pub(super) fn own(&self) -> Option<&OwnedFd> {
        match &self.way {
            Way::Own(socket) => Some(socket),
            Way::Shared { .. } => None,
        }
    }

    /// Takes a datagram; of a shared socket there is never one here.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] where there is none; whatever else the kernel says.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match &self.way {
            Way::Own(socket) => {
                rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT).map(|(length, _)| length)
            }
            Way::Shared { .. } => Err(Errno::AGAIN),
        }
    }

    /// Cuts what is sent into datagrams of this size from now on (0: does not). Gives false where
    /// that cannot be had.
    pub(super) fn cut(&mut self, size: u16) -> bool {
        if let Way::Own(socket) = &self.way
            && sys::set_segment_size(socket, size).is_err()
        {
            return false;
        }
        self.segment = size;
        true
    }

    /// Sends datagrams of `len` bytes, the last maybe shorter, one by one.
    pub(super) fn send_each(&self, datagrams: &[u8], len: usize) -> Sent {
        for datagram in datagrams.chunks(len) {
            let sent = match self.send_once(datagram) {
                // The path became narrower since the block size was agreed: fragments are what is
                // left. The shared socket allows them from the start.
                Err(Errno::MSGSIZE) => {
                    if let Way::Own(socket) = &self.way {
                        let _ = sys::allow_fragments(socket);
                    }
                    self.send_once(datagram)
                }
                other => other,
            };
            if let Ok(Sent::PortClosed) = sent {
                return Sent::PortClosed;
            }
        }
        Sent::Yes
    }

    /// Sends one datagram, or several that [`cut`](Self::cut) cuts apart.
    ///
    /// # Errors
    /// Only those that another way of sending might not bring.
    pub(super) fn send_once(&self, datagram: &[u8]) -> Result<Sent, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match &self.way {
            Way::Own(socket) => rustix::net::send(socket, datagram, flags).map(drop),
            Way::Shared { socket, route } => {
                let cut = Some(self.segment)
                    .filter(|&size| size > 0 && datagram.len() > usize::from(size));
                sys::send_from(socket, route.local, route.peer, datagram, cut)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
        };
        match sent {
            Ok(()) => Ok(Sent::Yes),
            Err(Errno::CONNREFUSED) => Ok(Sent::PortClosed),
            Err(errno @ (Errno::MSGSIZE | Errno::INVAL | Errno::IO | Errno::OPNOTSUPP)) => {
                Err(errno)
            }
            Err(_) => Ok(Sent::Yes),
        }
    }
}
