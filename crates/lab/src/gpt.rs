//! Checks the GUID partition table of a disk (UEFI specification 2.10, section 5.3): both copies of
//! it, and that the second one is at the end of the disk that it is on.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Sectors at the end of a disk that hold the second table: 32 of entries and the header.
pub const BACKUP_SECTORS: u64 = 33;
/// Most bytes of entries: 128 entries of 512 bytes.
const MAX_ENTRIES: u64 = 64 << 10;

/// One copy of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The sector that its header is in.
    pub own_sector: u64,
    /// The sector that it says the other header is in.
    pub other_sector: u64,
    /// The last sector that a partition may use.
    pub last_usable: u64,
    /// The partition entries as they are on the disk.
    pub entries: Vec<u8>,
}

/// Whether there is a GUID partition table at the beginning of `disk`.
///
/// # Errors
///
/// When the disk cannot be read.
pub fn is_present(disk: &File) -> Result<bool> {
    let mut signature = [0; 8];
    disk.read_exact_at(&mut signature, SECTOR)
        .context("cannot read the disk's second sector")?;
    Ok(&signature == b"EFI PART")
}

/// Reads the table whose header is in `sector`, and checks it.
///
/// # Errors
///
/// When there is none, or a checksum or a field is wrong.
pub fn read(disk: &File, sector: u64) -> Result<Table> {
    let mut header = [0; SECTOR as usize];
    disk.read_exact_at(&mut header, sector * SECTOR)
        .with_context(|| format!("cannot read the table's header in sector {sector}"))?;
    ensure!(
        header.starts_with(b"EFI PART"),
        "there is no partition table in sector {sector}"
    );
    let size = u32_at(&header, 12) as usize;
    ensure!(
        (92..=header.len()).contains(&size),
        "the table's header is said to be {size} bytes"
    );
    let mut summed = header[..size].to_vec();
    summed[16..20].fill(0);
    ensure!(
        crc32(&summed) == u32_at(&header, 16),
        "the checksum of the partition table's header in sector {sector} is wrong"
    );
    let own_sector = u64_at(&header, 24);
    ensure!(
        own_sector == sector,
        "the partition table's header in sector {sector} says that it is in {own_sector}"
    );
    let length = u64::from(u32_at(&header, 80)) * u64::from(u32_at(&header, 84));
    ensure!(
        length <= MAX_ENTRIES,
        "the partition table has {length} bytes of entries"
    );
    let mut entries = vec![0; usize::try_from(length)?];
    let at = u64_at(&header, 72);
    disk.read_exact_at(&mut entries, at.saturating_mul(SECTOR))
        .with_context(|| format!("cannot read the partition entries in sector {at}"))?;
    ensure!(
        crc32(&entries) == u32_at(&header, 88),
        "the checksum of the partition entries in sector {at} is wrong"
    );
    Ok(Table {
        own_sector,
        other_sector: u64_at(&header, 32),
        last_usable: u64_at(&header, 48),
        entries,
    })
}

/// Checks both copies on `disk`, which has `length` bytes, and returns their entries.
///
/// # Errors
///
/// When a copy is damaged, the second one is not in the disk's last sector, they do not point at
/// each other, or have not the same entries.
pub fn check(disk: &File, length: u64) -> Result<Vec<u8>> {
    let last = (length / SECTOR)
        .checked_sub(1)
        .context("an empty disk has no table")?;
    let first = read(disk, 1)?;
    ensure!(
        first.other_sector == last,
        "the partition table says that its second copy is in sector {}, and the disk's last sector \
         is {last}",
        first.other_sector
    );
    let second = read(disk, last)?;
    ensure!(
        second.other_sector == 1,
        "the second table points at sector {}",
        second.other_sector
    );
    ensure!(
        first.entries == second.entries,
        "the two tables have different partitions"
    );
    ensure!(
        first.last_usable <= last - BACKUP_SECTORS,
        "partitions may use sector {}, which the second table is in",
        first.last_usable
    );
    Ok(first.entries)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// CRC-32 with the polynomial of ISO 3309, reflected, as the UEFI specification asks.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::output_of;
    use std::fs::OpenOptions;
    use std::process::Command;

    /// A disk of 8 MiB that sfdisk (util-linux) has partitioned.
    fn disk() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "label: gpt\nsize=2M\nsize=1M\n").unwrap();
        output_of(Command::new("sh").args([
            "-c",
            "PATH=$PATH:/usr/sbin:/sbin sfdisk -q \"$0\" < \"$1\"",
            path.to_str().unwrap(),
            script.to_str().unwrap(),
        ]))
        .unwrap();
        (
            dir,
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap(),
        )
    }

    #[test]
    fn accepts_what_sfdisk_writes() {
        let (_dir, disk) = disk();
        assert!(is_present(&disk).unwrap());
        assert_eq!(check(&disk, 8 << 20).unwrap().len(), 128 * 128);
    }

    #[test]
    fn finds_a_second_table_that_was_left_behind() {
        let (_dir, disk) = disk();
        disk.set_len(16 << 20).unwrap();
        let error = check(&disk, 16 << 20).unwrap_err().to_string();
        assert!(error.contains("the disk's last sector is 32767"), "{error}");
    }

    #[test]
    fn finds_damage_in_every_part() {
        let (_dir, disk) = disk();
        let last = (8 << 20) / SECTOR - 1;
        for at in [
            SECTOR + 40,
            2 * SECTOR + 3,
            last * SECTOR + 50,
            (last - 32) * SECTOR,
        ] {
            let mut byte = [0];
            disk.read_exact_at(&mut byte, at).unwrap();
            disk.write_all_at(&[byte[0] ^ 1], at).unwrap();
            let error = check(&disk, 8 << 20).unwrap_err().to_string();
            assert!(error.contains("checksum"), "{at}: {error}");
            disk.write_all_at(&byte, at).unwrap();
        }
        check(&disk, 8 << 20).unwrap();
    }

    #[test]
    fn crc32_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
