//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2).
//!
//! The one other place than the packet sockets where this crate needs `unsafe`. The load generator
//! uses it too.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};

/// Most datagrams in one system call.
pub const MOST: usize = 64;

/// Room for one `IP_PKTINFO`, aligned as the kernel and the CMSG functions need it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// A datagram that came in.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The address in its IP header that it was sent to; `None` where the socket was not told to
    /// say so ([`tell_destination`]).
    pub destination: Option<Ipv4Addr>,
    /// Its content; what did not fit is cut off.
    pub bytes: &'a [u8],
}

#[derive(Clone, Copy)]
struct Head {
    source: SocketAddrV4,
    destination: Option<Ipv4Addr>,
    length: usize,
}

/// Buffers for datagrams that come in.
pub struct Inbox {
    storage: Vec<u8>,
    /// Bytes for each.
    room: usize,
    heads: Vec<Head>,
}

impl Inbox {
    /// Room for [`MOST`] datagrams of `room` bytes each.
    #[must_use]
    pub fn new(room: usize) -> Self {
        let room = room.max(1);
        Self {
            storage: vec![0; MOST * room],
            room,
            heads: Vec::with_capacity(MOST),
        }
    }

    /// Takes what is there, without waiting, in the place of what was taken before. Returns how
    /// many datagrams that are, at most [`MOST`].
    ///
    /// # Errors
    /// `WouldBlock` when there is none; whatever else the kernel says.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.heads.clear();
        // SAFETY: all of these are plain C structures for which zeros are valid values.
        let (mut names, mut parts, mut messages) = unsafe {
            (
                mem::zeroed::<[libc::sockaddr_in; MOST]>(),
                mem::zeroed::<[libc::iovec; MOST]>(),
                mem::zeroed::<[libc::mmsghdr; MOST]>(),
            )
        };
        let mut controls = [Control([0; 64]); MOST];
        let places = self.storage.chunks_exact_mut(self.room);
        for ((((message, name), part), control), place) in messages
            .iter_mut()
            .zip(&mut names)
            .zip(&mut parts)
            .zip(&mut controls)
            .zip(places)
        {
            part.iov_base = place.as_mut_ptr().cast();
            part.iov_len = place.len();
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut *part;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
        }
        // SAFETY: each of the MOST headers points at live, writable memory of the lengths that it
        // states: a part of `storage`, a name and a control buffer, which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                MOST as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (message, name) in messages.iter().zip(&names).take(count) {
            self.heads.push(Head {
                source: SocketAddrV4::new(
                    Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr)),
                    u16::from_be(name.sin_port),
                ),
                destination: destination(&message.msg_hdr),
                length: (message.msg_len as usize).min(self.room),
            });
        }
        Ok(count)
    }

    /// What was taken last.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        let places = self.storage.chunks_exact(self.room);
        self.heads.iter().zip(places).map(|(head, place)| Received {
            source: head.source,
            destination: head.destination,
            bytes: place.get(..head.length).unwrap_or_default(),
        })
    }
}

/// `ipi_addr` of the `IP_PKTINFO` in a header that the kernel has filled (ip(7)).
fn destination(header: &libc::msghdr) -> Option<Ipv4Addr> {
    // SAFETY: the kernel has filled `header`, whose control buffer is alive and aligned; the CMSG
    // functions stay within msg_controllen. The data of an IP_PKTINFO message is an in_pktinfo,
    // read without an assumption on its alignment, and only when the message is long enough.
    unsafe {
        let mut found = libc::CMSG_FIRSTHDR(header);
        while !found.is_null() {
            let is_info =
                (*found).cmsg_level == libc::IPPROTO_IP && (*found).cmsg_type == libc::IP_PKTINFO;
            let needed = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as usize;
            if is_info && (*found).cmsg_len as usize >= needed {
                let info: libc::in_pktinfo = libc::CMSG_DATA(found)
                    .cast::<libc::in_pktinfo>()
                    .read_unaligned();
                return Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)));
            }
            found = libc::CMSG_NXTHDR(header, found);
        }
    }
    None
}

struct Message {
    start: usize,
    end: usize,
    from: Option<Ipv4Addr>,
    to: Option<SocketAddrV4>,
}

/// Datagrams, or frames, that wait to be sent together.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    messages: Vec<Message>,
}

impl Outbox {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Adds one: `to` this address, which a connected socket or a packet socket does not need, and
    /// `from` this one of ours, where the kernel is not to choose. `write` appends its bytes to
    /// what is there.
    pub fn push<T>(
        &mut self,
        from: Option<Ipv4Addr>,
        to: Option<SocketAddrV4>,
        write: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> T {
        let start = self.bytes.len();
        let written = write(&mut self.bytes);
        let end = self.bytes.len().max(start);
        self.messages.push(Message {
            start: start.min(end),
            end,
            from,
            to,
        });
        written
    }

    /// Sends all of them, without waiting, and is empty then. `failed` is told of each that the
    /// kernel does not take; a full send queue (`WouldBlock`) is a failure of that one.
    pub fn send(
        &mut self,
        socket: impl AsFd,
        mut failed: impl FnMut(Option<SocketAddrV4>, io::Error),
    ) {
        let mut rest = self.messages.as_slice();
        while !rest.is_empty() {
            match send_some(&socket, &self.bytes, rest) {
                Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed(rest.first().and_then(|first| first.to), error);
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
        }
        self.messages.clear();
        self.bytes.clear();
    }
}

/// Sends at most [`MOST`] messages; returns how many went out. An error is that of the first.
fn send_some(socket: impl AsFd, bytes: &[u8], wanted: &[Message]) -> io::Result<usize> {
    // SAFETY: all of these are plain C structures for which zeros are valid values.
    let (mut names, mut parts, mut messages) = unsafe {
        (
            mem::zeroed::<[libc::sockaddr_in; MOST]>(),
            mem::zeroed::<[libc::iovec; MOST]>(),
            mem::zeroed::<[libc::mmsghdr; MOST]>(),
        )
    };
    let mut controls = [Control([0; 64]); MOST];
    let mut count = 0;
    for ((((message, name), part), control), wanted) in messages
        .iter_mut()
        .zip(&mut names)
        .zip(&mut parts)
        .zip(&mut controls)
        .zip(wanted)
    {
        let content = bytes.get(wanted.start..wanted.end).unwrap_or_default();
        // The kernel only reads it.
        part.iov_base = content.as_ptr().cast_mut().cast();
        part.iov_len = content.len();
        let header = &mut message.msg_hdr;
        header.msg_iov = &raw mut *part;
        header.msg_iovlen = 1;
        if let Some(to) = wanted.to {
            name.sin_family = libc::AF_INET as libc::sa_family_t;
            name.sin_port = to.port().to_be();
            name.sin_addr.s_addr = to.ip().to_bits().to_be();
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        if let Some(from) = wanted.from {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
            put_source(header, from);
        }
        count += 1;
    }
    // SAFETY: the first `count` headers point at live memory of the lengths that they state:
    // `bytes`, names and control buffers, which outlive the call; the kernel only reads them.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes an `IP_PKTINFO` with the source address into the header's control buffer, and sets its
/// length to what was written.
fn put_source(header: &mut libc::msghdr, from: Ipv4Addr) {
    let length = size_of::<libc::in_pktinfo>() as u32;
    // SAFETY: the control buffer is alive, aligned, zeroed and larger than CMSG_SPACE of an
    // in_pktinfo, so the first header and its data lie within it.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        if first.is_null() {
            return;
        }
        (*first).cmsg_level = libc::IPPROTO_IP;
        (*first).cmsg_type = libc::IP_PKTINFO;
        (*first).cmsg_len = libc::CMSG_LEN(length) as _;
        let mut info = mem::zeroed::<libc::in_pktinfo>();
        info.ipi_spec_dst.s_addr = from.to_bits().to_be();
        libc::CMSG_DATA(first)
            .cast::<libc::in_pktinfo>()
            .write_unaligned(info);
        header.msg_controllen = libc::CMSG_SPACE(length) as _;
    }
}

/// Makes the socket tell the destination address of every datagram (`IP_PKTINFO`, ip(7)).
///
/// # Errors
/// Whatever the kernel says.
pub fn tell_destination(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the length of the call, and the kernel reads exactly the
    // size of one int from a live int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn socket() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string().parse().unwrap();
        (socket, address)
    }

    #[test]
    fn what_is_sent_together_arrives_with_its_addresses() {
        let ((sender, from), (receiver, to)) = (socket(), socket());
        tell_destination(&receiver).unwrap();
        let mut outbox = Outbox::default();
        for n in 0..150u8 {
            let from = (n % 2 == 0).then_some(Ipv4Addr::LOCALHOST);
            outbox.push(from, Some(to), |bytes| bytes.extend([n; 9]));
        }
        assert_eq!(outbox.len(), 150);
        outbox.send(&sender, |to, error| panic!("{to:?}: {error}"));
        assert!(outbox.is_empty());
        let mut inbox = Inbox::new(8);
        let mut seen = vec![];
        while let Ok(count) = inbox.receive(&receiver) {
            assert_eq!(count, inbox.iter().count());
            for received in inbox.iter() {
                assert_eq!(received.source, from);
                assert_eq!(received.destination, Some(Ipv4Addr::LOCALHOST));
                assert_eq!(received.bytes.len(), 8, "cut to the room that there is");
                seen.push(received.bytes[0]);
            }
        }
        assert_eq!(seen, (0..150).collect::<Vec<u8>>());
        let end = inbox.receive(&receiver).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn one_that_cannot_be_sent_does_not_keep_the_others() {
        let ((sender, _), (receiver, to)) = (socket(), socket());
        let mut outbox = Outbox::default();
        outbox.push(None, Some(to), |bytes| bytes.push(1));
        outbox.push(None, Some(to), |bytes| bytes.extend([0; 70_000]));
        outbox.push(None, Some(to), |bytes| bytes.push(3));
        let mut failures = 0;
        outbox.send(&sender, |_, error| {
            failures += 1;
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        });
        assert_eq!(failures, 1);
        let mut inbox = Inbox::new(8);
        inbox.receive(&receiver).unwrap();
        let got: Vec<u8> = inbox.iter().map(|received| received.bytes[0]).collect();
        assert_eq!(got, [1, 3]);
    }
}
