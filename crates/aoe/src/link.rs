//! A packet socket for AoE on one interface: frames in and out, many at once.

use crate::error::Error;
use crate::packet::ETHERTYPE;
use crate::unsafe_socket::{self, Inbox, MOST};
use bugler_model::MacAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, SockFilter, Socket, Type};
use std::io;
use std::time::Duration;

/// Room for bursts: forty machines that each write all that they may have outstanding.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How long a full send queue is waited for. Then the frame is dropped, and the client asks again.
const PATIENCE: Duration = Duration::from_millis(20);

/// Which frames reach the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hear {
    /// Commands: what a target hears.
    Commands,
    /// Answers: what a client hears.
    Answers,
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    name: String,
    index: u32,
}

impl Link {
    /// On the interface with this name. [`Receiver::receive`] waits for at most `wait`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(name: &str, hear: Hear, wait: Duration) -> Result<Self, Error> {
        let failed = |action| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::PermissionDenied => Error::Permission {
                    interface: name.to_owned(),
                    source,
                },
                _ => Error::Socket {
                    action,
                    interface: name.to_owned(),
                    source,
                },
            }
        };
        // With protocol 0 it receives nothing until the filter is there and it is bound.
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, None).map_err(failed("open a packet socket"))?;
        let index = name_to_index(&socket, name).map_err(|_| Error::NoInterface {
            interface: name.to_owned(),
        })?;
        // Only root may have as much as it asks for; others get what the system allows them.
        if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            socket
                .set_recv_buffer_size(RECEIVE_BUFFER)
                .map_err(failed("set a receive buffer"))?;
        }
        socket
            .set_read_timeout(Some(wait))
            .map_err(failed("set a time limit"))?;
        socket
            .attach_filter(&filter(hear))
            .map_err(failed("set a filter"))?;
        socket
            .bind(&unsafe_socket::address(index, ETHERTYPE))
            .map_err(failed("bind a packet socket"))?;
        Ok(Self {
            socket,
            name: name.to_owned(),
            index,
        })
    }

    /// The MTU and the Ethernet address that the interface has now.
    ///
    /// # Errors
    /// Whatever the kernel says; `NotFound` when another interface has the name by now.
    pub fn look(&self) -> io::Result<(u32, MacAddr)> {
        if name_to_index(&self.socket, &self.name)? != self.index {
            return Err(io::ErrorKind::NotFound.into());
        }
        unsafe_socket::interface(&self.socket, &self.name)
    }

    /// Whether the interface is up, as far as it can be known; it need not have a peer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        unsafe_socket::is_up(&self.socket, &self.name).unwrap_or(false)
    }

    /// How many frames the kernel has dropped for want of room since this was asked last.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        unsafe_socket::dropped(&self.socket).unwrap_or(0).into()
    }

    /// Sends what is in the outbox, which is empty then. Returns how many could not be sent, and why the
    /// last of them was not.
    pub fn send(&self, outbox: &mut Outbox) -> (u64, Option<io::Error>) {
        let mut rest = outbox.frames.as_slice();
        let mut failed = (0, None);
        let mut waited = false;
        while !rest.is_empty() {
            let sent = match rest {
                [(start, end)] => {
                    let frame = outbox.bytes.get(*start..*end).unwrap_or_default();
                    rustix::net::send(&self.socket, frame, SendFlags::DONTWAIT)
                        .map(|_| 1)
                        .map_err(io::Error::from)
                }
                several => unsafe_socket::send(&self.socket, &outbox.bytes, several),
            };
            let skip = match sent {
                Ok(sent) => sent.max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if is_full(&error) && !waited => {
                    waited = true;
                    self.wait_writable();
                    0
                }
                // The queue stays full: every other would wait as long.
                Err(error) if is_full(&error) => {
                    failed = (failed.0 + rest.len() as u64, Some(error));
                    rest.len()
                }
                Err(error) => {
                    failed = (failed.0 + 1, Some(error));
                    1
                }
            };
            rest = rest.get(skip..).unwrap_or_default();
        }
        outbox.clear();
        failed
    }

    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        Self {
            socket: Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap(),
            name: String::new(),
            index: 0,
        }
    }

    fn wait_writable(&self) {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: PATIENCE.subsec_nanos().into(),
        };
        // Whatever comes back, the next attempt to send tells.
        let _ = poll(
            &mut [PollFd::new(&self.socket, PollFlags::OUT)],
            Some(&limit),
        );
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Takes frames from a [`Link`].
pub struct Receiver(Inbox);

impl Receiver {
    /// Most frames that come at once.
    pub const MOST: usize = MOST;

    /// For frames on a link with this MTU. What is longer is cut.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        // The Ethernet header, and a multiple of the size of a cache line.
        Self(Inbox::new((mtu as usize + 14).next_multiple_of(64)))
    }

    /// Waits for a frame, and takes what else is there: at most [`MOST`](Self::MOST), in the place of
    /// what was taken before.
    ///
    /// # Errors
    /// `WouldBlock` when none came within the time limit of the link; whatever else the kernel says.
    pub fn receive(&mut self, link: &Link) -> io::Result<()> {
        self.0.receive(&link.socket)
    }

    /// What was taken last.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.0.frames()
    }
}

/// Frames that wait to be sent together.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    frames: Vec<(usize, usize)>,
    used: usize,
}

impl Outbox {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &[u8]) {
        let _ = self.push_with(frame.len(), |place| {
            place.copy_from_slice(frame);
            Ok::<_, ()>(true)
        });
    }

    /// Adds a frame of `length` bytes that `fill` writes, unless it says `Ok(false)` or fails. What it is
    /// given may hold an older frame.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn push_with<E>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let (start, end) = (self.used, self.used + length);
        if self.bytes.len() < end {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        let filled = fill(self.bytes.get_mut(start..end).unwrap_or_default())?;
        if filled {
            self.frames.push((start, end));
            self.used = end;
        }
        Ok(filled)
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.used = 0;
    }
}

/// Instructions of the kernel's packet filter (filter.txt in the kernel's documentation).
mod bpf {
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const JUMP_GREATER: u16 = 0x25;
    pub(super) const JUMP_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
    /// Where the kind of packet is found: SKF_AD_OFF + SKF_AD_PKTTYPE.
    pub(super) const PACKET_TYPE: u32 = 0xffff_f004;
    /// PACKET_MULTICAST: it and the kinds before it are for this host.
    pub(super) const MULTICAST: u32 = 2;
    pub(super) const WHOLE: u32 = u32::MAX;
}

/// Passes frames that came in for this host, of one direction.
fn filter(hear: Hear) -> [SockFilter; 6] {
    let (answer, command) = match hear {
        Hear::Answers => (0, 1),
        Hear::Commands => (1, 0),
    };
    [
        SockFilter::new(bpf::LOAD_WORD, 0, 0, bpf::PACKET_TYPE),
        SockFilter::new(bpf::JUMP_GREATER, 3, 0, bpf::MULTICAST),
        SockFilter::new(bpf::LOAD_BYTE, 0, 0, 14),
        SockFilter::new(bpf::JUMP_ANY_BIT, answer, command, 0x08),
        SockFilter::new(bpf::RETURN, 0, 0, bpf::WHOLE),
        SockFilter::new(bpf::RETURN, 0, 0, 0),
    ]
}
