//! Makes a disk boot GRUB on BIOS firmware, as `grub-bios-setup` does, without a block device.
//!
//! GRUB's first sector, `boot.img`, loads the first sector of `core.img` from a place that is patched
//! into it; that sector loads the rest from a place that is patched into it. (GRUB's
//! `include/grub/i386/pc/boot.h` has the offsets.)

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;

const SECTOR: usize = 512;
/// Code of the first sector ends where the disk's own data begins: its signature, the MBR's
/// partitions.
const CODE: usize = 440;
/// In `boot.img`: the sector of `core.img` (u64).
const KERNEL_SECTOR: usize = 0x5c;
/// In `boot.img`: a jump over the check of the boot drive's number; two NOPs put the check in
/// effect, which disks want and floppies do not.
const DRIVE_CHECK: usize = 0x66;
/// In the first sector of `core.img`: the sector of the rest (u64), then how many (u16) and where to
/// (u16), which `grub-mkimage` has filled in.
const BLOCK_LIST: usize = SECTOR - 12;

/// Writes `boot_img` into the first sector of `disk`, leaving its partition table alone, and
/// `core_img` to the sectors from `first` on, of which there are `room`.
///
/// # Errors
///
/// When the files are not GRUB's, do not fit, or cannot be written.
pub fn install(disk: &File, boot_img: &[u8], core_img: &[u8], first: u64, room: u64) -> Result<()> {
    let mut boot = boot_img
        .get(..CODE)
        .context("GRUB's boot.img is too short")?
        .to_vec();
    ensure!(
        boot_img.len() == SECTOR && boot_img.ends_with(&[0x55, 0xaa]),
        "not GRUB's boot.img"
    );
    ensure!(
        boot.get(DRIVE_CHECK) == Some(&0xeb),
        "boot.img has no jump where it is to be patched"
    );
    patch(&mut boot, KERNEL_SECTOR, &first.to_le_bytes())?;
    patch(&mut boot, DRIVE_CHECK, &[0x90, 0x90])?;

    let mut core = core_img.to_vec();
    core.resize(core_img.len().next_multiple_of(SECTOR), 0);
    let sectors = (core.len() / SECTOR) as u64;
    ensure!(
        sectors <= room,
        "GRUB's core.img needs {sectors} sectors and there are {room}"
    );
    patch(&mut core, BLOCK_LIST, &(first + 1).to_le_bytes())?;

    disk.write_all_at(&boot, 0)
        .context("cannot write GRUB's first sector")?;
    disk.write_all_at(&core, first * SECTOR as u64)
        .context("cannot write GRUB's core.img")
}

fn patch(bytes: &mut [u8], at: usize, with: &[u8]) -> Result<()> {
    let place = bytes
        .get_mut(at..at + with.len())
        .context("GRUB's file is too short")?;
    place.copy_from_slice(with);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_img() -> Vec<u8> {
        let mut boot = vec![0x11; SECTOR];
        boot[DRIVE_CHECK] = 0xeb;
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        boot
    }

    #[test]
    fn patches_both_sectors_and_keeps_the_partitions() {
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(&[0xee; SECTOR], 0).unwrap();
        install(&disk, &boot_img(), &[0x22; 1000], 2048, 2).unwrap();
        let mut mbr = [0; SECTOR];
        disk.read_exact_at(&mut mbr, 0).unwrap();
        assert_eq!(
            mbr[KERNEL_SECTOR..KERNEL_SECTOR + 8],
            2048_u64.to_le_bytes()
        );
        assert_eq!(mbr[DRIVE_CHECK..DRIVE_CHECK + 2], [0x90, 0x90]);
        assert_eq!(mbr[CODE..], [0xee; SECTOR - CODE]);
        let mut core = [0; 2 * SECTOR];
        disk.read_exact_at(&mut core, 2048 * SECTOR as u64).unwrap();
        assert_eq!(core[BLOCK_LIST..BLOCK_LIST + 8], 2049_u64.to_le_bytes());
        assert_eq!((core[999], core[1000]), (0x22, 0));
    }

    #[test]
    fn refuses_what_does_not_fit_or_is_not_grub() {
        let disk = tempfile::tempfile().unwrap();
        assert!(install(&disk, &boot_img(), &[0x22; 1025], 2048, 2).is_err());
        assert!(install(&disk, &[0; SECTOR], &[0x22; 1000], 2048, 2).is_err());
        assert!(install(&disk, &boot_img(), &[], 2048, 2).is_err());
    }
}
