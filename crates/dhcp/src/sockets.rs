//! The sockets of one interface.
//!
//! | Socket | For |
//! |---|---|
//! | UDP 67, UDP 4011 | requests; answers to relays and to clients that have their address |
//! | packet socket, ARP | probes and their answers |
//! | packet socket, IPv4 | all other answers; hearing other servers' answers to port 68 |

use crate::batch::{self, Inbox, Outbox};
use crate::error::Error;
use crate::frame;
use crate::interface::Interface;
use crate::machine::{CLIENT_PORT, PXE_PORT, SERVER_PORT};
use crate::unsafe_link;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

/// What is read of a datagram, in bytes: more than any Ethernet link carries in one frame. A longer
/// one is cut, and what can be read of it is read.
const BUFFER: usize = 9216;

/// Room for a burst while a lease is being stored: a power cut brings every machine at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Buffers for receiving, shared by the UDP sockets of an interface.
pub(crate) fn inbox() -> Inbox {
    Inbox::new(BUFFER)
}

/// A UDP socket that tells which address was asked, and answers from it.
pub(crate) struct Udp {
    socket: UdpSocket,
    outbox: Outbox,
}

impl Udp {
    fn open(interface: &Interface, port: u16) -> Result<Self, Error> {
        let (what, interface) = match port {
            PXE_PORT => ("UDP port 4011", &interface.name),
            _ => ("UDP port 67", &interface.name),
        };
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            // Before the port is taken, so that other interfaces' servers do not collide.
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            batch::tell_destination(&socket)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            Ok(Self {
                socket: UdpSocket::from_std(socket.into())?,
                outbox: Outbox::default(),
            })
        };
        open().map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => Error::PortInUse {
                port,
                interface: interface.clone(),
                source,
            },
            _ => socket_error(what, interface, source),
        })
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes what is there: up to a batch of datagrams, each with its sender and the address it
    /// was sent to. Returns whether there may be more.
    pub(crate) fn receive(
        &self,
        inbox: &mut Inbox,
        mut take: impl FnMut(SocketAddrV4, Ipv4Addr, &[u8]),
    ) -> io::Result<bool> {
        let received = self
            .socket
            .try_io(Interest::READABLE, || inbox.receive(&self.socket));
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for received in inbox.iter() {
            if let Some(destination) = received.destination {
                take(received.source, destination, received.bytes);
            }
        }
        Ok(count == batch::MOST)
    }

    /// Adds a datagram to those that [`flush`](Self::flush) sends, from this address of ours;
    /// `write` appends its bytes to what is there.
    pub(crate) fn post<T>(
        &mut self,
        from: Ipv4Addr,
        to: SocketAddrV4,
        write: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> T {
        self.outbox.push(Some(from), Some(to), write)
    }

    /// Sends what was posted; `failed` is told of each that could not be.
    pub(crate) fn flush(&mut self, failed: impl FnMut(Option<SocketAddrV4>, io::Error)) {
        if !self.outbox.is_empty() {
            self.outbox.send(&self.socket, failed);
        }
    }
}

/// A packet socket for frames of one EtherType on one interface.
pub(crate) struct Link {
    socket: AsyncFd<Socket>,
    outbox: Outbox,
}

impl Link {
    fn open(
        interface: &Interface,
        ethertype: u16,
        filter: &[SockFilter],
        what: &'static str,
    ) -> Result<Self, Error> {
        let open = || {
            // With protocol 0 it receives nothing until the filter is there and it is bound.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.set_nonblocking(true)?;
            socket.attach_filter(filter)?;
            socket.bind(&unsafe_link::address(interface.index, ethertype))?;
            Ok(Self {
                socket: unsafe_link::watch(socket)?,
                outbox: Outbox::default(),
            })
        };
        open().map_err(|source: io::Error| socket_error(what, &interface.name, source))
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await.map(|_| ())
    }

    /// Takes one frame; `None` when there is none.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let received = self.socket.try_io(Interest::READABLE, |socket| {
            Ok(rustix::net::recv(socket, &mut *buffer, flags).map(|(length, _)| length)?)
        });
        match received {
            Ok(length) => Ok(buffer.get(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a frame to those that [`flush`](Self::flush) sends.
    pub(crate) fn post(&mut self, frame: &[u8]) {
        self.outbox
            .push(None, None, |bytes| bytes.extend_from_slice(frame));
    }

    /// Sends what was posted; `failed` is told of each that could not be.
    pub(crate) fn flush(&mut self, mut failed: impl FnMut(io::Error)) {
        if !self.outbox.is_empty() {
            let socket = self.socket.get_ref();
            self.outbox.send(socket, |_, error| failed(error));
        }
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        match rustix::net::send(
            self.socket.get_ref(),
            frame,
            rustix::net::SendFlags::DONTWAIT,
        ) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => Err(io::ErrorKind::Interrupted.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// All of them.
pub(crate) struct Sockets {
    pub(crate) server: Udp,
    pub(crate) pxe: Udp,
    pub(crate) arp: Link,
    pub(crate) replies: Link,
}

impl Sockets {
    pub(crate) fn open(interface: &Interface) -> Result<Self, Error> {
        Ok(Self {
            server: Udp::open(interface, SERVER_PORT)?,
            pxe: Udp::open(interface, PXE_PORT)?,
            arp: Link::open(
                interface,
                frame::ARP,
                &arp_replies(),
                "a packet socket for ARP",
            )?,
            replies: Link::open(
                interface,
                frame::IPV4,
                &dhcp_replies(),
                "a packet socket for IPv4",
            )?,
        })
    }
}

fn socket_error(what: &'static str, interface: &str, source: io::Error) -> Error {
    let interface = interface.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Permission {
            what,
            interface,
            source,
        },
        _ => Error::Socket {
            what,
            interface,
            source,
        },
    }
}

/// Instructions of the kernel's packet filter (filter.txt in the kernel's documentation).
mod bpf {
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const LOAD_HALF_AT_X: u16 = 0x48;
    pub(super) const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
    /// Where the kind of packet (incoming, outgoing) is found: SKF_AD_OFF + SKF_AD_PKTTYPE.
    pub(super) const PACKET_TYPE: u32 = 0xffff_f004;
    /// PACKET_OUTGOING: what this host sends.
    pub(super) const OUTGOING: u32 = 4;
    pub(super) const WHOLE: u32 = 65_535;
}

/// Passes ARP replies that came in from the link.
fn arp_replies() -> [SockFilter; 6] {
    [
        SockFilter::new(bpf::LOAD_WORD, 0, 0, bpf::PACKET_TYPE),
        SockFilter::new(bpf::JUMP_EQUAL, 3, 0, bpf::OUTGOING),
        SockFilter::new(bpf::LOAD_HALF, 0, 0, 20),
        SockFilter::new(bpf::JUMP_EQUAL, 0, 1, 2),
        SockFilter::new(bpf::RETURN, 0, 0, bpf::WHOLE),
        SockFilter::new(bpf::RETURN, 0, 0, 0),
    ]
}

/// Passes whole UDP datagrams to port 68 that came in from the link.
fn dhcp_replies() -> [SockFilter; 11] {
    [
        SockFilter::new(bpf::LOAD_WORD, 0, 0, bpf::PACKET_TYPE),
        SockFilter::new(bpf::JUMP_EQUAL, 8, 0, bpf::OUTGOING),
        SockFilter::new(bpf::LOAD_BYTE, 0, 0, 23),
        SockFilter::new(bpf::JUMP_EQUAL, 0, 6, 17),
        SockFilter::new(bpf::LOAD_HALF, 0, 0, 20),
        SockFilter::new(bpf::JUMP_ANY_BIT, 4, 0, 0x1fff),
        SockFilter::new(bpf::LOAD_X_HEADER_LENGTH, 0, 0, 14),
        SockFilter::new(bpf::LOAD_HALF_AT_X, 0, 0, 16),
        SockFilter::new(bpf::JUMP_EQUAL, 0, 1, CLIENT_PORT as u32),
        SockFilter::new(bpf::RETURN, 0, 0, bpf::WHOLE),
        SockFilter::new(bpf::RETURN, 0, 0, 0),
    ]
}
