//! Which disk of a device an order is about, as far as its agent's last report tells.
//!
//! The agent looks again before it does anything: what passes here may still be refused there.

use bugler_model::{Device, Disk, DiskRule, Image};
use bugler_protocol::manifest::{CHUNK_SIZE, Manifest};

/// Chunks at a disk's end where a GPT's backup can lie: the last one, or across the last two.
const BACKUP: u64 = 2;

/// Bytes that a disk must at least have for an image, whatever can be moved: everything but what may
/// be a GPT's backup has its place.
pub(super) fn least_size(manifest: &Manifest) -> u64 {
    let places = manifest.disk_size.div_ceil(CHUNK_SIZE.into());
    let fixed = places.saturating_sub(BACKUP);
    let mut chunks = manifest.chunks.iter().rev();
    let last = chunks.find(|chunk| u64::from(chunk.index) < fixed);
    // Something in it is not zero: it takes a sector at least.
    last.map_or(0, |chunk| chunk.offset() + u64::from(manifest.sector_size))
}

/// A disk in a few words.
fn describe(disk: &Disk) -> String {
    let read_only = if disk.read_only { ", read-only" } else { "" };
    format!(
        "{}: {} bytes, {} B sectors{read_only}",
        disk.path, disk.size, disk.sector_size
    )
}

fn listed(disks: &[&Disk]) -> String {
    let each: Vec<_> = disks.iter().map(|disk| describe(disk)).collect();
    each.join("; ")
}

/// The disks that a rule can mean; `None` where there is nothing to tell from: no inventory, or a
/// named disk that was not there at the last boot and may have been put in since.
fn candidates<'a>(device: &'a Device, rule: &DiskRule) -> Option<Vec<&'a Disk>> {
    let meant = |disk: &&Disk| match rule {
        DiskRule::Auto => !disk.removable,
        DiskRule::Named(name) => {
            disk.path == *name
                || disk.serial.as_ref() == Some(name)
                || disk.model.as_ref() == Some(name)
        }
    };
    let disks: Vec<&Disk> = device
        .inventory
        .as_ref()?
        .disks
        .iter()
        .filter(meant)
        .collect();
    let unknown = matches!(rule, DiskRule::Named(_)) && disks.is_empty();
    (!unknown).then_some(disks)
}

/// The disk that a deploy is likely to write, and what is to be said of its size.
///
/// A disk that is smaller than the image's is left to the agent, which knows where what is used ends;
/// here only one that is smaller than `least` bytes, what [`least_size`] says, is refused.
///
/// # Errors
/// No disk can hold the image; with the numbers.
pub(super) fn deploy_disk(
    device: &Device,
    image: &Image,
    least: u64,
    rule: &DiskRule,
) -> Result<(Option<String>, &'static str), String> {
    let Some(disks) = candidates(device, rule) else {
        return Ok((None, "; its disks are not known yet"));
    };
    let good = |disk: &&&Disk| !disk.read_only && disk.sector_size == image.sector_size;
    let order = |disk: &&&Disk| {
        (
            disk.size,
            disk.serial.is_none(),
            disk.serial.clone(),
            disk.path.clone(),
        )
    };
    let whole = |disk: &&&Disk| disk.size >= image.size;
    let fits = disks.iter().filter(good).filter(whole).min_by_key(order);
    if let Some(disk) = fits {
        return Ok((Some(describe(disk)), ""));
    }
    let smaller = |disk: &&&Disk| disk.size >= least && disk.size > 0;
    // Of those that are too small for the whole, the largest is the best hope.
    let perhaps = disks.iter().filter(good).filter(smaller).max_by_key(order);
    if let Some(disk) = perhaps {
        return Ok((
            Some(describe(disk)),
            "; the disk is smaller than the image's: its agent looks whether everything used ends \
             before its end",
        ));
    }
    let found = match disks.as_slice() {
        [] => "it has no fixed disk".to_owned(),
        disks => format!("it has {}", listed(disks)),
    };
    Err(format!(
        "image {} needs a disk of {} bytes, or at least {least} where its end is free, with {} B \
         sectors; {found}: choose another image or disk",
        image.label(),
        image.size,
        image.sector_size,
    ))
}

/// The one disk that a capture or wipe is about.
///
/// # Errors
/// None, several, or one that cannot be written where it must.
pub(super) fn only_disk(
    device: &Device,
    rule: &DiskRule,
    written: bool,
) -> Result<Option<String>, String> {
    let Some(disks) = candidates(device, rule) else {
        return Ok(None);
    };
    match disks.as_slice() {
        [] => Err("it has no fixed disk: name a disk".into()),
        [disk] if written && disk.read_only => {
            Err(format!("its disk cannot be written ({})", describe(disk)))
        }
        [disk] => Ok(Some(describe(disk))),
        several => Err(format!(
            "it has several disks that can be meant ({}): name one by its serial number or path",
            listed(several)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_model::{
        DeviceId, ImageId, ImageState, Inventory, Netboot, Presence, Quirks, Timestamp,
    };
    use bugler_protocol::manifest::{ChunkHash, ChunkRef};

    const MIB: u64 = 1 << 20;

    fn image() -> Image {
        Image {
            id: ImageId(1),
            name: "debian".parse().unwrap(),
            version: 1,
            note: String::new(),
            origin: None,
            manifest: String::new(),
            size: 1000 * MIB,
            used: 502 * MIB,
            stored: 0,
            sector_size: 512,
            state: ImageState::Good,
            created: Timestamp(0),
        }
    }

    fn device(disks: Option<Vec<Disk>>) -> Device {
        Device {
            id: DeviceId(1),
            name: None,
            tags: vec![],
            uuid: None,
            macs: vec![],
            arch: None,
            firmware: None,
            netboot: Netboot::On,
            profile: None,
            next: None,
            secure_boot: false,
            quirks: Quirks::default(),
            tries: 0,
            presence: Presence::Agent,
            address: None,
            inventory: disks.map(|disks| Inventory {
                disks,
                ..Inventory::default()
            }),
            deployed: None,
            created: Timestamp(0),
            seen: Timestamp(0),
            open_tasks: 0,
        }
    }

    fn disk(path: &str, mib: u64) -> Disk {
        Disk {
            path: path.into(),
            size: mib * MIB,
            sector_size: 512,
            ..Disk::default()
        }
    }

    fn error(disks: Vec<Disk>, rule: DiskRule) -> String {
        deploy_disk(&device(Some(disks)), &image(), 500 * MIB, &rule).unwrap_err()
    }

    fn usb() -> Disk {
        Disk {
            removable: true,
            ..disk("/dev/sdc", 5000)
        }
    }

    #[test]
    fn what_has_its_place_says_how_large_a_disk_must_be() {
        let manifest = |chunks: &[u32]| Manifest {
            disk_size: 10 * MIB,
            sector_size: 512,
            chunks: chunks
                .iter()
                .map(|index| ChunkRef {
                    index: *index,
                    stored_len: 1,
                    hash: ChunkHash([0; 32]),
                })
                .collect(),
        };
        assert_eq!(least_size(&manifest(&[])), 0);
        assert_eq!(least_size(&manifest(&[0, 8, 9])), 512);
        assert_eq!(least_size(&manifest(&[0, 3, 7, 9])), 7 * MIB + 512);
    }

    #[test]
    fn a_deploy_that_fits_no_disk_is_refused_with_the_numbers() {
        let small = error(
            vec![disk("/dev/sda", 499), disk("/dev/sdb", 10)],
            DiskRule::Auto,
        );
        assert!(
            small.contains(&format!("at least {}", 500 * MIB))
                && small.contains(&format!("/dev/sda: {} bytes", 499 * MIB)),
            "{small}"
        );
        assert!(error(vec![], DiskRule::Auto).contains("no fixed disk"));
        assert!(error(vec![usb()], DiskRule::Auto).contains("no fixed disk"));
        let named = DiskRule::Named("/dev/sda".into());
        let text = error(vec![disk("/dev/sda", 499), disk("/dev/sdb", 5000)], named);
        assert!(!text.contains("sdb"), "{text}");
        let other = Disk {
            sector_size: 4096,
            ..disk("/dev/sda", 5000)
        };
        assert!(error(vec![other], DiskRule::Auto).contains("4096 B sectors"));
        let read_only = Disk {
            read_only: true,
            ..disk("/dev/sda", 5000)
        };
        assert!(error(vec![read_only], DiskRule::Auto).contains("read-only"));
    }

    #[test]
    fn what_may_fit_is_left_to_the_agent() {
        let check = |disks, rule| deploy_disk(&device(disks), &image(), 500 * MIB, &rule).unwrap();
        assert_eq!(check(None, DiskRule::Auto).0, None);
        let disks = vec![
            disk("/dev/sda", 1),
            disk("/dev/sdb", 2000),
            disk("/dev/sdc", 1000),
        ];
        let (chosen, text) = check(Some(disks), DiskRule::Auto);
        assert!(
            chosen.unwrap().starts_with("/dev/sdc"),
            "the smallest that fits"
        );
        assert_eq!(text, "");
        let named = DiskRule::Named("/dev/sdz".into());
        assert_eq!(check(Some(vec![disk("/dev/sda", 1)]), named).0, None);
        let named = DiskRule::Named("/dev/sdc".into());
        assert!(check(Some(vec![usb()]), named).0.is_some());
        let (chosen, text) = check(Some(vec![disk("/dev/sda", 500)]), DiskRule::Auto);
        assert!(chosen.is_some() && text.contains("smaller"), "{text}");
    }

    #[test]
    fn a_capture_or_wipe_is_about_one_disk() {
        let only = |disks, rule, written| only_disk(&device(Some(disks)), &rule, written);
        let two = vec![disk("/dev/sda", 1), disk("/dev/sdb", 1)];
        let text = only(two.clone(), DiskRule::Auto, false).unwrap_err();
        assert!(
            text.contains("/dev/sda") && text.contains("name one"),
            "{text}"
        );
        let named = DiskRule::Named("/dev/sdb".into());
        assert!(
            only(two, named, true)
                .unwrap()
                .unwrap()
                .starts_with("/dev/sdb")
        );
        assert!(only(vec![disk("/dev/sda", 1), usb()], DiskRule::Auto, true).is_ok());
        assert!(only(vec![usb()], DiskRule::Auto, false).is_err());
        let read_only = Disk {
            read_only: true,
            ..disk("/dev/sda", 1)
        };
        assert!(only(vec![read_only.clone()], DiskRule::Auto, true).is_err());
        assert!(only(vec![read_only], DiskRule::Auto, false).is_ok());
        assert_eq!(only_disk(&device(None), &DiskRule::Auto, true), Ok(None));
    }
}
