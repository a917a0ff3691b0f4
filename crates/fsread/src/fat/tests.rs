//! Volumes that mkfs.fat and mtools made, and what they say of them.

use super::geometry::Geometry;
use super::used;
use crate::ReadAt;
use crate::testing::{Changed, blank, content, restore, run};
use crate::usage::{Unusable, Usage};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A volume with files that were written and deleted, and the files that it has now.
fn aged(dir: &Path, mkfs: &[&str], size: u64) -> (std::path::PathBuf, BTreeMap<String, Vec<u8>>) {
    let image = dir.join("volume");
    let _ = fs::remove_file(&image);
    blank(&image, size);
    let path = image.to_str().unwrap();
    run("mkfs.fat", &[mkfs, &[path]].concat());
    let mut files = BTreeMap::new();
    let mut put = |names: &[String], round: u32| {
        let files_dir = dir.join("files");
        fs::create_dir_all(&files_dir).unwrap();
        let mut arguments = vec!["-o".to_owned(), "-i".into(), path.into()];
        for (index, name) in names.iter().enumerate() {
            let index = index as u32;
            let bytes = content(round * 1000 + index, (index * 977 % 20_000) as usize);
            fs::write(files_dir.join(name), &bytes).unwrap();
            arguments.push(files_dir.join(name).to_str().unwrap().into());
            files.insert(name.clone(), bytes);
        }
        arguments.push("::folder/".into());
        run(
            "mcopy",
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    };
    run("mmd", &["-i", path, "::folder"]);
    let first: Vec<String> = (0..60)
        .map(|i| format!("a long name of file {i}.bin"))
        .collect();
    put(&first, 0);
    let gone: Vec<String> = first.iter().step_by(2).cloned().collect();
    for name in &gone {
        run("mdel", &["-i", path, &format!("::folder/{name}")]);
    }
    let second: Vec<String> = (0..25).map(|i| format!("B{i}.TXT")).collect();
    put(&second, 1);
    files.retain(|name, _| !gone.contains(name));
    (image, files)
}

/// The clusters in use, as fsck.fat counts them.
fn counted(image: &str) -> u64 {
    let output = Command::new("fsck.fat")
        .args(["-n", "-v", image])
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    // It ends with 1 because of this as well.
    let is_small = complaints.contains("less than the required minimum");
    assert!(output.status.success() || is_small, "{image}: {complaints}");
    let said = String::from_utf8(output.stdout).unwrap();
    let last = said.lines().last().unwrap();
    let numbers = last.split(", ").nth(1).unwrap();
    numbers.split('/').next().unwrap().parse().unwrap()
}

fn used_of(image: &Path) -> Usage {
    used(&fs::File::open(image).unwrap()).unwrap()
}

#[test]
fn what_is_used_is_what_fsck_counts_and_a_restored_volume_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&[&str], u64, u8); 6] = [
        (&["-F", "12", "-s", "4"], 6 << 20, 12),
        (&["-F", "12", "-f", "1"], 3 << 20, 12),
        (&["-F", "16"], 20 << 20, 16),
        (&["-F", "16", "-s", "64", "-R", "9"], 200 << 20, 16),
        (&["-F", "32", "-s", "1"], 40 << 20, 32),
        (&["-F", "32", "-f", "1", "-s", "1"], 80 << 20, 32),
    ];
    for (mkfs, size, bits) in kinds {
        let (image, files) = aged(dir.path(), mkfs, size);
        let usage = used_of(&image);
        assert_eq!(usage.clean, Ok(()));
        let geometry = Geometry::read(&fs::File::open(&image).unwrap()).unwrap();
        assert_eq!(geometry.kind.bits(), bits);
        let clusters = (usage.used.bytes() - geometry.data) / geometry.cluster;
        assert_eq!(clusters, counted(image.to_str().unwrap()), "{mkfs:?}");

        let restored = dir.path().join("restored");
        restore(&image, &usage, &restored);
        let restored = restored.to_str().unwrap();
        assert_eq!(counted(restored), clusters);
        run(
            "mcopy",
            &[
                "-s",
                "-n",
                "-i",
                restored,
                "::folder",
                dir.path().join("out").to_str().unwrap(),
            ],
        );
        for (name, bytes) in &files {
            let copy = fs::read(dir.path().join("out").join(name)).unwrap();
            assert!(copy == *bytes, "{mkfs:?}: {name} differs");
        }
        fs::remove_dir_all(dir.path().join("out")).unwrap();
        println!(
            "{}: {} of {} KiB carried, {clusters} clusters as fsck.fat counts them, {} files equal",
            mkfs.join(" "),
            usage.used.bytes() >> 10,
            size >> 10,
            files.len()
        );
    }
}

#[test]
fn bad_clusters_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("volume");
    blank(&image, 40 << 20);
    let bad = dir.path().join("bad");
    // Blocks of 1024 bytes.
    fs::write(&bad, "20000\n20001\n30000\n").unwrap();
    let (path, bad) = (image.to_str().unwrap(), bad.to_str().unwrap());
    run("mkfs.fat", &["-F", "32", "-s", "1", "-l", bad, path]);
    let usage = used_of(&image);
    let geometry = Geometry::read(&fs::File::open(&image).unwrap()).unwrap();
    // The root folder and nothing else.
    assert_eq!(usage.used.bytes(), geometry.data + geometry.cluster);
    let mut table = vec![0; geometry.table_length as usize];
    fs::File::open(&image)
        .unwrap()
        .read_exact_at(&mut table, geometry.table)
        .unwrap();
    let marked = table
        .chunks_exact(4)
        .filter(|entry| **entry == [0xf7, 0xff, 0xff, 0x0f]);
    assert_eq!(marked.count(), 6, "two clusters for each of three blocks");
}

/// mtools reads neither.
#[test]
fn large_sectors_and_a_fat32_with_few_clusters_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("volume");
    let path = image.to_str().unwrap();
    for (mkfs, size) in [
        (["-S", "4096", "-s", "1"], 300 << 20),
        (["-S", "512", "-s", "8"], 24 << 20),
    ] {
        let _ = fs::remove_file(&image);
        blank(&image, size);
        run(
            "mkfs.fat",
            &[&["-F", "32"], mkfs.as_slice(), &[path]].concat(),
        );
        let geometry = Geometry::read(&fs::File::open(&image).unwrap()).unwrap();
        assert_eq!((geometry.kind.bits(), geometry.cluster), (32, 4096));
        assert_eq!(
            used_of(&image).used.bytes(),
            geometry.data + counted(path) * 4096
        );
    }
}

/// Writes bytes into the volume.
fn patch(image: &Path, at: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(image).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn a_volume_that_was_not_closed_is_dirty_and_one_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (bits, size, state) in [("16", 20_u64 << 20, 37), ("32", 40 << 20, 65)] {
        let (image, _) = aged(dir.path(), &["-F", bits], size);
        let geometry = Geometry::read(&fs::File::open(&image).unwrap()).unwrap();
        let said = |at: u64, bytes: &[u8]| {
            let before = fs::read(&image).unwrap();
            patch(&image, at, bytes);
            let said = match used(&fs::File::open(&image).unwrap()) {
                Ok(usage) => usage.clean.err().unwrap_or_default(),
                Err(Unusable::Damaged(why)) => why,
                Err(Unusable::Io(error)) => panic!("{error}"),
            };
            fs::write(&image, before).unwrap();
            said
        };
        assert_eq!(
            said(state, &[1]),
            "it was not unmounted: its dirty flag is set"
        );
        assert!(said(state, &[2]).contains("errors of the disk"));
        let width = u64::from(geometry.kind.bits()) / 8;
        // The upper byte of the second entry, in the first copy and in the second.
        let second = geometry.table + 2 * width - 1;
        let clear = |bit: u8| {
            if bits == "16" {
                !(bit << 6)
            } else {
                0x0f & !(bit << 2)
            }
        };
        assert_eq!(
            said(second, &[clear(2)]),
            "it was not unmounted: its dirty flag is set"
        );
        assert!(said(second, &[clear(1)]).contains("errors of the disk"));
        let third = geometry.table + 40 * width;
        assert_eq!(
            said(third, &[0x77]),
            "the FAT volume is damaged: copies 1 and 2 of its file allocation table differ"
        );
        assert!(said(geometry.table, &[0xf0]).contains("begins with 0x"));
        let both = vec![0xf1; (2 * geometry.table_length) as usize];
        assert!(said(geometry.table, &both).contains("begins with 0x"));
        assert!(said(510, &[0]).contains("this is no FAT volume"));
        let short = fs::read(&image).unwrap();
        let short = &short[..short.len() - 512];
        assert!(matches!(used(&short.to_vec()), Err(Unusable::Damaged(_))));
    }
}

#[test]
fn where_one_table_counts_it_is_the_one_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = aged(dir.path(), &["-F", "32"], 40 << 20);
    let geometry = Geometry::read(&fs::File::open(&image).unwrap()).unwrap();
    let before = used_of(&image);
    // The first copy is out of date, and the flags say that the second one counts.
    let zeros = vec![0; geometry.table_length as usize - 8];
    patch(&image, geometry.table + 8, &zeros);
    patch(&image, 40, &[0x81, 0]);
    assert_eq!(used_of(&image), before);
    // A copy that is not there.
    patch(&image, 40, &[0x82, 0]);
    assert!(used(&fs::File::open(&image).unwrap()).is_err());
}

proptest! {
    #[test]
    fn any_boot_sector_is_read_or_refused(
        head in prop::collection::vec(any::<u8>(), 510),
        sectors in 1usize..40,
        valid: bool,
    ) {
        let mut volume = head;
        volume.extend([0x55, 0xaa]);
        if valid {
            volume[11..14].copy_from_slice(&[0, 2, 1]);
            volume[14..17].copy_from_slice(&[1, 0, 1]);
            volume[21] = 0xf8;
        }
        volume.resize(sectors * 512, 0);
        if let Ok(usage) = used(&volume) {
            prop_assert!(usage.used.as_slice().iter().all(|range| range.end <= volume.size()));
        }
    }
}

#[test]
fn a_changed_volume_is_read_or_refused_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let volumes: Vec<Vec<u8>> = [("12", 2_u64 << 20), ("16", 9 << 20), ("32", 34 << 20)]
        .map(|(bits, size)| {
            let (image, _) = aged(dir.path(), &["-F", bits, "-s", "1"], size);
            fs::read(image).unwrap()
        })
        .into();
    let place = prop_oneof![0..96_u64, 0..70_000_u64];
    let strategy = (
        0..3_usize,
        prop::collection::vec((place, any::<u8>()), 1..8),
    );
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&strategy, |(which, changes)| {
            let volume = Changed::new(&volumes[which], changes);
            if let Ok(usage) = used(&volume) {
                let inside = usage
                    .used
                    .as_slice()
                    .iter()
                    .all(|range| range.end <= volume.size());
                prop_assert!(inside);
            }
            Ok(())
        })
        .unwrap();
}
