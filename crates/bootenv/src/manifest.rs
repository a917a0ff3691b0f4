//! Boot environments on disk: `<dir>/<arch>/<version>/{vmlinuz,initrd,bootenv.json}`, for 64-bit Arm
//! also `dtbs/*.dtb`, and `<dir>/<arch>/current`, a link to the version that was built last.

use crate::error::{Error, Result};
use bugler_model::Arch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most bytes of a manifest that are read; one has under 2 kB.
const MAX_MANIFEST: u64 = 1 << 20;

/// The folder of device trees.
const DEVICE_TREES: &str = "dtbs";

/// A built boot environment. This is what `bootenv.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEnv {
    /// The version: the kernel's, `+`, and the first 8 hex digits of the BLAKE3 of the content,
    /// for example `6.1.0-37-amd64+1a2b3c4d`. The same content has the same version. The file
    /// `/etc/bugler-release` of the initramfs names it.
    pub version: String,
    /// The processors that it is for.
    pub arch: Arch,
    /// The kernel's version, as `uname -r` tells it.
    pub kernel_version: String,
    /// What it was made from.
    pub sources: Sources,
    /// Number of kernel modules inside.
    pub module_count: usize,
    /// Number of firmware files inside.
    pub firmware_count: usize,
    /// Device trees of Raspberry Pis in its folder `dtbs`: file name and size in bytes. Empty where
    /// the kernel has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub device_trees: BTreeMap<String, u64>,
    /// Sizes of its parts.
    pub sizes: Sizes,
    /// Its folder. Not in the file, so that the folder can be moved.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What a boot environment was made from. Hashes are BLAKE3 of the content, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Where the kernel came from, for people.
    pub kernel: String,
    /// The kernel image.
    pub kernel_hash: String,
    /// The agent. Another value than that of the agent at hand means that it is time to build
    /// anew.
    pub agent_hash: String,
    /// busybox for the rescue shell; `None`: there is no rescue shell.
    pub busybox_hash: Option<String>,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The kernel image.
    pub vmlinuz: u64,
    /// The initramfs as it is sent to machines, compressed.
    pub initrd: u64,
    /// The initramfs unpacked; it takes that much memory on the machine.
    pub initrd_unpacked: u64,
    /// All kernel modules, unpacked.
    pub modules_unpacked: u64,
    /// The initramfs without kernel modules and their firmware, compressed.
    pub base: u64,
    /// The same without the rescue shell.
    pub base_without_busybox: u64,
}

impl BootEnv {
    /// The path of the kernel image.
    #[must_use]
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The path of the initramfs.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The path of a device tree by its file name; `None` where this boot environment has it not.
    #[must_use]
    pub fn device_tree(&self, name: &str) -> Option<PathBuf> {
        self.device_trees
            .contains_key(name)
            .then(|| self.dir.join(DEVICE_TREES).join(name))
    }

    /// Reads the boot environment in the folder `dir`. `None` when it is not whole: there is no
    /// readable manifest, or the files do not have the sizes that it says.
    fn read(dir: &Path) -> Option<Self> {
        let mut text = String::new();
        let file = File::open(dir.join("bootenv.json")).ok()?;
        file.take(MAX_MANIFEST).read_to_string(&mut text).ok()?;
        let mut found: Self = serde_json::from_str(&text).ok()?;
        found.dir = dir.to_path_buf();
        let has = |path: PathBuf, size| fs::metadata(path).is_ok_and(|meta| meta.len() == size);
        let trees = dir.join(DEVICE_TREES);
        let is_whole = has(found.vmlinuz(), found.sizes.vmlinuz)
            && has(found.initrd(), found.sizes.initrd)
            && found
                .device_trees
                .iter()
                .all(|(name, size)| has(trees.join(name), *size));
        is_whole.then_some(found)
    }
}

/// The folder name of an architecture.
#[must_use]
pub fn arch_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => "x86",
        Arch::X86_64 => "x86_64",
        Arch::Arm => "arm",
        Arch::Aarch64 => "aarch64",
    }
}

/// All whole boot environments below `dir`: by architecture, and the one built last first. A
/// folder that does not exist has none.
///
/// # Errors
///
/// When a folder is there and cannot be listed.
pub fn list(dir: &Path) -> Result<Vec<BootEnv>> {
    let mut all = Vec::new();
    for arch in [Arch::X86_64, Arch::Aarch64, Arch::X86, Arch::Arm] {
        all.extend(list_arch(&dir.join(arch_name(arch)))?);
    }
    Ok(all)
}

fn list_arch(dir: &Path) -> Result<Vec<BootEnv>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    let mut found: Vec<(SystemTime, BootEnv)> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        // Not `current`, which is a link.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Some(bootenv) = is_folder.then(|| BootEnv::read(&entry.path())).flatten() {
            let manifest = fs::metadata(entry.path().join("bootenv.json"));
            let built = manifest.and_then(|meta| meta.modified());
            found.push((built.unwrap_or(SystemTime::UNIX_EPOCH), bootenv));
        }
    }
    found.sort_by(|(built_a, a), (built_b, b)| {
        built_b.cmp(built_a).then_with(|| b.version.cmp(&a.version))
    });
    Ok(found.into_iter().map(|(_, bootenv)| bootenv).collect())
}

/// The boot environment that machines of this architecture get: the one that `current` points to
/// when it is whole, else the one built last. `None` when there is none.
///
/// # Errors
///
/// When a folder is there and cannot be listed.
pub fn latest(dir: &Path, arch: Arch) -> Result<Option<BootEnv>> {
    let dir = dir.join(arch_name(arch));
    // The link is resolved, so that a build in between does not mix two versions.
    let current = fs::read_link(dir.join("current")).ok();
    match current.and_then(|target| BootEnv::read(&dir.join(target))) {
        Some(bootenv) => Ok(Some(bootenv)),
        None => Ok(list_arch(&dir)?.into_iter().next()),
    }
}

/// Puts a boot environment into `out` and makes it the current one. `work` is a folder of the same
/// file system that is removed afterwards. A version that is there already is kept: it has the
/// same content. Either all of it is there afterwards, durable, or nothing.
pub(crate) fn publish(
    mut bootenv: BootEnv,
    [vmlinuz, initrd]: [&[u8]; 2],
    device_trees: &BTreeMap<String, Vec<u8>>,
    out: &Path,
    work: &Path,
) -> Result<BootEnv> {
    let arch = out.join(arch_name(bootenv.arch));
    fs::create_dir_all(&arch).map_err(Error::io("create", &arch))?;
    let target = arch.join(&bootenv.version);
    if let Some(there) = BootEnv::read(&target) {
        bootenv = there;
    } else {
        let new = work.join("new");
        fs::create_dir(&new).map_err(Error::io("create", &new))?;
        let mut manifest = serde_json::to_vec_pretty(&bootenv)
            .map_err(|error| Error::io("write", &target.join("bootenv.json"))(error.into()))?;
        manifest.push(b'\n');
        for (name, content) in [
            ("vmlinuz", vmlinuz),
            ("initrd", initrd),
            ("bootenv.json", &manifest),
        ] {
            write_durably(&new.join(name), content)?;
        }
        if !device_trees.is_empty() {
            let folder = new.join(DEVICE_TREES);
            fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
            for (name, content) in device_trees {
                write_durably(&folder.join(name), content)?;
            }
            sync(&folder)?;
        }
        sync(&new)?;
        if target.exists() {
            // Damaged, or it would have been kept.
            let old = work.join("old");
            fs::rename(&target, &old).map_err(Error::io("replace the damaged", &target))?;
        }
        fs::rename(&new, &target).map_err(Error::io("create", &target))?;
        bootenv.dir = target;
    }
    let link = work.join("current");
    symlink(&bootenv.version, &link).map_err(Error::io("create the link", &link))?;
    let current = arch.join("current");
    fs::rename(&link, &current).map_err(Error::io("replace the link", &current))?;
    sync(&arch)?;
    sync(out)?;
    Ok(bootenv)
}

fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", path))
}

/// Makes the entries of a folder durable.
fn sync(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("make durable", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootenv(version: &str) -> BootEnv {
        BootEnv {
            version: version.to_owned(),
            arch: Arch::X86_64,
            kernel_version: "6.1".to_owned(),
            sources: Sources {
                kernel: "a test".to_owned(),
                kernel_hash: String::new(),
                agent_hash: String::new(),
                busybox_hash: None,
            },
            module_count: 0,
            firmware_count: 0,
            device_trees: [("bcm2711-rpi-4-b.dtb".to_owned(), 4)].into(),
            sizes: Sizes {
                vmlinuz: 3,
                initrd: 5,
                initrd_unpacked: 0,
                modules_unpacked: 0,
                base: 0,
                base_without_busybox: 0,
            },
            dir: PathBuf::new(),
        }
    }

    fn put(out: &Path, version: &str) -> BootEnv {
        let work = tempfile::tempdir_in(out).unwrap();
        let trees = [("bcm2711-rpi-4-b.dtb".to_owned(), b"tree".to_vec())].into();
        publish(
            bootenv(version),
            [b"abc", b"12345"],
            &trees,
            out,
            work.path(),
        )
        .unwrap()
    }

    #[test]
    fn what_is_published_is_listed_and_the_last_one_is_current() {
        let out = tempfile::tempdir().unwrap();
        assert_eq!(list(&out.path().join("missing")).unwrap(), []);
        assert_eq!(latest(out.path(), Arch::X86_64).unwrap(), None);
        let b = put(out.path(), "6.1+b");
        let a = put(out.path(), "6.1+a");
        assert_eq!(latest(out.path(), Arch::X86_64).unwrap(), Some(a.clone()));
        assert_eq!(latest(out.path(), Arch::Aarch64).unwrap(), None);
        let mut listed = list(out.path()).unwrap();
        listed.sort_by(|a, b| a.version.cmp(&b.version));
        assert_eq!(listed, [a.clone(), b.clone()]);
        assert_eq!(fs::read(a.initrd()).unwrap(), b"12345");
        let tree = a.device_tree("bcm2711-rpi-4-b.dtb").unwrap();
        assert_eq!(fs::read(tree).unwrap(), b"tree");
        assert_eq!(a.device_tree("../initrd"), None);

        assert_eq!(put(out.path(), "6.1+b"), b, "what is there is kept");
        assert_eq!(latest(out.path(), Arch::X86_64).unwrap(), Some(b));
        let names = fs::read_dir(out.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["x86_64"],
            "nothing else is left behind"
        );
    }

    #[test]
    fn what_is_not_whole_is_not_listed_and_is_replaced() {
        let out = tempfile::tempdir().unwrap();
        let whole = put(out.path(), "6.1+a");
        let cut = put(out.path(), "6.1+b");
        fs::remove_file(cut.device_tree("bcm2711-rpi-4-b.dtb").unwrap()).unwrap();
        assert_eq!(list(out.path()).unwrap(), std::slice::from_ref(&whole));
        put(out.path(), "6.1+b");
        fs::write(cut.initrd(), "12").unwrap();
        assert_eq!(list(out.path()).unwrap(), std::slice::from_ref(&whole));
        assert_eq!(
            latest(out.path(), Arch::X86_64).unwrap(),
            Some(whole.clone())
        );
        fs::write(whole.dir.join("bootenv.json"), "{").unwrap();
        assert_eq!(latest(out.path(), Arch::X86_64).unwrap(), None);
        put(out.path(), "6.1+b");
        assert_eq!(list(out.path()).unwrap().len(), 1);
        assert_eq!(fs::read(cut.initrd()).unwrap(), b"12345");
    }
}
