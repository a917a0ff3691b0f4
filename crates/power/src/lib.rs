//! Who switches which machine.
//!
//! ```text
//!   operator plane, `deploy`        Power ──── Vault (a key file; secrets are sealed in the registry)
//!        │  order, into_agent        │
//!        └────────────────────────> Driver, one for each role of a device
//!   poll (one at a time) ─────────>  │
//!                                   bugler_bmc: one Hub for all BMCs, and the other ways to switch
//! ```
//!
//! Drivers are made when they are first needed and kept, so that what a BMC did lately (its session, its
//! turn, its circuit) is known to whoever comes next.

mod agent;
mod driver;
mod error;
mod orders;
mod poll;
mod service;
mod vault;

pub use error::{PowerError, PowerOpenError};
pub use orders::{Order, What};
pub use service::{Options, Power};
pub use vault::{Secrets, VaultError};
