//! Volumes of every kind: how each is made, aged and checked, by its own tools.

use super::files::{self, Files};
use super::{sectors, tool};
use crate::disk;
use crate::process::Process;
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The passphrase of the encrypted volume.
const PASSPHRASE: &str = "lab";
/// What LVM is told: to leave the kernel and this computer's own notes alone.
const LVM: [&str; 4] = [
    "--driverloaded",
    "n",
    "--config",
    "backup { backup=0 archive=0 }",
];
/// How long a program of a filesystem may take to begin or to end.
const SOON: Duration = Duration::from_secs(60);

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ext2, ext3 or ext4.
    Ext(u8),
    /// FAT with entries of so many bits.
    Fat(u8),
    Ntfs,
    Swap,
    Xfs,
    Btrfs,
    Lvm,
    Luks,
}

impl Kind {
    /// Whether a loop device is needed to make or to check it.
    pub(super) fn needs_mount(self) -> bool {
        matches!(self, Self::Ext(_) | Self::Xfs | Self::Btrfs | Self::Lvm)
    }

    /// Whether it is captured byte by byte.
    fn is_whole(self) -> bool {
        matches!(self, Self::Xfs | Self::Btrfs | Self::Lvm | Self::Luks)
    }
}

/// Whether loop devices can be had.
pub(super) fn can_mount() -> bool {
    tool("losetup", &["--find"]).is_ok()
}

/// A volume as it was before it was captured.
pub(super) struct Volume {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) files: Files,
}

impl Volume {
    /// Makes a volume of `size` bytes as the file `path`, with files where it is of a kind that has
    /// such, some of which were deleted again.
    pub(super) fn make(run: &Run, kind: Kind, path: &Path, size: u64) -> Result<Self> {
        disk::empty(path, size)?;
        let file = path.display().to_string();
        let share = usize::try_from(size / 6)?;
        let mut made = Self {
            kind,
            path: path.to_owned(),
            size,
            files: Files::new(),
        };
        let aged = |root: &Path| -> Result<Files> {
            files::age(root, share)?;
            files::list(root)
        };
        let with_specials = |root: &Path| -> Result<Files> {
            files::age(root, share)?;
            files::add_specials(root)?;
            files::list(root)
        };
        made.files = match kind {
            Kind::Ext(version) => {
                tool(
                    "mke2fs",
                    &["-q", "-F", "-t", &format!("ext{version}"), &file],
                )?;
                mounted(run, path, &["-o", "loop"], with_specials)?
            }
            Kind::Xfs => {
                tool("mkfs.xfs", &["-q", "-f", &file])?;
                mounted(run, path, &["-o", "loop"], with_specials)?
            }
            Kind::Btrfs => {
                tool("mkfs.btrfs", &["-q", "-f", &file])?;
                mounted(run, path, &["-o", "loop"], with_specials)?
            }
            Kind::Ntfs => {
                tool("mkntfs", &["-q", "-Q", "-F", &file])?;
                with_ntfs(run, path, "rw", aged)?
            }
            Kind::Fat(bits) => {
                // Clusters of one sector: what is left of a deleted file at a cluster's end is carried.
                let bits = bits.to_string();
                tool("mkfs.fat", &["-F", &bits, "-s", "1", &file])?;
                age_fat(run, &file, share)?;
                fat_files(run, path)?
            }
            Kind::Swap => {
                tool("mkswap", &["-q", &file])?;
                let disk = File::options().write(true).open(path)?;
                let swapped = files::doomed(usize::try_from(size / 2)?);
                disk.write_all_at(&swapped, size / 2)
                    .context("cannot fill swap space")?;
                Files::new()
            }
            Kind::Lvm => make_lvm(path, share)?,
            Kind::Luks => {
                let options = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
                let mut command = Command::new("cryptsetup");
                command.args(["luksFormat", "-q"]).args(options);
                passphrase(command.arg(&file).arg("-"))?;
                let disk = File::options().write(true).open(path)?;
                let secret = files::content(7);
                disk.write_all_at(&secret, size - (1 << 20))
                    .context("cannot fill a volume")?;
                Files::new()
            }
        };
        Ok(made)
    }

    /// Checks what came back: clean for its own tools, every file equal, and nothing in it of what was
    /// deleted. Returns how many sectors of that the volume had before.
    pub(super) fn check(&self, run: &Run, back: &Path) -> Result<u64> {
        let gone = |path: &Path| sectors(path, 0..self.size, |_, sector| files::is_gone(sector));
        let file = back.display().to_string();
        let (before, after) = (gone(&self.path)?, gone(back)?);
        if self.kind.is_whole() {
            disk::compare(&self.path, back).context("it is no longer byte by byte the same")?;
        } else {
            ensure!(before > 0, "nothing was deleted on it");
            ensure!(
                after == 0,
                "{after} of {before} sectors of deleted files came along"
            );
        }
        let found = match self.kind {
            Kind::Ext(_) => {
                tool("e2fsck", &["-f", "-n", &file])?;
                mounted(run, back, &["-o", "loop,ro"], files::list)?
            }
            Kind::Xfs => {
                tool("xfs_repair", &["-n", "-f", &file])?;
                // A copy beside its original: XFS wants to know that this is meant.
                mounted(run, back, &["-o", "loop,ro,nouuid"], files::list)?
            }
            Kind::Btrfs => {
                tool("btrfs", &["check", "--force", &file])?;
                mounted(run, back, &["-o", "loop,ro"], files::list)?
            }
            Kind::Ntfs => {
                tool("ntfsfix", &["--no-action", &file])?;
                tool("ntfsresize", &["--check", "--force", &file])?;
                with_ntfs(run, back, "ro", files::list)?
            }
            Kind::Fat(_) => {
                tool("fsck.fat", &["-n", &file])?;
                fat_files(run, back)?
            }
            Kind::Swap => {
                let swap = tool("blkid", &["-p", "-o", "value", "-s", "TYPE", &file])?;
                ensure!(swap.trim() == "swap", "it is {swap:?}");
                Files::new()
            }
            Kind::Lvm => {
                let device = tool("losetup", &["--find", "--show", "--read-only", &file])?;
                let device = device.trim();
                let listed = tool(
                    "pvs",
                    &[&LVM[..], &["--devices", device, "-o", "vg_name", device]].concat(),
                );
                tool("losetup", &["--detach", device])?;
                let listed = listed?;
                ensure!(listed.contains("buglerlab"), "pvs has found {listed:?}");
                Files::new()
            }
            Kind::Luks => {
                let mut command = Command::new("cryptsetup");
                command.args(["open", "--test-passphrase", "--key-file", "-"]);
                passphrase(command.arg(&file))?;
                Files::new()
            }
        };
        for (path, was) in &self.files {
            match found.get(path) {
                None => bail!("{} is missing", path.display()),
                Some(is) => ensure!(is == was, "{} was {was:?} and is {is:?}", path.display()),
            }
        }
        ensure!(
            found.len() == self.files.len(),
            "there are {} files in place of {}",
            found.len(),
            self.files.len()
        );
        // What is whole has everything, deleted files included.
        Ok(before - after)
    }
}

/// Runs `work` with the volume mounted, and unmounts it.
fn mounted<T>(
    run: &Run,
    path: &Path,
    options: &[&str],
    work: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let root = run.file("mounted");
    fs::create_dir_all(&root).context("cannot make a folder")?;
    let (file, at) = (path.display().to_string(), root.display().to_string());
    tool("mount", &[options, &[&file, &at]].concat())?;
    let done = work(&root);
    tool("umount", &[&at])?;
    done
}

/// The same for NTFS, by ntfs-3g: it has to have ended before the volume is whole.
fn with_ntfs<T>(
    run: &Run,
    path: &Path,
    mode: &str,
    work: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let root = run.file("mounted-ntfs");
    fs::create_dir_all(&root).context("cannot make a folder")?;
    let mut command = Command::new("ntfs-3g");
    command.args(["-o", &format!("no_detach,{mode}")]);
    command.arg(path).arg(&root).env("PATH", super::SYSTEM_PATH);
    let mut program = Process::start("ntfs-3g", command, &run.file("ntfs-3g.log"))?;
    let at = root.display().to_string();
    let end = Instant::now() + SOON;
    while !fs::read_to_string("/proc/self/mounts")?.contains(&at) {
        ensure!(
            Instant::now() < end && program.is_running()?,
            "ntfs-3g has not mounted it:\n{}",
            program.transcript().tail()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = work(&root);
    tool("umount", &[&at])?;
    program.wait_exit(SOON)?;
    done
}

/// Writes and deletes files on a FAT, with mtools: few kernels of labs have its driver.
fn age_fat(run: &Run, image: &str, share: usize) -> Result<()> {
    let source = run.file("fat-files");
    fs::create_dir_all(&source).context("cannot make a folder")?;
    let put = |name: &str, content: &[u8]| -> Result<()> {
        let path = source.join(name);
        fs::write(&path, content).context("cannot write a file")?;
        tool(
            "mcopy",
            &["-o", "-i", image, &path.display().to_string(), "::/"],
        )?;
        Ok(())
    };
    for round in 0..2 {
        for number in round * 8..round * 8 + 8 {
            put(&format!("f{number}"), &files::content(number + 1))?;
            put(&format!("gone{number}"), &files::doomed(share / 16))?;
        }
        for number in round * 8..round * 8 + 8 {
            tool("mdel", &["-i", image, &format!("::/gone{number}")])?;
            if number.is_multiple_of(3) {
                tool("mdel", &["-i", image, &format!("::/f{number}")])?;
            }
        }
    }
    tool("mmd", &["-i", image, "::/folder"])?;
    put("last with a long name.text", &files::content(99))?;
    fs::remove_dir_all(source).context("cannot remove a folder")
}

fn fat_files(run: &Run, path: &Path) -> Result<Files> {
    let out = run.file("fat-out");
    fs::create_dir(&out).context("cannot make a folder")?;
    let (image, to) = (path.display().to_string(), out.display().to_string());
    tool("mcopy", &["-s", "-n", "-i", &image, "::/", &to])?;
    let files = files::list(&out)?;
    fs::remove_dir_all(out).context("cannot remove a folder")?;
    Ok(files)
}

/// A physical volume with a group and a logical volume in it. The device mapper is not needed: nothing
/// is activated.
fn make_lvm(path: &Path, share: usize) -> Result<Files> {
    let device = tool(
        "losetup",
        &["--find", "--show", &path.display().to_string()],
    )?;
    let device = device.trim();
    let lvm = |program: &str, arguments: &[&str]| {
        let devices = ["--devices", device];
        tool(program, &[&LVM[..], &devices, arguments].concat())
    };
    let made = lvm("pvcreate", &["-q", "-y", device])
        .and_then(|_| lvm("vgcreate", &["-q", "buglerlab", device]))
        .and_then(|_| {
            let options = [
                "-q",
                "-an",
                "-Zn",
                "-Wn",
                "-L12M",
                "-n",
                "root",
                "buglerlab",
            ];
            lvm("lvcreate", &options)
        });
    tool("losetup", &["--detach", device])?;
    made?;
    let disk = File::options().write(true).open(path)?;
    // Behind the metadata, where the logical volume's first extent is.
    disk.write_all_at(&files::doomed(share), 2 << 20)
        .context("cannot fill a volume")?;
    Ok(Files::new())
}

/// Runs cryptsetup with the passphrase on its standard input.
fn passphrase(command: &mut Command) -> Result<()> {
    let (reader, mut writer) = std::io::pipe().context("cannot make a pipe")?;
    std::io::Write::write_all(&mut writer, PASSPHRASE.as_bytes())?;
    drop(writer);
    let output = command
        .env("PATH", super::SYSTEM_PATH)
        .stdin(Stdio::from(reader))
        .output()
        .context("cannot run cryptsetup; `make setup` installs what the lab needs")?;
    ensure!(
        output.status.success(),
        "cryptsetup failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
