//! The boot loader's configuration: `bootconf.txt`, what `vcgencmd bootloader_config` shows.

use super::BootOrder;
use super::keys::{self, Kind};
use std::fmt;

/// Longest configuration in bytes: the firmware shows no longer one.
pub const MAX_CONFIG: usize = 2024;

/// The section whose text is not the boot loader's: it is added to every `config.txt`.
const CONFIG_TXT: &str = "[config.txt]";

/// A configuration, line by line: what is not understood is kept.
///
/// The syntax is that of `config.txt`: `KEY=value`, comments from `#`, and filters in brackets of
/// which each holds until the next one: `[all]`, `[pi4]`, `[gpio7=0]`, `[none]`. A property that is
/// set more than once has its last value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    lines: Vec<String>,
}

/// One property, as it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The filter that it stands under, without brackets; `None`: it holds on every board.
    pub filter: Option<String>,
    /// What it does, in words; `None` for a property that is not known here.
    pub words: Option<String>,
}

impl fmt::Display for Setting {
    /// `BOOT_ORDER=0xf41: tries SD card or eMMC, then USB disk, then start again`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)?;
        if let Some(filter) = &self.filter {
            write!(f, " (only [{filter}])")?;
        }
        match &self.words {
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

/// Why a configuration cannot be read or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Longer than [`MAX_CONFIG`]: so many bytes.
    TooLong(usize),
    /// A byte that no text has, at this place.
    NotText(usize),
    /// Something that cannot be the name of a property.
    Key(String),
    /// A value that the property cannot have.
    Value {
        /// The property.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        why: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(
                f,
                "the boot loader configuration has {length} bytes and may have {MAX_CONFIG}: take \
                 comments or settings out"
            ),
            Self::NotText(at) => write!(
                f,
                "byte {at} of the boot loader configuration is none of a text: is this the right \
                 file?"
            ),
            Self::Key(key) => write!(
                f,
                "{key:?} cannot be the name of a boot loader property: these are letters, digits \
                 and underscores, such as BOOT_ORDER"
            ),
            Self::Value { key, value, why } => write!(f, "{key} cannot be {value:?}: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration. Filler after its end (zeros, `ff`) is left out.
    ///
    /// # Errors
    /// Where it is too long, or no text.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let filler = |byte: &u8| matches!(byte, 0 | 0xff);
        let end = bytes
            .iter()
            .rposition(|byte| !filler(byte))
            .map_or(0, |at| at + 1);
        let bytes = bytes.get(..end).unwrap_or_default();
        if bytes.len() > MAX_CONFIG {
            return Err(ConfigError::TooLong(bytes.len()));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ConfigError::NotText(error.valid_up_to()))?;
        let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        if let Some(at) = text.find(control) {
            return Err(ConfigError::NotText(at));
        }
        let line = |line: &str| line.trim_end_matches('\r').to_owned();
        let lines = text.lines().map(line).collect();
        Ok(Self { lines })
    }

    /// Every property that is set, in order, those under filters included.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut filter = None;
        let mut settings = vec![];
        for line in &self.lines {
            let line = line.trim();
            if line == CONFIG_TXT {
                break;
            }
            if let Some(name) = filter_of(line) {
                filter = (name != "all").then(|| name.to_owned());
            } else if let Some((key, value)) = property(line) {
                settings.push(Setting {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    filter: filter.clone(),
                    words: words(key, value),
                });
            }
        }
        settings
    }

    /// The value that a property has on every board.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.places(key).last().copied()?;
        property(self.lines.get(at)?.trim()).map(|(_, value)| value)
    }

    /// `BOOT_ORDER`, or what the boot loader does without it.
    ///
    /// # Errors
    /// Where its value is none.
    pub fn boot_order(&self) -> Result<BootOrder, super::OrderError> {
        match self.get("BOOT_ORDER") {
            None | Some("") => Ok(BootOrder::DEFAULT),
            Some(text) => text.parse(),
        }
    }

    /// Sets a property for every board. All else stays: a property that is there keeps its place, a
    /// new one comes before the first filter.
    ///
    /// # Errors
    /// Where the name is none, the value is none that the property can have, or the whole becomes too
    /// long. Nothing is changed then. A name that is not known here takes any value of one line.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if !is_key(key) {
            return Err(ConfigError::Key(key.chars().take(60).collect()));
        }
        let wrong = |why: String| ConfigError::Value {
            key: key.to_owned(),
            value: value.chars().take(60).collect(),
            why,
        };
        if value.chars().any(char::is_control) || value.trim() != value {
            return Err(wrong(
                "it should be one line without space around it".into(),
            ));
        }
        if let Some((_, kind, _)) = keys::find(key)
            && let Some(why) = kind.problem(value)
        {
            return Err(wrong(why));
        }
        let mut lines = self.lines.clone();
        let line = format!("{key}={value}");
        let places = self.places(key);
        if let Some((last, earlier)) = places.split_last() {
            if let Some(place) = lines.get_mut(*last) {
                *place = line;
            }
            for at in earlier.iter().rev() {
                lines.remove(*at);
            }
        } else {
            let mut end = lines.len();
            for (at, text) in lines.iter().enumerate() {
                match filter_of(text.trim()) {
                    Some("all") | None => {}
                    Some(_) => {
                        end = at;
                        break;
                    }
                }
            }
            // After the last line that says something.
            while end > 0
                && lines
                    .get(end - 1)
                    .is_some_and(|line| line.trim().is_empty())
            {
                end -= 1;
            }
            lines.insert(end, line);
        }
        let changed = Self { lines };
        let length = changed.to_string().len();
        if length > MAX_CONFIG {
            return Err(ConfigError::TooLong(length));
        }
        *self = changed;
        Ok(())
    }

    /// Takes a property out, where it holds on every board: the boot loader's default counts again.
    /// Returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let places = self.places(key);
        for at in places.iter().rev() {
            self.lines.remove(*at);
        }
        !places.is_empty()
    }

    /// What a person should look at, one sentence each: values that are none, names that are not known
    /// (they may be newer than this program), settings that only a filter brings, an order without
    /// the network.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut found = vec![];
        for setting in self.settings() {
            let Setting {
                key, value, filter, ..
            } = &setting;
            match keys::find(key) {
                None => found.push(format!("{key} is not known here; it is kept as it is")),
                Some((_, kind, _)) => {
                    if let Some(why) = kind.problem(value) {
                        found.push(format!("{key} cannot be {value:?}: {why}"));
                    }
                }
            }
            if let (Some(filter), Some(all)) = (filter, self.get(key))
                && filter != "none"
            {
                found.push(format!(
                    "{key} is {all}, but {value} where [{filter}] holds"
                ));
            }
        }
        if let Ok(order) = self.boot_order()
            && !order.has_network()
        {
            found.push(format!(
                "BOOT_ORDER {order} never boots from the network: {}",
                order.describe()
            ));
        }
        if self.get("FREEZE_VERSION") == Some("1") || self.get("ENABLE_SELF_UPDATE") == Some("0") {
            found.push("it takes no updates over the network".into());
        }
        found
    }

    /// Where a property is set for every board.
    fn places(&self, key: &str) -> Vec<usize> {
        let mut everywhere = true;
        let mut places = vec![];
        for (at, line) in self.lines.iter().enumerate() {
            let line = line.trim();
            if line == CONFIG_TXT {
                break;
            }
            match filter_of(line) {
                Some(name) => everywhere = name == "all",
                None if everywhere && property(line).is_some_and(|(found, _)| found == key) => {
                    places.push(at);
                }
                None => {}
            }
        }
        places
    }
}

impl fmt::Display for Config {
    /// The text as it is stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `[pi4]` -> `pi4`
fn filter_of(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

fn property(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    is_key(key).then_some((key, value.trim_end()))
}

fn words(key: &str, value: &str) -> Option<String> {
    let (_, kind, words) = keys::find(key)?;
    Some(match (kind, value.parse::<BootOrder>()) {
        (Kind::Order, Ok(order)) => format!("{words} {}", order.describe()),
        _ => (*words).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a 4 of 2020 had it.
    const OLD: &str = "[all]\nBOOT_UART=0\nWAKE_ON_GPIO=1\nPOWER_OFF_ON_HALT=0\nDHCP_TIMEOUT=45000\n\
                       DHCP_REQ_TIMEOUT=4000\nTFTP_FILE_TIMEOUT=30000\nTFTP_IP=\nTFTP_PREFIX=0\n\
                       BOOT_ORDER=0x21\nSD_BOOT_MAX_RETRIES=3\nNET_BOOT_MAX_RETRIES=5\n[none]\n\
                       FREEZE_VERSION=0\n";

    fn config(text: &str) -> Config {
        Config::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_configuration_is_shown_in_words() {
        let old = config(OLD);
        assert_eq!(old.to_string(), OLD);
        let shown: Vec<String> = old.settings().iter().map(Setting::to_string).collect();
        assert_eq!(
            shown[8],
            "BOOT_ORDER=0x21: tries SD card or eMMC, then network"
        );
        assert_eq!(
            shown[11],
            "FREEZE_VERSION=0 (only [none]): takes no updates at all"
        );
        assert_eq!(old.get("TFTP_PREFIX"), Some("0"));
        assert_eq!(old.get("FREEZE_VERSION"), None);
        assert_eq!(old.check(), Vec::<String>::new());
        assert_eq!(config("").boot_order(), Ok(BootOrder::DEFAULT));
    }

    #[test]
    fn a_change_leaves_the_rest_as_it_is() {
        let mut changed = config(OLD);
        changed.set("BOOT_ORDER", "0xf12").unwrap();
        assert_eq!(changed.to_string(), OLD.replace("0x21", "0xf12"));
        changed.set("TFTP_PREFIX", "2").unwrap();
        changed.set("PARTITION_WALK", "1").unwrap();
        changed.set("A_KEY_OF_TOMORROW", "any thing").unwrap();
        assert!(changed.to_string().contains(
            "NET_BOOT_MAX_RETRIES=5\nPARTITION_WALK=1\nA_KEY_OF_TOMORROW=any thing\n[none]\n"
        ));
        assert!(changed.remove("PARTITION_WALK") && !changed.remove("PARTITION_WALK"));
        assert_eq!(
            changed.check(),
            ["A_KEY_OF_TOMORROW is not known here; it is kept as it is"]
        );
    }

    #[test]
    fn the_last_value_counts_and_becomes_the_only_one() {
        let mut twice =
            config("# mine\nBOOT_ORDER=0x1\n[all]\nBOOT_ORDER=0x2\n\n[pi4]\nBOOT_ORDER=0x4\n");
        assert_eq!(twice.get("BOOT_ORDER"), Some("0x2"));
        twice.set("BOOT_ORDER", "0xf12").unwrap();
        let expected = "# mine\n[all]\nBOOT_ORDER=0xf12\n\n[pi4]\nBOOT_ORDER=0x4\n";
        assert_eq!(twice.to_string(), expected);
        assert_eq!(
            twice.check(),
            ["BOOT_ORDER is 0xf12, but 0x4 where [pi4] holds"]
        );
    }

    #[test]
    fn what_belongs_to_config_txt_is_left_alone() {
        let text = "BOOT_UART=1\n[config.txt]\n[all]\nBOOT_ORDER=x\ndtparam=audio=on\n";
        let mut mixed = config(text);
        assert_eq!(mixed.get("BOOT_ORDER"), None);
        assert_eq!(mixed.settings().len(), 1);
        mixed.set("BOOT_ORDER", "0xf12").unwrap();
        assert_eq!(
            mixed.to_string(),
            text.replacen("=1\n", "=1\nBOOT_ORDER=0xf12\n", 1)
        );
    }

    #[test]
    fn wrong_values_are_refused_and_said() {
        let mut here = config(OLD);
        for (key, value, says) in [
            ("BOOT_ORDER", "0xf9", "the digit 9"),
            ("BOOT_ORDER", "network", "is no boot order"),
            ("DHCP_TIMEOUT", "100", "a number from 5000"),
            ("TFTP_IP", "server", "an IPv4 address"),
            ("BOOT_UART", "yes", "should be 0 or 1"),
            ("TFTP_PREFIX_STR", &"x".repeat(33), "at most 32"),
            ("MAC_ADDRESS", "dc:a6", "a MAC address"),
            ("BOOT_UART", "1\nBOOT_ORDER=0x1", "one line"),
            ("BOOT ORDER", "0x1", "cannot be the name"),
            ("MORE", &"x".repeat(2000), "may have 2024"),
        ] {
            let error = here.set(key, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(here.to_string(), OLD);
        here.set("TFTP_IP", "10.0.0.1").unwrap();
        here.set("TFTP_IP", "").unwrap();
        assert_eq!(here.to_string(), OLD);
        assert_eq!(
            config("BOOT_ORDER=0xf41\nENABLE_SELF_UPDATE=0\nTFTP_PREFIX=7\n").check(),
            [
                "TFTP_PREFIX cannot be \"7\": it should be a number from 0 to 2",
                "BOOT_ORDER 0xf41 never boots from the network: SD card or eMMC, then USB disk, then \
                 start again",
                "it takes no updates over the network",
            ]
        );
    }

    #[test]
    fn filler_is_no_text_and_neither_is_a_program() {
        let mut padded = OLD.as_bytes().to_vec();
        padded.extend([0xff; 1500]);
        assert_eq!(Config::parse(&padded), Ok(config(OLD)));
        assert_eq!(Config::parse(b"A=1\0B=2"), Err(ConfigError::NotText(3)));
        assert_eq!(Config::parse(b"A=\xe2\x28"), Err(ConfigError::NotText(2)));
        assert_eq!(
            Config::parse(&[b'#'; 2025]),
            Err(ConfigError::TooLong(2025))
        );
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_and_changed(
            text in "(\\[(all|none|pi4|config.txt)\\]\n|BOOT_ORDER=0x1\n|A=b\n| *\n|#x\n|.{0,9}\n){0,12}",
        ) {
            if let Ok(mut config) = Config::parse(text.as_bytes()) {
                let before = config.settings().len();
                config.set("BOOT_ORDER", "0xf12").unwrap();
                prop_assert_eq!(config.get("BOOT_ORDER"), Some("0xf12"));
                prop_assert!(config.settings().len() <= before + 1);
                let again = Config::parse(config.to_string().as_bytes()).unwrap();
                prop_assert_eq!(&again, &config);
                prop_assert!(config.remove("BOOT_ORDER"));
                prop_assert_eq!(config.get("BOOT_ORDER"), None);
            }
        }
    }
}
