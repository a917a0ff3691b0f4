//! Input that is no image: a clear error, and nothing is left.

use crate::helpers::{
    ARCHIVES, CHUNK, Tripwire, add, files, image, new_store, noise, pack, read_back,
};
use bugler_images::{AddError, AddOptions, ChunkStore, Format};
use std::{
    io::{self, Read},
    sync::atomic::{AtomicBool, Ordering},
};

/// Adds what must be refused, and makes sure that the folder is as it was.
fn refused(store: &ChunkStore, input: impl Read, options: AddOptions<'_>) -> AddError {
    let before = files(store.dir());
    let error = store.add(input, options).unwrap_err();
    assert!(before == files(store.dir()), "{error}: something is left");
    error
}

fn refused_plainly(store: &ChunkStore, input: impl Read) -> AddError {
    refused(store, input, AddOptions::default())
}

/// About a third of it compresses, so that every packing has blocks of several kinds.
fn small_disk() -> Vec<u8> {
    let mut disk = noise(3, 700);
    disk.extend_from_slice(&[7; 400]);
    disk
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let (_dir, store) = new_store();
    for format in ARCHIVES {
        let archive = pack(format, &small_disk(), 1);
        // Shorter than its first 16 bytes, nobody can tell that it is an archive.
        // Every place in the headers, the trailers and what is between, the data by samples.
        let length = archive.len();
        let near_an_end = |cut: &usize| *cut < 60 || *cut + 60 > length || cut.is_multiple_of(13);
        for cut in (16..length).filter(near_an_end) {
            let error = refused_plainly(&store, &archive[..cut]);
            assert!(
                matches!(error, AddError::CutOff { format: f, .. } if f == format),
                "{format} cut at {cut} of {length}: {error:?}"
            );
        }
    }
}

#[test]
fn an_archive_cut_off_in_a_later_member_is_refused() {
    let (_dir, store) = new_store();
    for format in ARCHIVES {
        let first = pack(format, &small_disk(), 1);
        let both = [&first[..], &first[..]].concat();
        for cut in [1, 3, 5, first.len() / 2, first.len() - 1] {
            let error = refused_plainly(&store, &both[..first.len() + cut]);
            assert!(
                matches!(error, AddError::CutOff { .. } | AddError::Corrupt { .. }),
                "{format} cut {cut} into its second member: {error:?}"
            );
        }
    }
}

#[test]
fn an_archive_with_a_flipped_byte_is_refused_or_says_the_same() {
    let (_dir, store) = new_store();
    let disk = small_disk();
    let good = add(&store, &disk);
    for format in ARCHIVES {
        let archive = pack(format, &disk, 1);
        let mut refusals = 0;
        let mut flips = 0;
        let length = archive.len();
        let near_an_end = |at: &usize| *at < 80 || *at + 80 > length || at.is_multiple_of(7);
        for at in (16..length).filter(near_an_end) {
            flips += 1;
            let mut bad = archive.clone();
            bad[at] ^= 0x55;
            match store.add(&bad[..], AddOptions::default()) {
                Ok(added) => assert_eq!(added.manifest, good.manifest, "{format} at {at}"),
                Err(_) => refusals += 1,
            }
        }
        assert!(
            refusals > flips / 2,
            "{format}: {refusals} of {flips} were noticed"
        );
    }
    assert_eq!(store.usage().unwrap().chunks, 1);
}

#[test]
fn a_large_archive_is_refused_though_most_of_it_was_stored() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 2, 3, 4]);
    for format in ARCHIVES {
        let archive = pack(format, &disk, 1);
        let cut = archive.len() * 9 / 10;
        let error = refused_plainly(&store, &archive[..cut]);
        assert!(
            matches!(error, AddError::CutOff { .. }),
            "{format}: {error:?}"
        );
        let mut bad = archive.clone();
        bad[cut..cut + 64].fill(0);
        let error = refused_plainly(&store, &bad[..]);
        assert!(
            matches!(error, AddError::Corrupt { .. } | AddError::CutOff { .. }),
            "{format}: {error:?}"
        );
    }
}

#[test]
fn something_behind_an_archive_is_refused() {
    let (_dir, store) = new_store();
    for format in ARCHIVES {
        let mut archive = pack(format, &small_disk(), 1);
        archive.extend_from_slice(b"a signature, or whatever it is");
        let error = refused_plainly(&store, &archive[..]);
        assert!(
            matches!(error, AddError::Corrupt { .. }),
            "{format}: {error:?}"
        );
    }
}

#[test]
fn nothing_is_no_image() {
    let (dir, store) = new_store();
    let error = refused_plainly(&store, io::empty());
    assert!(matches!(error, AddError::Empty { read_bytes: 0 }));
    for format in ARCHIVES {
        let archive = pack(format, b"", 1);
        let error = refused_plainly(&store, &archive[..]);
        assert!(
            matches!(error, AddError::Empty { .. }),
            "{format}: {error:?}"
        );
    }
    let path = dir.path().join("empty");
    std::fs::write(&path, "").unwrap();
    let error = store.add_file(&path, AddOptions::default()).unwrap_err();
    assert!(matches!(error, AddError::Empty { .. }), "{error:?}");
    let error = store.add_file(dir.path().join("none"), AddOptions::default());
    assert!(matches!(error, Err(AddError::Open { .. })), "{error:?}");
}

#[test]
fn what_is_obviously_no_disk_is_refused_packed_or_not() {
    let (_dir, store) = new_store();
    let page = b"<!DOCTYPE html><title>404 Not Found</title>".to_vec();
    let mut qcow2 = noise(1, 2 * CHUNK);
    qcow2[..4].copy_from_slice(b"QFI\xfb");
    for content in [page, qcow2, pack(Format::Zstd, b"inner", 1)] {
        for format in ARCHIVES {
            let error = refused_plainly(&store, &pack(format, &content, 1)[..]);
            assert!(matches!(error, AddError::NotADisk { .. }), "{error:?}");
        }
    }
    let error = refused_plainly(&store, &b"PK\x03\x04 and so on"[..]);
    assert_eq!(
        error.to_string(),
        "this is a zip archive, not a disk image; unpack it and add the image inside"
    );
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let (_dir, store) = new_store();
    let limited = || AddOptions {
        max_disk_size: 8 << 20,
        ..AddOptions::default()
    };
    for format in ARCHIVES {
        let bomb = pack(format, &vec![0; 32 << 20], 1);
        let error = refused(&store, &bomb[..], limited());
        assert!(
            matches!(error, AddError::TooLarge { limit } if limit == 8 << 20),
            "{format}: {error:?}"
        );
    }
    for byte in [0, 1] {
        let mut stream = io::repeat(byte).take(32 << 20);
        let error = refused(&store, &mut stream, limited());
        let read = (32 << 20) - stream.limit();
        assert!(read < 10 << 20, "{read} bytes were read");
        assert!(matches!(error, AddError::TooLarge { .. }), "{error:?}");
    }
    let just = add(&store, &pack(Format::Zstd, &vec![1; 8 << 20], 1));
    assert_eq!(just.disk_size, 8 << 20);
    let sparse = tempfile::NamedTempFile::new().unwrap();
    sparse.as_file().set_len((8 << 20) + 1).unwrap();
    let error = store.add_file(sparse.path(), limited()).unwrap_err();
    assert!(matches!(error, AddError::TooLarge { .. }), "{error:?}");
}

#[test]
fn an_archive_that_wants_too_much_memory_is_refused() {
    let (_dir, store) = new_store();
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packer.window_log(28).unwrap();
    packer.set_pledged_src_size(None).unwrap();
    io::copy(&mut &small_disk()[..], &mut packer).unwrap();
    let error = refused_plainly(&store, &packer.finish().unwrap()[..]);
    assert!(matches!(error, AddError::Memory { .. }), "{error:?}");

    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = 512 << 20;
    let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    io::copy(&mut &small_disk()[..], &mut packer).unwrap();
    let error = refused_plainly(&store, &packer.finish().unwrap()[..]);
    assert!(matches!(error, AddError::Memory { .. }), "{error:?}");
}

#[test]
fn less_or_more_than_announced_is_refused() {
    let (dir, store) = new_store();
    let disk = image(&[1, 2]);
    let archive = pack(Format::Gzip, &disk, 1);
    for input in [&disk, &archive] {
        let length = input.len() as u64;
        let options = |expected| AddOptions {
            expected_bytes: Some(expected),
            ..AddOptions::default()
        };
        let error = refused(&store, &input[..input.len() - 1], options(length));
        assert!(
            matches!(error, AddError::Length { expected, actual }
                if (expected, actual) == (length, length - 1)),
            "{error:?}"
        );
        for short in [0, length - 1] {
            let error = refused(&store, &input[..], options(short));
            assert!(matches!(error, AddError::Length { .. }), "{error:?}");
        }
        assert!(store.add(&input[..], options(length)).is_ok());
    }
    let path = dir.path().join("disk.img");
    std::fs::write(&path, &disk).unwrap();
    let options = AddOptions {
        expected_bytes: Some(7),
        ..AddOptions::default()
    };
    let error = store.add_file(&path, options).unwrap_err();
    assert!(matches!(error, AddError::Length { expected: 7, .. }));
}

#[test]
fn a_file_that_changes_its_length_is_refused() {
    let (dir, store) = new_store();
    let path = dir.path().join("disk.img");
    for length in [CHUNK as u64, 9 * CHUNK as u64] {
        std::fs::write(&path, image(&[1, 2, 3, 4])).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let before = files(store.dir());
        let mut change = |_: &_| file.set_len(length).unwrap();
        let options = AddOptions {
            progress: Some(&mut change),
            ..AddOptions::default()
        };
        let error = store.add_file(&path, options).unwrap_err();
        assert!(matches!(error, AddError::Length { .. }), "{error:?}");
        assert!(before == files(store.dir()));
    }
}

/// Fails after some bytes, like an upload whose sender vanished.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            length => Ok(length),
        }
    }
}

#[test]
fn a_failing_input_is_told_from_a_bad_archive() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 2, 3]);
    for format in ARCHIVES.into_iter().chain([Format::Raw]) {
        let input = pack(format, &disk, 1);
        let cut = input.len() * 2 / 3;
        match refused_plainly(&store, Failing(&input[..cut])) {
            AddError::Read { read_bytes, source } => {
                assert_eq!(read_bytes, cut as u64, "{format}");
                assert_eq!(source.kind(), io::ErrorKind::ConnectionReset, "{format}");
            }
            error => panic!("{format}: {error:?}"),
        }
    }
}

#[test]
fn an_add_is_cancelled_at_any_time() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 2, 3]);
    for format in ARCHIVES.into_iter().chain([Format::Raw]) {
        let input = pack(format, &disk, 1);
        for after in [1, input.len() / 2, input.len() - 1, input.len()] {
            let cancel = AtomicBool::new(false);
            let reader = Tripwire {
                rest: &input,
                after,
                act: Some(|| cancel.store(true, Ordering::Relaxed)),
            };
            let options = AddOptions {
                cancel: Some(&cancel),
                ..AddOptions::default()
            };
            let error = refused(&store, reader, options);
            assert!(
                matches!(error, AddError::Cancelled),
                "{format} after {after}: {error:?}"
            );
        }
    }
}

/// Gives empty gzip members without end: a decoder that is fed them never gives a byte.
struct EmptyMembers<'a> {
    member: Vec<u8>,
    at: usize,
    given: usize,
    cancel: &'a AtomicBool,
}

impl Read for EmptyMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.given += 1;
        if self.given == 1000 {
            self.cancel.store(true, Ordering::Relaxed);
        }
        assert!(self.given < 2000, "the cancel was not noticed");
        let length = (&self.member[self.at..]).read(buffer)?;
        self.at = (self.at + length) % self.member.len();
        Ok(length)
    }
}

#[test]
fn an_add_is_cancelled_while_its_decoder_gives_nothing() {
    let (_dir, store) = new_store();
    let cancel = AtomicBool::new(false);
    let reader = EmptyMembers {
        member: pack(Format::Gzip, b"", 1),
        at: 0,
        given: 0,
        cancel: &cancel,
    };
    let options = AddOptions {
        cancel: Some(&cancel),
        ..AddOptions::default()
    };
    let error = refused(&store, reader, options);
    assert!(matches!(error, AddError::Cancelled), "{error:?}");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let (_dir, store) = new_store();
    for sector_size in [0, 1, 513, 8192] {
        let options = AddOptions {
            sector_size: Some(sector_size),
            ..AddOptions::default()
        };
        let error = refused(&store, &b"x"[..], options);
        assert!(matches!(error, AddError::SectorSize(s) if s == sector_size));
    }
    for level in [0, -1, 20, i32::MAX] {
        let options = AddOptions {
            level,
            ..AddOptions::default()
        };
        let error = refused(&store, &b"x"[..], options);
        assert!(matches!(error, AddError::Level(l) if l == level));
    }
}

#[test]
fn a_refused_image_leaves_the_others_as_they_were() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 2, 3]);
    let good = add(&store, &disk);
    // Shares chunks with the good one, which must not go when it is given up.
    let archive = pack(Format::Zstd, &image(&[1, 2, 9]), 1);
    refused_plainly(&store, &archive[..archive.len() - 1]);
    assert!(read_back(&store, &good.manifest) == disk);
}
