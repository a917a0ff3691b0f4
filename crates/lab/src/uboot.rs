//! The settings of U-Boot: boots from the network, then from the disk.
//!
//! Left to itself U-Boot 2023.01 tries disks first, and misreads the address of QEMU's network card:
//! its first byte six times. An owner of a board would set both and save them; so does the lab.
//!
//! The settings (U-Boot's manual: `doc/usage/environment.rst`) are `name=value` texts, each with a
//! zero at its end and another zero after the last, behind the CRC-32 of all that follows it. They
//! replace the built-in ones whole, so those are copied out of the program.

use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, ensure};
use bugler_model::MacAddr;
use std::path::PathBuf;
use std::process::Command;

/// Size of the settings in flash, checksum included: `CONFIG_ENV_SIZE` of the board `qemu_arm64`.
const SIZE: usize = 0x4_0000;
/// What the built-in settings begin with.
const FIRST: &[u8] = b"\0bootcmd=";

/// The name of the U-Boot that [`proxydhcp`] builds.
pub(crate) const PROXYDHCP: &str = "u-boot-proxydhcp.bin";

/// Where a U-Boot is: in the lab's cache, unless its name is a whole path.
#[must_use]
pub(crate) fn path(image: &str) -> PathBuf {
    paths::target().join("lab/cache").join(image)
}

/// Builds, where it is not there yet, a U-Boot with `CONFIG_SERVERIP_FROM_PROXYDHCP`: it takes boot file
/// and server from the header of the offer that has no address. Debian's builds do not have that.
///
/// # Errors
///
/// When its source cannot be fetched or built; the script says why.
pub fn proxydhcp() -> Result<()> {
    let script = paths::workspace().join("scripts/uboot-proxydhcp");
    output_of(&mut Command::new(script)).map(drop)
}

/// The settings for the U-Boot `program` on a board whose network card has the address `mac`.
///
/// # Errors
///
/// When `program` has no built-in settings, or they do not fit.
pub fn network_then_disk(program: &[u8], mac: MacAddr) -> Result<Vec<u8>> {
    let begin = program
        .windows(FIRST.len())
        .position(|window| window == FIRST)
        .context("it has no built-in settings")?
        + 1;
    let rest = program.get(begin..).unwrap_or_default();
    let end = rest
        .windows(2)
        .position(|pair| pair == [0, 0])
        .context("its built-in settings have no end")?;
    let built_in = rest.get(..end).unwrap_or_default().split(|&byte| byte == 0);
    let mut texts: Vec<u8> = Vec::new();
    for text in built_in {
        if !text.starts_with(b"boot_targets=") && !text.starts_with(b"ethaddr=") {
            texts.extend(text);
            texts.push(0);
        }
    }
    texts.extend(format!("boot_targets=dhcp virtio0\0ethaddr={mac}\0").bytes());
    ensure!(
        texts.len() + 5 <= SIZE,
        "its built-in settings are too large"
    );
    texts.resize(SIZE - 4, 0);
    let mut settings = crc32(&texts).to_le_bytes().to_vec();
    settings.extend(texts);
    Ok(settings)
}

/// CRC-32 as in Ethernet and zip (polynomial 04C11DB7, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0x00, 0x20, 0x50, 0x01]);

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn built_in_settings_are_kept_but_for_two() {
        let program = b"code\0bootcmd=run x\0boot_targets=usb0 dhcp \0arch=arm\0\0more";
        let settings = network_then_disk(program, MAC).unwrap();
        assert_eq!(settings.len(), SIZE);
        let texts = &settings[4..];
        assert_eq!(settings[..4], crc32(texts).to_le_bytes());
        let expected = "bootcmd=run x\0arch=arm\0boot_targets=dhcp virtio0\0\
                        ethaddr=52:54:00:20:50:01\0\0";
        assert!(texts.starts_with(expected.as_bytes()));
        assert!(network_then_disk(b"code", MAC).is_err());
        assert!(network_then_disk(b"\0bootcmd=run x\0", MAC).is_err());
    }
}
