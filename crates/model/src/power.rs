//! What switches a machine.

use crate::{DeviceId, MacAddr};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use utoipa::ToSchema;

/// What one driver of a device is for. A device has at most one driver for each role.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum PowerRole {
    /// It switches the machine, as a rule: its BMC.
    #[default]
    Power,
    /// It cuts the power: a socket. Used where that was asked for, and for what the other one cannot do.
    Hard,
}

impl PowerRole {
    /// Every role, the one that is used first at the front.
    pub const ALL: [Self; 2] = [Self::Power, Self::Hard];
}

impl std::fmt::Display for PowerRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Power => "power",
            Self::Hard => "hard",
        })
    }
}

/// How a machine is switched. Nothing in here is secret: passwords and tokens are kept beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum PowerDriver {
    /// A BMC, by IPMI over LAN.
    Ipmi {
        /// Its address or host name, with a port where that is not 623: `10.0.9.1`, `bmc1:6230`,
        /// `[fd00::1]:623`.
        address: String,
        /// The user's name; 16 bytes at most.
        user: String,
        /// Whether IPMI 1.5 may be used, which sends everything in clear.
        #[serde(default)]
        allow_v15: bool,
    },
    /// Wake-on-LAN, which can only switch on.
    Wake {
        /// The interface to wake; where none is given, the one that the device last booted from.
        #[serde(default)]
        mac: Option<MacAddr>,
        /// Where to send the packet, to port 9: the broadcast address of the machine's network. Default:
        /// 255.255.255.255.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        broadcast: Option<Ipv4Addr>,
    },
    /// A program of the operator's, run without a shell.
    Command {
        /// Its file name, in the server's folder of such programs.
        program: String,
        /// Its arguments. `{action}` becomes the action, `{device}` the boot device.
        #[serde(default)]
        arguments: Vec<String>,
        /// Whether it knows `status`, and then prints `on` or `off`.
        #[serde(default)]
        status: bool,
        /// Whether it knows `boot`.
        #[serde(default)]
        boot: bool,
        /// Seconds after which it is killed, 1 to 3,600.
        #[serde(default = "default_timeout")]
        timeout_s: u32,
    },
    /// A web service of the operator's, posted to.
    Webhook {
        /// Its address, in which `{action}` becomes the action. Shown without a user, a password and a
        /// query, which count as secret.
        url: String,
    },
    /// A person, who is told what to press.
    Manual {},
}

/// See [`PowerDriver::Command`].
fn default_timeout() -> u32 {
    30
}

impl PowerDriver {
    /// What it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ipmi { .. } => "IPMI",
            Self::Wake { .. } => "Wake-on-LAN",
            Self::Command { .. } => "command",
            Self::Webhook { .. } => "webhook",
            Self::Manual {} => "manual",
        }
    }

    /// What it is and where, in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let kind = self.kind();
        match self {
            Self::Ipmi { address, user, .. } => format!("{kind} {address} as {user:?}"),
            Self::Wake { mac, broadcast } => {
                let mac = mac.map(|mac| format!(" {mac}")).unwrap_or_default();
                let to = broadcast.map(|to| format!(" to {to}")).unwrap_or_default();
                format!("{kind}{mac}{to}")
            }
            Self::Command {
                program, arguments, ..
            } => {
                let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
                format!("{kind} {program} {}", words.join(" "))
                    .trim_end()
                    .to_owned()
            }
            Self::Webhook { url } => format!("{kind} {url}"),
            Self::Manual {} => kind.to_owned(),
        }
    }

    /// Whether it can tell the power state.
    #[must_use]
    pub fn tells_state(&self) -> bool {
        match self {
            Self::Ipmi { .. } => true,
            Self::Command { status, .. } => *status,
            Self::Wake { .. } | Self::Webhook { .. } | Self::Manual {} => false,
        }
    }

    /// Whether it can say what is booted next.
    #[must_use]
    pub fn sets_boot(&self) -> bool {
        match self {
            Self::Ipmi { .. } => true,
            Self::Command { boot, .. } => *boot,
            Self::Wake { .. } | Self::Webhook { .. } | Self::Manual {} => false,
        }
    }
}

/// One driver of a device, as the registry has it.
#[derive(Clone, PartialEq, Eq)]
pub struct PowerEntry {
    /// Whose it is.
    pub device: DeviceId,
    /// What it is for.
    pub role: PowerRole,
    /// How it switches.
    pub driver: PowerDriver,
    /// Its secrets, encrypted.
    pub sealed: Option<Vec<u8>>,
    /// How sessions with it were had when they last were.
    pub known: Option<String>,
}

impl std::fmt::Debug for PowerEntry {
    /// Without the secrets, encrypted as they are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerEntry")
            .field("device", &self.device)
            .field("role", &self.role)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// Whether a machine has power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// It has.
    On,
    /// It has not.
    Off,
    /// Nobody can tell, or it was not asked yet.
    #[default]
    Unknown,
}

impl std::fmt::Display for PowerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// What is to be done with a machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerAction {
    /// Switch it on.
    On,
    /// Switch it off, at once.
    Off,
    /// Ask its operating system to switch off.
    Soft,
    /// Switch it off and on.
    Cycle,
    /// Reset it, with the power on.
    Reset,
    /// Send a diagnostic interrupt (NMI).
    Diag,
    /// Ask whether it is on.
    Status,
}

impl std::fmt::Display for PowerAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Soft => "soft",
            Self::Cycle => "cycle",
            Self::Reset => "reset",
            Self::Diag => "diag",
            Self::Status => "status",
        })
    }
}

/// What a machine is to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
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

impl std::fmt::Display for BootDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Pxe => "pxe",
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
            Self::Setup => "setup",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default_and_what_is_not_known_is_refused() {
        let read = |text: &str| serde_json::from_str::<PowerDriver>(text);
        assert_eq!(
            read(r#"{"kind":"command","program":"pdu"}"#).unwrap(),
            PowerDriver::Command {
                program: "pdu".into(),
                arguments: Vec::new(),
                status: false,
                boot: false,
                timeout_s: 30,
            }
        );
        assert_eq!(
            read(r#"{"kind":"manual"}"#).unwrap(),
            PowerDriver::Manual {}
        );
        let error = read(r#"{"kind":"ipmi","address":"a","user":"u","password":"p"}"#);
        assert!(error.unwrap_err().to_string().contains("password"));
    }
}
