//! A damaged chunk is found, reported, never given out, and replaced by the next add.

use crate::helpers::{CHUNK, add, chunk_path, image, new_store, noise, read_back};
use bugler_images::{ChunkState, ChunkStore, ExportFormat, StoreError};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use std::{fs, io::Read};

/// An image of three chunks of which the second is to be damaged.
fn three(store: &ChunkStore) -> (Vec<u8>, ChunkHash, Manifest) {
    let disk = image(&[1, 2, 3]);
    let hash = add(store, &disk).manifest;
    let manifest = store.manifest(&hash).unwrap();
    (disk, hash, manifest)
}

/// What becomes of a good frame.
type Damaging = fn(Vec<u8>) -> Vec<u8>;

/// Every kind of damage, by name.
fn damages() -> Vec<(&'static str, Damaging)> {
    vec![
        ("empty", |_| Vec::new()),
        ("one byte", |frame| frame[..1].to_vec()),
        ("cut", |frame| frame[..frame.len() / 2].to_vec()),
        ("flipped at the start", |mut frame| {
            frame[0] ^= 1;
            frame
        }),
        ("flipped in the middle", |mut frame| {
            let middle = frame.len() / 2;
            frame[middle] ^= 0x10;
            frame
        }),
        ("longer", |mut frame| {
            frame.push(0);
            frame
        }),
        ("zeros", |frame| vec![0; frame.len()]),
        ("another chunk", |_| {
            zstd::encode_all(&noise(9, CHUNK)[..], 1).unwrap()
        }),
        ("less content", |_| {
            zstd::encode_all(&noise(2, CHUNK - 1)[..], 1).unwrap()
        }),
        ("more content", |_| {
            zstd::encode_all(&noise(2, CHUNK + 1)[..], 1).unwrap()
        }),
        ("a bomb", |_| {
            zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap()
        }),
        ("a huge file", |_| vec![7; 8 << 20]),
    ]
}

#[test]
fn every_kind_of_damage_is_found_and_healed() {
    for (name, damage) in damages() {
        let (_dir, store) = new_store();
        let (disk, hash, manifest) = three(&store);
        let chunk = manifest.chunks[1].hash;
        let path = chunk_path(&store, &chunk);
        let bad = damage(fs::read(&path).unwrap());
        fs::write(&path, &bad).unwrap();

        let error = store.read_chunk(&chunk).unwrap_err();
        assert!(
            matches!(error, StoreError::DamagedChunk { hash, .. } if hash == chunk),
            "{name}: {error:?}"
        );
        // From now on it is missing, and the evidence is kept.
        assert!(!path.exists(), "{name}");
        let evidence = store.dir().join(format!("damaged/{chunk}"));
        assert!(fs::read(&evidence).unwrap() == bad, "{name}");
        assert_eq!(store.usage().unwrap().damaged, 1);
        assert!(matches!(
            store.read_chunk(&chunk),
            Err(StoreError::NoChunk(_))
        ));
        assert!(matches!(
            store.open_chunk_frame(&chunk),
            Err(StoreError::NoChunk(_))
        ));

        let again = add(&store, &disk);
        let counts = (again.progress.new_chunks, again.progress.dup_chunks);
        assert_eq!(counts, (1, 2), "{name}");
        assert!(read_back(&store, &hash) == disk, "{name}");
        let report = store.begin_gc().unwrap().sweep(&[hash], false).unwrap();
        assert_eq!(
            (report.chunks, report.bytes),
            (1, bad.len() as u64),
            "{name}"
        );
        assert!(!evidence.exists(), "{name}");
    }
}

/// The add itself must notice: nobody has read the chunk since it was damaged.
#[test]
fn an_add_does_not_trust_what_is_there() {
    for (name, damage) in damages() {
        let (_dir, store) = new_store();
        let (disk, hash, manifest) = three(&store);
        let path = chunk_path(&store, &manifest.chunks[1].hash);
        fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
        let again = add(&store, &disk);
        assert_eq!(again.progress.new_chunks, 1, "{name}");
        assert_eq!(again.manifest, hash, "{name}");
        assert!(read_back(&store, &hash) == disk, "{name}");
        assert_eq!(store.verify(&hash, |_, _| true).unwrap(), vec![], "{name}");
    }
}

#[test]
fn verify_names_every_place() {
    let (_dir, store) = new_store();
    let manifest = add(&store, &image(&[1, 2, 0, 2, 3])).manifest;
    let chunks = store.manifest(&manifest).unwrap().chunks;
    fs::write(chunk_path(&store, &chunks[1].hash), "?").unwrap();
    fs::remove_file(chunk_path(&store, &chunks[3].hash)).unwrap();
    let mut seen = Vec::new();
    let damage = store.verify(&manifest, |done, total| {
        seen.push((done, total));
        true
    });
    let damage = damage.unwrap();
    let places: Vec<_> = damage.iter().map(|d| (d.index, d.offset, d.hash)).collect();
    let mib = CHUNK as u64;
    assert_eq!(
        places,
        [
            (1, mib, chunks[1].hash),
            (3, 3 * mib, chunks[1].hash),
            (4, 4 * mib, chunks[3].hash)
        ]
    );
    assert!(
        damage[0].detail.contains("cannot be unpacked"),
        "{damage:?}"
    );
    assert_eq!(damage[0].detail, damage[1].detail);
    assert_eq!(damage[2].detail, "it is missing");
    assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)]);

    let mut calls = 0;
    let early = store.verify(&manifest, |_, _| {
        calls += 1;
        false
    });
    assert_eq!((early.unwrap(), calls), (vec![], 1));
}

#[test]
fn a_damaged_chunk_ends_a_read_and_an_export_before_it() {
    let (_dir, store) = new_store();
    let (disk, hash, manifest) = three(&store);
    let path = chunk_path(&store, &manifest.chunks[1].hash);
    let mut frame = fs::read(&path).unwrap();
    frame[5000] ^= 1;
    let is_store_error = |error: &std::io::Error| {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<StoreError>());
        matches!(
            inner,
            Some(StoreError::DamagedChunk { .. } | StoreError::NoChunk(_))
        )
    };

    fs::write(&path, &frame).unwrap();
    let mut bytes = Vec::new();
    let mut reader = store.open_raw(&hash).unwrap();
    let error = reader.read_to_end(&mut bytes).unwrap_err();
    assert!(is_store_error(&error), "{error:?}");
    assert!(bytes == disk[..CHUNK]);

    for format in [ExportFormat::Raw, ExportFormat::Zstd] {
        fs::write(&path, &frame).unwrap();
        let mut out = Vec::new();
        let error = store.export(&hash, &mut out, format).unwrap_err();
        assert!(is_store_error(&error), "{error:?}");
        if format == ExportFormat::Zstd {
            out = zstd::decode_all(&out[..]).unwrap();
        }
        assert!(out == disk[..CHUNK]);
    }
}

#[test]
fn a_report_of_damage_is_looked_into() {
    let (_dir, store) = new_store();
    let (_, _, manifest) = three(&store);
    let [good, bad, gone] = [0, 1, 2].map(|at| manifest.chunks[at].hash);
    fs::write(chunk_path(&store, &bad), "not a frame").unwrap();
    fs::remove_file(chunk_path(&store, &gone)).unwrap();
    // Serving it is cheap, and checks nothing.
    let mut frame = store.open_chunk_frame(&bad).unwrap();
    let mut served = Vec::new();
    for left in [4, 0, 0] {
        frame.read_part(7, &mut served).unwrap();
        assert_eq!((frame.len(), frame.left()), (11, left));
    }
    assert_eq!(served, b"not a frame");
    assert_eq!(store.check_chunk(&good).unwrap(), ChunkState::Good);
    assert!(matches!(
        store.check_chunk(&bad).unwrap(),
        ChunkState::Damaged { .. }
    ));
    assert_eq!(store.check_chunk(&bad).unwrap(), ChunkState::Missing);
    assert_eq!(store.check_chunk(&gone).unwrap(), ChunkState::Missing);
}

#[test]
fn a_frame_of_impossible_length_is_not_even_served() {
    let (_dir, store) = new_store();
    let (_, _, manifest) = three(&store);
    let [empty, huge, _] = [0, 1, 2].map(|at| manifest.chunks[at].hash);
    fs::write(chunk_path(&store, &empty), "").unwrap();
    fs::write(chunk_path(&store, &huge), vec![1; 3 << 20]).unwrap();
    for chunk in [empty, huge] {
        let error = store.open_chunk_frame(&chunk).unwrap_err();
        assert!(
            matches!(error, StoreError::DamagedChunk { .. }),
            "{error:?}"
        );
        assert_eq!(store.check_chunk(&chunk).unwrap(), ChunkState::Missing);
    }
}

#[test]
fn a_frame_that_is_cut_while_it_is_served_is_an_error() {
    let (_dir, store) = new_store();
    let (_, _, manifest) = three(&store);
    let chunk = manifest.chunks[0].hash;
    let mut frame = store.open_chunk_frame(&chunk).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(chunk_path(&store, &chunk))
        .and_then(|file| file.set_len(u64::from(frame.len()) - 1))
        .unwrap();
    let error = frame.read_part(frame.len(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}

#[test]
fn a_damaged_manifest_is_not_believed() {
    let (_dir, store) = new_store();
    let (disk, hash, manifest) = three(&store);
    let path = store.dir().join(format!("manifests/{hash}"));
    let good = fs::read(&path).unwrap();
    let mut shorter = manifest.clone();
    shorter.chunks.pop();
    for bad in [
        shorter.encode(),
        good[..good.len() - 1].to_vec(),
        Vec::new(),
    ] {
        fs::write(&path, bad).unwrap();
        let error = store.manifest(&hash).unwrap_err();
        assert!(
            matches!(error, StoreError::DamagedManifest { .. }),
            "{error:?}"
        );
        assert!(store.open_raw(&hash).is_err());
    }
    assert_eq!(add(&store, &disk).manifest, hash);
    assert_eq!(store.manifest(&hash).unwrap(), manifest);
}

/// A manifest can be good by its hash and still be nonsense: what it names must fit.
#[test]
fn a_chunk_that_does_not_fit_its_place_is_damage_of_the_image() {
    let (_dir, store) = new_store();
    let (_, _, mut manifest) = three(&store);
    manifest.disk_size = 2 * CHUNK as u64 + 512;
    let bytes = manifest.encode();
    let hash = ChunkHash(*blake3::hash(&bytes).as_bytes());
    fs::write(store.dir().join(format!("manifests/{hash}")), bytes).unwrap();
    let damage = store.verify(&hash, |_, _| true).unwrap();
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].detail, "it holds 1048576 bytes where 512 belong");
    let mut reader = store.open_raw(&hash).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    // The chunk itself is right, and others use it.
    let state = store.check_chunk(&manifest.chunks[2].hash).unwrap();
    assert_eq!(state, ChunkState::Good);
}
