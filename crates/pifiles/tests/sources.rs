//! Boot files out of folders and of images that the usual tools made.

use bugler_boot::pi::{Layout, Request};
use bugler_fsread::Window;
use bugler_fsread::tree::{TreeError, Volume};
use bugler_images::{AddOptions, ChunkStore};
use bugler_pifiles::{Disk, Found, OpenDisk, Source, boot_partition};
use proptest::prelude::*;
use std::fs::{self, File};
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (scripts/setup)"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

const LONG: &str = "a-file-with-a-name-of-more-than-eight-and-three.dtbo";

fn kernel() -> Vec<u8> {
    (0..3_000_001_u32).map(|i| (i ^ (i >> 9)) as u8).collect()
}

/// A FAT volume of `mib` MiB with the files of a boot partition, made by mkfs.fat and mtools.
fn volume(dir: &Path, bits: &str, mib: u64) -> Vec<u8> {
    let image = dir.join(format!("fat{bits}.img"));
    File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.fat", &["-F", bits, "-n", "BOOTFS", image]);
    let put = |name: &str, content: &[u8]| {
        let file = dir.join("content");
        fs::write(&file, content).unwrap();
        run(
            "mcopy",
            &["-i", image, file.to_str().unwrap(), &format!("::{name}")],
        );
    };
    put("config.txt", b"dtparam=audio=on\n");
    put("kernel8.img", &kernel());
    put("empty.txt", b"");
    run("mmd", &["-i", image, "::overlays"]);
    put(&format!("overlays/{LONG}"), b"overlay");
    // So many that the folder has more than one cluster.
    for i in 0..40 {
        put(
            &format!("overlays/overlay-number-{i}.dtbo"),
            format!("{i}").as_bytes(),
        );
    }
    fs::read(image).unwrap()
}

/// The volume as a partition of a disk, made by sfdisk.
fn disk(dir: &Path, label: &str, volume: &[u8], first_type: &str, boot_type: &str) -> Vec<u8> {
    let image = dir.join(format!("disk-{label}.img"));
    let mut file = File::create(&image).unwrap();
    let mib = volume.len() as u64 >> 20;
    file.set_len((mib + 16) << 20).unwrap();
    let script = format!(
        "label: {label}\nstart=2048, size=8192, type={first_type}\nstart=16384, size={}, type={boot_type}\n",
        mib << 11
    );
    let mut sfdisk = Command::new("sfdisk")
        .args(["-q", image.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sfdisk
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(sfdisk.wait().unwrap().success());
    file.seek(SeekFrom::Start(16384 * 512)).unwrap();
    file.write_all(volume).unwrap();
    fs::read(image).unwrap()
}

fn request(path: &str) -> Request {
    Request::parse(path).unwrap()
}

fn find(source: &Source, path: &str) -> Option<Found> {
    source.find(&request(path)).unwrap()
}

#[test]
fn every_kind_of_fat_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (bits, mib) in [("12", 6), ("16", 20), ("32", 40)] {
        let volume = volume(dir.path(), bits, mib);
        let volume = Volume::open(&volume).unwrap();
        let read = |path: &str, limit| {
            let mut bytes = vec![];
            volume
                .read(&volume.entry(path)?, &mut bytes, limit)
                .map(|_| bytes)
        };
        assert_eq!(read("config.txt", 100).unwrap(), b"dtparam=audio=on\n");
        assert_eq!(read("CONFIG.TXT", 100).unwrap(), b"dtparam=audio=on\n");
        assert_eq!(read("kernel8.img", 1 << 30).unwrap(), kernel());
        assert_eq!(read("empty.txt", 0).unwrap(), b"");
        assert_eq!(read(&format!("overlays/{LONG}"), 99).unwrap(), b"overlay");
        assert_eq!(read("overlays/overlay-number-39.dtbo", 99).unwrap(), b"39");
        for missing in [
            "overlays",
            "config.tx",
            "config.txt/x",
            "nothing/config.txt",
            "BOOTFS",
            "",
        ] {
            let error = read(missing, 99).unwrap_err();
            let is_missing = matches!(
                error,
                TreeError::NotFound(_) | TreeError::NotAFolder(_) | TreeError::NotAFile(_)
            );
            assert!(is_missing, "FAT{bits}: {missing}: {error}");
        }
        assert_eq!(volume.list("overlays").unwrap().len(), 41);
        let error = read("kernel8.img", 1000).unwrap_err().to_string();
        assert_eq!(
            error,
            "kernel8.img has 3000001 bytes; at most 1000 are read"
        );
        println!("FAT{bits}: 44 files, kernel of 3000001 bytes equal");
    }
}

#[test]
fn the_boot_partition_is_found_in_every_table() {
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path(), "32", 40);
    let here = Some((16384 * 512, volume.len() as u64));
    let efi = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
    for (label, first, boot) in [("dos", "83", "c"), ("gpt", "L", efi), ("gpt", "L", "L")] {
        let disk = disk(dir.path(), label, &volume, first, boot);
        assert_eq!(
            boot_partition(&mut Cursor::new(disk)).unwrap(),
            here,
            "{label} {boot}"
        );
    }
    let whole = Some((0, volume.len() as u64));
    assert_eq!(boot_partition(&mut Cursor::new(volume)).unwrap(), whole);
    for nothing in [vec![], vec![0; 511], vec![0; 1 << 20]] {
        assert_eq!(boot_partition(&mut Cursor::new(nothing)).unwrap(), None);
    }
}

#[test]
fn an_image_of_the_chunk_store_gives_its_boot_files() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(dir.path(), "dos", &volume(dir.path(), "32", 40), "83", "c");
    let store = ChunkStore::open(dir.path().join("store")).unwrap();
    let added = store.add(Cursor::new(disk), AddOptions::default()).unwrap();
    let manifest = added.manifest;
    let open: OpenDisk = Box::new(move || {
        let reader = store.open_raw(&manifest).map_err(std::io::Error::other)?;
        Ok(Box::new(reader) as Box<dyn Disk>)
    });
    let source = Source::image("raspios", open).unwrap();
    assert_eq!(
        find(&source, "91cdf03d/kernel8.img"),
        Some(Found::Bytes(kernel()))
    );
    assert_eq!(
        find(&source, &format!("overlays/{LONG}")),
        Some(Found::Bytes(b"overlay".to_vec()))
    );
    assert_eq!(find(&source, "start4.elf"), None);

    let empty: OpenDisk = Box::new(|| Ok(Box::new(Cursor::new(vec![0_u8; 4096])) as Box<dyn Disk>));
    let error = Source::image("empty", empty).unwrap_err().to_string();
    assert!(
        error.starts_with("the image empty has no FAT partition"),
        "{error}"
    );
}

#[test]
fn folders_are_laid_out_as_boot_partitions_or_as_debian_does() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        Some(Found::File(path, name.len() as u64))
    };
    let (common, own) = (put("config.txt"), put("91cdf03d/config.txt"));
    let source = Source::folder(dir.path().into());
    assert_eq!(find(&source, "91cdf03d/config.txt"), own);
    assert_eq!(find(&source, "91cdf03e/config.txt"), common);
    assert_eq!(find(&source, "91cdf03d/cmdline.txt"), None);
    fs::create_dir(dir.path().join("cmdline.txt")).unwrap();
    assert_eq!(find(&source, "cmdline.txt"), None);

    let error = Source::debian(dir.path().into()).unwrap_err().to_string();
    assert!(error.contains("has no boot/vmlinuz"), "{error}");
    put("boot/vmlinuz-6.1.0-37-arm64");
    put("boot/vmlinuz-6.12.0-5-amd64");
    let newest = put("boot/vmlinuz-6.12.0-5-arm64");
    let firmware = put("usr/lib/raspi-firmware/start4.elf");
    let tree = put("usr/lib/linux-image-6.12.0-5-arm64/broadcom/bcm2837-rpi-3-b.dtb");
    let source = Source::debian(dir.path().into()).unwrap();
    let kernel = "6.12.0-5-arm64".into();
    assert_eq!(*source.layout(), Layout::Debian { kernel });
    assert_eq!(find(&source, "91cdf03d/vmlinuz"), newest);
    assert_eq!(find(&source, "start4.elf"), firmware);
    assert_eq!(find(&source, "bcm2710-rpi-3-b.dtb"), tree);
    assert_eq!(find(&source, "config.txt"), None);
}

/// Both tables and every number in a small volume, changed at will.
#[test]
fn a_damaged_volume_is_read_or_refused_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = [volume(dir.path(), "12", 6), volume(dir.path(), "32", 40)];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    let damage = prop::collection::vec((0..70_000_usize, any::<u8>()), 1..8);
    let names = [
        "config.txt",
        "kernel8.img",
        "overlays/overlay-number-3.dtbo",
    ];
    runner
        .run(
            &(0..2_usize, damage, any::<bool>()),
            |(which, damage, head)| {
                let mut volume = volumes[which].clone();
                for (at, byte) in damage {
                    volume[if head { at % 96 } else { at }] = byte;
                }
                if let Ok(Some((start, length))) = boot_partition(&mut Cursor::new(&volume)) {
                    let window = Window::new(&volume, start, length);
                    let volume = Volume::open(&window).unwrap();
                    for name in names {
                        if let Ok(entry) = volume.entry(name) {
                            let _ = volume.read(&entry, &mut std::io::sink(), 4 << 20);
                        }
                    }
                }
                Ok(())
            },
        )
        .unwrap();
}
