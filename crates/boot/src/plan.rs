//! The one decision.

use crate::select::choose;
use crate::{ClientFacts, tree};
use bugler_model::{
    Arch, BootPolicy, Boots, Device, DisklessStart, EfiStart, Firmware, Loader, OfferShape,
    Profile, ProfileName,
};
use std::net::Ipv4Addr;

/// How a reply carries the decision to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootAction {
    /// No boot options at all: the firmware goes on to its next boot device.
    Silent,
    /// This path of the boot tree, over TFTP.
    Tftp(String),
    /// This path of the boot tree, as an absolute HTTP URL.
    Http(String),
    /// What the boot ROM of a Raspberry Pi looks for: its menu, and this server as its TFTP server. It
    /// takes no file name, and asks for files that it knows by heart.
    RaspberryPi,
}

/// The value of a DHCP option that belongs to a loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionText {
    /// As it is.
    Plain(String),
    /// This path of the boot tree, as an absolute HTTP URL.
    Url(&'static str),
}

/// What the device is meant to end up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing was asked, or nothing can be given.
    None,
    /// Its local disk.
    Local,
    /// The boot environment with the agent.
    Agent,
    /// What another profile says.
    Profile,
}

/// What a device boots now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootPlan {
    /// What it is meant to end up in.
    pub goal: Goal,
    /// The profile that says so; `None` where nobody asked to boot.
    pub profile: Option<ProfileName>,
    /// What to answer this request with.
    pub action: BootAction,
    /// How the answer is shaped.
    pub shape: OfferShape,
    /// Options for the loader, beside the boot file.
    pub options: Vec<(u8, OptionText)>,
    /// Why, for people: one sentence.
    pub why: String,
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks, as what.
    pub facts: &'a ClientFacts,
    /// What the registry knows of it; `None`: nobody knows it.
    pub device: Option<&'a Device>,
    /// What operators said.
    pub policy: &'a BootPolicy,
    /// An address of the network that it asks from: its own, its relay's, or the one by which it
    /// reached the server.
    pub from: Option<Ipv4Addr>,
    /// The loaders that there are, by their names in the boot tree.
    pub loaders: &'a [&'static str],
    /// How many times its firmware has asked without taking what it was offered.
    pub unanswered: u32,
}

/// After so many requests that led to nothing, the next shape of an offer is tried. EDK2 asks four
/// times in a boot; a ROM that did not hear one answer asks again once or twice.
const ASKS_PER_SHAPE: u32 = 3;

/// Decides what a client boots.
///
/// An unknown machine that meets no rule gets the agent, which records it and waits (invariant 4:
/// nothing on it is changed).
#[must_use]
pub fn plan(question: &Question<'_>) -> BootPlan {
    let Some(firmware) = question.facts.firmware else {
        return silent(Goal::None, None, "it did not ask to boot".into());
    };
    let choice = choose(question);
    let Some(profile) = choice.profile else {
        return silent(Goal::None, None, choice.why);
    };
    let goal = match profile.boots {
        Boots::Local => {
            return silent(Goal::Local, Some(profile.name), choice.why);
        }
        Boots::Agent => Goal::Agent,
        _ => Goal::Profile,
    };
    match start(firmware, &profile, question) {
        Ok((action, options)) => BootPlan {
            goal,
            profile: Some(profile.name),
            shape: shape(firmware, question),
            action,
            options,
            why: choice.why,
        },
        Err(why) => silent(
            Goal::None,
            Some(profile.name),
            format!("{}, and {why}", choice.why),
        ),
    }
}

impl BootPlan {
    /// A plan that is answered in the ordinary shape and needs no options of its own.
    #[must_use]
    pub fn new(goal: Goal, action: BootAction, why: impl Into<String>) -> Self {
        Self {
            goal,
            profile: None,
            action,
            shape: OfferShape::Standard,
            options: vec![],
            why: why.into(),
        }
    }
}

fn silent(goal: Goal, profile: Option<ProfileName>, why: String) -> BootPlan {
    BootPlan {
        profile,
        ..BootPlan::new(goal, BootAction::Silent, why)
    }
}

/// What worked for this firmware before; another shape when it keeps asking.
fn shape(firmware: Firmware, question: &Question<'_>) -> OfferShape {
    const SHAPES: [OfferShape; 3] = [
        OfferShape::Standard,
        OfferShape::Direct,
        OfferShape::BootServer,
    ];
    if !matches!(firmware, Firmware::BiosPxe | Firmware::UefiPxe) {
        return OfferShape::Standard;
    }
    let known = question
        .device
        .map_or(OfferShape::Standard, |device| device.quirks.offer);
    let first = SHAPES.iter().position(|shape| *shape == known).unwrap_or(0);
    let turn = (question.unanswered / ASKS_PER_SHAPE) as usize % SHAPES.len();
    SHAPES
        .into_iter()
        .cycle()
        .nth(first + turn)
        .unwrap_or_default()
}

type Start = (BootAction, Vec<(u8, OptionText)>);

/// The first thing that this firmware is given to get to its profile.
fn start(firmware: Firmware, profile: &Profile, question: &Question<'_>) -> Result<Start, String> {
    let facts = question.facts;
    let secure = question.device.is_some_and(|device| device.secure_boot);
    let wanted = match (&profile.boots, profile.loader) {
        // Nothing else attaches a disk and starts it.
        (Boots::Diskless(diskless), Loader::Auto) if diskless.start == DisklessStart::Sanboot => {
            Loader::Ipxe
        }
        (_, loader) => loader,
    };
    let arch = facts.arch;
    match firmware {
        Firmware::RaspberryPi => return Ok((BootAction::RaspberryPi, vec![])),
        Firmware::UBoot => return Ok((BootAction::Tftp(tree::UBOOT_SCRIPT.into()), vec![])),
        // iPXE that was loaded although its firmware starts signed programs alone was signed.
        Firmware::IpxeBios | Firmware::IpxeUefi
            if matches!(wanted, Loader::Auto | Loader::Ipxe) && takes_scripts(firmware, arch) =>
        {
            return Ok((BootAction::Http(format!("ipxe/{}", facts.mac)), vec![]));
        }
        _ => {}
    }
    let name = if firmware.is_uefi() {
        efi_loader(wanted, arch, secure, question)
    } else {
        bios_loader(wanted, arch)
    }
    .ok_or_else(|| no_loader(firmware, wanted, secure, facts))?;
    // The boot tree's GRUB is told where to ask as it is served, which a signature does not survive.
    if firmware == Firmware::UefiHttp && name.starts_with("shim") {
        return Err(
            "GRUB that is signed finds no configuration when it came over HTTP from a port of its \
             own: let its firmware boot by PXE"
                .into(),
        );
    }
    if !question.loaders.contains(&name) {
        return Err(format!(
            "the server does not have its loader {name}: install {}, or put the file into the folder \
             of loaders",
            tree::package_of(name)
        ));
    }
    // RFC 5071: its configuration, and the path that everything is under. PXELINUX tries a list of names
    // otherwise, and cuts the path off its own name, which iPXE does not always pass on.
    let config = || {
        let name = format!("pxelinux.cfg/{}", facts.mac.bootif());
        (209, OptionText::Plain(name))
    };
    let options = match name {
        "lpxelinux.0" => vec![config(), (210, OptionText::Url(""))],
        "pxelinux.0" => vec![config(), (210, OptionText::Plain("/".into()))],
        _ => vec![],
    };
    let action = match firmware {
        Firmware::UefiHttp => BootAction::Http(name.into()),
        _ => BootAction::Tftp(name.into()),
    };
    Ok((action, options))
}

/// Whether iPXE of this kind runs what its scripts boot.
fn takes_scripts(firmware: Firmware, arch: Option<Arch>) -> bool {
    match firmware {
        Firmware::IpxeBios => arch == Some(Arch::X86),
        _ => matches!(arch, Some(Arch::X86_64 | Arch::Aarch64)),
    }
}

fn bios_loader(wanted: Loader, arch: Option<Arch>) -> Option<&'static str> {
    if arch != Some(Arch::X86) {
        return None;
    }
    match wanted {
        Loader::Auto | Loader::Ipxe => Some("undionly.kpxe"),
        Loader::Pxelinux => Some("pxelinux.0"),
        Loader::Lpxelinux => Some("lpxelinux.0"),
        Loader::Grub => None,
    }
}

fn efi_loader(
    wanted: Loader,
    arch: Option<Arch>,
    secure: bool,
    question: &Question<'_>,
) -> Option<&'static str> {
    let learned = question.device.map(|device| device.quirks.efi);
    let learned = learned
        .filter(|_| wanted == Loader::Auto)
        .unwrap_or_default();
    let secure = secure || learned == EfiStart::Signed;
    match (arch?, wanted, secure) {
        (Arch::X86_64, Loader::Auto | Loader::Grub, true) => Some("shimx64.efi"),
        (Arch::X86_64, Loader::Auto, false) if learned == EfiStart::OwnDriver => Some("ipxe.efi"),
        (Arch::X86_64, Loader::Auto | Loader::Ipxe, false) => Some("snponly.efi"),
        (Arch::X86_64, Loader::Grub, false) => Some("grubx64.efi"),
        (Arch::Aarch64, Loader::Auto | Loader::Grub, true) => Some("shimaa64.efi"),
        (Arch::Aarch64, Loader::Auto | Loader::Grub, false) => Some("grubaa64.efi"),
        (Arch::X86, Loader::Auto | Loader::Grub, false) => Some("grubia32.efi"),
        _ => None,
    }
}

/// Why there is no loader, in words.
fn no_loader(firmware: Firmware, wanted: Loader, secure: bool, facts: &ClientFacts) -> String {
    let values: Vec<String> = facts.archs.iter().map(u16::to_string).collect();
    let arch = if values.is_empty() {
        "unknown".into()
    } else {
        values.join("+")
    };
    if wanted != Loader::Auto {
        let signed = if secure {
            " that starts signed programs alone"
        } else {
            ""
        };
        return format!(
            "the loader that its profile asks for ({wanted}) does not run on {firmware} with \
             architecture {arch}{signed}: choose the loader `auto`"
        );
    }
    // Of an architecture that is not known, BIOS and UEFI cannot be told apart.
    let client = match facts.arch {
        Some(_) => format!("{firmware} with architecture {arch}"),
        None => format!("a machine of the unknown architecture {arch}"),
    };
    format!(
        "{client} has no loader here; PCs (0, 6, 7, 9, 15, 16) and 64-bit \
         Arm machines with UEFI (11, 19) have"
    )
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
