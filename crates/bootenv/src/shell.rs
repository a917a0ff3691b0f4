//! busybox for the rescue shell: that of this machine, or Debian's for another processor.

use crate::error::{Error, Result};
use crate::initramfs::{self, Binary};
use crate::{apt, deb};
use bugler_model::Arch;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the program is in a package, and on a machine: with and without `usr`.
const PLACE: &str = "bin/busybox";

/// Most bytes that the package may unpack to; it has under 3 MB.
const MAX_UNPACKED: u64 = 64 << 20;

/// The static busybox of this machine (Debian package busybox-static), when it has one and that is
/// for `arch`.
#[must_use]
pub fn find_busybox(arch: Arch) -> Option<PathBuf> {
    let places = ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from);
    places.into_iter().find(|path| {
        initramfs::read_binary(path, "busybox").is_ok_and(|binary| binary.arch == Some(arch))
    })
}

/// Downloads Debian's static busybox for `arch` into the folder `dir`, which should be empty, and
/// returns the package. Nothing is installed.
///
/// # Errors
///
/// When Debian has none, or apt cannot fetch it: a machine knows packages of another processor only
/// after `dpkg --add-architecture` and `apt-get update`.
pub fn fetch_busybox(arch: Arch, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let debian = apt::architecture(arch).ok_or_else(|| {
        let problem = "Debian has none for this processor";
        Error::unfit(dir, "a place for busybox", problem)
    })?;
    let package = format!("busybox-static:{debian}");
    let files = apt::download(&package, dir, progress)?;
    files.into_iter().next().ok_or_else(|| {
        let problem = format!("apt-get fetched {package} and it is not there");
        Error::unfit(dir, "a place for busybox", problem)
    })
}

/// Reads busybox: the program itself, or the package with it, which is unpacked in the folder `work`.
pub(crate) fn read(path: &Path, work: &Path) -> Result<Binary> {
    let mut start = [0; 8];
    let is_package = File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .is_ok()
        && &start == b"!<arch>\n";
    if !is_package {
        return initramfs::read_binary(path, "busybox");
    }
    let folder = work.join("busybox");
    fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
    deb::unpack_some(path, &folder, MAX_UNPACKED, |path| path == PLACE)?;
    let program = folder.join(PLACE);
    if !program.exists() {
        let problem = format!("it has no /{PLACE}; the package busybox-static has");
        return Err(Error::unfit(path, "busybox", problem));
    }
    initramfs::read_binary(&program, "busybox")
}
