//! Machines that run from the network: their roots, their layers, what starts them.
//!
//! | Module | What it does |
//! |---|---|
//! | `service` | who runs from what: from a device that asks to the layer that it gets |
//! | `root` | the system in an image: its root, its kernel |
//! | `start` | makes and keeps a kernel with an initramfs |
//! | `uses` | what is kept of those, because a device starts with it |
//! | `live` | an open layer, and what is counted of it |
//! | `aoe` | which disk a machine sees over AoE |
//! | `nbd` | which disk a machine gets over NBD |
//! | `nfs` | which tree a machine gets over NFS |
//! | `pi` | the boot files of a Raspberry Pi |
//! | `upkeep` | closes and removes what nobody uses |
//! | `overlays` | what operators do with layers: list, reset, grow, commit |

mod aoe;
mod live;
mod nbd;
mod nfs;
mod overlays;
mod pi;
mod root;
mod service;
mod start;
mod upkeep;
mod uses;
mod version;

pub use aoe::AoeTargets;
pub use nbd::NbdExports;
pub use nfs::NfsExports;
pub use overlays::Shared;
pub use root::{Kernel, RootError, RootPlace, System};
pub use service::{Parts, PrepareError, Ready, Service};
pub use start::{FindAgent, Start, StartError, Starts};
