//! Ends this boot.

use rustix::system::{RebootCommand, reboot};
use std::io;

/// How a machine ends its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Starts again; what then boots is the device's own state at the server.
    Reboot,
    /// Switches off.
    Off,
}

impl Power {
    /// In a word, for the log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Off => "power off",
        }
    }

    /// Writes out what is still in memory, then does it: reboot(2). Does not return on success.
    ///
    /// # Errors
    /// What the kernel answers; without the right to do it, `EPERM`.
    pub fn execute(self) -> io::Error {
        rustix::fs::sync();
        let command = match self {
            Self::Reboot => RebootCommand::Restart,
            Self::Off => RebootCommand::PowerOff,
        };
        match reboot(command) {
            Ok(()) => io::Error::other("the kernel came back from it"),
            Err(error) => error.into(),
        }
    }
}
