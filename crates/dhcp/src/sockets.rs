//! The sockets of one interface.
//!
//! | Socket | For |
//! |---|---|
//! | UDP 67, UDP 4011 | requests; answers to relays and to clients that have their address |
//! | packet socket, ARP | probes and their answers |
//! | packet socket, IPv4 | all other answers; hearing other servers' answers to port 68 |

use crate::error::Error;
use crate::frame;
use crate::interface::Interface;
use crate::machine::{CLIENT_PORT, PXE_PORT, SERVER_PORT};
use crate::unsafe_packet;
use quinn_udp::{RecvMeta, UdpSocketState};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

/// Datagrams taken with one system call.
const BATCH: usize = 8;

/// What one buffer holds: the kernel joins datagrams of one sender (GRO) up to this length.
const BUFFER: usize = 65_536;

/// Room for a burst while a lease is being stored: a power cut brings every machine at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Buffers for receiving, shared by the sockets of an interface.
pub(crate) struct Buffers {
    storage: Vec<u8>,
    meta: [RecvMeta; BATCH],
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self {
            storage: vec![0; BATCH * BUFFER],
            meta: [RecvMeta::default(); BATCH],
        }
    }
}

/// A UDP socket that tells which address was asked, and answers from it.
pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
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
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            let state = UdpSocketState::new((&socket).into())?;
            Ok(Self {
                socket: UdpSocket::from_std(socket.into())?,
                state,
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
        buffers: &mut Buffers,
        mut take: impl FnMut(SocketAddrV4, Ipv4Addr, &[u8]),
    ) -> io::Result<bool> {
        let Buffers { storage, meta } = buffers;
        let mut parts = storage.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        let received = self.socket.try_io(Interest::READABLE, || {
            self.state.recv((&self.socket).into(), &mut slices, meta)
        });
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for (meta, slice) in meta.iter().zip(&slices).take(count) {
            let (SocketAddr::V4(source), Some(IpAddr::V4(destination))) = (meta.addr, meta.dst_ip)
            else {
                continue;
            };
            let bytes = slice.get(..meta.len).unwrap_or_default();
            for datagram in bytes.chunks(meta.stride.max(1)) {
                take(source, destination, datagram);
            }
        }
        Ok(count == BATCH)
    }

    /// Sends one datagram from this address of ours.
    pub(crate) fn send(&self, from: Ipv4Addr, to: SocketAddrV4, contents: &[u8]) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: to.into(),
            ecn: None,
            contents,
            segment_size: None,
            src_ip: Some(from.into()),
        };
        self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), &transmit)
        })
    }
}

/// A packet socket for frames of one EtherType on one interface.
pub(crate) struct Link(AsyncFd<Socket>);

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
            socket.bind(&unsafe_packet::address(interface.index, ethertype))?;
            Ok(Self(unsafe_packet::watch(socket)?))
        };
        open().map_err(|source: io::Error| socket_error(what, &interface.name, source))
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|_| ())
    }

    /// Takes one frame; `None` when there is none.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let received = self.0.try_io(Interest::READABLE, |socket| {
            Ok(rustix::net::recv(socket, &mut *buffer, flags).map(|(length, _)| length)?)
        });
        match received {
            Ok(length) => Ok(buffer.get(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends one frame.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        match rustix::net::send(self.0.get_ref(), frame, rustix::net::SendFlags::DONTWAIT) {
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
