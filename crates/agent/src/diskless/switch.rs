//! PID 1 hands the machine over: the mounted root becomes `/`, its init becomes PID 1.

use super::SYSROOT;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatfs, open, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_move, unmount};
use rustix::process::{chdir, chroot};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What is mounted, and moves on.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// Magic numbers of filesystems that live in memory (`linux/magic.h`): the kinds of an initramfs.
const RAMFS: i64 = 0x8584_58f6;
const TMPFS: i64 = 0x0102_1994;

/// How deep the initramfs is walked to free it.
const MAX_DEPTH: usize = 32;

/// Makes [`SYSROOT`] the root of the machine and becomes its init. `say` is told what matters little.
/// Returns only when that fails; then nothing is as it was.
pub(crate) fn over(init: &str, arguments: &[String], say: &dyn Fn(&str)) -> io::Error {
    match prepare(say) {
        // std gives what is started the signals back that it has set aside for itself.
        Ok(()) => Command::new(init).args(arguments).exec(),
        Err(error) => error,
    }
}

fn prepare(say: &dyn Fn(&str)) -> io::Result<()> {
    let failed =
        |what: String| move |error: Errno| io::Error::other(format!("cannot {what}: {error}"));
    for place in MOVED {
        let to = format!("{SYSROOT}{place}");
        mount_move(place, &to).map_err(failed(format!("move {place} to {to}")))?;
    }
    if let Err(error) = unmount("/tmp", UnmountFlags::DETACH) {
        say(&format!("cannot unmount /tmp: {error}"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = open("/", flags, Mode::empty()).map_err(failed("open /".into()))?;
    chdir(SYSROOT).map_err(failed(format!("enter {SYSROOT}")))?;
    if let Err(error) = free(&old) {
        say(&format!(
            "cannot free the memory of the initramfs: {error}; it stays in use"
        ));
    }
    mount_move(".", "/").map_err(failed("make the root /".into()))?;
    chroot(".").map_err(failed("enter the root".into()))?;
    chdir("/").map_err(failed("enter the root".into()))
}

/// Removes everything in the initramfs, which is memory, but nothing that is mounted in it.
fn free(root: &OwnedFd) -> io::Result<()> {
    let kind = fstatfs(root)?.f_type as i64;
    if kind != RAMFS && kind != TMPFS {
        return Err(io::Error::other("it does not live in memory"));
    }
    let device = statat(root, ".", AtFlags::empty())?.st_dev;
    remove_content(root, device, MAX_DEPTH)?;
    Ok(())
}

/// Empties a folder, as far as it is on `device`. What cannot be removed stays.
fn remove_content(folder: impl AsFd, device: u64, depth: usize) -> Result<(), Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            entries.push(name);
        }
    }
    for name in entries {
        let name: &CStr = &name;
        let Ok(found) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if found.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            let _ = unlinkat(&folder, name, AtFlags::empty());
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if depth > 0
            && let Ok(inner) = openat(&folder, name, flags, Mode::empty())
        {
            remove_content(&inner, device, depth - 1)?;
        }
        // Fails where something is mounted.
        let _ = unlinkat(&folder, name, AtFlags::REMOVEDIR);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_removed_and_what_links_lead_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("keep"), "").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        symlink(outside.path(), dir.path().join("a/link")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = open(dir.path(), flags, Mode::empty()).unwrap();
        let device = statat(&folder, ".", AtFlags::empty()).unwrap().st_dev;
        remove_content(&folder, device + 1, MAX_DEPTH).unwrap();
        assert!(dir.path().join("a/b/file").exists(), "another filesystem");
        remove_content(&folder, device, MAX_DEPTH).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(outside.path().join("keep").exists());
    }
}
