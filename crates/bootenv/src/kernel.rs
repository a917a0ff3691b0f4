//! Where a kernel and its modules come from.

use crate::command::{self, Program};
use crate::error::{Error, Result};
use crate::manifest::arch_name;
use crate::{apt, deb, decompress, device_tree, elf};
use bugler_kmod::Modules;
use bugler_model::Arch;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const DEPMOD: Program = Program {
    name: "depmod",
    package: "kmod",
    advice: "Check that the modules folder is whole",
};

/// Largest kernel image that is read.
const MAX_VMLINUZ: u64 = 256 << 20;

/// Most bytes of a kernel's configuration that are read; Debian's has 260 kB.
const MAX_CONFIG: u64 = 4 << 20;
/// As much of a packed kernel as is looked at to tell its processor, unpacked, in bytes: its headers.
const PACKED_HEAD: u64 = 4096;

/// What the agent cannot do without, and why. A kernel whose configuration is known to lack one
/// is refused at once, not on a machine that hangs.
const REQUIRED: [(&str, &str); 4] = [
    ("CONFIG_BLK_DEV_INITRD", "it cannot start from an initramfs"),
    (
        "CONFIG_RD_ZSTD",
        "it cannot unpack an initramfs that is compressed by zstd (Linux 5.9 can)",
    ),
    ("CONFIG_DEVTMPFS", "it makes no device files"),
    ("CONFIG_TMPFS", "it has no file system in memory"),
];

/// Drivers that a kernel for machines of every kind has. Kernels for clouds lack them, and a server
/// that is a virtual machine may well run one.
const GENERAL_DRIVERS: [&str; 3] = ["ahci", "e1000e", "nvme"];

/// Where to take the kernel from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSource {
    /// The running kernel: `/boot/vmlinuz-<version>` and `/lib/modules/<version>`.
    Host,
    /// A Debian package, fetched with apt: a kernel or a package that stands for one, for example
    /// `linux-image-amd64`.
    Apt {
        /// The package's name, with an architecture where it is not this machine's own
        /// (`linux-image-arm64:arm64`).
        package: String,
    },
    /// Debian packages that are here already: together a kernel and its modules.
    Debs(Vec<PathBuf>),
    /// A kernel image and its modules folder, `.../lib/modules/<version>`.
    Files {
        /// The kernel image.
        vmlinuz: PathBuf,
        /// The folder whose name is the kernel's version.
        modules: PathBuf,
    },
}

impl KernelSource {
    /// A kernel for `arch`: the running one when its files can be read and it is one for machines
    /// of every kind, else Debian's newest from apt.
    ///
    /// # Errors
    ///
    /// When there is neither; the error says what was tried.
    pub fn auto(arch: Arch) -> Result<Self> {
        Self::auto_under(Path::new("/"), arch)
    }

    fn auto_under(root: &Path, arch: Arch) -> Result<Self> {
        let is_own = arch_name(arch) == std::env::consts::ARCH;
        let mut tried = String::new();
        if is_own {
            match host_files(root).and_then(|(_, modules)| check_drivers(&modules)) {
                Ok(()) => return Ok(Self::Host),
                Err(error) => tried = format!("the running kernel: {}; ", chain(&error)),
            }
        }
        let Some(debian) = apt::architecture(arch) else {
            tried += &format!("Debian has no package of a kernel for {}", arch_name(arch));
            return Err(Error::NoKernel { tried });
        };
        let mut package = format!("linux-image-{debian}");
        if !is_own {
            package += &format!(":{debian}");
        }
        if root.join("usr/bin/apt-get").exists() {
            return Ok(Self::Apt { package });
        }
        tried += &format!("the package {package}: there is no apt-get here");
        Err(Error::NoKernel { tried })
    }
}

/// A kernel that is ready to be used.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its version as `uname -r` tells it, for example `6.1.0-37-amd64`.
    pub(crate) version: String,
    pub(crate) arch: Arch,
    /// The kernel image.
    pub(crate) vmlinuz: Vec<u8>,
    /// The folder with `modules.dep` and, below `kernel/`, the modules.
    pub(crate) modules: PathBuf,
    /// Device trees by file name, for boards that fetch theirs.
    pub(crate) device_trees: BTreeMap<String, Vec<u8>>,
    /// What it was made from, for people.
    pub(crate) origin: String,
}

/// Gets the kernel's files, for as long as the folder `work` is there, and indexes its modules.
pub(crate) fn prepare(
    source: &KernelSource,
    work: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Kernel> {
    let (vmlinuz, modules, origin) = match source {
        KernelSource::Host => {
            let (vmlinuz, modules) = host_files(Path::new("/"))?;
            (
                vmlinuz,
                modules,
                "the running kernel of the server".to_owned(),
            )
        }
        KernelSource::Files { vmlinuz, modules } => {
            let origin = format!("{} and {}", vmlinuz.display(), modules.display());
            (vmlinuz.clone(), modules.clone(), origin)
        }
        KernelSource::Debs(packages) => unpack(packages, work, progress)?,
        KernelSource::Apt { package } => {
            let folder = work.join("apt");
            fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
            unpack(&apt::download(package, &folder, progress)?, work, progress)?
        }
    };
    let version = version_of(&modules)?;
    check_config(&vmlinuz, &version)?;
    let vmlinuz_bytes = File::open(&vmlinuz)
        .and_then(|file| decompress::read_all(file, MAX_VMLINUZ))
        .map_err(Error::io("read the kernel image", &vmlinuz))?;
    let arch = arch_of(&vmlinuz_bytes).ok_or_else(|| {
        let problem = "it is neither an x86 nor a 64-bit Arm kernel image";
        Error::unfit(&vmlinuz, "the kernel", problem)
    })?;
    let device_trees = device_tree::find(&modules, &version)?;
    let modules = if modules.join("modules.dep").exists() {
        modules
    } else {
        progress(&format!("indexing the modules of {version} with depmod"));
        index(&modules, &version, work)?
    };
    Ok(Kernel {
        version,
        arch,
        vmlinuz: vmlinuz_bytes,
        modules,
        device_trees,
        origin,
    })
}

/// An error with what caused it.
fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error} ({source})"),
        None => error.to_string(),
    }
}

/// The files of the running kernel, when they are there and can be read.
fn host_files(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let release = root.join("proc/sys/kernel/osrelease");
    let version = fs::read_to_string(&release).map_err(Error::io("read", &release))?;
    let vmlinuz = root
        .join("boot")
        .join(format!("vmlinuz-{}", version.trim()));
    let modules = root.join("lib/modules").join(version.trim());
    // Ubuntu lets only root read its kernel images.
    File::open(&vmlinuz).map_err(Error::io("read", &vmlinuz))?;
    let folder = modules.join("kernel");
    fs::read_dir(&folder).map_err(Error::io("list", &folder))?;
    Ok((vmlinuz, modules))
}

/// Refuses a kernel for clouds, where it is known what a kernel for all machines has.
fn check_drivers(modules: &Path) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let index = Modules::load(modules)?;
    let has = |name: &&&str| index.path(name).is_some() || index.is_builtin(name);
    match GENERAL_DRIVERS.iter().find(|name| !has(name)) {
        None => Ok(()),
        Some(missing) => {
            let problem = format!("there is no driver {missing}: it is for virtual machines");
            Err(Error::unfit(
                modules,
                "the modules of bare machines",
                problem,
            ))
        }
    }
}

/// Unpacks packages and finds the kernel in them.
fn unpack(
    packages: &[PathBuf],
    work: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, PathBuf, String)> {
    let root = work.join("root");
    let mut names = Vec::new();
    let mut left = deb::MAX_UNPACKED;
    for package in packages {
        let name = package
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        progress(&format!("unpacking {name}"));
        left = left.saturating_sub(deb::unpack(package, &root, left)?);
        names.push(name);
    }
    let origin = names.join(", ");
    let nothing = |missing: &str| Error::NoKernel {
        tried: format!("{missing} in {origin}"),
    };
    let all = root.join("lib/modules");
    let listed = fs::read_dir(&all).map_err(|_| nothing("there are no modules"))?;
    let mut versions: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    for modules in versions.into_iter().rev() {
        let version = modules.file_name().unwrap_or_default().to_string_lossy();
        let places = [
            root.join(format!("boot/vmlinuz-{version}")),
            modules.join("vmlinuz"),
        ];
        let found = places.into_iter().find(|place| place.is_file());
        if let Some(vmlinuz) = found.filter(|_| modules.join("kernel").is_dir()) {
            return Ok((vmlinuz, modules, origin));
        }
    }
    Err(nothing(
        "there is no kernel image with modules of its version",
    ))
}

/// The kernel's version: the name of its modules folder.
fn version_of(modules: &Path) -> Result<String> {
    let unfit = |problem: &str| Error::unfit(modules, "a modules folder", problem);
    if !modules.join("kernel").is_dir() {
        return Err(unfit("it has no folder `kernel`"));
    }
    let path = modules.canonicalize().map_err(Error::io("find", modules))?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    if name.len() > 64
        || !name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(plain)
    {
        return Err(unfit(
            "its name has to be the kernel's version, as in /lib/modules/6.1.0-37-amd64",
        ));
    }
    Ok(name.to_owned())
}

/// Refuses a kernel whose configuration lies beside it and lacks something in [`REQUIRED`].
fn check_config(vmlinuz: &Path, version: &str) -> Result<()> {
    let mut config = String::new();
    let Ok(file) = File::open(vmlinuz.with_file_name(format!("config-{version}"))) else {
        return Ok(());
    };
    if file.take(MAX_CONFIG).read_to_string(&mut config).is_err() {
        return Ok(());
    }
    for (option, consequence) in REQUIRED {
        let has = |line: &str| line.strip_prefix(option).is_some_and(|value| value == "=y");
        if !config.lines().any(has) {
            let problem = format!("it was built without {option}: {consequence}");
            return Err(Error::unfit(vmlinuz, "the kernel", problem));
        }
    }
    Ok(())
}

/// The processor that a kernel image is for. Images with an EFI stub, which every distribution
/// makes, say so in their PE header; else the x86 boot protocol (`Documentation/arch/x86/boot.rst`)
/// and the Arm one (`Documentation/arch/arm64/booting.rst`) have marks. Raspberry Pi's kernels are
/// packed by gzip, which their boot loader undoes: of those the beginning is looked at.
#[must_use]
pub fn arch_of(image: &[u8]) -> Option<Arch> {
    if !image.starts_with(&[0x1f, 0x8b]) {
        return arch_of_unpacked(image);
    }
    let mut head = Vec::new();
    let mut unpacked = flate2::read::GzDecoder::new(image).take(PACKED_HEAD);
    // One that is damaged behind its head has told by then what it is for.
    let _ = unpacked.read_to_end(&mut head);
    arch_of_unpacked(&head)
}

fn arch_of_unpacked(image: &[u8]) -> Option<Arch> {
    const XLF_KERNEL_64: u16 = 1;
    if image.starts_with(b"MZ") {
        let pe = usize::try_from(elf::u32_at(image, 0x3c)?).ok()?;
        if elf::u32_at(image, pe)? == u32::from_le_bytes(*b"PE\0\0") {
            match elf::u16_at(image, pe.checked_add(4)?)? {
                0x014c => return Some(Arch::X86),
                0x8664 => return Some(Arch::X86_64),
                0xaa64 => return Some(Arch::Aarch64),
                _ => {}
            }
        }
    }
    if image.get(0x202..0x206) == Some(b"HdrS") {
        let is_64 = elf::u16_at(image, 0x236)? & XLF_KERNEL_64 != 0;
        return Some(if is_64 { Arch::X86_64 } else { Arch::X86 });
    }
    (image.get(0x38..0x3c) == Some(b"ARM\x64")).then_some(Arch::Aarch64)
}

/// Indexes modules with depmod in a folder of our own that refers to them, so that the folder
/// they are in is not changed and may be read-only. Returns that folder.
fn index(modules: &Path, version: &str, work: &Path) -> Result<PathBuf> {
    let base = work.join("index");
    let folder = base.join("lib/modules").join(version);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    // Newer depmods look below `usr/lib`.
    let usr = base.join("usr");
    fs::create_dir(&usr).map_err(Error::io("create", &usr))?;
    symlink("../lib", usr.join("lib")).map_err(Error::io("create a link in", &usr))?;
    let modules = modules.canonicalize().map_err(Error::io("find", modules))?;
    for entry in fs::read_dir(&modules).map_err(Error::io("list", &modules))? {
        let entry = entry.map_err(Error::io("list", &modules))?;
        let (from, to) = (entry.path(), folder.join(entry.file_name()));
        if entry.file_name().to_string_lossy().starts_with("modules.") {
            fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
        } else {
            symlink(&from, &to).map_err(Error::io("create the link", &to))?;
        }
    }
    let base = base.to_string_lossy();
    command::run(DEPMOD, &["-b", &base, version], work)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The processor of this machine, for which the running kernel counts.
    const OWN: Arch = if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else {
        Arch::X86_64
    };

    fn touch(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_running_kernel_comes_first_then_apt_then_an_error_that_says_so() {
        let root = tempfile::tempdir().unwrap();
        let error = KernelSource::auto_under(root.path(), OWN)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("osrelease") && error.contains("no apt-get here"),
            "{error}"
        );

        touch(&root.path().join("usr/bin/apt-get"), "");
        touch(&root.path().join("proc/sys/kernel/osrelease"), "6.1.0-1\n");
        let source = KernelSource::auto_under(root.path(), OWN).unwrap();
        assert!(matches!(source, KernelSource::Apt { .. }), "{source:?}");

        touch(&root.path().join("boot/vmlinuz-6.1.0-1"), "");
        let modules = root.path().join("lib/modules/6.1.0-1");
        touch(&modules.join("kernel/a.ko"), "");
        touch(
            &modules.join("modules.dep"),
            "kernel/e1000e.ko:\nkernel/nvme.ko:\n",
        );
        if cfg!(target_arch = "x86_64") {
            let source = KernelSource::auto_under(root.path(), OWN).unwrap();
            assert!(
                matches!(source, KernelSource::Apt { .. }),
                "a kernel for clouds: {source:?}"
            );
        }
        touch(
            &modules.join("modules.builtin"),
            "kernel/drivers/ata/ahci.ko\n",
        );
        assert_eq!(
            KernelSource::auto_under(root.path(), OWN).unwrap(),
            KernelSource::Host
        );
    }

    #[test]
    fn for_another_processor_the_package_names_its_architecture() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("usr/bin/apt-get"), "");
        let (other, package) = match OWN {
            Arch::Aarch64 => (Arch::X86_64, "linux-image-amd64:amd64"),
            _ => (Arch::Aarch64, "linux-image-arm64:arm64"),
        };
        assert_eq!(
            KernelSource::auto_under(root.path(), other).unwrap(),
            KernelSource::Apt {
                package: package.to_owned()
            }
        );
        let error = KernelSource::auto_under(root.path(), Arch::Arm).unwrap_err();
        assert!(error.to_string().contains("no package"), "{error}");
    }

    #[test]
    fn a_modules_folder_is_named_for_its_version() {
        let root = tempfile::tempdir().unwrap();
        for name in ["6.1.0-37-amd64", "modules", "6.1 x"] {
            touch(&root.path().join(name).join("kernel/a.ko"), "");
        }
        let version = |name: &str| version_of(&root.path().join(name));
        assert_eq!(version("6.1.0-37-amd64").unwrap(), "6.1.0-37-amd64");
        for bad in ["modules", "6.1 x", "missing"] {
            version(bad).unwrap_err();
        }
    }

    #[test]
    fn a_kernel_that_could_not_start_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let vmlinuz = root.path().join("vmlinuz-6.1");
        check_config(&vmlinuz, "6.1").unwrap();
        let all: String = REQUIRED
            .iter()
            .map(|(option, _)| format!("{option}=y\n"))
            .collect();
        touch(&root.path().join("config-6.1"), &all);
        check_config(&vmlinuz, "6.1").unwrap();
        let without = all.replace("CONFIG_RD_ZSTD=y", "# CONFIG_RD_ZSTD is not set");
        touch(&root.path().join("config-6.1"), &without);
        let error = check_config(&vmlinuz, "6.1").unwrap_err().to_string();
        assert!(error.contains("CONFIG_RD_ZSTD"), "{error}");
    }

    #[test]
    fn the_processor_is_told_by_the_image() {
        let mut pe = vec![0; 0x50];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x40;
        pe[0x40..0x46].copy_from_slice(b"PE\0\0\x64\xaa");
        assert_eq!(arch_of(&pe), Some(Arch::Aarch64));
        let mut bzimage = vec![0; 0x300];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(arch_of(&bzimage), Some(Arch::X86));
        bzimage[0x236] = 1;
        assert_eq!(arch_of(&bzimage), Some(Arch::X86_64));
        assert_eq!(arch_of(b"nothing of the kind"), None);

        let mut arm = vec![0; 9000];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &arm).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(arch_of(&packed), Some(Arch::Aarch64));
        assert_eq!(arch_of(&packed[..9]), None);
    }

    proptest! {
        #[test]
        fn any_image_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            for mark in [&b"MZ"[..], b"\x1f\x8b\x08"] {
                let _ = arch_of(&[mark, &bytes].concat());
            }
        }
    }
}
