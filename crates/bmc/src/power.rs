//! One interface for everything that switches a machine.

mod command;
mod manual;
mod wake;
pub mod webhook;

pub use command::Command;
pub use manual::Manual;
pub use wake::Wake;
pub use webhook::Webhook;

use crate::error::Error;
use std::fmt;

/// What is to be done with a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// On.
    On,
    /// Off, at once.
    Off,
    /// Off, by asking the operating system.
    Soft,
    /// Off and on.
    Cycle,
    /// Reset, with the power on.
    Reset,
    /// A diagnostic interrupt (NMI).
    Diag,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 6] = [
        Self::On,
        Self::Off,
        Self::Soft,
        Self::Cycle,
        Self::Reset,
        Self::Diag,
    ];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Soft => "soft",
            Self::Cycle => "cycle",
            Self::Reset => "reset",
            Self::Diag => "diag",
        }
    }

    /// The action of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// What its firmware is set to.
    None,
    /// The network.
    Pxe,
    /// Its disk.
    Disk,
    /// A CD or DVD.
    Cdrom,
    /// Its firmware's setup.
    Setup,
}

impl Device {
    /// Every device.
    pub const ALL: [Self; 5] = [Self::None, Self::Pxe, Self::Disk, Self::Cdrom, Self::Setup];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pxe => "pxe",
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
            Self::Setup => "setup",
        }
    }

    /// The device of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a machine has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It has.
    On,
    /// It has not.
    Off,
    /// This driver cannot know.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// How an action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was accepted. A machine takes its time to get there.
    Done,
    /// There was nothing to do.
    Already,
    /// It was sent, no answer came, and the power state does not tell whether it happened. It was not
    /// sent again. The text says what is known.
    Unconfirmed(String),
    /// A person is to do it. The text says what.
    Told(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Already => f.write_str("nothing to do"),
            Self::Unconfirmed(text) | Self::Told(text) => f.write_str(text),
        }
    }
}

/// What a machine is to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Boot {
    /// From where.
    pub device: Device,
    /// Each time, and not only the next.
    pub persistent: bool,
    /// By UEFI and not by BIOS; it is the firmware that the machine has.
    pub efi: bool,
}

/// Something that switches one machine.
#[async_trait::async_trait]
pub trait PowerDriver: fmt::Debug + Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Switches.
    ///
    /// # Errors
    /// When it was not done: the error says whether anything may have happened.
    async fn power(&self, action: Action) -> Result<Outcome, Error>;

    /// Asks for the power state.
    ///
    /// # Errors
    /// When the machine's controller does not say.
    async fn state(&self) -> Result<State, Error> {
        Ok(State::Unknown)
    }

    /// Sets what is booted next.
    ///
    /// # Errors
    /// When the driver cannot, or the machine's controller refuses.
    async fn set_boot(&self, boot: Boot) -> Result<(), Error> {
        Err(Error::Unsupported {
            driver: self.name(),
            what: format!("the boot device {}", boot.device),
        })
    }
}
