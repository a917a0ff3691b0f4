//! The address of an `AF_PACKET` socket, which no safe interface makes.
#![allow(unsafe_code)]

use socket2::{SockAddr, SockAddrStorage};

/// The address that binds a packet socket to every protocol on the interface with that index
/// (packet(7)).
pub(crate) fn everything_on(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the kinds of address that `sockaddr_storage` is made for: plain
    // integers, for which all zero is a value, and it fits.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    link.sll_ifindex = interface as libc::c_int;
    // SAFETY: that many bytes of the storage have just been filled as the address that they are.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
