//! The socket calls that no safe crate offers: a datagram together with the address it was sent to
//! or is sent from, and segmentation offload.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};

/// A datagram on a listening socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// Bytes in the buffer.
    pub(crate) len: usize,
    /// Who sent it.
    pub(crate) peer: SocketAddrV4,
    /// Which address of this machine an answer should come from; None when the kernel did not say.
    pub(crate) local: Option<Ipv4Addr>,
    /// It did not fit into the buffer.
    pub(crate) truncated: bool,
}

fn set_int(socket: impl AsFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the length of the call, and the kernel reads exactly the
    // size of one int from a live int.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for the destination address of every datagram (`IP_PKTINFO`).
pub(crate) fn set_packet_info(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Lets the kernel (or the network card) cut what is sent into datagrams of `size` bytes
/// (`UDP_SEGMENT`, Linux 4.18); 0 ends that.
pub(crate) fn set_segment_size(socket: impl AsFd, size: u16) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, i32::from(size))
}

/// Allows fragments on this socket (`IP_MTU_DISCOVER`).
pub(crate) fn allow_fragments(socket: impl AsFd) -> io::Result<()> {
    set_int(
        socket,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_DONT,
    )
}

/// Receives one datagram with its destination address, without waiting.
///
/// # Errors
/// `WouldBlock` when there is none; whatever else the kernel says.
pub(crate) fn receive_with_local(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    /// Room for one control message, aligned as the kernel and CMSG_FIRSTHDR need it.
    #[repr(align(8))]
    struct Control([u8; 128]);

    let mut control = Control([0; 128]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: both are plain C structures for which all zeros are valid values.
    let (mut from, mut message) = unsafe {
        (
            mem::zeroed::<libc::sockaddr_in>(),
            mem::zeroed::<libc::msghdr>(),
        )
    };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the header points at live, writable memory of the lengths it states: `buffer`, `from`,
    // `control`, all of which outlive the call.
    let received = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut message,
            libc::MSG_DONTWAIT,
        )
    };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;

    let mut local = None;
    // SAFETY: `message` was filled by the kernel and its control buffer is alive and aligned; the
    // CMSG functions stay within msg_controllen. The data of an IP_PKTINFO message is an in_pktinfo,
    // read without an assumption on its alignment, and only when the message is long enough for it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let found =
                (*header).cmsg_level == libc::IPPROTO_IP && (*header).cmsg_type == libc::IP_PKTINFO;
            let needed = libc::CMSG_LEN(mem::size_of::<libc::in_pktinfo>() as u32) as usize;
            if found && (*header).cmsg_len as usize >= needed {
                let info: libc::in_pktinfo = libc::CMSG_DATA(header)
                    .cast::<libc::in_pktinfo>()
                    .read_unaligned();
                // Not ipi_addr: that may be the broadcast address.
                local = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let peer = SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)),
        u16::from_be(from.sin_port),
    );
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Datagram {
        len,
        peer,
        local: local.filter(|a| !a.is_unspecified()),
        truncated,
    })
}

/// Sends a datagram from this address of ours, without waiting; cut into datagrams of `segment`
/// bytes, where that is told (`UDP_SEGMENT`, Linux 4.18).
///
/// # Errors
/// Whatever the kernel says.
pub(crate) fn send_from(
    socket: impl AsFd,
    local: Ipv4Addr,
    peer: SocketAddrV4,
    bytes: &[u8],
    segment: Option<u16>,
) -> io::Result<()> {
    /// Room for two control messages, aligned as the kernel and CMSG_FIRSTHDR need it.
    #[repr(align(8))]
    struct Control([u8; 128]);

    let mut control = Control([0; 128]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all three are plain C structures for which all zeros are valid values.
    let (mut to, mut message, mut info) = unsafe {
        (
            mem::zeroed::<libc::sockaddr_in>(),
            mem::zeroed::<libc::msghdr>(),
            mem::zeroed::<libc::in_pktinfo>(),
        )
    };
    to.sin_family = libc::AF_INET as libc::sa_family_t;
    to.sin_port = peer.port().to_be();
    to.sin_addr.s_addr = u32::from(*peer.ip()).to_be();
    info.ipi_spec_dst.s_addr = u32::from(local).to_be();
    message.msg_name = (&raw mut to).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let info_size = mem::size_of::<libc::in_pktinfo>() as u32;
    let segment_size = mem::size_of::<u16>() as u32;
    // SAFETY: the control buffer is alive, zeroed, aligned, and longer than the two messages that are
    // written into it (CMSG_SPACE of both is below 128), so CMSG_FIRSTHDR and CMSG_NXTHDR give places
    // within it; values are written without an assumption on their alignment.
    let used = unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(info_size) as _;
        libc::CMSG_DATA(header)
            .cast::<libc::in_pktinfo>()
            .write_unaligned(info);
        let mut used = libc::CMSG_SPACE(info_size);
        if let Some(segment) = segment {
            header = libc::CMSG_NXTHDR(&raw const message, header);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(segment_size) as _;
            libc::CMSG_DATA(header)
                .cast::<u16>()
                .write_unaligned(segment);
            used += libc::CMSG_SPACE(segment_size);
        }
        used
    };
    message.msg_controllen = used as _;
    // SAFETY: the header points at live memory of the lengths it states: `to`, `bytes`, which the
    // kernel only reads, and `control`, all of which outlive the call.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_fd().as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
