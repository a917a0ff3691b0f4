//! Power and consoles of machines, through their management controllers.
//!
//! ```text
//!   PowerDriver ── Bmc (IPMI over LAN)      Console (Serial over LAN)
//!        │          │  turn, circuit, what became of a command       │
//!        │          └──────────────┬─────────────────────────────────┘
//!        │                      ipmi::net::Connection
//!        │                         └─ ipmi::machine::Session (no socket, no clock)
//!        └── Wake, Command, Webhook, Manual
//! ```
//!
//! * [`Bmc`]: one BMC; [`Hub`]: the socket for all of them.
//! * [`Console`]: the serial console of a machine, kept through resets of its BMC.
//! * [`power`]: one interface for everything that switches a machine, and the small drivers.
//! * [`ipmi`]: the protocol.
//!
//! No command that switches a machine is ever sent again when it may have happened. What became of one
//! that had no answer is found out by the power state, or told as [`Outcome::Unconfirmed`].
//!
//! [`Outcome::Unconfirmed`]: power::Outcome::Unconfirmed

mod bmc;
pub mod breaker;
mod console;
mod credentials;
mod error;
pub mod ipmi;
pub mod power;

pub use bmc::{Bmc, Options};
pub use console::{Console, ConsoleEvent, ConsoleWriter};
pub use credentials::{Credentials, Secret};
pub use error::Error;
pub use ipmi::net::Hub;
