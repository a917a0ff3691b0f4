//! Which disk to write to: decided from the inventory and the image, before the first byte.

use bugler_model::{Disk, DiskRule, Transport};
use std::fmt::Write as _;

/// What an image asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Size of the image in bytes; the disk has at least as many.
    pub size: u64,
    /// Logical sector size in bytes; the disk has the same.
    pub sector_size: u32,
}

/// Why a disk cannot take an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It refuses writes.
    #[error("it is read-only")]
    ReadOnly,
    /// Another sector size than the image's: partition tables and filesystems count in sectors.
    #[error("its sectors are {disk} bytes, the image's are {image}")]
    SectorSize {
        /// Sector size of the disk in bytes.
        disk: u32,
        /// Sector size of the image in bytes.
        image: u32,
    },
    /// The image does not fit.
    #[error("it has {disk} bytes, the image needs {image} ({} more)", image.saturating_sub(*disk))]
    TooSmall {
        /// Size of the disk in bytes.
        disk: u64,
        /// Size of the image in bytes.
        image: u64,
    },
    /// Removable, or on USB: only taken when it is named.
    #[error("it is removable or on USB, and is taken only when it is named")]
    Removable,
}

/// Why no disk was chosen. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The machine shows no disk at all.
    #[error(
        "this machine shows no disk; check that it is attached and enabled in the firmware, and \
         that the boot environment has its driver"
    )]
    NoDisk,
    /// Disks still come and go, or drivers are still being loaded, after a long wait.
    #[error(
        "the disks of this machine are not settled yet: some come and go, or a driver is still \
         being loaded; name one by its path or serial number; nothing was written"
    )]
    Unsettled,
    /// There are disks, and none fits.
    #[error("no disk of this machine can take the image: {0}; nothing was written")]
    NoneFits(String),
    /// No disk has that path, serial number or model.
    #[error("no disk of this machine is {name:?}; it has {disks}; nothing was written")]
    NotFound {
        /// What was asked for.
        name: String,
        /// What there is.
        disks: String,
    },
    /// Several disks answer to that name.
    #[error(
        "{name:?} is the name of several disks: {disks}; name one by its path or serial number; \
         nothing was written"
    )]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The disks.
        disks: String,
    },
    /// Which of several disks is meant cannot be known.
    #[error("this machine has several disks: {0}; name one by its serial number or path")]
    Several(String),
    /// There are disks, and none is fixed.
    #[error("this machine has only removable disks: {0}; name one by its serial number or path")]
    OnlyRemovable(String),
    /// The disk that was named cannot take the image.
    #[error("{disk} cannot take the image: {why}; nothing was written")]
    Unfit {
        /// The disk.
        disk: String,
        /// Why not.
        why: Unfit,
    },
}

/// The disk that `rule` means.
///
/// # Errors
/// [`ChoiceError`], with the numbers, when there is none or more than one.
pub fn choose<'a>(
    rule: &DiskRule,
    disks: &'a [Disk],
    needs: Needs,
) -> Result<&'a Disk, ChoiceError> {
    match rule {
        DiskRule::Auto => automatic(disks, needs),
        DiskRule::Named(name) => named(name, disks, needs),
    }
}

fn automatic(disks: &[Disk], needs: Needs) -> Result<&Disk, ChoiceError> {
    if disks.is_empty() {
        return Err(ChoiceError::NoDisk);
    }
    let fit = |disk: &&Disk| !is_removable(disk) && fits(disk, needs).is_ok();
    // The kernel's order changes from boot to boot; a serial number does not.
    let order = |disk: &&Disk| {
        let serial = disk.serial.clone();
        (disk.size, serial.is_none(), serial, disk.path.clone())
    };
    if let Some(disk) = disks.iter().filter(fit).min_by_key(order) {
        return Ok(disk);
    }
    let reasons = disks.iter().map(|disk| {
        let why = match fits(disk, needs) {
            _ if is_removable(disk) => Unfit::Removable,
            Err(why) => why,
            Ok(()) => return describe(disk),
        };
        format!("{}: {why}", describe(disk))
    });
    Err(ChoiceError::NoneFits(join(reasons)))
}

fn named<'a>(name: &str, disks: &'a [Disk], needs: Needs) -> Result<&'a Disk, ChoiceError> {
    let disk = find(name, disks)?;
    fits(disk, needs).map(|()| disk).map_err(|why| {
        let disk = describe(disk);
        ChoiceError::Unfit { disk, why }
    })
}

/// The one disk that `name` is the serial number, the path or the model of.
fn find<'a>(name: &str, disks: &'a [Disk]) -> Result<&'a Disk, ChoiceError> {
    let is = |text: &Option<String>| text.as_deref().is_some_and(|t| t.trim() == name.trim());
    // In this order: a serial number is the disk's own, a path may be another disk's tomorrow.
    let readings: [&dyn Fn(&Disk) -> bool; 3] = [
        &|disk| is(&disk.serial),
        &|disk| disk.path == name,
        &|disk| is(&disk.model),
    ];
    let meant: Vec<&Disk> = readings
        .iter()
        .map(|is_meant| disks.iter().filter(|disk| is_meant(disk)).collect())
        .find(|meant: &Vec<_>| !meant.is_empty())
        .unwrap_or_default();
    match meant[..] {
        [] if disks.is_empty() => Err(ChoiceError::NoDisk),
        [] => Err(ChoiceError::NotFound {
            name: name.into(),
            disks: join(disks.iter().map(describe)),
        }),
        [disk] => Ok(disk),
        _ => Err(ChoiceError::Ambiguous {
            name: name.into(),
            disks: join(meant.into_iter().map(describe)),
        }),
    }
}

/// The disk that `rule` means where nothing has to fit: to be read, or to be wiped. What is
/// automatic means the only fixed one.
///
/// # Errors
/// [`ChoiceError`], where there is none or more than one.
pub fn choose_any<'a>(rule: &DiskRule, disks: &'a [Disk]) -> Result<&'a Disk, ChoiceError> {
    let fixed = match rule {
        DiskRule::Named(name) => return find(name, disks),
        DiskRule::Auto if disks.is_empty() => return Err(ChoiceError::NoDisk),
        DiskRule::Auto => disks.iter().filter(|disk| !is_removable(disk)),
    };
    match fixed.collect::<Vec<_>>()[..] {
        [disk] => Ok(disk),
        [] => Err(ChoiceError::OnlyRemovable(join(disks.iter().map(describe)))),
        _ => Err(ChoiceError::Several(join(disks.iter().map(describe)))),
    }
}

/// Whether a disk that appears later could change what `rule` means. A serial number or a path
/// that is there already names one disk; the smallest disk, or the only one of a model, is known
/// only when all are there.
pub(crate) fn depends_on_all(rule: &DiskRule, disks: &[Disk]) -> bool {
    match rule {
        DiskRule::Auto => true,
        DiskRule::Named(name) => !disks
            .iter()
            .any(|disk| disk.path == *name || lasting_name(disk) == name.trim()),
    }
}

/// What a later attempt finds the same disk by: its serial number, or its path where it has none.
pub(crate) fn lasting_name(disk: &Disk) -> &str {
    let serial = disk.serial.as_deref().map(str::trim);
    serial.filter(|s| !s.is_empty()).unwrap_or(&disk.path)
}

fn is_removable(disk: &Disk) -> bool {
    disk.removable || disk.transport == Transport::Usb
}

fn fits(disk: &Disk, needs: Needs) -> Result<(), Unfit> {
    if disk.read_only {
        return Err(Unfit::ReadOnly);
    }
    if disk.sector_size != needs.sector_size {
        return Err(Unfit::SectorSize {
            disk: disk.sector_size,
            image: needs.sector_size,
        });
    }
    if disk.size < needs.size {
        return Err(Unfit::TooSmall {
            disk: disk.size,
            image: needs.size,
        });
    }
    Ok(())
}

/// A disk in a few words: path, model and serial number.
pub(crate) fn describe(disk: &Disk) -> String {
    let mut text = disk.path.clone();
    let known = [disk.model.as_deref(), disk.serial.as_deref()];
    let known: Vec<&str> = known.into_iter().flatten().collect();
    if !known.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, " ({})", known.join(", "));
    }
    text
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
