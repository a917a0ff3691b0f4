//! What clients set on a target outlives the server: its config string, its MAC mask and who has
//! reserved it.

use crate::error::KeepError;
use crate::packet::{LONGEST_CONFIG, MOST_MASKS, MOST_RESERVED};
use bugler_model::MacAddr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The first line of a file.
const FORMAT: &str = "aoe-target 1";

/// What clients set on a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Config string, of at most [`LONGEST_CONFIG`] bytes; empty for none.
    pub config: Vec<u8>,
    /// Who may command it; everybody where it is empty.
    pub mask: Vec<MacAddr>,
    /// Who has reserved it; nobody where it is empty.
    pub reserved: Vec<MacAddr>,
}

/// Keeps what clients set.
pub trait Keep: Send + Sync + 'static {
    /// What was kept last for the target with this name; the default where nothing was.
    ///
    /// # Errors
    /// [`KeepError`].
    fn load(&self, name: &str) -> Result<State, KeepError>;

    /// Keeps it: it has to be found again after a loss of power.
    ///
    /// # Errors
    /// [`KeepError`]; what was kept before holds on then.
    fn keep(&self, name: &str, state: &State) -> Result<(), KeepError>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forget;

impl Keep for Forget {
    fn load(&self, _name: &str) -> Result<State, KeepError> {
        Ok(State::default())
    }

    fn keep(&self, _name: &str, _state: &State) -> Result<(), KeepError> {
        Ok(())
    }
}

/// A small text file for each target, replaced as a whole.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// In this folder, which has to be there.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf, KeepError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.chars().all(fits) {
            return Err(KeepError::Name(name.to_owned()));
        }
        Ok(self.dir.join(format!("{name}.aoe")))
    }
}

impl Keep for Files {
    fn load(&self, name: &str) -> Result<State, KeepError> {
        let path = self.path(name)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(source) => {
                return Err(KeepError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        decode(&text).map_err(|why| KeepError::Damaged { path, why })
    }

    fn keep(&self, name: &str, state: &State) -> Result<(), KeepError> {
        let path = self.path(name)?;
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| KeepError::Io {
                action,
                path,
                source,
            }
        };
        let new = path.with_extension("aoe.new");
        let mut file = File::create(&new).map_err(failed("create", &new))?;
        let written = file.write_all(encode(state).as_bytes());
        written
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &new))?;
        fs::rename(&new, &path).map_err(failed("replace", &path))?;
        // The name, too, has to be there after a loss of power.
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("write the folder", &self.dir))
    }
}

fn encode(state: &State) -> String {
    let mut text = format!("{FORMAT}\nconfig ");
    for byte in &state.config {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    for (word, macs) in [("mask", &state.mask), ("reserved", &state.reserved)] {
        for mac in macs {
            let _ = writeln!(text, "{word} {mac}");
        }
    }
    // A file that was cut short lacks it.
    text.push_str("end\n");
    text
}

fn decode(text: &[u8]) -> Result<State, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT) {
        return Err(format!("it does not begin with {FORMAT:?}"));
    }
    let mut state = State::default();
    for line in &mut lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "config" => state.config = unhex(rest).ok_or("its config string is no hexadecimal")?,
            "mask" => state.mask.push(mac(rest)?),
            "reserved" => state.reserved.push(mac(rest)?),
            "end" => {
                if state.config.len() > LONGEST_CONFIG
                    || state.mask.len() > MOST_MASKS
                    || state.reserved.len() > MOST_RESERVED
                {
                    return Err("it holds more than a target can".to_owned());
                }
                return match lines.next() {
                    None => Ok(state),
                    Some(_) => Err("it goes on behind its end".to_owned()),
                };
            }
            _ => {
                return Err(format!(
                    "the line {:?}",
                    line.chars().take(60).collect::<String>()
                ));
            }
        }
    }
    Err("it has no end".to_owned())
}

fn mac(text: &str) -> Result<MacAddr, String> {
    text.parse()
        .map_err(|error: bugler_model::MacParseError| error.to_string())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    pairs
        .iter()
        .map(byte)
        .collect::<Option<_>>()
        .filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_kept_is_found_by_another_server() {
        let dir = tempfile::tempdir().unwrap();
        let state = State {
            config: b"root \xff".to_vec(),
            mask: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            reserved: vec![MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 3])],
        };
        assert_eq!(
            Files::new(dir.path()).load("lab-7").unwrap(),
            State::default()
        );
        Files::new(dir.path())
            .keep("lab-7", &State::default())
            .unwrap();
        Files::new(dir.path()).keep("lab-7", &state).unwrap();
        assert_eq!(Files::new(dir.path()).load("lab-7").unwrap(), state);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_and_bad_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        for name in ["../x", "", ".x", "a/b", "a b"] {
            let error = files.keep(name, &State::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
        for (text, why) in [
            ("", "does not begin"),
            ("aoe-target 1\nconfig 00\n", "no end"),
            ("aoe-target 1\nconfig 0\nend\n", "hexadecimal"),
            ("aoe-target 1\nmask x\nend\n", "not a MAC address"),
            ("aoe-target 1\nfoo\nend\n", "\"foo\""),
            ("aoe-target 1\nend\nend\n", "behind its end"),
        ] {
            fs::write(dir.path().join("t.aoe"), text).unwrap();
            let error = files.load("t").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("t.aoe"), "{error}");
        }
        let nowhere = Files::new(&dir.path().join("none"));
        let error = nowhere
            .keep("t", &State::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("could not create") && error.contains("No such file"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            config in prop::collection::vec(any::<u8>(), 0..=LONGEST_CONFIG),
            mask in prop::collection::vec(any::<[u8; 6]>(), 0..20),
            reserved in prop::collection::vec(any::<[u8; 6]>(), 0..20),
        ) {
            let macs = |macs: Vec<[u8; 6]>| macs.into_iter().map(MacAddr).collect();
            let state = State { config, mask: macs(mask), reserved: macs(reserved) };
            prop_assert_eq!(decode(encode(&state).as_bytes()), Ok(state));
        }

        #[test]
        fn any_file_is_read_or_refused(bytes: Vec<u8>, begun: bool) {
            let mut text = if begun { format!("{FORMAT}\n").into_bytes() } else { vec![] };
            text.extend(bytes);
            let _ = decode(&text);
        }
    }
}
