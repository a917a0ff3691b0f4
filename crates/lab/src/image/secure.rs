//! Makes a copy of the image start where Secure Boot is on: the distribution's signed loaders go
//! before the image's own, which nobody signed. Its kernel is Debian's, and signed.

use super::{ESP, MIB, ROOT_UUID};
use crate::process::output_of;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The loaders, with their names on the EFI system partition.
const LOADERS: [(&str, &str); 2] = [
    (
        "/usr/lib/shim/shimx64.efi.signed",
        "::/EFI/BOOT/BOOTX64.EFI",
    ),
    (
        "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "::/EFI/BOOT/grubx64.efi",
    ),
];

/// Puts the signed loaders on the disk; `work` is a folder for a file in between.
///
/// # Errors
///
/// When a loader is missing (packages shim-signed and grub-efi-amd64-signed), or mtools fail.
pub fn with_signed_loaders(disk: &Path, work: &Path) -> Result<()> {
    let partition = format!("{}@@{}", disk.display(), ESP * MIB);
    let mtools = |program: &str, arguments: &[&str]| {
        output_of(
            Command::new(program)
                .args(["-i", &partition])
                .args(arguments),
        )
        .with_context(|| format!("cannot change the EFI partition of {}", disk.display()))
    };
    for (file, name) in LOADERS {
        mtools("mcopy", &["-o", file, name])?;
    }
    // Where Debian's signed GRUB looks.
    let config = work.join("secure-grub.cfg");
    fs::write(
        &config,
        format!(
            "search --no-floppy --fs-uuid --set=root {ROOT_UUID}\n\
             set prefix=($root)/boot/grub\n\
             configfile $prefix/grub.cfg\n"
        ),
    )
    .with_context(|| format!("cannot write {}", config.display()))?;
    mtools("mmd", &["::/EFI/debian"])?;
    mtools(
        "mcopy",
        &[&config.display().to_string(), "::/EFI/debian/grub.cfg"],
    )?;
    Ok(())
}
