//! What can go wrong.

use crate::vault::VaultError;
use bugler_bmc::power::Outcome;
use bugler_store::StoreError;

/// Why machines cannot be switched at all.
#[derive(Debug, thiserror::Error)]
pub enum PowerOpenError {
    /// There is no key for the passwords.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] bugler_bmc::Error),
}

/// Why a machine was not switched, or its driver not set.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// It cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// The device has nothing that could do it.
    #[error("{0}")]
    NoDriver(String),
    /// Too much is asked at once.
    #[error("{0}")]
    Busy(String),
    /// The secrets cannot be read or kept.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The driver did not do it.
    #[error(transparent)]
    Driver(#[from] bugler_bmc::Error),
}

impl PowerError {
    /// Whether the driver has no way to do it, and another may have.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Driver(bugler_bmc::Error::Unsupported { .. }) | Self::NoDriver(_)
        )
    }

    /// Whether the same fails again until somebody changes something.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::NoDriver(_) | Self::Vault(_) => true,
            Self::Busy(_) | Self::Store(_) => false,
            Self::Driver(error) => error.is_final(),
        }
    }
}

/// An error with its sources: `could not X: because Y`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}

/// What a driver said, where that is more than that it is done.
pub(crate) fn said(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Done | Outcome::Already => None,
        Outcome::Unconfirmed(text) | Outcome::Told(text) => Some(text),
    }
}
