//! How images are looked after.

use super::ConfigError;
use bugler_model::text::parse_bytes;
use serde::Deserialize;

/// What is read when nothing else is said, in bytes a second: a few percent of one processor, and
/// 1.7 TB a day.
const DEFAULT_VERIFY_RATE: &str = "20M";

/// How images are looked after.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Images {
    /// Bytes a second that are read of the image store in the background, to find what its disk has
    /// damaged, such as `20M`; `0`: nothing is.
    pub verify_rate: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            verify_rate: DEFAULT_VERIFY_RATE.into(),
        }
    }
}

impl Images {
    /// The rate as a number, in bytes a second; 0 for none.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] where it is none.
    pub fn verify_rate(&self) -> Result<u64, ConfigError> {
        if self.verify_rate == "0" {
            return Ok(0);
        }
        parse_bytes(&self.verify_rate)
            .map_err(|error| ConfigError::Wrong(format!("[images] verify-rate: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_and_zero_is_off() {
        let rate = |text: &str| {
            let images: Images = toml::from_str(text).map_err(|error| error.to_string())?;
            images.verify_rate().map_err(|error| error.to_string())
        };
        assert_eq!(rate(""), Ok(20_000_000));
        assert_eq!(rate("verify-rate = \"0\""), Ok(0));
        assert_eq!(rate("verify-rate = \"1Gi\""), Ok(1 << 30));
        assert!(
            rate("verify-rate = \"fast\"")
                .unwrap_err()
                .contains("verify-rate")
        );
        assert!(rate("verify = \"1M\"").unwrap_err().contains("verify-rate"));
    }
}
