//! Images in the registry. Their content lives in the chunk store, named by the manifest's hash.

use crate::{DeviceId, ImageId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image's name: 1 to 64 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
pub struct ImageName(String);

/// Why a text is not an image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an image name: use 1 to 64 letters, digits, '.', '_' or '-', \
     beginning with a letter or digit"
)]
pub struct ImageNameError(String);

impl ImageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ImageName {
    type Err = ImageNameError;
    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let good = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ImageNameError(text.into()))
        }
    }
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for ImageName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Whether an image's chunks are known to be whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// Nothing wrong is known of it.
    #[default]
    Good,
    /// A chunk was found missing or damaged; it is not deployed until it is added again.
    Damaged,
}

/// Where a version of an image was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// The device, by its id when the image was taken.
    pub device: DeviceId,
    /// Its name then, or its id where it had none.
    pub label: String,
    /// The disk or partition, for people.
    pub disk: String,
    /// The agent's version.
    pub agent_version: String,
    /// How each partition was read, one line each.
    pub reading: Vec<String>,
}

/// One version of an image: immutable, content-addressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Its identifier.
    pub id: ImageId,
    /// Its name; versions share it.
    pub name: ImageName,
    /// Which version of the name: from 1, rising, never given twice.
    pub version: u32,
    /// What people say of it.
    pub note: String,
    /// The device that it was taken from; `None` for one that was added from a file.
    pub origin: Option<Origin>,
    /// BLAKE3 of the manifest, 64 lower-case hex digits: the name of its content.
    pub manifest: String,
    /// Size of the disk it makes, in bytes.
    pub size: u64,
    /// Bytes that are not zero, counted in whole chunks.
    pub used: u64,
    /// Bytes its compressed chunks take in the store, those shared with other images included.
    pub stored: u64,
    /// Logical sector size of the disk it was made for, in bytes.
    pub sector_size: u32,
    /// Whether its chunks are known to be whole.
    pub state: ImageState,
    /// When it was added.
    pub created: Timestamp,
}

impl Image {
    /// How it is called where the version matters: `debian-12@3`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// What a finished `image add` or capture enters into the registry, as the next version of its
/// name. See [`Image`] for the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewImage {
    pub name: ImageName,
    pub note: String,
    pub origin: Option<Origin>,
    pub manifest: String,
    pub size: u64,
    pub used: u64,
    pub stored: u64,
    pub sector_size: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_path_and_a_shell() {
        for good in ["debian-12", "a", "0.1_x", &"n".repeat(64)] {
            assert!(good.parse::<ImageName>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a b",
            "ä",
            &"n".repeat(65),
            "a\n",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }
}
