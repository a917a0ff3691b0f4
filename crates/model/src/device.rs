//! Machines, and what they boot.

use crate::{DeviceId, ImageName, Inventory, MacAddr, ProfileName, Timestamp};
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

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::X86 => "x86",
            Self::X86_64 => "x86-64",
            Self::Arm => "Arm",
            Self::Aarch64 => "AArch64",
        })
    }
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
    /// Boot ROM or EEPROM bootloader of a Raspberry Pi.
    RaspberryPi,
    /// U-Boot.
    UBoot,
}

impl Firmware {
    /// Whether this is UEFI firmware or runs on top of it.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        matches!(self, Self::UefiPxe | Self::UefiHttp | Self::IpxeUefi)
    }

    /// Whether this is a PXE ROM, which takes what the PXE specification says.
    #[must_use]
    pub fn is_rom(self) -> bool {
        matches!(self, Self::BiosPxe | Self::UefiPxe)
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
            Self::RaspberryPi => "Raspberry Pi ROM",
            Self::UBoot => "U-Boot",
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

/// How an offer is shaped for boot firmware: each is the only one that some firmware takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OfferShape {
    /// As the PXE specification has it for the mode that the server is in.
    #[default]
    Standard,
    /// The boot file in the offer itself, so that nothing is asked on port 4011. As a proxy with
    /// option 43 that says "use it as it is" (PXE specification 2.1, sub-option 6, bit 3); together
    /// with an address, where that is the standard, without options 43 and 60: one full offer like
    /// that of a DHCP server which knows nothing of PXE.
    Direct,
    /// No option 43 and no boot file: the client asks for it on port 4011.
    BootServer,
}

impl std::fmt::Display for OfferShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Standard => "standard",
            Self::Direct => "boot file in the offer",
            Self::BootServer => "boot file from port 4011",
        })
    }
}

/// The first program that a PC with UEFI is given, where its profile leaves that open. Each fails on
/// some machines; when nothing follows one, the next is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EfiStart {
    /// iPXE with the firmware's network driver: `snponly.efi`.
    #[default]
    FirmwareDriver,
    /// iPXE with drivers of its own: `ipxe.efi`.
    OwnDriver,
    /// Signed programs alone, as Secure Boot demands: shim and GRUB.
    Signed,
}

impl EfiStart {
    /// What is tried when nothing followed this one.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::FirmwareDriver => Self::OwnDriver,
            Self::OwnDriver => Self::Signed,
            Self::Signed => Self::FirmwareDriver,
        }
    }
}

impl std::fmt::Display for EfiStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::FirmwareDriver => "snponly.efi",
            Self::OwnDriver => "ipxe.efi",
            Self::Signed => "shim and GRUB",
        })
    }
}

/// What was learned of a device's firmware: what works there and not elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Quirks {
    /// The first program that a PC with UEFI is given, after others led to nothing.
    pub efi: EfiStart,
    /// The offer that it took.
    pub offer: OfferShape,
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

/// What was last written onto a device's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// The image's name.
    pub image: ImageName,
    /// Its version.
    pub version: u32,
    /// BLAKE3 of its manifest, in hex.
    pub manifest: String,
    /// The disk: its serial number, or its path where it has none.
    pub disk: String,
    /// When the deploy was done.
    pub at: Timestamp,
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
    /// What it boots when it does, where the operator said so for this device; else the rules say.
    pub profile: Option<ProfileName>,
    /// What it boots the next time, once, whatever `netboot` says. Gone when that boot has an outcome.
    pub next: Option<ProfileName>,
    /// Whether its firmware starts signed programs alone (UEFI Secure Boot).
    pub secure_boot: bool,
    /// What was learned of its firmware.
    pub quirks: Quirks,
    /// How many boots it began since one had an outcome or an operator changed what it boots.
    pub tries: u32,
    /// What was last heard from it.
    pub presence: Presence,
    /// The address it last used.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// What its agent reported, once one has.
    pub inventory: Option<Inventory>,
    /// What was last written onto its disk, by a deploy that was proved.
    #[serde(default)]
    pub deployed: Option<Deployed>,
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
    /// A new profile, by name; an empty text takes it away, so that the rules count.
    pub profile: Option<String>,
    /// The profile to boot once, the next time; an empty text takes it away.
    pub next: Option<String>,
    /// Whether its firmware starts signed programs alone.
    pub secure_boot: Option<bool>,
}
