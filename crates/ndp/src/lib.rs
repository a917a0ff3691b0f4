//! Answers the router solicitations of boot loaders, so that they do not wait for IPv6.
//!
//! iPXE configures IPv4 and IPv6 side by side and goes on when *both* have ended. Where no IPv6
//! router is, it asks five times and gives up after 17 s (measured with iPXE 1.21.1), with the
//! DHCPv4 answer in its hands all the while: on the way to the agent, and again on the way to the
//! local disk. One router advertisement that offers nothing ends that wait at once.
//!
//! The advertisement says that its sender is *not* a default router (router lifetime 0, RFC 4861
//! section 4.2), names no prefix, and sets neither M nor O. It is sent to the one client that
//! asked, and only where DHCP has just heard that client as a boot loader ([`Clients`]): no
//! operating system ever sees one.

mod error;
mod net;
mod packet;

pub use error::Error;
pub use net::{Clients, Handle, Server};
pub use packet::{NOT_A_ROUTER, Solicitation};
