//! The sockets that requests come to, and the sockets that answers leave from.

use std::hash::{Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Listen;
use crate::error::Error;
use crate::sys;

/// How much a burst of requests may fill before the kernel drops some: a power cut makes a thousand
/// machines ask at once.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Listener {
    socket: Arc<Socket>,
    /// Answers leave from this socket.
    single_port: bool,
    address: SocketAddrV4,
    interface: Option<Arc<str>>,
}

/// Where an answer leaves from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) peer: SocketAddrV4,
    pub(super) local: Ipv4Addr,
    pub(super) interface: Option<Arc<str>>,
    shared: Option<Shared>,
}

/// The listening socket, where answers leave from it. Equal only to itself.
#[derive(Debug, Clone)]
struct Shared(Arc<Socket>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Listener {
    pub(super) fn bind(listen: &Listen, single_port: bool) -> Result<Self, Error> {
        let interface = listen.interface.as_deref();
        let failed = |source| Error::bind(listen.address, interface, source);
        let socket = udp(interface).map_err(failed)?;
        socket
            .bind(&SockAddr::from(listen.address))
            .map_err(failed)?;
        sys::set_packet_info(&socket).map_err(failed)?;
        if single_port {
            // The block size fits the route when a transfer begins. When the route becomes narrower
            // later, fragments are what is left, as for a socket of its own.
            sys::allow_fragments(&socket).map_err(failed)?;
        }
        // A smaller buffer than wished for still works.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let address = socket.local_addr().map_err(failed)?;
        let address = address.as_socket_ipv4().unwrap_or(listen.address);
        Ok(Self {
            socket: Arc::new(socket),
            single_port,
            address,
            interface: interface.map(Arc::from),
        })
    }

    pub(super) fn local_addr(&self) -> SocketAddrV4 {
        self.address
    }

    /// Takes one datagram, with the route an answer takes. None when there is none left.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(&'a [u8], Route)> {
        loop {
            let datagram = match sys::receive_with_local(&*self.socket, buffer) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, address = %self.address, "TFTP receive");
                    }
                    return None;
                }
            };
            // Nobody can have sent from port 0 and hear an answer; and a request longer than the
            // buffer is four times what RFC 2347 allows.
            if datagram.truncated || datagram.peer.port() == 0 {
                continue;
            }
            let local = datagram.local.unwrap_or(*self.address.ip());
            let route = Route {
                peer: datagram.peer,
                local,
                interface: self.interface.clone(),
                shared: self.single_port.then(|| Shared(self.socket.clone())),
            };
            return Some((buffer.get(..datagram.len).unwrap_or_default(), route));
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Route {
    /// The listening socket, where answers leave from it.
    pub(super) fn shared(&self) -> Option<&Arc<Socket>> {
        self.shared.as_ref().map(|shared| &shared.0)
    }

    /// A socket with a port of its own, the transfer identifier of RFC 1350 section 4, that hears
    /// only the peer.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let socket = udp(self.interface.as_deref())?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(self.local, 0)))?;
        socket.connect(&SockAddr::from(self.peer))?;
        Ok(socket.into())
    }
}

fn udp(interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}
