//! What the machine is made of, as the kernel tells it in `/sys` and `/proc`.
//!
//! Everything here reads files below a root, so that a test can give it the recorded tree of
//! another machine. A file that is missing or makes no sense is left out of the answer: an
//! inventory with a hole is better than none.

mod cpu;
mod disks;
mod nics;

use bugler_model::{Inventory, MacAddr};
use std::fs;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What firmware vendors leave in SMBIOS where they forgot to write something, in lower case.
const FILLERS: [&str; 20] = [
    "to be filled by o.e.m.",
    "to be filled by oem",
    "default string",
    "system serial number",
    "system product name",
    "system manufacturer",
    "system version",
    "chassis serial number",
    "not specified",
    "not applicable",
    "not available",
    "none",
    "n/a",
    "unknown",
    "undefined",
    "o.e.m.",
    "oem",
    "empty",
    "invalid",
    "123456789",
];

/// Longest text that is taken from a file, in bytes.
const MAX_TEXT: usize = 256;

/// The kernel's view of a machine.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// Reads below `root`: `/` for this machine.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Everything that a registration tells.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let dmi = |name: &str| {
            let text = self.text(format!("sys/class/dmi/id/{name}"))?;
            (!is_filler(&text)).then_some(text)
        };
        Inventory {
            uuid: dmi("product_uuid").and_then(|text| parse_uuid(&text)),
            // A board without a system serial number often has one of its own.
            serial: dmi("product_serial")
                .or_else(|| dmi("board_serial"))
                .or_else(|| {
                    // Machines with a device tree instead of SMBIOS.
                    self.text("proc/device-tree/serial-number")
                }),
            vendor: dmi("sys_vendor").or_else(|| dmi("board_vendor")),
            model: dmi("product_name")
                .or_else(|| dmi("board_name"))
                .or_else(|| self.text("proc/device-tree/model")),
            cpu: self.cpu(),
            memory: self.memory(),
            disks: self.disks(),
            nics: self.nics(),
        }
    }

    fn memory(&self) -> u64 {
        let text = fs::read_to_string(self.path("proc/meminfo")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    }

    /// Milliseconds since the kernel started.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        let text = self.text("proc/uptime").unwrap_or_default();
        let seconds = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok());
        // `as` saturates, and takes NaN for zero.
        seconds.map_or(0, |seconds| (seconds * 1000.0) as u64)
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The text of a small file, trimmed and without characters that are none; `None` where it is
    /// missing or empty.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        let bytes = bytes.get(..MAX_TEXT).unwrap_or(&bytes);
        let text = String::from_utf8_lossy(bytes);
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.trim_matches(['\0', '\n']).chars().map(clean).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder, in the kernel's order: by name, with numbers by value, so that
    /// `sdb` stands before `sdaa` and `nvme2n1` before `nvme10n1`.
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_by_cached_key(|name| natural_key(name));
        names
    }

    /// The last component of what a link points to.
    pub(crate) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

/// Letters and numbers of a name, to compare one after the other.
fn natural_key(name: &str) -> Vec<(String, usize, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(letters);
        let digits = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        let (number, after) = after.split_at(digits);
        let number = number.trim_start_matches('0');
        // Disks of the same kind count in letters when there are many: shorter comes first.
        let (kind, unit) = match word.strip_prefix("sd").or(word.strip_prefix("vd")) {
            Some(unit) => word.split_at(word.len() - unit.len()),
            None => (word, ""),
        };
        key.push((kind.to_owned(), unit.len(), unit.to_owned()));
        key.push((String::new(), number.len(), number.to_owned()));
        rest = after;
    }
    key
}

/// Whether a text says nothing about the machine.
fn is_filler(text: &str) -> bool {
    let text = text.trim().to_lowercase();
    let single = |c: char| text.chars().all(|other| other == c);
    FILLERS.contains(&text.as_str())
        || text
            .chars()
            .all(|c| c.is_ascii_punctuation() || c.is_whitespace())
        || single('0')
        || single('x')
        || single('f')
        || text == "0123456789"
}

/// A UUID that is one machine's own: not all zeroes or ones, which firmware gives when it has
/// none (DSP0134, 7.2.1).
fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (!uuid.is_nil() && !uuid.is_max()).then_some(uuid)
}

/// Reads a MAC address that can be one machine's own.
fn parse_mac(text: &str) -> Option<MacAddr> {
    text.parse().ok().filter(MacAddr::is_unicast)
}

#[cfg(test)]
mod tests;
