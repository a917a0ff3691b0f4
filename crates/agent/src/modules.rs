//! Kernel modules that no device asks for: filesystems, and devices that come over a network.

use crate::boot::insert_module;
use crate::log::Log;
use bugler_kmod::Modules;
use rustix::io::Errno;
use std::ffi::CString;
use std::path::Path;

/// What a filesystem needs beside the module of its own name: the kernel would ask for it by a program,
/// `/sbin/modprobe`, which need not be there.
const COMPANIONS: [(&str, &[&str]); 5] = [
    ("ext4", &["crc32c"]),
    (
        "vfat",
        &["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"],
    ),
    ("xfs", &["crc32c"]),
    ("btrfs", &["crc32c", "xxhash64", "sha256", "blake2b-256"]),
    ("nfs", &["nfsv3"]),
];

/// Loads what there is for filesystems of this kind. What could not be loaded shows when one is mounted.
pub(crate) fn for_filesystem(kind: &str, log: &Log) {
    let companions = COMPANIONS.iter().find(|(name, _)| *name == kind);
    let names = companions.into_iter().flat_map(|(_, names)| names.iter());
    let wanted: Vec<&str> = names.copied().chain([kind]).collect();
    load(&wanted, None, log);
}

/// Loads the modules of these names, or that claim them as aliases, with all that they need. One of
/// them can be given parameters, `name=value` separated by spaces; they count only where it is not
/// loaded yet.
pub(crate) fn load(names: &[&str], parameters: Option<(&str, &str)>, log: &Log) {
    let release = rustix::system::uname();
    let folder = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    // Without modules everything is built in, or loaded.
    let Ok(modules) = Modules::load(&folder) else {
        return;
    };
    let wanted = names.iter().flat_map(|name| modules.resolve_alias(name));
    for name in modules.closure(wanted) {
        let Some(path) = modules.path(&name) else {
            continue;
        };
        let given = parameters.filter(|(of, _)| *of == name);
        let given = given.and_then(|(_, values)| CString::new(values).ok());
        let Err(error) = insert_module(&path, given.as_deref().unwrap_or(c"")) else {
            continue;
        };
        // It is there already; or it is for an instruction that this processor has not got.
        let is_usual = matches!(
            Errno::from_io_error(&error),
            Some(Errno::EXIST | Errno::NODEV)
        );
        if !is_usual {
            log.line(format!(
                "cannot load the kernel module {}: {error}",
                path.display()
            ));
        }
    }
}
