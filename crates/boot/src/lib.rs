//! The boot decision.
//!
//! ```text
//! packet --> ClientFacts --> (registry: Device) --> plan() --> BootPlan --> reply
//!                                                     |
//!            boot tree: (client, path) --> Node, served alike by TFTP and HTTP
//! ```
//!
//! [`plan`] is the only place that decides what a device boots (invariant 1). DHCP, proxyDHCP,
//! port 4011, TFTP and HTTP all ask it. Everything in this crate is a pure function: it opens no
//! file and no socket and reads no clock.

mod facts;
mod plan;
mod script;
mod tree;

pub use facts::ClientFacts;
pub use plan::{BootAction, BootPlan, Goal, plan};
pub use script::{AgentBoot, agent_script, local_script};
pub use tree::{Node, parse_path};
