//! What can go wrong between us and a machine's power switch.

use crate::ipmi::machine::Failure;
use crate::ipmi::packet::Completion;
use crate::power::Action;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a machine was not switched, or not asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A secret or a name does not fit into the protocol.
    #[error("the {what} has {length} bytes and IPMI takes {most} at most: choose a shorter one")]
    Credentials {
        /// Which one.
        what: &'static str,
        /// How long it is, in bytes.
        length: usize,
        /// How long it may be.
        most: usize,
    },
    /// The UDP socket for all BMCs could not be made.
    #[error("cannot open a UDP socket for BMCs: check the limit on open files of this process")]
    Socket {
        /// What came back.
        source: io::Error,
    },
    /// The kernel did not send.
    #[error("cannot send to the BMC {address}: check the route to it with `ip route get {}`", address.ip())]
    Send {
        /// The BMC.
        address: SocketAddr,
        /// What came back.
        source: io::Error,
    },
    /// There is no session with the BMC.
    #[error(
        "no session with the BMC {address} as user {user:?}: {failure}; {}",
        hint(failure)
    )]
    Session {
        /// The BMC.
        address: SocketAddr,
        /// The user's name.
        user: String,
        /// Why not.
        failure: Failure,
    },
    /// The BMC answered a command with an error.
    #[error("the BMC {address} refused {command}: {completion}; {}", completion_hint(*completion))]
    Refused {
        /// The BMC.
        address: SocketAddr,
        /// The command.
        command: &'static str,
        /// What it said.
        completion: Completion,
    },
    /// The BMC answered with something that is no answer to the command.
    #[error(
        "the BMC {address} answered {command} with {length} bytes, which is too few: its firmware may need an update"
    )]
    Answer {
        /// The BMC.
        address: SocketAddr,
        /// The command.
        command: &'static str,
        /// How many bytes came.
        length: usize,
    },
    /// The console is open in another session.
    #[error("the console of the BMC {address} is open elsewhere: take it over, or close it there")]
    ConsoleTaken {
        /// The BMC.
        address: SocketAddr,
    },
    /// Serial over LAN is switched off.
    #[error("Serial over LAN is switched off on the BMC {address}: enable it there")]
    ConsoleOff {
        /// The BMC.
        address: SocketAddr,
    },
    /// The BMC failed too often lately and is left alone.
    #[error("the BMC {address} is left alone for {} s more, after {failures} failures, the last: {last}", remaining.as_secs() + 1)]
    Resting {
        /// The BMC.
        address: SocketAddr,
        /// How often it failed in a row.
        failures: u32,
        /// How long it is left alone yet.
        remaining: Duration,
        /// What the last failure was.
        last: String,
    },
    /// It makes no sense for a machine without power.
    #[error("{action} does nothing to a machine that is off, and {what} says that it is: use `on`")]
    MachineOff {
        /// What was wanted.
        action: Action,
        /// Who says so.
        what: String,
    },
    /// The driver has no way to do it.
    #[error("{driver} cannot do {what}: use a driver that can for this")]
    Unsupported {
        /// The driver.
        driver: &'static str,
        /// What was wanted.
        what: String,
    },
    /// A command of the user's could not be run, or ended with an error.
    #[error("the command {program:?} for {action} failed: {what}")]
    Command {
        /// Its program.
        program: String,
        /// What it was for.
        action: String,
        /// What happened, with the end of what it printed.
        what: String,
    },
    /// A webhook could not be called, or answered with an error.
    #[error("the webhook {url} for {action} failed: {what}; try it with curl")]
    Webhook {
        /// Its address, without a password in it.
        url: String,
        /// What it was for.
        action: String,
        /// What happened.
        what: String,
    },
    /// A packet to wake a machine could not be sent.
    #[error("cannot send the packet that wakes {mac} to {to}: check that the network is up")]
    Wake {
        /// The machine's MAC address.
        mac: String,
        /// Where it was sent.
        to: SocketAddr,
        /// What came back.
        source: io::Error,
    },
}

impl Error {
    /// Whether the same would fail again until somebody changes a password, a user or a setting.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Session {
                failure: Failure::Password
                    | Failure::MaybePassword
                    | Failure::User(_)
                    | Failure::GroupKey
                    | Failure::NoSuite { .. }
                    | Failure::OnlyV15
                    | Failure::NoAuthType(_),
                ..
            }
        )
    }
}

fn hint(failure: &Failure) -> &'static str {
    match failure {
        Failure::Silent(_) => "check that it has power and a network, and that IPMI over LAN is on",
        Failure::Garbage { .. } => "check that this is the address of a BMC",
        Failure::Password | Failure::MaybePassword => "it is not tried again until it is changed",
        Failure::User(_) => "check the name, its privilege and that it is enabled for LAN",
        Failure::GroupKey => "set the key that the BMC has",
        Failure::NoSuite { .. } => "enable one of them on it, or allow one that it has",
        Failure::OnlyV15 | Failure::NoAuthType(_) => {
            "allow IPMI 1.5 for it where its network is trusted, and MD5 or password on it"
        }
        Failure::Refused { .. } => "close other sessions with it, or reset it",
        Failure::Command { .. } => "check the user's privilege",
        Failure::ConsoleEnded => "another console may have taken it over",
    }
}

fn completion_hint(completion: Completion) -> &'static str {
    match completion {
        Completion::PRIVILEGE => "give the user the privilege of an operator or administrator",
        Completion::INVALID_COMMAND => "this BMC does not have it",
        Completion::BUSY => "try again later",
        Completion::STATE => "look at the power state first",
        _ => "look into the BMC's own log",
    }
}
