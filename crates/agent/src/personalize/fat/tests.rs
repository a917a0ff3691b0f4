//! FAT filesystems of mkfs.fat, judged by fsck.fat.

use super::*;
use crate::disk::Access;
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;

fn tool(name: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(name)
        .args(arguments)
        .arg(file)
        .env("PATH", path)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no {name}");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {text} {output:?}");
    Some(text)
}

/// Every file of a FAT filesystem, by the reader of `bugler-fsread`.
fn used(file: &Path, offset: u64, size: u64) -> bugler_fsread::Part {
    let disk = std::fs::File::open(file).unwrap();
    let window = bugler_fsread::Window::new(&disk, offset, size);
    let options = bugler_fsread::SurveyOptions::default();
    let survey = bugler_fsread::survey_partition(&window, &options).unwrap();
    survey.parts[0].clone()
}

/// Makes a filesystem of `small` bytes at 1 MiB of a file, puts clusters with known content into it,
/// grows it to `large` bytes, and looks whether they are still what they were.
fn grow_and_check(arguments: &[&str], bits: u8, small: u64, large: u64) -> Option<Grown> {
    const START: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (plain, path) = (dir.path().join("fat"), dir.path().join("disk"));
    let file = std::fs::File::create(&plain).unwrap();
    file.set_len(small).unwrap();
    tool("mkfs.fat", arguments, &plain)?;
    fill(&plain, bits);
    tool("fsck.fat", &["-n"], &plain)?;
    let before = contents(&std::fs::read(&plain).unwrap(), bits);
    assert!(before.len() >= 3, "{}", before.len());

    let mut disk = vec![0xa5; START as usize];
    disk.extend(std::fs::read(&plain).unwrap());
    // What lies behind it is not zero.
    disk.resize((START + large) as usize, 0x5a);
    std::fs::write(&path, &disk).unwrap();
    let target = Target::open(&path, Access::Write).unwrap();
    let grown = grow(&target, START, large, bits, &Stop::new()).unwrap();
    drop(target);
    let all = std::fs::read(&path).unwrap();
    assert!(all[..START as usize].iter().all(|&byte| byte == 0xa5));
    let after = &all[START as usize..];
    std::fs::write(&plain, after).unwrap();
    tool("fsck.fat", &["-n"], &plain)?;
    assert!(contents(after, bits) == before, "a cluster has changed");
    let part = used(&path, START, large);
    assert_eq!(part.content, bugler_fsread::Content::Fat { bits });
    assert_eq!(part.reading, bugler_fsread::Reading::UsedBlocks);
    grown.ok()
}

/// Number and content of every cluster in use, and the root folder.
fn contents(fat: &[u8], bits: u8) -> Vec<(u64, Vec<u8>)> {
    let layout = Layout::read(fat, bits).unwrap();
    let bytes = |start: u64, len: u64| {
        let (start, len) = (start * layout.sector, len * layout.sector);
        fat[start as usize..(start + len) as usize].to_vec()
    };
    let table = bytes(layout.reserved, layout.table);
    for n in 1..layout.tables {
        assert!(table == bytes(layout.reserved + n * layout.table, layout.table));
    }
    let clusters = (0..layout.clusters()).filter(|n| entry(&table, n + 2, layout.bits) != 0);
    let mut found = vec![(0, bytes(layout.behind_tables(), layout.root))];
    found.extend(clusters.map(|n| {
        let at = layout.data() + n * layout.per_cluster;
        (n + 2, bytes(at, layout.per_cluster))
    }));
    found
}

/// Puts a file of three clusters into the root folder, the last of which is the last of all clusters.
fn fill(path: &Path, bits: u8) {
    let mut fat = std::fs::read(path).unwrap();
    let layout = Layout::read(&fat, bits).unwrap();
    let end_mark =
        [0xfff, 0xffff, 0x0fff_ffff][[12, 16, 32].iter().position(|&b| b == bits).unwrap()];
    let last = layout.clusters() + 1;
    let chain = [5, 9, last];
    for n in 0..layout.tables {
        let start = ((layout.reserved + n * layout.table) * layout.sector) as usize;
        for (at, &number) in chain.iter().enumerate() {
            let value = chain.get(at + 1).map_or(end_mark, |&next| next as u32);
            set(&mut fat[start..], number, bits, value);
        }
    }
    let cluster = (layout.per_cluster * layout.sector) as usize;
    for (byte, &number) in (1..).zip(&chain) {
        let at = ((layout.data() + (number - 2) * layout.per_cluster) * layout.sector) as usize;
        fat[at..at + cluster].fill(byte);
    }
    let root = if bits == 32 {
        layout.data() + (u64::from(u32_at(&fat, 44)) - 2) * layout.per_cluster
    } else {
        layout.behind_tables()
    };
    let root = (root * layout.sector) as usize;
    let name = fat[root..root + 64]
        .chunks(32)
        .position(|e| e[0] == 0)
        .unwrap();
    let file = &mut fat[root + 32 * name..][..32];
    file[..11].copy_from_slice(b"FILE    BIN");
    file[26..28].copy_from_slice(&5u16.to_le_bytes());
    file[28..].copy_from_slice(&(3 * cluster as u32).to_le_bytes());
    if bits == 32 {
        // Free clusters of the information sector.
        for info in [1, 7] {
            let at = info * layout.sector as usize + 488;
            let free = u32_at(&fat, at);
            if free > 3 {
                put(&mut fat, at, &(free - 3).to_le_bytes());
            }
        }
    }
    std::fs::write(path, fat).unwrap();
}

fn set(table: &mut [u8], number: u64, bits: u8, value: u32) {
    let number = number as usize;
    match bits {
        12 => {
            let at = number + number / 2;
            let old = u16::from_le_bytes([table[at], table[at + 1]]);
            let new = if number.is_multiple_of(2) {
                old & 0xf000 | value as u16
            } else {
                old & 0x000f | (value as u16) << 4
            };
            table[at..at + 2].copy_from_slice(&new.to_le_bytes());
        }
        16 => table[2 * number..2 * number + 2].copy_from_slice(&(value as u16).to_le_bytes()),
        _ => table[4 * number..4 * number + 4].copy_from_slice(&value.to_le_bytes()),
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn fat32_grows_and_keeps_every_byte() {
    let grown = grow_and_check(&["-F", "32", "-s", "1"], 32, 40 * MIB, 150 * MIB);
    let Some(grown) = grown else { return };
    assert!(
        grown.after > 3 * grown.before && !grown.at_limit,
        "{grown:?}"
    );
    // A table, large clusters, sectors of 4 KiB.
    for arguments in [
        ["-F", "32", "-s", "1", "-f", "1", "-S", "512"],
        ["-F", "32", "-s", "8", "-f", "2", "-S", "512"],
        ["-F", "32", "-s", "1", "-f", "2", "-S", "4096"],
    ] {
        let grown = grow_and_check(&arguments, 32, 40 * MIB + 7 * 4096, 61 * MIB + 4096);
        assert!(grown.unwrap().after > 1000);
    }
}

#[test]
fn fat16_grows_up_to_its_limit() {
    let arguments = ["-F", "16", "-s", "4"];
    let Some(grown) = grow_and_check(&arguments, 16, 20 * MIB, 60 * MIB) else {
        return;
    };
    assert!(grown.after > 2 * grown.before && !grown.at_limit);
    let grown = grow_and_check(&arguments, 16, 20 * MIB, 200 * MIB).unwrap();
    assert_eq!((grown.after, grown.at_limit), (65_524, true));
    // Nothing to gain.
    assert_eq!(grow_and_check(&arguments, 16, 20 * MIB, 20 * MIB), None);
}

#[test]
fn fat12_grows_up_to_its_limit() {
    let arguments = ["-F", "12", "-s", "1"];
    let Some(grown) = grow_and_check(&arguments, 12, MIB, 3 * MIB / 2) else {
        return;
    };
    assert!(grown.after > grown.before && !grown.at_limit);
    let grown = grow_and_check(&arguments, 12, MIB + 512, 9 * MIB).unwrap();
    assert_eq!((grown.after, grown.at_limit), (4084, true));
}

#[test]
fn a_task_that_ends_meanwhile_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fat");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(40 * MIB)
        .unwrap();
    if tool("mkfs.fat", &["-F", "32", "-s", "1"], &path).is_none() {
        return;
    }
    fill(&path, 32);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(80 * MIB).unwrap();
    let target = Target::open(&path, Access::Write).unwrap();
    let halt = Stop::new();
    halt.set();
    let ended = grow(&target, 0, 80 * MIB, 32, &halt);
    assert!(matches!(ended, Err(PersonalizeError::Halted)));
}

proptest! {
    #[test]
    fn no_boot_sector_is_too_strange(
        mut bytes in proptest::collection::vec(any::<u8>(), 64..2000),
        bits in prop_oneof![Just(12u8), Just(16), Just(32)],
        sector in 9u32..12,
        cluster in 0u32..8,
        tables in 1u8..4,
        total: u32,
        size in 0u64..1 << 44,
    ) {
        bytes[11..13].copy_from_slice(&(1u16 << sector).to_le_bytes());
        bytes[13] = 1 << cluster;
        bytes[16] = tables;
        bytes[19..21].fill(0);
        bytes[32..36].copy_from_slice(&total.to_le_bytes());
        fuzz(&bytes, bits, size);
    }
}
