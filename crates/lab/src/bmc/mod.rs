//! A BMC that is not there: an IPMI responder with the suites, the slowness and the faults that a test
//! wants.
//!
//! * [`Responder`]: what the BMC does, without a socket and without a clock.
//! * [`Server`]: the same on a UDP socket, behind a network that loses, repeats and delays.
//! * [`fleet`]: many BMCs of `ipmi_sim`, which is not ours.
//! * [`Model`]: what kind of BMC it is; [`Faults`]: what kind of network.
//!
//! Its packets are the client's own types; that both are right, and not only of one opinion, is shown
//! by tests that drive it with ipmitool and the client against `ipmi_sim`.

mod chassis;
pub mod fleet;
mod responder;
mod serial;
mod server;

pub use chassis::{Chassis, Death};
pub use responder::{Model, Responder};
pub use server::{Faults, Network, Server};
