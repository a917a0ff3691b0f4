//! Many readers of one image share what is unpacked.

use crate::helpers::{CHUNK, add, chunk_path, image, new_store};
use bugler_fsread::ReadAt;
use bugler_images::{CachedImage, ChunkCache};
use std::{fs, thread};

fn read(image: &CachedImage, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; length];
    image.read_at(offset as u64, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_many_read_at_once_is_unpacked_once() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 0, 2, 3, 1, 4]);
    let cache = ChunkCache::new(&store, 64 << 20).unwrap();
    let image = cache.open(&add(&store, &disk).manifest).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            let reader = image.clone();
            let disk = &disk;
            scope.spawn(move || {
                for at in (0..disk.len() - 70_000).step_by(65_000) {
                    assert!(
                        read(&reader, at, 70_000) == disk[at..at + 70_000],
                        "at {at}"
                    );
                }
                assert!(read(&reader, 0, disk.len()) == *disk);
            });
        }
    });
    // Four contents: the fifth chunk is the first one again, and zeros are not stored.
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.bytes), (4, 4 << 20), "{stats:?}");
    assert_eq!(image.extent(0, 6 << 20), (1 << 20, false));
    assert_eq!(image.extent((1 << 20) + 5, 6 << 20), ((1 << 20) - 5, true));
    assert_eq!(image.extent(2 << 20, 4 << 20), (4 << 20, false));
    assert_eq!(image.extent((2 << 20) + 1, 512), (512, false));
    let end = image
        .read_at(disk.len() as u64 - 1, &mut [0; 2])
        .unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn no_more_is_kept_than_the_limit_says() {
    let (_dir, store) = new_store();
    let seeds: Vec<u64> = (1..=24).collect();
    let disk = image(&seeds);
    let cache = ChunkCache::new(&store, 16 << 20).unwrap();
    let image = cache.open(&add(&store, &disk).manifest).unwrap();
    for round in 0..2 {
        for at in 0..seeds.len() {
            assert!(read(&image, at * CHUNK + round, 512) == disk[at * CHUNK + round..][..512]);
            assert!(cache.stats().bytes <= 16 << 20);
        }
    }
    let stats = cache.stats();
    assert!(
        stats.ahead > 0,
        "chunks are read one after the other: {stats:?}"
    );
}

#[test]
fn what_is_not_unpacked_is_not_waited_for_and_damage_is_an_error() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 0, 2]);
    let cache = ChunkCache::new(&store, 64 << 20).unwrap();
    let image = cache.open(&add(&store, &disk).manifest).unwrap();
    let mut bytes = [0; 512];
    assert!(!image.read_now(512, &mut bytes).unwrap());
    assert!(
        image.read_now(CHUNK as u64, &mut bytes).unwrap(),
        "zeros are no work"
    );
    read(&image, 0, 1);
    assert!(image.read_now(512, &mut bytes).unwrap());
    assert_eq!(bytes, disk[512..1024]);
    let hash = image.manifest().chunks[1].hash;
    fs::write(chunk_path(&store, &hash), b"damaged").unwrap();
    for _ in 0..2 {
        let error = image.read_at(2 << 20, &mut bytes).unwrap_err().to_string();
        assert!(error.contains(&hash.to_string()), "{error}");
    }
}
