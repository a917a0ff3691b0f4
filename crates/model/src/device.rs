//! Machines, and what they boot.

use crate::{DeviceId, Inventory, MacAddr, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use utoipa::ToSchema;
use uuid::Uuid;

/// Processor architecture of a machine, as its firmware tells it (option 93, RFC 4578 and the
/// IANA "Processor Architecture Types" registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// 32-bit x86; also what every BIOS PXE client says, whatever its processor.
    X86,
    /// 64-bit x86.
    X86_64,
    /// 32-bit Arm.
    Arm,
    /// 64-bit Arm.
    Aarch64,
}

/// The program that asks for something to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// PXE ROM of a PC BIOS.
    BiosPxe,
    /// PXE driver of UEFI.
    UefiPxe,
    /// HTTP boot driver of UEFI.
    UefiHttp,
    /// iPXE started by BIOS, from ROM or chain-loaded.
    IpxeBios,
    /// iPXE started by UEFI.
    IpxeUefi,
}

impl Firmware {
    /// Whether this is UEFI firmware or runs on top of it.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        matches!(self, Self::UefiPxe | Self::UefiHttp | Self::IpxeUefi)
    }

    /// Whether this is iPXE, which takes scripts.
    #[must_use]
    pub fn is_ipxe(self) -> bool {
        matches!(self, Self::IpxeBios | Self::IpxeUefi)
    }
}

impl std::fmt::Display for Firmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::BiosPxe => "BIOS PXE",
            Self::UefiPxe => "UEFI PXE",
            Self::UefiHttp => "UEFI HTTP",
            Self::IpxeBios => "iPXE (BIOS)",
            Self::IpxeUefi => "iPXE (UEFI)",
        })
    }
}

/// Whether a device is given something to boot from the network.
///
/// This is the state of one device, never a switch for a network. An open task that needs the
/// agent counts as [`Once`](Self::Once) for as long as it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Netboot {
    /// Boots from the network every time: the state of a machine that nobody has set up yet.
    #[default]
    On,
    /// Is told to boot its local disk.
    Off,
    /// Boots from the network until its agent has registered once, then [`Off`](Self::Off).
    Once,
}

/// What a device boots when its network boot is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The boot environment with the agent, waiting for a task.
    #[default]
    Agent,
    /// The local disk.
    Local,
}

/// What was last heard from a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// Asked to boot; its agent has not been heard in this boot.
    #[default]
    Booting,
    /// The agent is running and polls for tasks.
    Agent,
    /// Was told to boot its local disk, or to power off.
    Local,
    /// The agent was there and has gone silent.
    Lost,
}

/// One machine.
///
/// Identity is the SMBIOS UUID, the serial number and every MAC address together: a machine with
/// several interfaces is one device whichever of them it boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its identifier.
    pub id: DeviceId,
    /// The operator's name for it; unique, never empty.
    pub name: Option<String>,
    /// The operator's tags, sorted, without duplicates.
    pub tags: Vec<String>,
    /// SMBIOS UUID, from option 97 or the agent.
    #[schema(value_type = Option<String>)]
    pub uuid: Option<Uuid>,
    /// Every MAC address known to be this machine's; the one it last booted from first.
    pub macs: Vec<MacAddr>,
    /// Architecture, from its firmware.
    pub arch: Option<Arch>,
    /// The firmware that first asked in its latest boot.
    pub firmware: Option<Firmware>,
    /// Whether it boots from the network.
    pub netboot: Netboot,
    /// What it boots when it does.
    pub profile: Profile,
    /// What was last heard from it.
    pub presence: Presence,
    /// The address it last used.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// What its agent reported, once one has.
    pub inventory: Option<Inventory>,
    /// When it was first seen.
    pub created: Timestamp,
    /// When it was last heard from, in any way.
    pub seen: Timestamp,
    /// How many tasks of this device are open: each of them needs the agent.
    pub open_tasks: u32,
}

impl Device {
    /// The name where there is one, else the id.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }

    /// Whether the next boot should come from the network, for the profile or for an open task.
    #[must_use]
    pub fn wants_network(&self) -> bool {
        self.open_tasks > 0
            || (self.netboot != Netboot::Off && self.profile != Profile::Local)
            || self.netboot == Netboot::Once
    }
}

/// What an operator changes of a device; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DevicePatch {
    /// A new name; an empty text takes the name away.
    pub name: Option<String>,
    /// Tags to add.
    pub add_tags: Vec<String>,
    /// Tags to take away.
    pub remove_tags: Vec<String>,
    /// A new network boot state.
    pub netboot: Option<Netboot>,
    /// A new profile.
    pub profile: Option<Profile>,
}
