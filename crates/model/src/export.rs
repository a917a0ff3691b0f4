//! Diskless machines: what they run from.

use crate::{DeviceId, ExportId, ImageId, ImageName, ImageNameError, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// How a machine reaches its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportProtocol {
    /// A network block device; works across subnets.
    #[default]
    Nbd,
    /// ATA over Ethernet; on the server's own segment.
    Aoe,
    /// A tree of files over NFSv3.
    Nfs,
}

impl fmt::Display for ExportProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nbd => "nbd",
            Self::Aoe => "aoe",
            Self::Nfs => "nfs",
        })
    }
}

/// What becomes of a machine's own layer when it boots again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverlayKind {
    /// It is kept, for each version of the image that the machine ran.
    #[default]
    Persistent,
    /// Every boot begins with an empty one.
    Ephemeral,
}

impl fmt::Display for OverlayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        })
    }
}

/// What brings a diskless machine to its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DisklessStart {
    /// The image's kernel, and the agent as its initramfs: nothing has to be prepared in the image.
    #[default]
    Agent,
    /// The image's kernel and its own initramfs, which must know how.
    Image,
    /// iPXE, which attaches the disk and starts its boot sector (`sanboot`); AoE alone.
    Sanboot,
}

impl fmt::Display for DisklessStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent",
            Self::Image => "image",
            Self::Sanboot => "sanboot",
        })
    }
}

/// An image by its name, and the version where one is meant: `debian-12`, `debian-12@3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// Its name.
    pub name: ImageName,
    /// The version; `None`: the latest.
    pub version: Option<u32>,
}

/// Why a text names no version of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// Its name cannot be one.
    #[error(transparent)]
    Name(#[from] ImageNameError),
    /// What follows the `@` is no version.
    #[error("{0:?} is not a version of an image: write NAME@3, or NAME for the latest")]
    Version(String),
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => {
                let number = version.parse().ok().filter(|number| *number > 0);
                let wrong = || ImageRefError::Version(text.chars().take(80).collect());
                (name, Some(number.ok_or_else(wrong)?))
            }
            None => (text, None),
        };
        Ok(Self {
            name: name.parse()?,
            version,
        })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// An ATA over Ethernet address: shelf 0 to 4094, slot 0 to 254; written `e0.0` or `0.0`. The values
/// above are what the Linux driver and discovery keep for themselves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct AoeAddress {
    /// The shelf ("major").
    pub shelf: u16,
    /// The slot ("minor").
    pub slot: u8,
}

/// Why a text is no AoE address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no AoE address: write SHELF.SLOT, shelf 0 to 4094, slot 0 to 254")]
pub struct AoeAddressError(String);

impl FromStr for AoeAddress {
    type Err = AoeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AoeAddressError(text.chars().take(80).collect());
        let numbers = text.strip_prefix('e').unwrap_or(text);
        let (shelf, slot) = numbers.split_once('.').ok_or_else(wrong)?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !digits(shelf) || !digits(slot) {
            return Err(wrong());
        }
        let address = Self {
            shelf: shelf.parse().map_err(|_| wrong())?,
            slot: slot.parse().map_err(|_| wrong())?,
        };
        if address.shelf >= 0xfff || address.slot == 0xff {
            return Err(wrong());
        }
        Ok(address)
    }
}

impl TryFrom<String> for AoeAddress {
    type Error = AoeAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AoeAddress> for String {
    fn from(address: AoeAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for AoeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.shelf, self.slot)
    }
}

/// What a diskless machine runs, as its profile says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Diskless {
    /// The image that all machines of the profile share.
    #[schema(value_type = String)]
    pub image: ImageRef,
    /// How its machines reach it.
    #[serde(default)]
    pub over: ExportProtocol,
    /// What becomes of a machine's own layer.
    #[serde(default)]
    pub overlay: OverlayKind,
    /// Most bytes that a machine's own layer takes: 1 MiB to 16 TiB.
    #[serde(default = "default_overlay_size")]
    pub overlay_size: u64,
    /// Whether a write is acknowledged only when it would survive a loss of the server's power. AoE
    /// machines never ask for it by themselves; NBD and NFS ones do.
    #[serde(default = "default_durable")]
    pub durable: bool,
    /// What brings the machine there.
    #[serde(default)]
    pub start: DisklessStart,
    /// The AoE address that each of its machines sees its own disk at.
    #[serde(default)]
    #[schema(value_type = String)]
    pub aoe_address: AoeAddress,
    /// More kernel arguments; a template.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
}

/// The size of a layer where nobody says: 2 GiB.
pub const DEFAULT_OVERLAY_SIZE: u64 = 2 << 30;

fn default_overlay_size() -> u64 {
    DEFAULT_OVERLAY_SIZE
}

fn default_durable() -> bool {
    true
}

/// One machine's root: a version of an image, and what the machine wrote on top of it.
///
/// A device has one for each version that it ran with a layer that is kept; the current one is what
/// it booted last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Export {
    /// Its identifier.
    pub id: ExportId,
    /// Whose it is.
    pub device: DeviceId,
    /// The image underneath.
    pub image: ImageId,
    /// How that is called: `debian-12@3`.
    pub label: String,
    /// BLAKE3 of its manifest, in hex.
    pub manifest: String,
    /// How the machine reaches it.
    pub over: ExportProtocol,
    /// Whether its layer outlives the boot.
    pub overlay: OverlayKind,
    /// Most bytes that the layer takes.
    pub overlay_size: u64,
    /// Whether acknowledged writes are durable ones.
    pub durable: bool,
    /// Where an AoE machine sees it.
    #[schema(value_type = String)]
    pub aoe_address: AoeAddress,
    /// Whether it is what the device booted last.
    pub current: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When the device last booted it.
    pub booted: Timestamp,
}

/// What a device that boots diskless is given. See [`Export`] for the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewExport {
    pub device: DeviceId,
    pub image: ImageId,
    pub over: ExportProtocol,
    pub overlay: OverlayKind,
    pub overlay_size: u64,
    pub durable: bool,
    pub aoe_address: AoeAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_with_or_without_its_version() {
        let image: ImageRef = "debian-12@3".parse().unwrap();
        assert_eq!((image.name.as_str(), image.version), ("debian-12", Some(3)));
        assert_eq!(image.to_string(), "debian-12@3");
        let latest: ImageRef = "debian-12".parse().unwrap();
        assert_eq!(latest.version, None);
        for bad in ["", "@1", "a@", "a@0", "a@x", "a@-1", "a b"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn aoe_addresses_leave_out_what_the_driver_keeps_for_itself() {
        for (text, shelf, slot) in [("e0.0", 0, 0), ("7.3", 7, 3), ("e4094.254", 4094, 254)] {
            let address: AoeAddress = text.parse().unwrap();
            assert_eq!((address.shelf, address.slot), (shelf, slot));
        }
        for bad in [
            "", "e", "e1", "e1.", "e.1", "e4095.0", "e0.255", "e+1.0", "e65536.0",
        ] {
            assert!(bad.parse::<AoeAddress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_profile_needs_to_say_no_more_than_the_image() {
        let read: Diskless = serde_json::from_str(r#"{"image": "debian-12"}"#).unwrap();
        assert_eq!(read.over, ExportProtocol::Nbd);
        assert_eq!(read.overlay_size, DEFAULT_OVERLAY_SIZE);
        assert!(read.durable);
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Diskless>(&text).unwrap(), read);
    }
}
