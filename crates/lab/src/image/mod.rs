//! A real Debian disk image, built once and kept: GPT, GRUB for BIOS and for UEFI, ext4, systemd.
//!
//! It is built from the distribution's packages with mmdebstrap, without loop devices, and without
//! root where user namespaces with subordinate ids are set up (package `uidmap`). The system prints
//!
//! ```text
//! BUGLER-LAB: up from /dev/vda3, machine <UUID>, image <stamp>, uptime <seconds>
//! ```
//!
//! on its serial console when it is up. The stamp is random and new for every build.

pub mod grub;
mod secure;
pub mod sources;

pub use secure::with_signed_loaders;

use crate::process::output_of;
use crate::{gpt, paths, sparse};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Changes whenever the code that puts an image together does.
const FORMAT: &str = "1";
/// Runs inside mmdebstrap; see there.
const CUSTOMIZE: &str = include_str!("customize.sh");
/// What every image has beside the essential packages.
const PACKAGES: &str =
    "grub-efi-amd64-bin,grub-pc-bin,grub2-common,initramfs-tools,kmod,systemd-sysv,udev";
/// Left out of the packages: nobody reads it there.
const EXCLUDED: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];
/// UUID of the root file system.
const ROOT_UUID: &str = "b0061e00-d15c-4000-8000-726f6f740000";
/// UUID of the disk, in its partition table.
const DISK_UUID: &str = "b0061e00-d15c-4000-8000-6469736b0000";
/// Bytes in a MiB.
const MIB: u64 = 1 << 20;
/// Where the partitions begin, in MiB; each ends where the next begins, and the last 1 MiB before the
/// disk's end, which the second partition table needs.
const BIOS_BOOT: u64 = 1;
const ESP: u64 = 2;
const ROOT: u64 = 18;

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// For tests: 1 GiB, about 400 MB used.
    Small,
    /// For benchmarks: 2 GiB, about 700 MB used.
    Large,
}

impl Variant {
    /// Its name, in files and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }

    /// Size of the disk in MiB.
    fn size(self) -> u64 {
        match self {
            Self::Small => 1024,
            Self::Large => 2048,
        }
    }

    fn packages(self) -> &'static str {
        match self {
            // Debian's kernel for virtual machines: a quarter of the modules.
            Self::Small => "linux-image-cloud-amd64",
            Self::Large => "linux-image-amd64",
        }
    }
}

/// A built image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The raw disk, sparse.
    pub disk: PathBuf,
    /// What it prints to say that it is this image.
    pub stamp: String,
    /// Size of the disk in bytes.
    pub size: u64,
}

/// What is kept beside the disk.
#[derive(Serialize, Deserialize)]
struct Note {
    stamp: String,
}

/// The image, built now when it has not been yet. It needs the network for that; call it outside of
/// the enclosure. `say` is told what is being done.
///
/// # Errors
///
/// When a program that it needs is missing or fails.
pub fn ensure(variant: Variant, say: &dyn Fn(&str)) -> Result<Image> {
    let cache = paths::lab("cache")?;
    let lock = cache.join(format!("image-{}.lock", variant.name()));
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.lock().context("cannot lock the image cache")?;
    let sources = sources::of_host()?;
    let key = key(variant, &sources);
    let dir = cache.join(format!("image-{}-{key}", variant.name()));
    if !dir.join("note.json").exists() {
        say(&format!(
            "building the {} Debian image ({}); once, about a minute",
            variant.name(),
            sources.suite
        ));
        forget_others(&cache, variant)?;
        build(variant, &sources, &cache, &dir)?;
    }
    let current = cache.join(format!("image-{}", variant.name()));
    let text = dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    fs::write(&current, text).with_context(|| format!("cannot write {}", current.display()))?;
    load(&dir)
}

/// The image that [`ensure`] made last, without a look at the network.
///
/// # Errors
///
/// When there is none.
pub fn cached(variant: Variant) -> Result<Image> {
    let cache = paths::lab("cache")?;
    let current = cache.join(format!("image-{}", variant.name()));
    let name = fs::read_to_string(&current).with_context(|| {
        format!(
            "there is no {} image; `bugler-lab image` builds it",
            variant.name()
        )
    })?;
    load(&cache.join(name))
}

fn load(dir: &Path) -> Result<Image> {
    let path = dir.join("note.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let note: Note = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; remove its folder", path.display()))?;
    let disk = dir.join("disk.raw");
    let size = fs::metadata(&disk)
        .with_context(|| format!("cannot find {}", disk.display()))?
        .len();
    Ok(Image {
        disk,
        stamp: note.stamp,
        size,
    })
}

/// Changes whenever the recipe does.
fn key(variant: Variant, sources: &sources::Sources) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [
        CUSTOMIZE,
        FORMAT,
        PACKAGES,
        &EXCLUDED.join(" "),
        variant.name(),
        variant.packages(),
        &variant.size().to_string(),
        &sources.suite,
        &sources.lines.join("\n"),
    ] {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex().chars().take(16).collect()
}

/// Removes images of earlier recipes.
fn forget_others(cache: &Path, variant: Variant) -> Result<()> {
    let prefix = format!("image-{}-", variant.name());
    for entry in fs::read_dir(cache).context("cannot list the image cache")? {
        let entry = entry.context("cannot list the image cache")?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn build(variant: Variant, sources: &sources::Sources, cache: &Path, dir: &Path) -> Result<()> {
    // In the system's temporary folder, and open to all: without root, mmdebstrap's work is done by
    // a subordinate user id, which may not enter somebody's home.
    let work = tempfile::Builder::new()
        .prefix("bugler-lab-image-")
        .permissions(Permissions::from_mode(0o777))
        .tempdir()
        .context("cannot make a temporary folder")?;
    fs::set_permissions(work.path(), Permissions::from_mode(0o777))
        .context("cannot open a temporary folder to all")?;
    let stamp = stamp()?;
    bootstrap(variant, sources, work.path(), &stamp)?;

    let made = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(cache)?;
    let disk = made.path().join("disk.raw");
    assemble(variant, work.path(), &disk)?;
    let note = serde_json::to_string(&Note { stamp })?;
    fs::write(made.path().join("note.json"), note).context("cannot write the image's note")?;
    let made = made.keep();
    fs::set_permissions(&made, Permissions::from_mode(0o755)).context("cannot open the image")?;
    fs::rename(&made, dir).with_context(|| format!("cannot name the image {}", dir.display()))
}

/// 16 random hexadecimal digits.
fn stamp() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")
        .context("cannot read /proc/sys/kernel/random/uuid")?;
    Ok(uuid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect())
}

/// Makes the root file system and the loaders in the folder `work`.
fn bootstrap(variant: Variant, sources: &sources::Sources, work: &Path, stamp: &str) -> Result<()> {
    let script = work.join("customize.sh");
    fs::write(&script, CUSTOMIZE).context("cannot write customize.sh")?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let root_mib = variant.size() - ROOT - 1;
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=auto", "--variant=minbase", "--format=null"]);
    command.arg(format!("--include={PACKAGES},{}", variant.packages()));
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    for option in &sources.apt_options {
        command.arg(format!("--aptopt={option}"));
    }
    command
        .arg(format!(
            "--customize-hook={} \"$1\" {} {stamp} {ROOT_UUID} {root_mib}",
            script.display(),
            work.display()
        ))
        .args([&sources.suite, "-"]);
    // mmdebstrap reads a list of sources from its standard input, for the argument `-`.
    if !sources.lines.is_empty() {
        command.arg("-");
    }
    let log_path = paths::lab("cache")?.join(format!("image-{}.log", variant.name()));
    let log =
        File::create(&log_path).with_context(|| format!("cannot make {}", log_path.display()))?;
    let mut child = command
        .env("TMPDIR", work)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run mmdebstrap; `make setup` installs what the lab needs")?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it has ended already, its status says more than this would.
        let _ = writeln!(stdin, "{}", sources.lines.join("\n"));
    }
    let status = child.wait().context("cannot wait for mmdebstrap")?;
    if !status.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        let last: Vec<&str> = lines.into_iter().rev().collect();
        bail!(
            "mmdebstrap could not build the {} Debian image ({status}). It needs the network (or a \
             mirror in apt's sources), and without root the package uidmap. All of it is in {}; the \
             last lines:\n{}",
            variant.name(),
            log_path.display(),
            last.join("\n")
        );
    }
    Ok(())
}

/// Puts the parts in the folder `work` together on a new disk.
fn assemble(variant: Variant, work: &Path, disk: &Path) -> Result<()> {
    let size = variant.size() * MIB;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(disk)
        .with_context(|| format!("cannot make {}", disk.display()))?;
    file.set_len(size).context("cannot size the image")?;
    partition(variant, work, disk)?;

    let esp = work.join("esp.fat");
    File::create(&esp)?
        .set_len((ROOT - ESP) * MIB)
        .context("cannot size the EFI partition")?;
    let esp_argument = esp.display().to_string();
    let mtools = |program: &str, arguments: &[&str]| {
        output_of(
            Command::new(program)
                .args(["-i", &esp_argument])
                .args(arguments),
        )
    };
    mtools("mformat", &["-v", "ESP", "-N", "b0061e00", "::"])?;
    mtools("mmd", &["::/EFI", "::/EFI/BOOT"])?;
    let loader = work.join("bootx64.efi").display().to_string();
    mtools("mcopy", &[&loader, "::/EFI/BOOT/BOOTX64.EFI"])?;

    for (part, at) in [(esp, ESP), (work.join("root.ext4"), ROOT)] {
        let from = File::open(&part).with_context(|| format!("cannot open {}", part.display()))?;
        let length = from.metadata()?.len();
        sparse::copy(&from, length, &file, at * MIB)
            .with_context(|| format!("cannot copy {} into the image", part.display()))?;
    }
    let read = |name: &str| {
        let path = work.join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let sectors = |mib: u64| mib * MIB / gpt::SECTOR;
    grub::install(
        &file,
        &read("boot.img")?,
        &read("core.img")?,
        sectors(BIOS_BOOT),
        sectors(ESP - BIOS_BOOT),
    )?;
    gpt::check(&file, size).context("sfdisk made a partition table that is not right")?;
    file.sync_all().context("cannot write the image")
}

/// Writes the partition table, with sfdisk.
fn partition(variant: Variant, work: &Path, disk: &Path) -> Result<()> {
    // Partition types: BIOS boot, EFI system, Linux root (x86-64).
    let script = format!(
        "label: gpt\nlabel-id: {DISK_UUID}\nunit: sectors\nfirst-lba: 2048\n\
         start={}MiB, size={}MiB, name=bios, type=21686148-6449-6E6F-744E-656564454649\n\
         start={}MiB, size={}MiB, name=esp, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
         start={}MiB, size={}MiB, name=root, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n",
        BIOS_BOOT,
        ESP - BIOS_BOOT,
        ESP,
        ROOT - ESP,
        ROOT,
        variant.size() - ROOT - 1
    );
    let path = work.join("partitions");
    fs::write(&path, script).context("cannot write the list of partitions")?;
    let input = File::open(&path).context("cannot read the list of partitions")?;
    let output = Command::new("sh")
        .args([
            "-c",
            "PATH=$PATH:/usr/sbin:/sbin exec sfdisk --quiet \"$0\"",
        ])
        .arg(disk)
        .stdin(input)
        .output()
        .context("cannot run sfdisk (package fdisk)")?;
    if !output.status.success() {
        bail!(
            "sfdisk failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
