//! The boot loaders that machines are given, read from where Debian's packages put them.

use crate::boot::Content;
use std::path::{Path, PathBuf};

/// Loaders that must be there when the server starts: without them no PC boots.
const NEEDED: [&str; 2] = ["undionly.kpxe", "snponly.efi"];

/// A loader is at most a few megabytes; more than this is another file by the same name.
const LARGEST: u64 = 16 << 20;

/// Larger ones stay on the disk until they are asked for, in bytes: GRUB alone, with what Secure Boot
/// needs, is a third of what an idle server would hold. What PCs are given most is smaller.
const KEPT: u64 = 384 << 10;

/// Where each loader is looked for when it is not in the configured folder. Signed ones first, since
/// they run where unsigned ones do.
const PLACES: [(&str, &[&str]); 20] = [
    ("undionly.kpxe", &["/usr/lib/ipxe/undionly.kpxe"]),
    ("snponly.efi", &["/usr/lib/ipxe/snponly.efi"]),
    ("ipxe.efi", &["/usr/lib/ipxe/ipxe.efi"]),
    ("pxelinux.0", &["/usr/lib/PXELINUX/pxelinux.0"]),
    ("lpxelinux.0", &["/usr/lib/PXELINUX/lpxelinux.0"]),
    (
        "ldlinux.c32",
        &["/usr/lib/syslinux/modules/bios/ldlinux.c32"],
    ),
    (
        "libcom32.c32",
        &["/usr/lib/syslinux/modules/bios/libcom32.c32"],
    ),
    (
        "libutil.c32",
        &["/usr/lib/syslinux/modules/bios/libutil.c32"],
    ),
    ("menu.c32", &["/usr/lib/syslinux/modules/bios/menu.c32"]),
    (
        "vesamenu.c32",
        &["/usr/lib/syslinux/modules/bios/vesamenu.c32"],
    ),
    ("chain.c32", &["/usr/lib/syslinux/modules/bios/chain.c32"]),
    ("shimx64.efi", &["/usr/lib/shim/shimx64.efi.signed"]),
    ("mmx64.efi", &["/usr/lib/shim/mmx64.efi.signed"]),
    ("fbx64.efi", &["/usr/lib/shim/fbx64.efi.signed"]),
    (
        "grubx64.efi",
        &[
            "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
            "/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi",
        ],
    ),
    ("shimaa64.efi", &["/usr/lib/shim/shimaa64.efi.signed"]),
    ("mmaa64.efi", &["/usr/lib/shim/mmaa64.efi.signed"]),
    ("fbaa64.efi", &["/usr/lib/shim/fbaa64.efi.signed"]),
    (
        "grubaa64.efi",
        &[
            "/usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed",
            "/usr/lib/grub/arm64-efi/monolithic/grubnetaa64.efi",
        ],
    ),
    (
        "grubia32.efi",
        &["/usr/lib/grub/i386-efi/monolithic/grubnetia32.efi"],
    ),
];

/// Where one loader is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the boot tree.
    pub name: &'static str,
    /// Its paths, best first: the first that is a file is taken.
    pub paths: Vec<PathBuf>,
    /// Whether the server does not start without it.
    pub needed: bool,
}

/// Where every loader is looked for: in `folder`, by its name in the boot tree, else where Debian has
/// it.
#[must_use]
pub fn places(folder: &Path) -> Vec<Place> {
    PLACES
        .iter()
        .map(|&(name, places)| {
            let needed = NEEDED.contains(&name);
            let elsewhere = places.iter().filter(|_| !needed).map(PathBuf::from);
            Place {
                name,
                paths: std::iter::once(folder.join(name))
                    .chain(elsewhere)
                    .collect(),
                needed,
            }
        })
        .collect()
}

/// The loaders that there are.
pub(crate) struct Loaders {
    found: Vec<(&'static str, Content)>,
    names: Vec<&'static str>,
}

impl Loaders {
    /// Reads them: each from `folder`, by its name in the boot tree, else from where Debian has it.
    ///
    /// # Errors
    /// Where one is missing that every PC needs: that is better known at the start. Of the others,
    /// those that are not there are left out; a device that needs one is told so.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for Place {
            name,
            paths,
            needed,
        } in places(folder)
        {
            match paths.iter().find(|path| path.is_file()) {
                Some(path) => found.push((name, read(path)?)),
                None if needed => found.push((name, read(&folder.join(name))?)),
                None => {}
            }
        }
        let names = found.iter().map(|(name, _)| *name).collect();
        Ok(Self { found, names })
    }

    /// Their names in the boot tree.
    pub(crate) fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Option<&Content> {
        self.found
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, content)| content)
    }
}

fn read(path: &Path) -> anyhow::Result<Content> {
    let tell = |why: String| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        anyhow::anyhow!(
            "the boot loader {} {why}: install Debian's package `{}`, or say in which folder the \
             loaders are ([boot] loaders = \"...\" in the configuration file)",
            path.display(),
            bugler_boot::package_of(&name)
        )
    };
    let meta =
        std::fs::metadata(path).map_err(|error| tell(format!("cannot be read ({error})")))?;
    if !meta.is_file() || meta.len() == 0 || meta.len() > LARGEST {
        return Err(tell(format!("is not a boot loader ({} bytes)", meta.len())));
    }
    let unreadable = |error| tell(format!("cannot be read ({error})"));
    if meta.len() > KEPT {
        // That it cannot be read is better known at the start.
        std::fs::File::open(path).map_err(unreadable)?;
        return Ok(Content::File(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    Ok(Content::Bytes(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_loader_says_which_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Loaders::read(dir.path())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("undionly.kpxe") && error.contains("package `ipxe`"),
            "{error}"
        );
        std::fs::write(dir.path().join("undionly.kpxe"), b"").unwrap();
        assert!(Loaders::read(dir.path()).is_err());
    }

    #[test]
    fn the_configured_folder_goes_before_debians() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "snponly.efi", "grubx64.efi"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let loaders = Loaders::read(dir.path()).unwrap();
        let grub = loaders.get("grubx64.efi").unwrap();
        assert!(matches!(grub, Content::Bytes(bytes) if bytes == "grubx64.efi"));
        assert!(loaders.names().contains(&"undionly.kpxe"));
    }

    #[test]
    fn large_ones_stay_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "snponly.efi", "shimx64.efi"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let path = dir.path().join("grubx64.efi");
        std::fs::write(&path, vec![1; usize::try_from(KEPT).unwrap() + 1]).unwrap();
        let loaders = Loaders::read(dir.path()).unwrap();
        let grub = loaders.get("grubx64.efi").unwrap();
        assert!(matches!(grub, Content::File(file) if *file == path));
        let shim = loaders.get("shimx64.efi").unwrap();
        assert!(matches!(shim, Content::Bytes(_)));
    }

    #[test]
    fn every_loader_of_the_tree_has_a_place() {
        for name in bugler_boot::loaders() {
            assert!(PLACES.iter().any(|(known, _)| *known == name), "{name}");
        }
    }
}
