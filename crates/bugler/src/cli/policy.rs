//! What devices boot: profiles and rules.

use bugler_model::{AoeAddress, Cidr, Conditions, Firmware, ImageRef, Loader, ProfileName};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Profile {
    /// List profiles.
    List,
    /// Show one profile.
    Show {
        /// Its name.
        profile: ProfileName,
    },
    /// Make a profile, or replace the one of this name.
    Set(Box<SetProfile>),
    /// Remove a profile that no device, rule or menu uses.
    Remove {
        /// Its name.
        profile: ProfileName,
    },
}

// What goes with one kind alone is refused with each other: `requires` alone is not looked at where
// the required one is in conflict.
const NOT_LINUX: [&str; 7] = [
    "menu",
    "local",
    "agent",
    "file",
    "script_ipxe",
    "script_pxelinux",
    "script_grub",
];
const NOT_MENU: [&str; 8] = [
    "linux",
    "diskless",
    "local",
    "agent",
    "file",
    "script_ipxe",
    "script_pxelinux",
    "script_grub",
];

/// Texts called templates are filled in for the device that boots: {{ device.name }}, {{ mac }},
/// {{ bootif }}, {{ files }} (URL of the server's folder of boot files), ...
#[derive(Args)]
#[command(group = ArgGroup::new("kind").args(["linux", "diskless", "menu", "local", "agent", "file"]))]
pub(crate) struct SetProfile {
    /// The profile's name: 1 to 64 of a-z, 0-9, '.', '_' and '-'.
    pub(crate) profile: ProfileName,
    /// Boot this Linux kernel: a path in the server's folder of boot files, or an http:// URL; a
    /// template.
    #[arg(
        long,
        value_name = "KERNEL",
        required_unless_present_any = [
            "script_ipxe", "script_pxelinux", "script_grub", "diskless", "menu", "local", "agent",
            "file",
        ],
    )]
    pub(crate) linux: Option<String>,
    /// An initramfs, as the kernel; several are put one behind the other.
    #[arg(long, value_name = "F", requires = "linux", conflicts_with_all = NOT_LINUX)]
    pub(crate) initrd: Vec<String>,
    /// The kernel's command line, for a diskless machine what is added to it; a template.
    #[arg(long, value_name = "T", conflicts_with_all = NOT_LINUX, allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,
    #[command(flatten)]
    pub(crate) diskless: Diskless,
    /// A file with an iPXE script; a template.
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    pub(crate) script_ipxe: Option<PathBuf>,
    /// A file with a PXELINUX configuration, which U-Boot reads as well; a template.
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    pub(crate) script_pxelinux: Option<PathBuf>,
    /// A file with a GRUB configuration; a template.
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    pub(crate) script_grub: Option<PathBuf>,
    /// Show a menu with this title.
    #[arg(long, value_name = "TITLE", requires = "entries")]
    pub(crate) menu: Option<String>,
    /// A line of the menu, and the profile that it boots.
    #[arg(long = "entry", value_name = "LABEL=PROFILE", requires = "menu", conflicts_with_all = NOT_MENU, value_parser = entry)]
    pub(crate) entries: Vec<(String, ProfileName)>,
    /// The profile that is booted when nobody chooses. Default: the first.
    #[arg(long, value_name = "P", requires = "menu", conflicts_with_all = NOT_MENU)]
    pub(crate) default: Option<ProfileName>,
    /// How many seconds somebody may choose; 0 waits for ever. Default: 10.
    #[arg(long, value_name = "S", requires = "menu", conflicts_with_all = NOT_MENU)]
    pub(crate) timeout: Option<u32>,
    /// Boot the local disk.
    #[arg(long)]
    pub(crate) local: bool,
    /// Boot the agent.
    #[arg(long)]
    pub(crate) agent: bool,
    /// Take the profile from a file, as `profile show --json` prints it; `-` reads a pipe.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["loader", "note"])]
    pub(crate) file: Option<PathBuf>,
    /// The boot loader that devices are given for it.
    #[arg(long, value_enum, default_value_t = LoaderWord::Auto)]
    pub(crate) loader: LoaderWord,
    /// A note for people.
    #[arg(long, value_name = "T")]
    pub(crate) note: Option<String>,
}

/// What makes a profile one of diskless machines.
#[derive(Args)]
pub(crate) struct Diskless {
    /// Run this image from the network, each machine with a writable layer of its own: NAME for its
    /// latest version, NAME@3 for one of them.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) diskless: Option<ImageRef>,
    /// How machines reach it. Default: nbd.
    #[arg(long, value_enum, requires = "diskless")]
    pub(crate) over: Option<OverWord>,
    /// Whether a machine's layer is kept when it boots again. Default: persistent.
    #[arg(long, value_enum, requires = "diskless")]
    pub(crate) overlay: Option<OverlayWord>,
    /// How much a machine's layer may take: 512M, 4G. Default: 2G.
    #[arg(long, value_name = "SIZE", requires = "diskless", value_parser = super::work::bytes)]
    pub(crate) overlay_size: Option<u64>,
    /// Acknowledge AoE writes before they are on the server's disk: faster, and the last seconds are
    /// lost with the server's power.
    #[arg(long, requires = "diskless")]
    pub(crate) no_durable_writes: bool,
    /// What brings machines to it. Default: agent.
    #[arg(long, value_enum, requires = "diskless")]
    pub(crate) start: Option<StartWord>,
    /// The AoE address that each machine sees its own disk at. Default: e0.0.
    #[arg(long, value_name = "eSHELF.SLOT", requires = "diskless")]
    pub(crate) aoe_address: Option<AoeAddress>,
}

/// [`bugler_model::ExportProtocol`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OverWord {
    /// A network block device; works across subnets.
    Nbd,
    /// ATA over Ethernet; on the server's own segment.
    Aoe,
    /// A tree of files over NFSv3.
    Nfs,
}

impl From<OverWord> for bugler_model::ExportProtocol {
    fn from(word: OverWord) -> Self {
        match word {
            OverWord::Nbd => Self::Nbd,
            OverWord::Aoe => Self::Aoe,
            OverWord::Nfs => Self::Nfs,
        }
    }
}

/// [`bugler_model::OverlayKind`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OverlayWord {
    /// It is kept.
    Persistent,
    /// Every boot begins with an empty one.
    Ephemeral,
}

impl From<OverlayWord> for bugler_model::OverlayKind {
    fn from(word: OverlayWord) -> Self {
        match word {
            OverlayWord::Persistent => Self::Persistent,
            OverlayWord::Ephemeral => Self::Ephemeral,
        }
    }
}

/// [`bugler_model::DisklessStart`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum StartWord {
    /// The image's kernel with the agent: nothing has to be prepared in the image.
    Agent,
    /// The image's kernel with its own initramfs.
    Image,
    /// iPXE, which starts the image's boot sector; over aoe.
    Sanboot,
}

impl From<StartWord> for bugler_model::DisklessStart {
    fn from(word: StartWord) -> Self {
        match word {
            StartWord::Agent => Self::Agent,
            StartWord::Image => Self::Image,
            StartWord::Sanboot => Self::Sanboot,
        }
    }
}

/// The label may hold `=`, the name cannot.
fn entry(text: &str) -> Result<(String, ProfileName), String> {
    let (label, profile) = text
        .rsplit_once('=')
        .ok_or("an entry is written LABEL=PROFILE")?;
    let profile = profile
        .parse()
        .map_err(|error: bugler_model::ProfileNameError| error.to_string())?;
    Ok((label.to_owned(), profile))
}

/// [`Loader`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LoaderWord {
    /// The one that suits the device's firmware.
    Auto,
    /// iPXE.
    Ipxe,
    /// PXELINUX, files over TFTP (BIOS).
    Pxelinux,
    /// PXELINUX, kernel and initramfs over HTTP (BIOS).
    Lpxelinux,
    /// GRUB (UEFI).
    Grub,
}

impl From<LoaderWord> for Loader {
    fn from(word: LoaderWord) -> Self {
        match word {
            LoaderWord::Auto => Self::Auto,
            LoaderWord::Ipxe => Self::Ipxe,
            LoaderWord::Pxelinux => Self::Pxelinux,
            LoaderWord::Lpxelinux => Self::Lpxelinux,
            LoaderWord::Grub => Self::Grub,
        }
    }
}

/// The rules say what devices boot that have no profile of their own. The first that a device meets
/// counts; one that meets none boots the agent.
#[derive(Subcommand)]
pub(crate) enum Rule {
    /// List the rules, in order.
    List,
    /// Replace every rule.
    Set {
        /// TOML with a `[[rules]]` for each, or a JSON list; `-` reads a pipe.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Add a rule behind the others. Without a condition it is for all devices.
    Add(Box<AddRule>),
    /// Remove a rule.
    Remove {
        /// Its number in `rule list`.
        number: usize,
    },
}

/// In patterns `*` stands for any text and `?` for one character; case does not matter.
#[derive(Args, Clone)]
pub(crate) struct AddRule {
    /// The profile that it gives.
    pub(crate) profile: ProfileName,
    /// Devices with this tag.
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,
    /// Devices of this architecture, as their firmware tells it.
    #[arg(long, value_enum)]
    pub(crate) arch: Option<ArchWord>,
    /// Devices with this firmware.
    #[arg(long, value_enum)]
    pub(crate) firmware: Option<FirmwareWord>,
    /// A pattern for the vendor in the inventory, or for the vendor class of the request.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) vendor: Option<String>,
    /// A pattern for the model in the inventory.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) model: Option<String>,
    /// A pattern for the serial number.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) serial: Option<String>,
    /// Devices that ask from this network: 10.0.0.0/24.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) subnet: Option<Cidr>,
    /// Its place, from 1. Default: the last.
    #[arg(long, value_name = "N")]
    pub(crate) at: Option<usize>,
}

impl AddRule {
    /// The rule.
    pub(crate) fn rule(self) -> bugler_model::Rule {
        bugler_model::Rule {
            when: Conditions {
                tag: self.tag,
                arch: self.arch.map(Into::into),
                firmware: self.firmware.map(Into::into),
                vendor: self.vendor,
                model: self.model,
                serial: self.serial,
                subnet: self.subnet,
            },
            profile: self.profile,
        }
    }
}

/// [`bugler_model::Arch`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ArchWord {
    /// 32-bit PCs, and every PC that boots by BIOS.
    X86,
    /// 64-bit PCs.
    #[value(name = "x86-64", alias = "x86_64", alias = "amd64")]
    X86_64,
    /// 32-bit Arm machines.
    Arm,
    /// 64-bit Arm machines.
    #[value(alias = "arm64")]
    Aarch64,
}

impl From<ArchWord> for bugler_model::Arch {
    fn from(word: ArchWord) -> Self {
        match word {
            ArchWord::X86 => Self::X86,
            ArchWord::X86_64 => Self::X86_64,
            ArchWord::Arm => Self::Arm,
            ArchWord::Aarch64 => Self::Aarch64,
        }
    }
}

/// [`Firmware`] on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum FirmwareWord {
    /// PXE ROM of a PC BIOS.
    BiosPxe,
    /// PXE driver of UEFI.
    UefiPxe,
    /// HTTP boot driver of UEFI.
    UefiHttp,
    /// iPXE in the place of a BIOS's ROM.
    IpxeBios,
    /// iPXE as a UEFI driver or program.
    IpxeUefi,
    /// Raspberry Pi.
    RaspberryPi,
    /// U-Boot.
    #[value(name = "u-boot", alias = "uboot")]
    UBoot,
}

impl From<FirmwareWord> for Firmware {
    fn from(word: FirmwareWord) -> Self {
        match word {
            FirmwareWord::BiosPxe => Self::BiosPxe,
            FirmwareWord::UefiPxe => Self::UefiPxe,
            FirmwareWord::UefiHttp => Self::UefiHttp,
            FirmwareWord::IpxeBios => Self::IpxeBios,
            FirmwareWord::IpxeUefi => Self::IpxeUefi,
            FirmwareWord::RaspberryPi => Self::RaspberryPi,
            FirmwareWord::UBoot => Self::UBoot,
        }
    }
}
