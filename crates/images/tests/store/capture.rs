//! An image that a machine sends: only what is missing, in any order, over restarts.

use crate::helpers::{CHUNK, add, chunk_path, files, image, new_store, noise, read_back};
use bugler_images::{CaptureError, CaptureSession, ChunkStore};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, Manifest};
use proptest::prelude::*;
use std::{fs, sync::Arc};

/// What a machine has: its disk's chunks, and the manifest as it knows it.
struct Machine {
    disk: Vec<u8>,
    hashes: Vec<ChunkHash>,
    frames: Vec<Vec<u8>>,
    manifest: Manifest,
}

fn frame(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 1).unwrap()
}

fn machine(disk: Vec<u8>) -> Machine {
    let listed = disk
        .chunks(CHUNK)
        .zip(0..)
        .filter(|(content, _)| content.iter().any(|b| *b != 0));
    let (mut hashes, mut frames, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
    for (content, index) in listed {
        let hash = ChunkHash(*blake3::hash(content).as_bytes());
        hashes.push(hash);
        frames.push(frame(content));
        chunks.push(ChunkRef {
            index,
            stored_len: 1,
            hash,
        });
    }
    let manifest = Manifest {
        disk_size: disk.len() as u64,
        sector_size: 512,
        chunks,
    };
    Machine {
        disk,
        hashes,
        frames,
        manifest,
    }
}

impl Machine {
    /// Asks and sends; gives how many chunks went over.
    fn send(&self, session: &CaptureSession) -> usize {
        let missing = session.missing(&self.hashes).unwrap();
        for at in &missing {
            let taken = session.take(&self.frames[*at as usize]).unwrap();
            assert_eq!(taken, self.hashes[*at as usize]);
        }
        missing.len()
    }
}

fn collect(store: &ChunkStore, live: &[ChunkHash]) -> bugler_images::GcReport {
    store.begin_gc().unwrap().sweep(live, false).unwrap()
}

#[test]
fn only_what_is_missing_is_sent_and_the_image_is_what_an_add_makes() {
    let (_dir, store) = new_store();
    let known = add(&store, &image(&[1, 2])).manifest;
    let mut disk = image(&[2, 0, 3, 3, 1]);
    disk.extend_from_slice(&noise(9, 512 * 5));
    let machine = machine(disk);
    let session = store.begin_capture("t7").unwrap();
    // 3 once, and the last one.
    assert_eq!(machine.send(&session), 2);
    assert_eq!(machine.send(&session), 0, "asked twice");
    assert_eq!(session.received().0, 2);
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    assert_eq!((captured.new_chunks, captured.sector_size), (2, 512));
    assert!(read_back(&store, &captured.manifest) == machine.disk);
    assert!(
        store
            .verify(&captured.manifest, |_, _| true)
            .unwrap()
            .is_empty()
    );
    let again = add(&store, &machine.disk);
    assert_eq!(again.progress.new_chunks, 0);
    assert_eq!(
        again.manifest, captured.manifest,
        "the same content has one name"
    );
    assert!(matches!(
        session.missing(&machine.hashes),
        Err(CaptureError::Ended)
    ));
    assert!(!store.dir().join("captures/t7").exists());
    let live = [known, captured.manifest];
    drop((session, captured, again));
    assert_eq!(collect(&store, &live).chunks, 0);
}

#[test]
fn a_restart_loses_nothing_that_was_sent_whole() {
    let (dir, store) = new_store();
    let folder = dir.path().join("images");
    let machine = machine(image(&[1, 2, 3, 4]));
    let session = store.begin_capture("t1").unwrap();
    assert_eq!(session.missing(&machine.hashes).unwrap(), [0, 1, 2, 3]);
    for frame in &machine.frames[..3] {
        session.take(frame).unwrap();
    }
    drop((session, store));
    // What a power cut can leave: a file of the right name without its content, and half of one.
    let left = folder.join("captures/t1");
    fs::write(left.join(machine.hashes[1].to_string()), "").unwrap();
    fs::write(left.join("part-0"), "half").unwrap();

    let store = ChunkStore::open(&folder).unwrap();
    let session = store.begin_capture("t1").unwrap();
    let mut asked = 0;
    match session.commit(&machine.manifest.encode()) {
        Err(CaptureError::Missing { count, .. }) => asked += count,
        other => panic!("{other:?}"),
    }
    assert_eq!(asked, 2);
    assert_eq!(session.missing(&machine.hashes).unwrap(), [1, 3]);
    session.take(&machine.frames[1]).unwrap();
    session.take(&machine.frames[3]).unwrap();
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    assert!(read_back(&store, &captured.manifest) == machine.disk);
    assert!(!left.exists());
    // Its answer was lost, and the server's memory of it too.
    drop((session, captured));
    let session = store.begin_capture("t1").unwrap();
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    assert_eq!(captured.new_chunks, 0);
    assert!(read_back(&store, &captured.manifest) == machine.disk);
}

#[test]
fn garbage_collection_leaves_alone_what_was_told_to_be_there() {
    let (_dir, store) = new_store();
    // In the store, and of no image any more.
    drop(add(&store, &image(&[1, 2])));
    let machine = machine(image(&[1, 2, 3]));
    let session = store.begin_capture("t1").unwrap();
    assert_eq!(session.missing(&machine.hashes).unwrap(), [2]);
    let report = collect(&store, &[]);
    assert_eq!((report.chunks, report.manifests), (0, 1));
    session.take(&machine.frames[2]).unwrap();
    collect(&store, &[]);
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    collect(&store, &[]);
    assert!(read_back(&store, &captured.manifest) == machine.disk);
    drop((session, captured));
    assert_eq!(collect(&store, &[]).chunks, 3);
}

#[test]
fn a_damaged_chunk_of_the_store_is_asked_for() {
    let (_dir, store) = new_store();
    let machine = machine(image(&[1, 2]));
    let kept = add(&store, &machine.disk).manifest;
    let path = chunk_path(&store, &machine.hashes[1]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 4;
    fs::write(&path, bytes).unwrap();
    let session = store.begin_capture("t1").unwrap();
    assert_eq!(machine.send(&session), 1);
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    assert!(read_back(&store, &captured.manifest) == machine.disk);
    assert!(read_back(&store, &kept) == machine.disk, "healed as well");
}

#[test]
fn what_is_no_chunk_is_refused() {
    let (_dir, store) = new_store();
    let before = files(store.dir());
    let session = store.begin_capture("t1").unwrap();
    let good = frame(&noise(1, 5000));
    let mut flipped = good.clone();
    flipped.truncate(good.len() - 3);
    let two = [good.clone(), good.clone()].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &good].concat();
    let bomb = frame(&vec![7; 64 << 20]);
    for (bad, expected) in [
        (vec![], "1 to "),
        (flipped, "not exactly one zstd frame"),
        (two, "not exactly one zstd frame"),
        (skippable, "not exactly one zstd frame"),
        (noise(3, 4000), "not exactly one zstd frame"),
        (bomb, "cannot be unpacked"),
        (frame(&vec![0; CHUNK]), "nothing but zeros"),
        (frame(&[]), "nothing but zeros"),
        (frame(&noise(4, CHUNK + 1)), "cannot be unpacked"),
        (vec![0; CHUNK + 8193], "bytes are allowed"),
    ] {
        match session.take(&bad) {
            Err(error @ CaptureError::Chunk { .. }) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    session.discard();
    assert!(before == files(store.dir()));
}

#[test]
fn a_manifest_that_does_not_fit_is_refused_and_can_be_sent_again() {
    let (_dir, store) = new_store();
    let machine = machine([image(&[1]), noise(2, 1024)].concat());
    let session = store.begin_capture("t1").unwrap();
    machine.send(&session);
    let mut wrong = machine.manifest.clone();
    wrong.disk_size += 512;
    let error = session.commit(&wrong.encode()).unwrap_err();
    let expected = "holds 1024 bytes and stands at byte 1048576 of the disk, where 1536 belong";
    assert!(error.to_string().contains(expected), "{error}");
    let mut longer = machine.manifest.clone();
    longer.disk_size = 3 * u64::from(CHUNK_SIZE);
    assert!(matches!(
        session.commit(&longer.encode()),
        Err(CaptureError::Length { .. })
    ));
    assert!(matches!(
        session.commit(b"BGLM"),
        Err(CaptureError::Manifest(_))
    ));
    assert_eq!(store.usage().unwrap().manifests, 0);
    let captured = session.commit(&machine.manifest.encode()).unwrap();
    assert!(read_back(&store, &captured.manifest) == machine.disk);
}

#[test]
fn what_was_given_up_is_gone() {
    let (_dir, store) = new_store();
    let before = files(store.dir());
    let machine = machine(image(&[1, 2]));
    let (first, second) = ("t1", "t2");
    machine.send(&store.begin_capture(first).unwrap());
    let session = store.begin_capture(second).unwrap();
    machine.send(&session);
    assert!(
        store.dir().join("captures/t1").exists(),
        "kept for the next session"
    );
    store.retain_captures(|key| key == second).unwrap();
    assert!(!store.dir().join("captures/t1").exists());
    assert!(Arc::ptr_eq(&session, &store.begin_capture(second).unwrap()));
    store.discard_capture(second).unwrap();
    assert!(before == files(store.dir()));
    assert!(matches!(
        session.take(&machine.frames[0]),
        Err(CaptureError::Ended)
    ));
    let error = session.commit(&machine.manifest.encode()).unwrap_err();
    assert!(matches!(error, CaptureError::Ended));
    store.discard_capture("never-there").unwrap();
    for bad in ["", "..", "a/b", &"k".repeat(65)] {
        assert!(
            matches!(store.begin_capture(bad), Err(CaptureError::Key(_))),
            "{bad}"
        );
    }
    // A new one of the same key begins empty.
    let again = store.begin_capture(second).unwrap();
    assert_eq!(machine.send(&again), 2);
}

#[test]
fn two_captures_of_the_same_disk_and_many_threads_of_each() {
    let (_dir, store) = new_store();
    let machine = machine(image(&[1, 2, 3, 4, 5, 6, 7, 8]));
    let sessions = ["a", "b"].map(|key| store.begin_capture(key).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            for session in &sessions {
                scope.spawn(|| machine.send(session));
            }
        }
    });
    let manifests = sessions.map(|s| s.commit(&machine.manifest.encode()).unwrap().manifest);
    assert_eq!(manifests[0], manifests[1]);
    assert!(read_back(&store, &manifests[0]) == machine.disk);
    assert_eq!(store.usage().unwrap().chunks, 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Sent in any order, some twice, with restarts of the session between: the image is the disk.
    #[test]
    fn any_order_and_any_number_of_sessions_make_the_same_image(
        lengths in prop::collection::vec(1usize..40, 1..12),
        order in prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.2)), 0..30),
    ) {
        let (_dir, store) = new_store();
        // Chunks that are mostly zero: quick to pack.
        let mut disk = vec![0; lengths.len() * CHUNK];
        for (at, length) in lengths.iter().enumerate() {
            disk[at * CHUNK..at * CHUNK + length].copy_from_slice(&noise(*length as u64, *length));
        }
        let machine = machine(disk);
        let mut session = store.begin_capture("t1").unwrap();
        for (index, restart) in order {
            if restart {
                drop(session);
                session = store.begin_capture("t1").unwrap();
            }
            session.take(&index.get(&machine.frames)[..]).unwrap();
        }
        machine.send(&session);
        let captured = session.commit(&machine.manifest.encode()).unwrap();
        prop_assert!(read_back(&store, &captured.manifest) == machine.disk);
    }

    #[test]
    fn any_bytes_are_a_chunk_or_are_refused(
        inputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 20..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 20..60),
    ) {
        let (_dir, store) = new_store();
        let session = store.begin_capture("t1").unwrap();
        let good = frame(&noise(1, 400));
        let near = flips.into_iter().map(|(at, bit)| {
            let mut bytes = good.clone();
            bytes[at.index(good.len())] ^= 1 << bit;
            bytes
        });
        for bytes in inputs.into_iter().chain(near) {
            if let Ok(hash) = session.take(&bytes) {
                prop_assert_eq!(session.missing(&[hash]).unwrap(), Vec::<u32>::new());
            }
        }
    }
}
