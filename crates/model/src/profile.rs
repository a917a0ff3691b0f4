//! What devices boot from the network, and which device boots what.

use crate::{Arch, Diskless, Firmware};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use utoipa::ToSchema;

/// The name of a profile: 1 to 64 of `a-z 0-9 . _ -`, the first a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct ProfileName(String);

/// A text that cannot be a profile's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a profile's name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or \
     digit first"
)]
pub struct ProfileNameError(String);

impl ProfileName {
    /// The profile that boots the agent; it is always there.
    #[must_use]
    pub fn agent() -> Self {
        Self("agent".into())
    }

    /// The profile that boots the local disk; it is always there.
    #[must_use]
    pub fn local() -> Self {
        Self("local".into())
    }

    /// Whether it is one of those that are always there, and cannot be changed.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        matches!(self.0.as_str(), "agent" | "local")
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = ProfileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(fits)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(ProfileNameError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for ProfileName {
    type Error = ProfileNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a device boots from the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// What it boots.
    pub boots: Boots,
    /// The boot loader that a device is given for it.
    #[serde(default)]
    pub loader: Loader,
    /// The operator's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Profile {
    /// The profile that boots the agent.
    #[must_use]
    pub fn agent() -> Self {
        Self {
            name: ProfileName::agent(),
            boots: Boots::Agent,
            loader: Loader::Auto,
            note: None,
        }
    }

    /// The profile that boots the local disk.
    #[must_use]
    pub fn local() -> Self {
        Self {
            name: ProfileName::local(),
            boots: Boots::Local,
            loader: Loader::Auto,
            note: None,
        }
    }
}

/// What a profile boots.
///
/// Texts called templates are minijinja templates: what is in `{{ }}` is filled in for the device
/// that boots (`device.name`, `mac`, `bootif`, `server`, ...), and a name that means nothing is an
/// error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Boots {
    /// The local disk.
    Local,
    /// The boot environment with the agent.
    Agent,
    /// A Linux kernel.
    Linux {
        /// A path under the server's folder for boot files, such as `debian/linux`, or an
        /// `http://` URL where the loader fetches over HTTP. A template.
        kernel: String,
        /// Initramfs files, as `kernel`.
        #[serde(default)]
        initrd: Vec<String>,
        /// Kernel command line; a template.
        #[serde(default)]
        cmdline: String,
    },
    /// An image, run from the network with a layer of the machine's own on top.
    Diskless(Diskless),
    /// A script in the loader's own language; templates. A device whose loader has none of its own
    /// here gets nothing to boot.
    Script {
        /// An iPXE script.
        #[serde(default)]
        ipxe: Option<String>,
        /// A PXELINUX configuration, which U-Boot reads as well.
        #[serde(default)]
        pxelinux: Option<String>,
        /// A GRUB configuration.
        #[serde(default)]
        grub: Option<String>,
    },
    /// A choice of other profiles, shown by the loader.
    Menu {
        /// Its title.
        title: String,
        /// What there is to choose, at least one. Menus are not entries of menus.
        entries: Vec<MenuEntry>,
        /// The profile of the entry that is taken when nobody chooses. Default: the first.
        #[serde(default)]
        default: Option<ProfileName>,
        /// How long somebody may choose, in seconds (0 to 3,600); 0 waits for ever.
        #[serde(default = "default_timeout")]
        timeout: u32,
    },
}

impl Boots {
    /// The kind, as it is called in the API.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Agent => "agent",
            Self::Linux { .. } => "linux",
            Self::Diskless(_) => "diskless",
            Self::Script { .. } => "script",
            Self::Menu { .. } => "menu",
        }
    }
}

fn default_timeout() -> u32 {
    10
}

/// One line of a menu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MenuEntry {
    /// What is shown.
    pub label: String,
    /// What it boots.
    pub profile: ProfileName,
}

/// The boot loader that a device is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// The one that suits its firmware: iPXE for x86 PCs, shim and GRUB where Secure Boot is on,
    /// GRUB for UEFI machines that iPXE is not built for here.
    #[default]
    Auto,
    /// iPXE.
    Ipxe,
    /// PXELINUX (BIOS), files over TFTP.
    Pxelinux,
    /// PXELINUX (BIOS), kernel and initramfs over HTTP.
    Lpxelinux,
    /// GRUB (UEFI).
    Grub,
}

impl fmt::Display for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Ipxe => "ipxe",
            Self::Pxelinux => "pxelinux",
            Self::Lpxelinux => "lpxelinux",
            Self::Grub => "grub",
        })
    }
}

/// An IPv4 network, written `10.0.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// Its first address.
    pub first: Ipv4Addr,
    /// Bits of its prefix, 0 to 32.
    pub prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 network: write it as 10.0.0.0/24")]
pub struct CidrError(String);

impl Cidr {
    fn mask(prefix: u8) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(prefix.min(32)))
            .unwrap_or(0)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.first.to_bits()) & Self::mask(self.prefix) == 0
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || CidrError(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        Ok(Self {
            first: Ipv4Addr::from_bits(address.to_bits() & Self::mask(prefix)),
            prefix,
        })
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Which devices a rule is for: those that meet every condition that is set.
///
/// Patterns are compared without regard to case; `*` stands for any text, `?` for one character.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// It has this tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// It has this architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// This firmware asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// A pattern for the vendor in its inventory, or for the vendor class of its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// A pattern for the model in its inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A pattern for its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// It asks from this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub subnet: Option<Cidr>,
}

/// Gives a profile to the devices that have none of their own and meet its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which devices. Without a condition: all.
    #[serde(default)]
    pub when: Conditions,
    /// What they boot.
    pub profile: ProfileName,
}

/// Everything that operators said about what devices boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootPolicy {
    /// The profiles, by name, without those that are always there.
    pub profiles: Vec<Profile>,
    /// The rules; the first that a device meets counts.
    pub rules: Vec<Rule>,
}

impl BootPolicy {
    /// The profile of this name.
    #[must_use]
    pub fn profile(&self, name: &ProfileName) -> Option<Profile> {
        match name.as_str() {
            "agent" => Some(Profile::agent()),
            "local" => Some(Profile::local()),
            _ => self.profiles.iter().find(|p| p.name == *name).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_words() {
        for good in ["agent", "debian-12", "x", "4.1_a"] {
            assert_eq!(good.parse::<ProfileName>().unwrap().as_str(), good);
        }
        for bad in ["", "Agent", "-x", "a b", "ä", "a/b", &"a".repeat(65)] {
            assert!(bad.parse::<ProfileName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_are_read_and_contain_their_addresses() {
        let net: Cidr = "10.1.2.3/16".parse().unwrap();
        assert_eq!(net.to_string(), "10.1.0.0/16");
        assert!(net.contains(Ipv4Addr::new(10, 1, 255, 255)));
        assert!(!net.contains(Ipv4Addr::new(10, 2, 0, 0)));
        let all: Cidr = "1.2.3.4/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_profile_is_read_as_people_write_it() {
        let profile: Profile = serde_json::from_str(
            r#"{"name": "thin", "boots": {"kind": "linux", "kernel": "thin/vmlinuz"}}"#,
        )
        .unwrap();
        assert_eq!(profile.loader, Loader::Auto);
        assert_eq!(profile.boots.word(), "linux");
        let wrong = r#"{"name": "thin", "boots": {"kind": "linux", "kernal": "x"}}"#;
        assert!(serde_json::from_str::<Profile>(wrong).is_err());
    }

    #[test]
    fn the_two_that_are_always_there_are_found() {
        let policy = BootPolicy::default();
        assert_eq!(
            policy.profile(&ProfileName::agent()).unwrap().boots,
            Boots::Agent
        );
        assert_eq!(policy.profile(&"other".parse().unwrap()), None);
    }
}
