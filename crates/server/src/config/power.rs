//! How machines are switched.

use super::ConfigError;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time between two questions, in seconds: a day.
const MOST: u32 = 86_400;

/// How machines are switched.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Power {
    /// The folder of programs that operators may have switch machines. Whoever can write to it decides
    /// what this server runs.
    pub commands: PathBuf,
    /// Seconds within which every machine is asked once whether it is on, 86,400 at most; 0: never.
    pub poll: u32,
}

impl Default for Power {
    fn default() -> Self {
        Self {
            commands: "/etc/bugler/power".into(),
            poll: 60,
        }
    }
}

impl Power {
    /// How often every machine is asked; `None`: never.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] where it cannot be meant.
    pub fn every(&self) -> Result<Option<Duration>, ConfigError> {
        match self.poll {
            0 => Ok(None),
            seconds if seconds <= MOST => Ok(Some(Duration::from_secs(u64::from(seconds)))),
            seconds => Err(ConfigError::Wrong(format!(
                "[power] poll = {seconds} is more than a day: give 1 to {MOST} seconds, or 0 for never"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_and_often_can_be_meant_and_once_a_week_cannot() {
        let every = |poll| {
            Power {
                poll,
                ..Power::default()
            }
            .every()
        };
        assert_eq!(every(0).unwrap(), None);
        assert_eq!(every(60).unwrap(), Some(Duration::from_secs(60)));
        assert!(every(604_800).unwrap_err().to_string().contains("a day"));
    }
}
