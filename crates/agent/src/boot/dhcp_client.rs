//! A DHCPv4 client (RFC 2131, RFC 2132): just what a boot environment needs to get an address and
//! to keep it.
//!
//! It does not probe its address with ARP before it uses it (RFC 2131 section 4.4.1 says SHOULD):
//! Bugler's server probes before it offers, and the seconds count at every boot.

mod machine;
pub(crate) mod net;
mod packet;

pub use machine::{Client, Identity, Lease, Output, Terms};

/// Reads any bytes as a server's answer. For fuzzing: it must not panic on anything.
pub fn fuzz(bytes: &[u8]) {
    drop(packet::Reply::decode(bytes));
}
