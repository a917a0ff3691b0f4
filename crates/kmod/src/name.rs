//! Module names and the file names that they come from.

/// The endings of a module's file: plain, and the compressions that the kernel build offers.
const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// The name in the kernel's spelling: every `-` becomes `_`.
#[must_use]
pub fn normalize(name: &str) -> String {
    name.replace('-', "_")
}

/// The module that a path names, for example `snd_hda_intel` for
/// `kernel/sound/pci/hda/snd-hda-intel.ko.xz`; `None` when the path is not that of a module.
#[must_use]
pub fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = SUFFIXES
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix))?;
    (!stem.is_empty()).then(|| normalize(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_taken_off() {
        for path in ["a/b-c.ko", "b-c.ko.xz", "/x/b_c.ko.zst", "b-c.ko.gz"] {
            assert_eq!(module_name(path).as_deref(), Some("b_c"), "{path}");
        }
    }

    #[test]
    fn what_is_no_module_has_no_name() {
        for path in [
            "", "kernel/", "a.k", ".ko", "x/.ko.xz", "a.ko.bz2", "a.ko/b",
        ] {
            assert_eq!(module_name(path), None, "{path}");
        }
    }
}
