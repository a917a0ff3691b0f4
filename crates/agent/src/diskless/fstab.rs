//! `/etc/fstab` of an image that a machine runs without the image's disk.
//!
//! A disk that comes over the network has the partitions that the list names. But where it names them as
//! they were called on the machine that the image was made on, a card's, or where the machine has a card
//! with the same names on it, because that was written from the same image, the system would wait for a
//! card or mount one. Such lines get the names of the network's disk.
//!
//! A root that is a folder, or a filesystem without a disk around it, comes with a list of mounts of the
//! disk that it was made on. The system would wait for those disks, and then not start; or mount a card
//! that happens to be in the machine. Such lines become comments, in a copy that is laid over the file.

use super::own::Own;

/// Kinds of names that stand for a disk or a partition (fstab(5)).
const DISKS: [&str; 6] = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID=", "/dev/"];

/// The disk of a Raspberry Pi that its images are made for.
const CARD: &str = "mmcblk0";

/// What is put before a line.
const MARK: &str = "# not on this machine: ";

/// Makes comments of the lines that name disks. The root's own line stays where `keeps_root`.
/// Returns the new text and the lines that it lacks; nothing where there are none.
pub(super) fn without_disks(text: &str, keeps_root: bool) -> Option<(String, Vec<String>)> {
    let mut gone = Vec::new();
    let mut new = String::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let source = words.next().filter(|word| !word.starts_with('#'));
        let is_root = words.next() == Some("/");
        let goes = source.is_some_and(|source| {
            let source = source.trim_matches('"');
            let names_disk = DISKS.iter().any(|start| source.starts_with(start));
            if is_root { !keeps_root } else { names_disk }
        });
        if goes {
            new.push_str(MARK);
            gone.push(line.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        }
        new.push_str(line);
        new.push('\n');
    }
    (!gone.is_empty()).then_some((new, gone))
}

/// Gives lines that mean partitions of the image's disk the names that those have here, which are `own`.
/// `root` is the number of the one with the root. Names that a filesystem or a partition has by itself
/// are left where they can mean nothing else; `has_disks` says that they can, because the machine has
/// disks. Returns the new text and what was changed; nothing where that is nothing.
pub(super) fn on_own_disk(
    text: &str,
    root: u32,
    own: &[Own],
    has_disks: bool,
) -> Option<(String, Vec<String>)> {
    let lines = || text.lines().filter_map(source_and_place);
    let named_root = lines().find_map(|(source, place)| {
        let (disk, number) = kernel_name(source)?;
        (place == "/" && number == root).then_some(disk)
    });
    let image_disk = named_root.unwrap_or(CARD);
    let mut changed = Vec::new();
    let mut new = String::new();
    for line in text.lines() {
        let Some((source, place)) = source_and_place(line) else {
            new.push_str(line);
            new.push('\n');
            continue;
        };
        let plain = source.replace('"', "");
        let of_kernel = kernel_name(source).filter(|(disk, _)| *disk == image_disk);
        let found = own.iter().find(|part| match of_kernel {
            Some((_, number)) => part.number == number,
            None => has_disks && part.names.iter().any(|name| is_same(name, &plain)),
        });
        match found {
            Some(part) => {
                changed.push(format!("{place} is {} in place of {source}", part.path));
                new.push_str(&line.replacen(source, &part.path, 1));
            }
            None => {
                if of_kernel.is_some() {
                    changed.push(format!("{place}, {source}, is left out"));
                    new.push_str(MARK);
                }
                new.push_str(line);
            }
        }
        new.push('\n');
    }
    (!changed.is_empty()).then_some((new, changed))
}

/// What a line mounts, and where.
fn source_and_place(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let source = words.next().filter(|word| !word.starts_with('#'))?;
    Some((source, words.next()?))
}

/// The disk and the number of a partition whose device file has the name that kernels give:
/// `/dev/mmcblk0p2`, `/dev/sda1`.
fn kernel_name(source: &str) -> Option<(&str, u32)> {
    let name = source.strip_prefix("/dev/")?;
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u32 = name.get(disk.len()..)?.parse().ok()?;
    let by_letters = ["sd", "hd", "vd", "xvd"];
    if let Some(disk) = disk.strip_suffix('p')
        && disk.ends_with(|c: char| c.is_ascii_digit())
    {
        return Some((disk, number));
    }
    let is_disk = by_letters.iter().any(|start| disk.starts_with(start));
    is_disk.then_some((disk, number))
}

/// Whether two names are the same one: those made of digits are not told apart by their case.
fn is_same(name: &str, other: &str) -> bool {
    let by_digits = name.starts_with("UUID=") || name.starts_with("PARTUUID=");
    name == other || (by_digits && name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own() -> Vec<Own> {
        let part = |number: u32, names: &[&str]| Own {
            number,
            path: format!("/dev/nbd0p{number}"),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![
            part(
                1,
                &["PARTUUID=54b3d2ca-01", "UUID=91FE-7499", "LABEL=bootfs"],
            ),
            part(2, &["PARTUUID=54b3d2ca-02", "LABEL=rootfs"]),
        ]
    }

    #[test]
    fn a_card_with_the_same_names_is_not_mounted() {
        // Without a card in it the names mean what came over the network.
        assert_eq!(on_own_disk(PI, 2, &own(), false), None);
        let (new, changed) = on_own_disk(PI, 2, &own(), true).unwrap();
        let lines: Vec<&str> = new.lines().collect();
        assert_eq!(
            lines[1],
            "/dev/nbd0p1  /boot/firmware  vfat    defaults          0       2"
        );
        assert!(lines[2].starts_with("/dev/nbd0p2  /  "));
        assert_eq!(
            (lines[0], lines[4]),
            (PI.lines().next().unwrap(), PI.lines().last().unwrap())
        );
        assert_eq!(
            changed,
            [
                "/boot/firmware is /dev/nbd0p1 in place of PARTUUID=54b3d2ca-01",
                "/ is /dev/nbd0p2 in place of PARTUUID=54b3d2ca-02"
            ]
        );
        let quoted = "UUID=\"91fe-7499\" /boot vfat defaults\nUUID=1234-5678 /card vfat nofail\n";
        let (new, _) = on_own_disk(quoted, 2, &own(), true).unwrap();
        assert_eq!(
            new,
            "/dev/nbd0p1 /boot vfat defaults\nUUID=1234-5678 /card vfat nofail\n"
        );
    }

    #[test]
    fn names_of_the_card_become_those_of_the_networks_disk() {
        let old = "/dev/mmcblk0p1 /boot vfat defaults 0 2\n/dev/mmcblk0p2 / ext4 rw 0 1\n\
                   /dev/mmcblk0p3 /data ext4 rw 0 1\n/dev/sda1 /usb ext4 nofail 0 0\n";
        let expected = "/dev/nbd0p1 /boot vfat defaults 0 2\n/dev/nbd0p2 / ext4 rw 0 1\n\
                        # not on this machine: /dev/mmcblk0p3 /data ext4 rw 0 1\n\
                        /dev/sda1 /usb ext4 nofail 0 0\n";
        for has_disks in [false, true] {
            let (new, changed) = on_own_disk(old, 2, &own(), has_disks).unwrap();
            assert_eq!((new.as_str(), changed.len()), (expected, 3));
        }
        // The disk of the root is the image's, whatever it was called.
        let (new, _) = on_own_disk(
            "/dev/sda2 / ext4 rw 0 1\n/dev/sda1 /boot vfat rw 0 2\n",
            2,
            &own(),
            false,
        )
        .unwrap();
        assert_eq!(
            new,
            "/dev/nbd0p2 / ext4 rw 0 1\n/dev/nbd0p1 /boot vfat rw 0 2\n"
        );
        for text in [
            "",
            "# /dev/mmcblk0p1 /boot\n",
            "/dev/mapper/vg1 /x ext4\n",
            "/dev/",
        ] {
            assert_eq!(on_own_disk(text, 2, &own(), true), None, "{text}");
        }
    }

    const PI: &str = "proc            /proc           proc    defaults          0       0\n\
                      PARTUUID=54b3d2ca-01  /boot/firmware  vfat    defaults          0       2\n\
                      PARTUUID=54b3d2ca-02  /               ext4    defaults,noatime  0       1\n\
                      # a swapfile is not a swap partition\n\
                      10.0.0.1:/home /home nfs defaults 0 0";

    #[test]
    fn the_card_of_a_raspberry_pi_is_left_alone() {
        let (new, gone) = without_disks(PI, false).unwrap();
        assert_eq!(gone.len(), 2);
        assert!(gone[0].starts_with("PARTUUID=54b3d2ca-01 /boot/firmware vfat"));
        let kept: Vec<&str> = new.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(kept.len() == 2 && kept[0].starts_with("proc") && kept[1].contains("/home"));
    }

    #[test]
    fn a_filesystem_that_is_the_whole_device_keeps_its_own_line() {
        let text =
            "UUID=1 / ext4 rw 0 1\nUUID=2 /boot/efi vfat rw 0 1\n/dev/sda3 none swap sw 0 0\n";
        let (new, gone) = without_disks(text, true).unwrap();
        assert_eq!(
            gone,
            ["UUID=2 /boot/efi vfat rw 0 1", "/dev/sda3 none swap sw 0 0"]
        );
        assert!(new.starts_with("UUID=1 / ext4 rw 0 1\n# not on this machine: UUID=2"));
        assert_eq!(without_disks("UUID=1 / ext4 rw 0 1\n", true), None);
        assert_eq!(without_disks("", false), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_keeps_its_lines(
            text in "((/dev/(mmcblk0p|sda|nvme0n1p|)[0-9]{0,12}|LABEL=bootfs|#|\\PC{0,9}) {1,2}(/|/a|) x?\n?){0,5}",
            has_disks: bool,
        ) {
            if let Some((new, changed)) = on_own_disk(&text, 2, &own(), has_disks) {
                prop_assert!(!changed.is_empty());
                prop_assert_eq!(new.lines().count(), text.lines().count());
            }
        }

        #[test]
        fn what_is_left_names_no_disk(text in "(((UUID=|/dev/|#|\"LABEL=)[a-z0-9]{0,4}|tmpfs) {1,2}(/|/a|none) [a-z]{0,4}\n?){0,5}") {
            if let Some((new, gone)) = without_disks(&text, false) {
                prop_assert!(!gone.is_empty());
                prop_assert_eq!(without_disks(&new, false), None);
                prop_assert_eq!(new.lines().count(), text.lines().count());
            }
        }
    }
}
