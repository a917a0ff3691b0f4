//! Which device was started with what, so that kernels that no device starts any more can go.

use bugler_model::DeviceId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What stands for a device that starts by itself, from its boot sector.
const NOTHING: &str = "-";

/// What each device was started with at its latest boot, as `<arch>/<version>`; kept in a file of lines
/// `d7 x86_64/6.1.0-37-amd64+1a2b3c4d`.
#[derive(Debug)]
pub(crate) struct Uses {
    file: PathBuf,
    devices: BTreeMap<DeviceId, String>,
    /// When each was last asked for: its files may be on their way.
    recent: HashMap<String, Instant>,
    since: Instant,
}

impl Uses {
    /// Those that are kept in `file`. What cannot be read is not known: nothing is removed for it.
    pub(crate) fn open(file: PathBuf) -> Self {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let devices = text
            .lines()
            .filter_map(|line| {
                let (device, start) = line.split_once(' ')?;
                Some((device.parse().ok()?, start.to_owned()))
            })
            .collect();
        Self {
            file,
            devices,
            recent: HashMap::new(),
            since: Instant::now(),
        }
    }

    /// Somebody is told to fetch this.
    pub(crate) fn asked_for(&mut self, start: String) {
        self.recent.insert(start, Instant::now());
    }

    /// A device boots with this.
    ///
    /// # Errors
    /// Where it cannot be kept.
    pub(crate) fn boots(&mut self, device: DeviceId, start: Option<String>) -> io::Result<()> {
        let start = start.unwrap_or_else(|| NOTHING.to_owned());
        if self.devices.get(&device) == Some(&start) {
            return Ok(());
        }
        self.devices.insert(device, start);
        self.keep()
    }

    fn keep(&self) -> io::Result<()> {
        let mut text = String::new();
        for (device, start) in &self.devices {
            text += &format!("{device} {start}\n");
        }
        let folder = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.file)
            .map(drop)
            .map_err(|error| error.error)
    }

    /// What none of `devices`, those that run without a disk, was started with, of the folders
    /// `<dir>/<arch>/<version>`, and nobody has asked for in the last `grace`. While it is not known of
    /// one of them what it was started with, that is nothing.
    ///
    /// # Errors
    /// Where the folder cannot be read, or what is left cannot be kept.
    pub(crate) fn unused(
        &mut self,
        dir: &Path,
        devices: &BTreeSet<DeviceId>,
        grace: Duration,
    ) -> io::Result<Vec<PathBuf>> {
        let is_known = |device| self.devices.contains_key(device);
        if self.since.elapsed() < grace || !devices.iter().all(is_known) {
            return Ok(Vec::new());
        }
        let before = self.devices.len();
        self.devices.retain(|device, _| devices.contains(device));
        if self.devices.len() != before {
            self.keep()?;
        }
        self.recent.retain(|_, at| at.elapsed() < grace);
        let used: BTreeSet<&str> = self.devices.values().map(String::as_str).collect();
        let mut unused = Vec::new();
        for (arch, folder) in folders(dir)? {
            for (version, path) in folders(&folder)? {
                let start = format!("{arch}/{version}");
                if !used.contains(start.as_str()) && !self.recent.contains_key(&start) {
                    unused.push(path);
                }
            }
        }
        unused.sort();
        Ok(unused)
    }
}

/// The folders in a folder, by their names, but for those that work is done in. None where it is not
/// there.
fn folders(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.file_type()?.is_dir() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_device_starts_is_unused_as_long_as_all_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot");
        for version in ["old", "new", "fetched"] {
            fs::create_dir_all(boot.join("x86_64").join(version)).unwrap();
        }
        fs::create_dir_all(boot.join(".kernel-work/6.1")).unwrap();
        let file = dir.path().join("boot.uses");
        let mut uses = Uses::open(file.clone());
        let (one, two, three) = (DeviceId(1), DeviceId(2), DeviceId(3));
        let all = BTreeSet::from([one, two, three]);
        uses.boots(one, Some("x86_64/old".into())).unwrap();
        uses.boots(two, Some("x86_64/new".into())).unwrap();
        let none = Duration::ZERO;
        assert!(uses.unused(&boot, &all, none).unwrap().is_empty(), "three");
        uses.boots(three, None).unwrap();
        let names = |unused: Vec<PathBuf>| -> Vec<String> {
            let names = unused.iter().filter_map(|path| path.file_name());
            names.map(|name| name.to_string_lossy().into()).collect()
        };
        assert_eq!(names(uses.unused(&boot, &all, none).unwrap()), ["fetched"]);

        // Another server knows it too.
        drop(uses);
        let mut uses = Uses::open(file);
        uses.boots(one, Some("x86_64/new".into())).unwrap();
        let unused = uses.unused(&boot, &all, none).unwrap();
        assert_eq!(names(unused), ["fetched", "old"]);
        uses.asked_for("x86_64/fetched".into());
        let hour = Duration::from_secs(3600);
        assert!(uses.unused(&boot, &all, hour).unwrap().is_empty());
        uses.since = Instant::now().checked_sub(hour).unwrap();
        assert_eq!(names(uses.unused(&boot, &all, hour).unwrap()), ["old"]);
        // A device that was forgotten starts nothing.
        let unused = uses.unused(&boot, &BTreeSet::new(), none).unwrap();
        assert_eq!(names(unused), ["fetched", "new", "old"]);
        let nowhere = dir.path().join("nowhere");
        assert!(
            uses.unused(&nowhere, &BTreeSet::new(), none)
                .unwrap()
                .is_empty()
        );
    }
}
