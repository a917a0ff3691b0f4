//! The disks of machines: files, and the proof that one of them holds an image.

use crate::gpt::{self, SECTOR};
use crate::sparse::{self, BLOCK};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make the disk {}", path.display()))
}

/// Makes a new disk of `size` bytes with nothing on it.
///
/// # Errors
///
/// When the file exists or cannot be made.
pub fn empty(path: &Path, size: u64) -> Result<()> {
    create(path)?
        .set_len(size)
        .with_context(|| format!("cannot size {}", path.display()))
}

/// Makes a new disk of `size` bytes (a whole number of sectors) full of rubbish, no sector of which
/// is zero or like another: what is skipped or misplaced when an image is written shows.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn poisoned(path: &Path, size: u64) -> Result<()> {
    let mut file = create(path)?;
    let mut block = vec![0xa5; BLOCK];
    let mut at = 0;
    while at < size {
        for (number, sector) in (at / SECTOR..).zip(block.chunks_mut(SECTOR as usize)) {
            if let Some(head) = sector.get_mut(..8) {
                head.copy_from_slice(&number.to_le_bytes());
            }
        }
        let count = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        file.write_all(block.get(..count).unwrap_or_default())
            .with_context(|| format!("cannot fill {}", path.display()))?;
        at += count as u64;
    }
    Ok(())
}

/// Makes a new disk that is a copy of the image `image`, with its holes.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn copy(image: &Path, path: &Path) -> Result<()> {
    let (from, length) = open(image)?;
    let to = create(path)?;
    to.set_len(length)
        .with_context(|| format!("cannot size {}", path.display()))?;
    sparse::copy(&from, length, &to, 0)
        .with_context(|| format!("cannot copy {} to {}", image.display(), path.display()))
}

fn open(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file
        .metadata()
        .with_context(|| format!("cannot size {}", path.display()))?
        .len();
    Ok((file, length))
}

/// What [`compare`] found equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equal {
    /// Bytes in blocks of which the image holds data.
    pub used: u64,
    /// Bytes in blocks of which the image is zero, and the disk too.
    pub zero: u64,
    /// BLAKE3 of the used blocks in order; the same on both.
    pub hash: blake3::Hash,
}

/// Proves that `disk` holds `image`: the used blocks of the image have the same hash on the disk, and
/// where the image is zero, so is the disk. On a larger disk, the places that say how large it is
/// may differ (the protective MBR's size, the partition table's header, the old place of its second
/// copy); then the disk's partition table has to be right and its second copy at the disk's end.
///
/// # Errors
///
/// When they differ (the error says where first), the disk is too small, or cannot be read.
pub fn compare(image: &Path, disk: &Path) -> Result<Equal> {
    let (image_file, image_length) = open(image)?;
    let (disk_file, disk_length) = open(disk)?;
    ensure!(
        disk_length >= image_length,
        "the disk has {disk_length} bytes and the image {image_length}"
    );
    let gpt = gpt::is_present(&image_file)?;
    let moved = gpt && disk_length > image_length;
    let end = if moved {
        image_length - gpt::BACKUP_SECTORS * SECTOR
    } else {
        image_length
    };
    let (mut of_image, mut of_disk) = (blake3::Hasher::new(), blake3::Hasher::new());
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut used, mut zero, mut wrong, mut first_wrong) = (0, 0, 0_u64, None);
    let mut at = 0;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
        left.truncate(count);
        right.truncate(count);
        image_file
            .read_exact_at(&mut left, at)
            .context("cannot read the image")?;
        disk_file
            .read_exact_at(&mut right, at)
            .context("cannot read the disk")?;
        if moved && at == 0 {
            forget_size(&mut left);
            forget_size(&mut right);
        }
        if sparse::is_zero(&left) {
            zero += count as u64;
        } else {
            used += count as u64;
            of_image.update(&left);
            of_disk.update(&right);
        }
        if left != right {
            wrong += 1;
            let byte = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            first_wrong.get_or_insert(at + byte as u64);
        }
        at += count as u64;
    }
    if let Some(first) = first_wrong {
        bail!(
            "the disk {} differs from the image {} in {wrong} blocks of {BLOCK} bytes, first at byte \
             {first}; BLAKE3 over the used blocks: image {}, disk {}",
            disk.display(),
            image.display(),
            of_image.finalize(),
            of_disk.finalize()
        );
    }
    if gpt {
        let entries = gpt::check(&disk_file, disk_length)?;
        ensure!(
            entries == gpt::read(&image_file, 1)?.entries,
            "the disk has other partitions"
        );
    }
    ensure!(
        of_image.finalize() == of_disk.finalize(),
        "the hashes over the used blocks differ"
    );
    Ok(Equal {
        used,
        zero,
        hash: of_image.finalize(),
    })
}

/// Blanks what depends on the disk's size in the first block of a disk with a GUID partition table.
fn forget_size(block: &mut [u8]) {
    // The number of sectors in the protective MBR's only entry, and the end of it in cylinders,
    // heads and sectors (UEFI specification 2.10, table 5-4); then the whole header in sector 1,
    // which is checked on its own.
    for range in [451..454, 458..462, 512..1024] {
        if let Some(bytes) = block.get_mut(range) {
            bytes.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Disks {
        dir: tempfile::TempDir,
        image: PathBuf,
    }

    /// An image of 3 MiB without a partition table: data, a hole, data at the very end.
    fn disks() -> Disks {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let file = create(&image).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[1; BLOCK], 0).unwrap();
        file.write_all_at(&[2; BLOCK], (3 << 20) - BLOCK as u64)
            .unwrap();
        Disks { dir, image }
    }

    #[test]
    fn a_copy_is_equal_and_its_hash_is_that_of_the_used_blocks() {
        let Disks { dir, image } = disks();
        let disk = dir.path().join("disk");
        copy(&image, &disk).unwrap();
        let equal = compare(&image, &disk).unwrap();
        assert_eq!(
            (equal.used, equal.zero),
            (2 * BLOCK as u64, (3 << 20) - 2 * BLOCK as u64)
        );
        let all = std::fs::read(&image).unwrap();
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&all[..BLOCK])
            .update(&all[all.len() - BLOCK..]);
        assert_eq!(equal.hash, hasher.finalize());
    }

    #[test]
    fn poison_where_the_image_is_zero_shows() {
        let Disks { dir, image } = disks();
        let disk = dir.path().join("disk");
        poisoned(&disk, 4 << 20).unwrap();
        let (from, length) = open(&image).unwrap();
        let to = OpenOptions::new().write(true).open(&disk).unwrap();
        sparse::copy(&from, length, &to, 0).unwrap();
        let error = compare(&image, &disk).unwrap_err().to_string();
        assert!(error.contains("in 46 blocks"), "{error}");
        assert!(error.contains("first at byte 65536"), "{error}");
    }

    #[test]
    fn every_sector_of_poison_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        poisoned(&disk, 200 * SECTOR).unwrap();
        let all = std::fs::read(&disk).unwrap();
        let sectors: std::collections::BTreeSet<&[u8]> = all.chunks(SECTOR as usize).collect();
        assert_eq!(sectors.len(), 200);
        assert!(sectors.iter().all(|sector| !sparse::is_zero(sector)));
    }

    #[test]
    fn a_changed_byte_and_a_small_disk_show() {
        let Disks { dir, image } = disks();
        let disk = dir.path().join("disk");
        copy(&image, &disk).unwrap();
        let file = OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(&[9], 4000).unwrap();
        let error = compare(&image, &disk).unwrap_err().to_string();
        assert!(error.contains("first at byte 4000"), "{error}");
        file.set_len(2 << 20).unwrap();
        assert!(
            compare(&image, &disk)
                .unwrap_err()
                .to_string()
                .contains("has 2097152 bytes")
        );
    }

    #[test]
    fn on_a_larger_disk_the_second_table_must_be_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        empty(&image, 4 << 20).unwrap();
        sfdisk(&image, "--quiet", "label: gpt\nsize=1M\n");
        let disk = dir.path().join("disk");
        copy(&image, &disk).unwrap();
        compare(&image, &disk).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&disk)
            .unwrap()
            .set_len(6 << 20)
            .unwrap();
        let error = compare(&image, &disk).unwrap_err().to_string();
        assert!(error.contains("the disk's last sector is 12287"), "{error}");
        sfdisk(&disk, "--relocate gpt-bak-std", "");
        compare(&image, &disk).unwrap();
    }

    /// Runs util-linux's sfdisk on a disk, with a script on its standard input.
    fn sfdisk(disk: &Path, option: &str, script: &str) {
        let shell = "PATH=$PATH:/usr/sbin:/sbin; printf \"$2\" | sfdisk $1 \"$0\"";
        let disk = disk.to_str().unwrap();
        crate::process::output_of(
            std::process::Command::new("sh").args(["-c", shell, disk, option, script]),
        )
        .unwrap();
    }
}
