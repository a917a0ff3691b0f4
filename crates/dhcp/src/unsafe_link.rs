//! The two things about `AF_PACKET` sockets that no safe interface does: their address, and their
//! registration with the runtime.
#![allow(unsafe_code)]

use socket2::{SockAddr, SockAddrStorage, Socket};
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The address to bind an `AF_PACKET` socket to: one interface, one EtherType (packet(7)).
pub(crate) fn address(interface: u32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the address types of the kernel: plain data, valid when
    // zero, no larger and no stricter aligned than `sockaddr_storage`.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the `sockaddr_ll` written above.
    unsafe { SockAddr::new(storage, length) }
}

/// A socket whose readiness the runtime watches.
pub(crate) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its open file descriptor and always returns the same one; nothing here
    // takes it out of the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
