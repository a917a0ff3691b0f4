//! A target for ATA over Ethernet (AoE): disks for machines of one Ethernet segment, without IP.
//!
//! A machine is told from others by its MAC address alone ([`Targets`]), so many can have a disk of
//! their own at the same well-known address, and a broadcast that looks for disks finds a machine's own
//! ones only. A MAC address is no secret: this keeps honest machines apart.
//!
//! What is acknowledged is as durable as the target's [`Options`] promise. The Linux driver never asks
//! for a flush, so [`Durability::Durable`](bugler_disk::Durability) is what makes `fsync` on such a
//! machine mean something; writes that are outstanding together become durable together.

mod address;
mod error;
mod fuzz;
pub mod identify;
pub mod keep;
mod lane;
pub mod link;
pub mod machine;
mod net;
pub mod packet;
mod pool;
mod port;
mod target;
mod unsafe_socket;

pub use error::{Error, KeepError};
pub use fuzz::fuzz;
pub use identify::Identity;
pub use keep::{Files, Forget, Keep, State};
pub use net::{Config, Handle, Server};
pub use packet::{Address, AddressError};
pub use port::Counts;
pub use target::{Options, Seen, Table, Target, TargetCounts, Targets};
