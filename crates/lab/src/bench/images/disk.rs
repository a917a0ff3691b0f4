//! The disk that is measured with: 2 GiB of ext4, of which about 1 GiB is used, by this host's own files.

use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its size in bytes.
const SIZE: u64 = 2 << 30;
/// Bytes of files that it is given. mke2fs leaves out their blocks of zeros: 1 GiB remains.
const CONTENT: u64 = 1400 << 20;
/// Where they are from, in equal parts: programs, libraries, texts.
const FROM: [&str; 3] = ["/usr/bin", "/usr/lib", "/usr/share"];
/// Larger files are left out, so that no single one makes the disk what it is.
const LARGEST: u64 = 64 << 20;

/// The disk, built where it is not there yet. It is kept: what it holds depends on the host, and
/// must be the same in every round.
pub(super) fn ensure(say: &dyn Fn(&str)) -> Result<PathBuf> {
    let folder = paths::lab("cache/bench-images")?;
    let disk = folder.join("disk.raw");
    if disk.exists() {
        return Ok(disk);
    }
    say("building a 2 GiB disk to measure with");
    let (tree, unfinished) = (folder.join("tree"), folder.join("disk.raw.new"));
    if tree.exists() {
        fs::remove_dir_all(&tree).context("cannot remove an old tree of files")?;
    }
    for from in FROM {
        let to = tree.join(from.trim_start_matches('/'));
        let mut left = CONTENT / FROM.len() as u64;
        copy(Path::new(from), &to, &mut left)?;
    }
    let file = File::create(&unfinished).context("cannot make a disk")?;
    file.set_len(SIZE).context("cannot lengthen a disk")?;
    output_of(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(&unfinished),
    )?;
    fs::remove_dir_all(&tree).context("cannot remove a tree of files")?;
    fs::rename(&unfinished, &disk).context("cannot name the disk")?;
    ensure!(disk.exists(), "{} was not built", disk.display());
    Ok(disk)
}

/// Copies files in the order of their names until `left` bytes are used up.
fn copy(from: &Path, to: &Path, left: &mut u64) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let listed = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    let mut entries = listed.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if *left == 0 {
            break;
        }
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let meta = path
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        if meta.is_dir() {
            copy(&path, &to, left)?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&path)?, &to)?;
        } else if meta.is_file() && meta.len() <= LARGEST {
            // One that may not be read, or has just gone, is not missed.
            if let Ok(copied) = fs::copy(&path, &to) {
                *left = left.saturating_sub(copied);
            }
        }
    }
    Ok(())
}
