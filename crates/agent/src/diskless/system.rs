//! The system on the root: whether it can start, and what it has to be told of its disks.

use super::arguments::{Plan, Root};
use super::attach::{AttachError, kernel};
use super::{fstab, own};
use crate::log::Log;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use std::fs;
use std::io;
use std::path::Path;

/// Folders that a system must have, because what is mounted there is moved to it.
const FOLDERS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Longest fstab that is read, in bytes.
const MAX_FSTAB: u64 = 1 << 20;

/// The copy that is laid over the image's.
const FSTAB: &str = "/run/bugler/fstab";

/// Makes sure that a system can be started from `root`.
pub(super) fn check(root: &str, init: &str) -> Result<(), AttachError> {
    for folder in FOLDERS {
        let path = format!("{root}/{folder}");
        if !Path::new(&path).is_dir() {
            return Err(AttachError::Missing(format!(
                "the root has no folder /{folder}: it is not the root filesystem of a system; is \
                 bugler.root-part= right?"
            )));
        }
    }
    let found = kind_in(root, init).map_err(kernel(format!("look for {init} on the root")))?;
    match found {
        Some((FileType::RegularFile, mode)) if mode & 0o111 != 0 => Ok(()),
        Some(_) => Err(AttachError::Missing(format!(
            "{init} of the root is no program"
        ))),
        None => Err(AttachError::Missing(format!(
            "the root has no {init}; bugler.init= names the first program of the system"
        ))),
    }
}

/// What `path` leads to inside of `root`, with its permission bits.
fn kind_in(root: &str, path: &str) -> io::Result<Option<(FileType, u32)>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = path.trim_start_matches('/');
    match openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(found) => {
            let mode = fstat(found)?.st_mode;
            Ok(Some((FileType::from_raw_mode(mode), mode & 0o7777)))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Says what the system will lack, and lays an fstab over the image's where that names disks that this
/// machine has not got, or could take for a disk of its own. `source` is what is mounted at `root`.
pub(super) fn tell(plan: &Plan, root: &str, source: &str, log: &Log) {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let has_modules = kind_in(root, &format!("/lib/modules/{release}/modules.dep"));
    if !matches!(has_modules, Ok(Some(_))) {
        log.line(format!(
            "the image has no modules for the running kernel {release}; drivers that are not loaded \
             by now cannot be"
        ));
    }
    let is_nfs = matches!(plan.root, Root::Nfs { .. });
    if is_nfs || plan.part == 0 {
        lay_fstab(root, log, "left out for this machine: ", |text| {
            fstab::without_disks(text, !is_nfs)
        });
    } else if let Some(disk) = source.strip_suffix(&format!("p{}", plan.part)) {
        lay_fstab(root, log, "", |text| {
            let own = own::partitions(disk);
            fstab::on_own_disk(text, plan.part, &own, own::has_disks("/sys"))
        });
    }
}

/// `change` returns the new text and what was changed, of which `said` is what is said before it.
fn lay_fstab(
    root: &str,
    log: &Log,
    said: &str,
    change: impl FnOnce(&str) -> Option<(String, Vec<String>)>,
) {
    let path = format!("{root}/etc/fstab");
    // Links could lead out of the root; an image whose fstab is one is left as it is.
    let is_file = |path: &str| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let is_folder = |path: &str| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_folder(&format!("{root}/etc")) || !is_file(&path) {
        return;
    }
    let laid = || -> io::Result<Vec<String>> {
        if fs::metadata(&path)?.len() > MAX_FSTAB {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let Some((new, changes)) = change(&text) else {
            return Ok(Vec::new());
        };
        fs::create_dir_all("/run/bugler")?;
        fs::write(FSTAB, new)?;
        mount_bind(FSTAB, &path)?;
        Ok(changes)
    };
    match laid() {
        Ok(changes) => {
            for change in changes {
                log.line(format!("/etc/fstab: {said}{change}"));
            }
        }
        Err(error) => log.line(format!(
            "cannot lay {FSTAB} over the image's /etc/fstab: {error}; the system may wait for disks \
             that are not there"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_system_is_told_from_a_data_disk() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let said = |init| check(root, init).unwrap_err().to_string();
        assert!(said("/sbin/init").contains("no folder /dev"));
        for folder in FOLDERS.into_iter().chain(["sbin", "lib"]) {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        assert!(said("/sbin/init").contains("has no /sbin/init"));
        // The link means a file of the root, not of this computer.
        symlink("/lib/systemd", dir.path().join("sbin/init")).unwrap();
        fs::write(dir.path().join("lib/systemd"), "").unwrap();
        assert!(said("/sbin/init").contains("is no program"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("lib/systemd"), mode).unwrap();
        check(root, "/sbin/init").unwrap();
        assert!(said("/etc/passwd").contains("has no /etc/passwd"));
    }
}
