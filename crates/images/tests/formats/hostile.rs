//! Files that were made to do harm, or got broken.

use crate::tools::{MIB, Place, make_disk};
use bugler_images::{AddOptions, fuzz_qcow2, fuzz_sparse};
use proptest::prelude::*;
use std::{fs, sync::LazyLock};

/// Index and length of chunks.
type Records<'a> = &'a [(u32, u32)];

/// Small qcow2 images of each kind.
static SMALL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let place = Place::new();
    make_disk(&place.path("disk"), 64 << 10);
    let kinds = [
        ("compat=0.10,cluster_size=512", "-c"),
        ("compat=1.1,cluster_size=1k", "-p"),
        ("compat=1.1,cluster_size=4k,compression_type=zstd", "-c"),
        ("compat=1.1,cluster_size=16k,extended_l2=on", "-p"),
    ];
    let made = kinds.iter().map(|(options, flag)| {
        place.qemu_img(&[
            "convert", flag, "-f", "raw", "-O", "qcow2", "-o", options, "disk", "small",
        ]);
        fs::read(place.path("small")).unwrap()
    });
    made.collect()
});

proptest! {
    #[test]
    fn no_qcow2_makes_the_reader_panic_or_hang(
        which in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = SMALL[which].clone();
        for (at, in_head, byte) in changes {
            let at = at.index(if in_head { 128 } else { bytes.len() });
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        fuzz_qcow2(&bytes);
    }

    #[test]
    fn no_sparse_stream_makes_its_reader_panic(
        size in 0u64..(5 << 20), records in prop::collection::vec((0u32..6, 0u32..2048), 0..4), rest: Vec<u8>,
    ) {
        let mut bytes = b"BGLSPRS1".to_vec();
        bytes.extend(size.to_le_bytes());
        for (index, length) in records {
            bytes.extend(index.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.resize(bytes.len() + length as usize, 1);
        }
        bytes.extend(rest);
        fuzz_sparse(&bytes);
    }
}

#[test]
fn a_file_that_makes_much_of_little_is_refused() {
    let place = Place::new();
    place.qemu_img(&["create", "-q", "-f", "qcow2", "bomb", "64G"]);
    place.qemu_io("bomb", &["write -P 5 0 512M"]);
    let mut bytes = fs::read(place.path("bomb")).unwrap();
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    // Every entry of the L1 table refers to the one L2 table, and all of that to one cluster.
    let l1 = number(40) as usize;
    let l2_entry: [u8; 8] = bytes[l1..l1 + 8].try_into().unwrap();
    let l2 = (number(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let entry: [u8; 8] = bytes[l2..l2 + 8].try_into().unwrap();
    let cluster = (number(l2) & 0x00ff_ffff_ffff_fe00) as usize;
    for index in 0..128 {
        bytes[l1 + 8 * index..][..8].copy_from_slice(&l2_entry);
    }
    for index in 0..8192 {
        bytes[l2 + 8 * index..][..8].copy_from_slice(&entry);
    }
    bytes.truncate(cluster + (64 << 10));
    assert!(bytes.len() < MIB as usize);
    let error = place
        .store
        .add(&bytes[..], AddOptions::default())
        .unwrap_err();
    let text = crate::tools::chain(error);
    assert!(text.contains("again and again"), "{text}");
}

#[test]
fn a_sparse_stream_has_one_form_and_an_end() {
    let place = Place::new();
    let stream = |records: &[(u32, u32)], end: &[u8]| {
        let mut bytes = b"BGLSPRS1".to_vec();
        bytes.extend((2 * MIB + 512).to_le_bytes());
        for (index, length) in records {
            bytes.extend(index.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.resize(bytes.len() + *length as usize, 7);
        }
        bytes.extend(end);
        bytes
    };
    let end = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let added = place
        .store
        .add(
            &stream(&[(0, 1 << 20), (2, 512)], &end)[..],
            AddOptions::default(),
        )
        .unwrap();
    assert_eq!(
        (added.disk_size, added.used_bytes),
        (2 * MIB + 512, MIB + 512)
    );
    let wrong: [(Records<'_>, &[u8], &str); 8] = [
        (&[(0, 1 << 20)], &[], "cut off"),
        (&[(0, 1 << 20)], &end[..7], "cut off"),
        (&[(0, 512)], &end, "does not fit"),
        (&[(2, 1 << 20)], &end, "does not fit"),
        (&[(3, 512)], &end, "does not fit"),
        (&[(2, 512), (0, 1 << 20)], &end, "out of order"),
        (&[(2, 512), (2, 512)], &end, "out of order"),
        (
            &[(2, 512)],
            &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0],
            "behind its end",
        ),
    ];
    for (records, end, word) in wrong {
        let error = place
            .store
            .add(&stream(records, end)[..], AddOptions::default())
            .unwrap_err();
        assert!(error.to_string().contains(word), "{error} lacks {word}");
    }
}
