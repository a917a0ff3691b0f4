//! The three things of the system that no safe interface has: the address of a packet socket, what
//! it lost, and whether the clock is synchronised.
#![allow(unsafe_code)]

use socket2::{SockAddr, SockAddrStorage, Socket};
use std::io;
use std::os::fd::AsRawFd;

/// The address that binds an `AF_PACKET` socket to every frame of one interface (packet(7)).
pub(crate) fn everything_on(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types of the kernel: plain data, valid when
    // zero, no larger and no stricter aligned than `sockaddr_storage`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the `sockaddr_ll` written above.
    unsafe { SockAddr::new(storage, length) }
}

/// How many frames a packet socket lost since this was last asked.
pub(crate) fn lost(socket: &Socket) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the pointer is to a `tpacket_stats` of ours and `length` is its size, which is what
    // this option writes (packet(7)).
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(statistics.tp_drops),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel's clock is kept right by somebody (adjtimex(2)).
pub(crate) fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: `timex` is plain data, valid when zero; with `modes` 0 nothing is changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` of ours.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR),
    }
}
