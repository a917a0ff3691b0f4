//! Fetches kernel packages from the distribution's repository, through apt, which checks their
//! signatures. Nothing is installed and root is not needed.

use crate::command::{self, Program};
use crate::error::{Error, Result};
use bugler_model::Arch;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const APT_CACHE: Program = Program {
    name: "apt-cache",
    package: "apt",
    advice: "Check the package's name, and run `apt-get update` when it never ran on this machine; \
             for packages of another processor, `dpkg --add-architecture arm64` comes before it",
};

const APT_GET: Program = Program {
    name: "apt-get",
    package: "apt",
    advice: "Run `apt-get update` if the package is out of date, and check that the repository \
             can be reached; or give a .deb file that was fetched elsewhere",
};

/// Debian's name of an architecture that Debian has a kernel for which this crate reads.
pub(crate) fn architecture(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::X86_64 => Some("amd64"),
        Arch::Aarch64 => Some("arm64"),
        Arch::X86 | Arch::Arm => None,
    }
}

/// What the names of packages with a kernel's parts begin with, in Debian and in Ubuntu. Some
/// releases keep the kernel and its modules in one package, some in several.
const PARTS: [&str; 3] = ["linux-image-", "linux-modules-", "linux-binary-"];

/// Most packages that one kernel may come in.
const MAX_PACKAGES: usize = 16;

/// Downloads the package `package` and the packages with parts of a kernel that it depends on
/// into the folder `dir`. `package` is a kernel (`linux-image-6.1.0-37-amd64`) or a package that
/// stands for the newest one (`linux-image-amd64`), and may name an architecture
/// (`linux-image-arm64:arm64`). Returns the files, sorted.
///
/// # Errors
///
/// When apt is not there, does not know the package or cannot fetch it.
pub fn download(package: &str, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Vec<PathBuf>> {
    let packages = parts(package, dir)?;
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    progress(&format!(
        "fetching {} with apt-get download",
        names.join(", ")
    ));
    let mut arguments = vec![
        "-q",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "Acquire::http::Timeout=30",
        "download",
    ];
    arguments.extend(&names);
    command::run(APT_GET, &arguments, dir)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `package` and, through all its dependencies, the packages that have parts of the kernel.
fn parts(package: &str, dir: &Path) -> Result<BTreeSet<String>> {
    let architecture = package
        .split_once(':')
        .map(|(_, architecture)| architecture);
    let mut found = BTreeSet::new();
    let mut todo = vec![package.to_owned()];
    while let Some(name) = todo.pop() {
        if found.len() < MAX_PACKAGES && found.insert(name.clone()) {
            let shown = command::run(APT_CACHE, &["show", "--no-all-versions", "--", &name], dir)?;
            todo.extend(
                dependencies(&shown)
                    .into_iter()
                    .map(|name| match architecture {
                        Some(architecture) => format!("{name}:{architecture}"),
                        None => name.to_owned(),
                    }),
            );
        }
    }
    Ok(found)
}

/// The parts of a kernel in the field `Depends` of a package's record (deb-control(5)). Of
/// alternatives the first counts.
fn dependencies(record: &str) -> Vec<&str> {
    let field = record
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"))
        .unwrap_or_default();
    let first_words = field
        .split(',')
        .filter_map(|item| item.split_ascii_whitespace().next());
    let names = first_words.map(|word| word.split(':').next().unwrap_or(word));
    names
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_package_names_the_kernel() {
        let record = "Package: linux-image-amd64\nVersion: 6.1.192-2\n\
                      Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\nDescription: x\n";
        assert_eq!(dependencies(record), ["linux-image-6.1.0-56-amd64"]);
    }

    #[test]
    fn parts_of_a_kernel_in_several_packages_are_found() {
        let record = "Depends: kmod, linux-base (>= 4.3~), linux-binary-6.16-amd64 (= 1),\
                      linux-modules-6.16-amd64:any (= 1) | foo, initramfs-tools | dracut\n";
        assert_eq!(
            dependencies(record),
            ["linux-binary-6.16-amd64", "linux-modules-6.16-amd64"]
        );
        assert!(dependencies("Package: x\n").is_empty());
    }
}
