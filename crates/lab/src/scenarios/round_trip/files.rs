//! Files that a filesystem is aged with, and a list of what is on it.

use crate::gpt::SECTOR;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What files are filled with that are deleted again: every sector of them begins with it.
const GONE: &[u8] = b"this was deleted before the disk was captured; ";

/// Every file by its path: permissions and the hash of its content, or where a link leads to.
pub(super) type Files = BTreeMap<PathBuf, (u32, String)>;

/// Bytes that do not compress, others for each number: from nothing to some hundred KiB.
pub(super) fn content(number: u32) -> Vec<u8> {
    let most: usize = if number.is_multiple_of(7) {
        400_000
    } else {
        24_000
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    let length = usize::from(hasher.finalize().as_bytes()[0]) * most / 255;
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Content of a file that is to be deleted.
pub(super) fn doomed(length: usize) -> Vec<u8> {
    let mut sector = GONE.repeat(SECTOR as usize / GONE.len() + 1);
    sector.truncate(SECTOR as usize);
    sector.repeat(length / SECTOR as usize)
}

/// Whether a sector is of a file that was deleted.
pub(super) fn is_gone(sector: &[u8]) -> bool {
    sector.starts_with(GONE)
}

/// Writes, deletes and writes again below `root`, `share` bytes of what is deleted. What is left has
/// holes between it.
pub(super) fn age(root: &Path, share: usize) -> Result<()> {
    let names =
        |round: u32| (0..40).map(move |number| (number, format!("f{}", round * 40 + number)));
    for round in 0..3 {
        let folder = root.join(format!("folder{round}/inner"));
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        for (number, name) in names(round) {
            write(&folder.join(name), &content(round * 40 + number))?;
            if number.is_multiple_of(10) {
                write(&folder.join(format!("gone{number}")), &doomed(share / 12))?;
            }
        }
        sync(root)?;
        for (number, name) in names(round) {
            if number.is_multiple_of(3) {
                fs::remove_file(folder.join(name)).context("cannot delete a file")?;
            }
            if number.is_multiple_of(10) {
                fs::remove_file(folder.join(format!("gone{number}")))
                    .context("cannot delete a file")?;
            }
        }
        sync(root)?;
    }
    Ok(())
}

/// Adds what not every filesystem has: links, permissions, a file that is mostly a hole.
pub(super) fn add_specials(root: &Path) -> Result<()> {
    write(&root.join("private"), b"secret\n")?;
    fs::set_permissions(root.join("private"), fs::Permissions::from_mode(0o4600))?;
    std::os::unix::fs::symlink("folder0/inner/f1", root.join("link"))?;
    fs::hard_link(root.join("folder0/inner/f1"), root.join("same"))?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(3 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (3 << 20) - 3)?;
    sync(root)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Everything to the disk.
fn sync(root: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(root)?).context("cannot flush a filesystem")
}

/// Lists everything below `root` but what a filesystem has by itself.
pub(super) fn list(root: &Path) -> Result<Files> {
    let (mut files, mut folders) = (Files::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            let what = if meta.is_symlink() {
                fs::read_link(&path)?.display().to_string()
            } else if meta.is_dir() {
                folders.push(path.clone());
                String::new()
            } else {
                let content =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                blake3::hash(&content).to_string()
            };
            let name = path.strip_prefix(root)?.to_owned();
            files.insert(name, (meta.permissions().mode(), what));
        }
    }
    Ok(files)
}
