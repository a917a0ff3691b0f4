//! What goes in comes out.

use crate::helpers::{ARCHIVES, CHUNK, Drip, add, image, new_store, noise, pack, read_back};
use bugler_images::{AddOptions, AddPhase, ExportFormat, Format};
use proptest::prelude::*;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

/// A disk of up to about 4 MiB with stretches of data anywhere in it, some of them equal.
fn disks() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (any::<prop::sample::Index>(), 0u64..4, 1usize..CHUNK * 3 / 2);
    (1usize..4 * CHUNK, prop::collection::vec(stretch, 0..4)).prop_map(|(size, stretches)| {
        let mut disk = vec![0; size];
        for (at, seed, length) in stretches {
            let at = at.index(size);
            let length = length.min(size - at);
            disk[at..at + length].copy_from_slice(&noise(seed, length));
        }
        disk
    })
}

fn formats() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![
        Format::Raw,
        Format::Gzip,
        Format::Xz,
        Format::Zstd,
        Format::Bzip2,
    ])
}

fn padded(disk: &[u8], sector_size: usize) -> Vec<u8> {
    let mut padded = disk.to_vec();
    padded.resize(disk.len().next_multiple_of(sector_size), 0);
    padded
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_disk_in_any_packing_comes_back(
        disk in disks(),
        format in formats(),
        members in 1usize..4,
        drip in prop::sample::select(vec![977, 65_536, usize::MAX]),
        sector_size in prop::sample::select(vec![None, Some(512u32), Some(4096)]),
    ) {
        let (_dir, store) = new_store();
        let input = pack(format, &disk, members);
        let options = || AddOptions {
            sector_size,
            expected_bytes: Some(input.len() as u64),
            ..AddOptions::default()
        };
        let added = store.add(Drip(&input, drip), options()).unwrap();
        let expected = padded(&disk, sector_size.unwrap_or(512) as usize);
        prop_assert!(read_back(&store, &added.manifest) == expected);

        prop_assert_eq!(added.format, format);
        prop_assert_eq!(added.disk_size, expected.len() as u64);
        prop_assert_eq!(u64::from(added.padding), (expected.len() - disk.len()) as u64);
        prop_assert_eq!(added.progress.phase, AddPhase::Syncing);
        prop_assert_eq!(added.progress.read_bytes, input.len() as u64);
        prop_assert_eq!(added.progress.disk_bytes, disk.len() as u64);

        let manifest = store.manifest(&added.manifest).unwrap();
        prop_assert_eq!(manifest.check(), Ok(()));
        let used: Vec<u32> = expected
            .chunks(CHUNK)
            .zip(0..)
            .filter(|(chunk, _)| chunk.iter().any(|b| *b != 0))
            .map(|(_, index)| index)
            .collect();
        let listed: Vec<u32> = manifest.chunks.iter().map(|c| c.index).collect();
        prop_assert_eq!(listed, used);
        prop_assert_eq!(added.used_bytes, manifest.used_bytes());
        prop_assert_eq!(added.stored_bytes, manifest.stored_bytes());
        for chunk in &manifest.chunks {
            let frame = store.open_chunk_frame(&chunk.hash).unwrap();
            prop_assert_eq!(frame.len(), chunk.stored_len);
        }
        prop_assert_eq!(store.verify(&added.manifest, |_, _| true).unwrap(), vec![]);

        // Again, raw this time, with holes where the zeros are: the same image, nothing new.
        let mut file = tempfile::tempfile().unwrap();
        write_sparse(&mut file, &disk);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let raw = AddOptions { sector_size, ..AddOptions::default() };
        let again = store.add_file(path, raw).unwrap();
        prop_assert_eq!(again.manifest, added.manifest);
        prop_assert_eq!(again.progress.new_chunks, 0);
        prop_assert_eq!(again.progress.disk_bytes, disk.len() as u64);
    }

    #[test]
    fn an_image_is_read_at_any_place(
        disk in disks(),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 1usize..2 * CHUNK), 1..8),
    ) {
        let (_dir, store) = new_store();
        let expected = padded(&disk, 512);
        let added = add(&store, &disk);
        let mut reader = store.open_raw(&added.manifest).unwrap();
        for (at, length) in reads {
            let at = at.index(expected.len() + 1);
            let length = length.min(expected.len() - at);
            prop_assert_eq!(reader.seek(SeekFrom::Start(at as u64)).unwrap(), at as u64);
            let mut bytes = vec![1; length];
            reader.read_exact(&mut bytes).unwrap();
            prop_assert!(bytes == expected[at..at + length]);
        }
    }

    #[test]
    fn an_export_is_the_image(disk in disks()) {
        let (_dir, store) = new_store();
        let added = add(&store, &disk);
        let mut raw = Vec::new();
        let written = store.export(&added.manifest, &mut raw, ExportFormat::Raw).unwrap();
        prop_assert_eq!(written, raw.len() as u64);
        prop_assert!(raw == padded(&disk, 512));
        let mut packed = Vec::new();
        store.export(&added.manifest, &mut packed, ExportFormat::Zstd).unwrap();
        prop_assert!(zstd::decode_all(&packed[..]).unwrap() == raw);
        let again = add(&store, &packed);
        prop_assert_eq!(again.manifest, added.manifest);
    }
}

#[test]
fn a_disk_of_one_byte_is_read_at_its_beginning_and_its_end() {
    let (_dir, store) = new_store();
    let added = add(&store, &[29]);
    let mut reader = store.open_raw(&added.manifest).unwrap();
    // The rest of its one sector is zero.
    for (at, expected) in [(0, [29, 0]), (510, [0, 0]), (0, [29, 0])] {
        reader.seek(SeekFrom::Start(at)).unwrap();
        let mut bytes = [1; 2];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected, "at {at}");
    }
    assert_eq!(reader.seek(SeekFrom::Start(512)).unwrap(), 512);
    assert_eq!(reader.read(&mut [1; 2]).unwrap(), 0);
}

/// Writes only what is not zero, in pages of 4 KiB.
fn write_sparse(file: &mut File, disk: &[u8]) {
    file.set_len(disk.len() as u64).unwrap();
    for (page, at) in disk.chunks(4096).zip((0..).step_by(4096)) {
        if page.iter().any(|b| *b != 0) {
            file.write_all_at(page, at).unwrap();
        }
    }
    file.flush().unwrap();
}

#[test]
fn only_the_data_of_a_sparse_file_is_read() {
    let (dir, store) = new_store();
    let path = dir.path().join("disk.img");
    let file = File::create(&path).unwrap();
    // 8 TiB with two pages of data: it would take hours to read.
    file.set_len(8 << 40).unwrap();
    file.write_all_at(&noise(1, 4096), 5 << 40).unwrap();
    file.write_all_at(&noise(2, 4096), (8 << 40) - 4096)
        .unwrap();
    let added = store.add_file(&path, AddOptions::default()).unwrap();
    assert_eq!(added.disk_size, 8 << 40);
    let manifest = store.manifest(&added.manifest).unwrap();
    let places: Vec<u64> = manifest.chunks.iter().map(|c| c.offset()).collect();
    assert_eq!(places, [5 << 40, (8 << 40) - CHUNK as u64]);
    let mut reader = store.open_raw(&added.manifest).unwrap();
    let mut page = vec![0; 4096];
    reader.seek(SeekFrom::End(-4096)).unwrap();
    reader.read_exact(&mut page).unwrap();
    assert_eq!(page, noise(2, 4096));
    assert_eq!(reader.read(&mut page).unwrap(), 0);
}

#[test]
fn a_disk_of_zeros_has_no_chunks() {
    let (_dir, store) = new_store();
    let added = add(&store, &vec![0; 3 * CHUNK + 5]);
    assert_eq!((added.used_bytes, added.padding), (0, 507));
    assert_eq!(store.usage().unwrap().chunks, 0);
    assert_eq!(read_back(&store, &added.manifest), vec![0; 3 * CHUNK + 512]);
}

#[test]
fn the_sector_size_is_that_of_the_gpt_unless_told() {
    let (_dir, store) = new_store();
    let mut disk = image(&[0, 1]);
    disk[4096..4104].copy_from_slice(b"EFI PART");
    assert_eq!(add(&store, &disk).sector_size, 4096);
    let packed = pack(Format::Zstd, &disk, 1);
    assert_eq!(add(&store, &packed).sector_size, 4096);
    let told = AddOptions {
        sector_size: Some(2048),
        ..AddOptions::default()
    };
    assert_eq!(store.add(&disk[..], told).unwrap().sector_size, 2048);
    disk[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(add(&store, &disk).sector_size, 512);
}

#[test]
fn padding_of_an_archive_is_that_of_its_content() {
    let (_dir, store) = new_store();
    let disk = noise(7, CHUNK + 700);
    let raw = add(&store, &disk);
    for format in ARCHIVES {
        let added = add(&store, &pack(format, &disk, 2));
        assert_eq!(added.padding, 324, "{format}");
        assert_eq!(added.manifest, raw.manifest, "{format}");
    }
}

#[test]
fn progress_only_grows_and_ends_with_syncing() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 0, 2, 1, 0]);
    let mut seen = Vec::new();
    let mut progress = |now: &bugler_images::AddProgress| seen.push(*now);
    let options = AddOptions {
        progress: Some(&mut progress),
        ..AddOptions::default()
    };
    let added = store.add(&disk[..], options).unwrap();
    assert!(seen.is_sorted_by_key(|p| (p.disk_bytes, p.read_bytes)));
    assert!(seen.is_sorted_by_key(|p| p.new_chunks + p.dup_chunks));
    let (last, before) = seen.split_last().unwrap();
    assert_eq!(*last, added.progress);
    assert_eq!((last.new_chunks, last.dup_chunks), (2, 1));
    assert!(before.iter().all(|p| p.phase == AddPhase::Reading));
}

#[test]
fn a_seek_before_the_beginning_is_refused() {
    let (_dir, store) = new_store();
    let added = add(&store, &[1; 512]);
    let mut reader = store.open_raw(&added.manifest).unwrap();
    assert!(reader.seek(SeekFrom::Current(-1)).is_err());
    assert_eq!(reader.seek(SeekFrom::End(100)).unwrap(), 612);
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
}
