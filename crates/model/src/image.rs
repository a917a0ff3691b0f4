//! Images in the registry. Their content lives in the chunk store, named by the manifest's hash.

use crate::{ImageId, Timestamp};
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

/// One image: immutable, content-addressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Its identifier.
    pub id: ImageId,
    /// Its name; unique.
    pub name: ImageName,
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

/// What a finished `image add` enters into the registry. See [`Image`] for the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewImage {
    pub name: ImageName,
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
