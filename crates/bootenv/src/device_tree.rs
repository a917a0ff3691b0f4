//! Device trees of boards whose firmware fetches them over the network: Raspberry Pis. Other boards
//! for 64-bit Arm bring theirs in firmware.

use crate::decompress;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Largest device tree that is read; a Pi's has 60 kB.
const MAX_TREE: u64 = 4 << 20;

/// Most device trees that are taken.
const MAX_TREES: usize = 256;

/// The folder of the maker of a Pi's processor, where distributions keep its device trees.
const FOLDER: &str = "broadcom";

/// Whether a file name is that of a Raspberry Pi's device tree: `bcm2711-rpi-4-b.dtb`, and with the
/// processor's other name `bcm2837-rpi-3-b.dtb`.
fn is_pi(name: &str) -> bool {
    name.starts_with("bcm2") && name.ends_with(".dtb") && name.contains("-rpi-")
}

/// Whether a path in a package is that of a Raspberry Pi's device tree. Debian has them in
/// `/usr/lib/linux-image-<version>/broadcom/`, Ubuntu in
/// `/lib/firmware/<version>/device-tree/broadcom/`.
pub(crate) fn is_wanted(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or_default();
    let starts = ["lib/linux-image-", "lib/firmware/"];
    starts.iter().any(|start| path.starts_with(start))
        && folder.rsplit('/').next() == Some(FOLDER)
        && is_pi(name)
}

/// The device trees of the kernel `version` whose modules are in `modules`, by file name. None where
/// the kernel's packages have none, as those for PCs.
pub(crate) fn find(modules: &Path, version: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    // .../lib/modules/<version>; on a system that runs, also behind the link /lib -> usr/lib.
    let lib = modules.parent().and_then(Path::parent);
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(lib) = lib {
        places.push(lib.join(format!("linux-image-{version}")));
        places.push(lib.join("firmware").join(version).join("device-tree"));
    }
    places.push(modules.join("dtb"));
    let mut found = BTreeMap::new();
    for folder in places.iter().map(|place| place.join(FOLDER)) {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("list", &folder))?,
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !is_pi(&name) || found.len() >= MAX_TREES || found.contains_key(&name) {
                continue;
            }
            let path = entry.path();
            let content = File::open(&path)
                .and_then(|file| decompress::read_plain(file, MAX_TREE))
                .map_err(Error::io("read the device tree", &path))?;
            found.insert(name, content);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_raspberry_pis_are_taken() {
        for path in [
            "lib/linux-image-6.1.0-56-arm64/broadcom/bcm2711-rpi-4-b.dtb",
            "lib/linux-image-6.1.0-56-arm64/broadcom/bcm2837-rpi-3-b-plus.dtb",
            "lib/firmware/6.8.0-1/device-tree/broadcom/bcm2712-rpi-5-b.dtb",
        ] {
            assert!(is_wanted(path), "{path}");
        }
        for path in [
            "lib/linux-image-6.1.0-56-arm64/rockchip/rk3399-rock-pi-4.dtb",
            "lib/linux-image-6.1.0-56-arm64/broadcom/stingray/bcm958742k.dtb",
            "lib/linux-image-6.1.0-56-arm64/broadcom/bcm2711-rpi-4-b.dts",
            "lib/modules/6.1.0-56-arm64/broadcom/bcm2711-rpi-4-b.dtb",
            "bcm2711-rpi-4-b.dtb",
        ] {
            assert!(!is_wanted(path), "{path}");
        }
    }

    #[test]
    fn they_are_found_beside_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules/6.1");
        fs::create_dir_all(&modules).unwrap();
        assert!(find(&modules, "6.1").unwrap().is_empty());
        let folder = root.path().join("lib/linux-image-6.1/broadcom");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("bcm2711-rpi-4-b.dtb"), "tree").unwrap();
        fs::write(folder.join("bcm4908-router.dtb"), "other").unwrap();
        let found = find(&modules, "6.1").unwrap();
        assert_eq!(
            found,
            [("bcm2711-rpi-4-b.dtb".to_owned(), b"tree".to_vec())].into()
        );
    }
}
