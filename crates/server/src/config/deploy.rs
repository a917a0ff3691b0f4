//! What deploys and captures may take of the server and its network.

use super::ConfigError;
use bugler_api::DeployLimits;
use bugler_model::text::parse_bytes;
use serde::Deserialize;

/// Least rate, in bytes a second: with less, a chunk of 1 MiB takes longer than an agent waits.
const LEAST: u64 = 100_000;

/// What deploys and captures may take. Nothing given: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Deploy {
    /// How many devices are at work at once, 1 or more. The others wait, the oldest task first.
    pub at_once: Option<u32>,
    /// Bytes a second to and from all devices together, such as `100M`.
    pub rate: Option<String>,
    /// Bytes a second to and from each device.
    pub rate_per_device: Option<String>,
}

impl Deploy {
    /// The limits as numbers.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] where one cannot be meant.
    pub fn limits(&self) -> Result<DeployLimits, ConfigError> {
        if self.at_once == Some(0) {
            return Err(ConfigError::Wrong(
                "[deploy] at-once = 0 would let nobody begin: give at least 1, or leave it out"
                    .into(),
            ));
        }
        Ok(DeployLimits {
            at_once: self.at_once,
            rate: rate("rate", self.rate.as_deref())?,
            rate_per_device: rate("rate-per-device", self.rate_per_device.as_deref())?,
        })
    }
}

fn rate(key: &str, text: Option<&str>) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = |why: String| ConfigError::Wrong(format!("[deploy] {key}: {why}"));
    match parse_bytes(text) {
        Ok(rate) if rate < LEAST => Err(wrong(format!(
            "{text} is too little for a deploy to go on: give at least 100k bytes a second"
        ))),
        Ok(rate) => Ok(Some(rate)),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Result<DeployLimits, String> {
        let deploy: Deploy = toml::from_str(text).map_err(|error| error.to_string())?;
        deploy.limits().map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_read_and_what_cannot_be_meant_is_refused() {
        let all = "at-once = 4\nrate = \"100M\"\nrate-per-device = \"20Mi\"";
        assert_eq!(
            limits(all).unwrap(),
            DeployLimits {
                at_once: Some(4),
                rate: Some(100_000_000),
                rate_per_device: Some(20 << 20),
            }
        );
        assert_eq!(limits("").unwrap(), DeployLimits::default());
        assert!(limits("at-once = 0").unwrap_err().contains("at least 1"));
        assert!(limits("rate = \"10\"").unwrap_err().contains("too little"));
        assert!(
            limits("rate-per-device = \"fast\"")
                .unwrap_err()
                .contains("rate-per-device")
        );
        assert!(
            limits("rates = \"1M\"")
                .unwrap_err()
                .contains("rate-per-device")
        );
    }
}
