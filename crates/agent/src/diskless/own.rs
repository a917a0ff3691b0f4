//! The partitions of the disk that came over the network, and the names by which an fstab can mean them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Partitions that are looked at: as many as the NBD driver makes of a disk.
const MOST: u32 = 31;
/// Sector size of disks over the network, in bytes.
const SECTOR: u64 = 512;
/// Bytes of a filesystem that have its names; the swap space's mark is the last of them.
const HEAD: usize = 4096;

/// Block devices that are no disks in the machine, by how their names begin.
const NO_DISKS: [&str; 9] = [
    "nbd", "etherd!", "loop", "ram", "zram", "sr", "fd", "dm-", "mtdblock",
];

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) number: u32,
    /// Its device file.
    pub(super) path: String,
    /// `PARTUUID=…`, `PARTLABEL=…`, `UUID=…`, `LABEL=…` as it has them.
    pub(super) names: Vec<String>,
}

/// The partitions of `disk`, a device file whose partitions are named by a `p` and their number. What
/// cannot be read has no names.
pub(super) fn partitions(disk: &str) -> Vec<Own> {
    let table = File::open(disk);
    let mut found = Vec::new();
    for number in 1..=MOST {
        let path = format!("{disk}p{number}");
        let Ok(part) = File::open(&path) else {
            continue;
        };
        let mut names = table
            .as_ref()
            .ok()
            .and_then(|table| names_in_table(table, number).ok())
            .unwrap_or_default();
        names.extend(names_inside(&part).unwrap_or_default());
        found.push(Own {
            number,
            path,
            names,
        });
    }
    found
}

/// Whether the machine has a disk of its own, or a slot for a card: whether there is a card in it may
/// turn out later. `sys` is where sysfs is.
pub(super) fn has_disks(sys: &str) -> bool {
    let slots = fs::read_dir(format!("{sys}/class/mmc_host"));
    if slots.into_iter().flatten().next().is_some() {
        return true;
    }
    let entries = fs::read_dir(format!("{sys}/block"));
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    { names }.any(|name| !NO_DISKS.iter().any(|start| name.starts_with(start)))
}

/// Those that the partition table gives: of a GPT (UEFI 2.10, section 5.3) or an MBR, whose partitions
/// Linux names by the disk's signature.
fn names_in_table(disk: &File, number: u32) -> io::Result<Vec<String>> {
    let mut sectors = [0; 2 * SECTOR as usize];
    disk.read_exact_at(&mut sectors, 0)?;
    let (mbr, gpt) = sectors.split_at(SECTOR as usize);
    if !gpt.starts_with(b"EFI PART") {
        let signature = u32_at(mbr, 440);
        let is_mbr = mbr.ends_with(&[0x55, 0xaa]) && signature != 0;
        return Ok(if is_mbr {
            vec![format!("PARTUUID={signature:08x}-{number:02x}")]
        } else {
            Vec::new()
        });
    }
    let (first, count, size) = (u64_at(gpt, 72), u32_at(gpt, 80), u32_at(gpt, 84));
    if number > count || !(128..=4096).contains(&size) {
        return Ok(Vec::new());
    }
    let place = first
        .checked_mul(SECTOR)
        .and_then(|table| table.checked_add(u64::from(number - 1) * u64::from(size)));
    let mut entry = [0; 128];
    disk.read_exact_at(&mut entry, place.ok_or(io::ErrorKind::InvalidData)?)?;
    let [type_id, id, _, label @ ..] = entry.as_chunks::<16>().0 else {
        return Ok(Vec::new());
    };
    if *type_id == [0; 16] {
        return Ok(Vec::new());
    }
    // The first three fields of a GUID are little-endian.
    let mut in_order = *id;
    for field in [0..4, 4..6, 6..8] {
        in_order[field].reverse();
    }
    let mut names = vec![format!("PARTUUID={}", uuid(&in_order))];
    let label: Vec<u16> = label
        .as_flattened()
        .as_chunks::<2>()
        .0
        .iter()
        .skip(4)
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0)
        .collect();
    if !label.is_empty() {
        names.push(format!("PARTLABEL={}", String::from_utf16_lossy(&label)));
    }
    Ok(names)
}

/// Those that its filesystem has: ext, FAT, swap space.
fn names_inside(part: &File) -> io::Result<Vec<String>> {
    let mut head = [0; HEAD];
    part.read_exact_at(&mut head, 0)?;
    let (id, label) = if head[1080..1082] == [0x53, 0xef] {
        (uuid(&head[1128..1144]), &head[1144..1160])
    } else if head.ends_with(b"SWAPSPACE2") {
        (uuid(&head[1036..1052]), &head[1052..1068])
    } else if head[510..512] == [0x55, 0xaa] && head[82..87] == *b"FAT32" {
        (fat_id(&head[67..71]), &head[71..82])
    } else if head[510..512] == [0x55, 0xaa] && head[54..57] == *b"FAT" {
        (fat_id(&head[39..43]), &head[43..54])
    } else {
        return Ok(Vec::new());
    };
    let mut names = vec![format!("UUID={id}")];
    let label = String::from_utf8_lossy(label);
    let label = label.trim_end_matches([' ', '\0']);
    if !label.is_empty() && label != "NO NAME" {
        names.push(format!("LABEL={label}"));
    }
    Ok(names)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_le_bytes(*eight))
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A FAT volume's serial number, as Linux shows it.
fn fat_id(bytes: &[u8]) -> String {
    let number = u32_at(bytes, 0);
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn run(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What blkid, which this project did not write, reads from a filesystem.
    fn blkid(path: &str) -> Vec<String> {
        let told = run("blkid", &["--probe", "--output", "export", path]);
        let mut names: Vec<String> = told
            .lines()
            .filter(|line| line.starts_with("UUID=") || line.starts_with("LABEL="))
            .map(str::to_owned)
            .collect();
        names.sort_by_key(|name| name.starts_with("LABEL"));
        names
    }

    #[test]
    fn names_are_those_that_blkid_reads() {
        let dir = tempfile::tempdir().unwrap();
        for (number, maker) in [
            &["mkfs.fat", "-F", "32", "-n", "BOOTFS"][..],
            &["mkfs.fat", "-F", "16", "-n", "BOOTFS"],
            &["mkfs.fat", "-F", "12"],
            &["mke2fs", "-q", "-t", "ext4", "-L", "rootfs"],
            &["mke2fs", "-q", "-t", "ext2"],
            &["mkswap", "-L", "swap"],
        ]
        .iter()
        .enumerate()
        {
            let path = dir.path().join(format!("{number}"));
            File::create(&path).unwrap().set_len(64 << 20).unwrap();
            let path = path.to_str().unwrap();
            run(maker[0], &[&maker[1..], &[path]].concat());
            let names = names_inside(&File::open(path).unwrap()).unwrap();
            assert!(!names.is_empty());
            assert_eq!(names, blkid(path), "{maker:?}");
        }
    }

    #[test]
    fn partitions_have_the_names_of_their_table() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("nbd0");
        let path = disk.to_str().unwrap();
        let file = File::create(&disk).unwrap();
        file.set_len(16 << 20).unwrap();
        for (script, expected) in [
            (
                "label: dos\nlabel-id: 0x54b3d2ca\nsize=2M, type=c\ntype=83\n",
                &["PARTUUID=54b3d2ca-02"][..],
            ),
            (
                "label: gpt\nsize=2M\nname=system, \
                 uuid=B0061E00-D15C-4000-8000-726F6F740000\n",
                &[
                    "PARTUUID=b0061e00-d15c-4000-8000-726f6f740000",
                    "PARTLABEL=system",
                ],
            ),
        ] {
            let table = dir.path().join("table");
            fs::write(&table, script).unwrap();
            let input = File::open(&table).unwrap();
            let made = Command::new("sfdisk")
                .args(["--quiet", path])
                .stdin(input)
                .status();
            assert!(made.unwrap().success());
            // Stands for the device file of the second partition, which has no filesystem.
            fs::write(format!("{path}p2"), vec![0; HEAD]).unwrap();
            let found = partitions(path);
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].number, &found[0].path), (2, &format!("{path}p2")));
            assert_eq!(found[0].names, expected);
        }
    }

    #[test]
    fn disks_and_slots_count_and_what_the_kernel_makes_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(!has_disks(path));
        for name in ["nbd0", "loop3", "ram0", "etherd!e1.2"] {
            fs::create_dir_all(dir.path().join("block").join(name)).unwrap();
        }
        let slots = dir.path().join("class/mmc_host");
        fs::create_dir_all(&slots).unwrap();
        assert!(!has_disks(path));
        fs::create_dir(slots.join("mmc0")).unwrap();
        assert!(has_disks(path));
        fs::remove_dir(slots.join("mmc0")).unwrap();
        fs::create_dir(dir.path().join("block/sda")).unwrap();
        assert!(has_disks(path));
    }
}
