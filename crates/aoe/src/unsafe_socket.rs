//! The system calls on packet sockets that no safe crate offers: their address, the state of an
//! interface, and many frames with one call (recvmmsg(2), sendmmsg(2)).
#![allow(unsafe_code)]

use bugler_model::MacAddr;
use socket2::{SockAddr, SockAddrStorage};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Most frames in one system call.
pub(crate) const MOST: usize = 64;

/// The address to bind a packet socket to: one interface, one EtherType (packet(7)).
pub(crate) fn address(interface: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types of the kernel: plain data, valid when zero, no
    // larger and no stricter aligned than `sockaddr_storage`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the `sockaddr_ll` written above.
    unsafe { SockAddr::new(storage, length) }
}

/// The MTU and the Ethernet address of an interface (netdevice(7)).
pub(crate) fn interface(socket: impl AsFd, name: &str) -> io::Result<(u32, MacAddr)> {
    let fd = socket.as_fd().as_raw_fd();
    let request = ask(fd, name, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU has filled this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    let request = ask(fd, name, libc::SIOCGIFHWADDR)?;
    // SAFETY: SIOCGIFHWADDR has filled this member.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    for (byte, from) in mac.iter_mut().zip(data) {
        *byte = from as u8;
    }
    Ok((u32::try_from(mtu).unwrap_or(0), MacAddr(mac)))
}

/// Whether an interface is up (netdevice(7)).
pub(crate) fn is_up(socket: impl AsFd, name: &str) -> io::Result<bool> {
    let request = ask(socket.as_fd().as_raw_fd(), name, libc::SIOCGIFFLAGS)?;
    // SAFETY: SIOCGIFFLAGS has filled this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}

fn ask(fd: RawFd, name: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: a plain C structure for which zeros are a valid value.
    let mut request = unsafe { mem::zeroed::<libc::ifreq>() };
    // The last byte stays 0: the name ends there.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the descriptor is open, and the requests that this is called with read the name in a
    // live `ifreq` and fill in the rest of it.
    if unsafe { libc::ioctl(fd, what, &raw mut request) } == 0 {
        Ok(request)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many frames the kernel has dropped since this was asked last, as its queue was full (packet(7)).
pub(crate) fn dropped(socket: impl AsFd) -> io::Result<u32> {
    // SAFETY: a plain C structure for which zeros are a valid value.
    let mut statistics = unsafe { mem::zeroed::<libc::tpacket_stats>() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, which is the size of
    // the live structure.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(statistics.tp_drops)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Frames that came in.
pub(crate) struct Inbox {
    storage: Vec<u8>,
    /// Bytes for each.
    room: usize,
    lengths: [usize; MOST],
    count: usize,
    /// How many times in a row one frame came alone.
    alone: u8,
}

impl Inbox {
    /// Room for [`MOST`] frames of `room` bytes each.
    pub(crate) fn new(room: usize) -> Self {
        let room = room.max(1);
        Self {
            storage: vec![0; MOST * room],
            room,
            lengths: [0; MOST],
            count: 0,
            alone: 0,
        }
    }

    /// Waits for one frame, for as long as the socket's time limit for receiving, and takes what else is
    /// there.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.count = 0;
        // A client that waits for each answer: to ask for one frame costs less than for many. Now and
        // then it is seen whether more are there.
        let received = match self.alone % 8 {
            0 => self.receive_many(socket),
            _ => self.receive_one(socket),
        };
        self.alone = match self.count {
            1 => self.alone.wrapping_add(1),
            _ => 0,
        };
        received
    }

    fn receive_one(&mut self, socket: impl AsFd) -> io::Result<()> {
        let place = self.storage.get_mut(..self.room).unwrap_or_default();
        let (length, _) = rustix::net::recv(socket, place, rustix::net::RecvFlags::empty())?;
        self.lengths[0] = length.min(self.room);
        self.count = 1;
        Ok(())
    }

    fn receive_many(&mut self, socket: impl AsFd) -> io::Result<()> {
        // SAFETY: both are plain C structures for which zeros are valid values.
        let (mut parts, mut messages) = unsafe {
            (
                mem::zeroed::<[libc::iovec; MOST]>(),
                mem::zeroed::<[libc::mmsghdr; MOST]>(),
            )
        };
        let places = self.storage.chunks_exact_mut(self.room);
        for ((message, part), place) in messages.iter_mut().zip(&mut parts).zip(places) {
            part.iov_base = place.as_mut_ptr().cast();
            part.iov_len = place.len();
            message.msg_hdr.msg_iov = &raw mut *part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each of the MOST headers points at a live part, and that at live, writable memory of
        // the length that it states: another piece of `storage` each.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                MOST as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages).take(self.count) {
            *length = (message.msg_len as usize).min(self.room);
        }
        Ok(())
    }

    /// What was taken last.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let places = self.storage.chunks_exact(self.room);
        let lengths = self.lengths.iter().take(self.count);
        lengths
            .zip(places)
            .map(|(length, place)| place.get(..*length).unwrap_or_default())
    }
}

/// Sends at most [`MOST`] of these frames, each a range of `bytes`, without waiting; returns how many
/// went out. An error is that of the first.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    frames: &[(usize, usize)],
) -> io::Result<usize> {
    // SAFETY: both are plain C structures for which zeros are valid values.
    let (mut parts, mut messages) = unsafe {
        (
            mem::zeroed::<[libc::iovec; MOST]>(),
            mem::zeroed::<[libc::mmsghdr; MOST]>(),
        )
    };
    let mut count = 0;
    for ((message, part), (start, end)) in messages.iter_mut().zip(&mut parts).zip(frames) {
        let frame = bytes.get(*start..*end).unwrap_or_default();
        // The kernel only reads it.
        part.iov_base = frame.as_ptr().cast_mut().cast();
        part.iov_len = frame.len();
        message.msg_hdr.msg_iov = &raw mut *part;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers point at live parts, and those at live memory of the length that
    // they state, a piece of `bytes`, which the kernel only reads.
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
