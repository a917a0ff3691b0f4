//! Images share chunks, and adds, reads and garbage collection run side by side.

use crate::helpers::{CHUNK, Tripwire, add, chunk_path, files, image, new_store, noise, read_back};
use bugler_images::{AddOptions, ChunkStore, StoreError};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use std::sync::atomic::{AtomicBool, Ordering};

/// Collects garbage with these manifests live.
fn collect(store: &ChunkStore, live: &[ChunkHash]) -> bugler_images::GcReport {
    store.begin_gc().unwrap().sweep(live, false).unwrap()
}

fn is_whole(store: &ChunkStore, manifest: &ChunkHash) -> bool {
    store.verify(manifest, |_, _| true).unwrap().is_empty()
}

#[test]
fn equal_chunks_are_stored_once() {
    let (_dir, store) = new_store();
    let first = add(&store, &image(&[1, 2, 1, 0, 1]));
    let counts = (first.progress.new_chunks, first.progress.dup_chunks);
    assert_eq!(counts, (2, 2));
    assert_eq!(first.used_bytes, 4 * CHUNK as u64);
    let second = add(&store, &image(&[0, 2, 3]));
    let counts = (second.progress.new_chunks, second.progress.dup_chunks);
    assert_eq!(counts, (1, 1));
    let usage = store.usage().unwrap();
    assert_eq!((usage.chunks, usage.manifests, usage.damaged), (3, 2, 0));
    assert!(usage.chunk_bytes > 3 * CHUNK as u64 && usage.chunk_bytes < 4 * CHUNK as u64);
    assert!(usage.free_bytes > 0 && usage.free_bytes <= usage.total_bytes);
}

#[test]
fn a_folder_has_one_user() {
    let (dir, store) = new_store();
    let folder = dir.path().join("images");
    match ChunkStore::open(&folder) {
        Err(StoreError::Locked { holder, .. }) => {
            let own = format!("process {} on ", std::process::id());
            assert!(holder.starts_with(&own), "{holder}");
        }
        other => panic!("{other:?}"),
    }
    let clone = store.clone();
    drop(store);
    assert!(ChunkStore::open(&folder).is_err(), "a clone still has it");
    drop(clone);
    ChunkStore::open(&folder).unwrap();
}

#[test]
fn opening_keeps_everything_but_what_was_in_progress() {
    let (dir, store) = new_store();
    let disk = image(&[1, 0, 2]);
    let manifest = add(&store, &disk).manifest;
    let folder = dir.path().join("images");
    let before = files(&folder);
    std::fs::create_dir(folder.join("tmp/add-7")).unwrap();
    std::fs::write(folder.join("tmp/add-7/left"), "over").unwrap();
    drop(store);
    let store = ChunkStore::open(&folder).unwrap();
    assert!(before == files(&folder));
    assert!(read_back(&store, &manifest) == disk);
}

#[test]
fn garbage_is_what_no_live_image_names() {
    let (_dir, store) = new_store();
    let kept = add(&store, &image(&[1, 2])).manifest;
    let before = files(store.dir());
    let gone = add(&store, &image(&[2, 3, 4])).manifest;

    let both = files(store.dir());
    let dry = store.begin_gc().unwrap().sweep(&[kept], true).unwrap();
    assert!(both == files(store.dir()), "a dry run removed something");
    let report = collect(&store, &[kept]);
    assert_eq!(report, dry);
    assert_eq!((report.chunks, report.manifests), (2, 1));
    assert!(report.bytes > 2 * CHUNK as u64);
    assert!(before == files(store.dir()));
    assert!(matches!(store.manifest(&gone), Err(StoreError::NoManifest(hash)) if hash == gone));
    assert!(is_whole(&store, &kept));
}

#[test]
fn nothing_is_collected_when_a_live_manifest_cannot_be_read() {
    let (_dir, store) = new_store();
    let live = add(&store, &image(&[1])).manifest;
    drop(add(&store, &image(&[2])));
    let before = files(store.dir());
    let missing = ChunkHash([7; 32]);
    let error = store.begin_gc().unwrap().sweep(&[live, missing], false);
    assert!(matches!(error, Err(StoreError::NoManifest(hash)) if hash == missing));
    assert!(before == files(store.dir()));

    let path = store.dir().join(format!("manifests/{live}"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = files(store.dir());
    let error = store.begin_gc().unwrap().sweep(&[live], false);
    assert!(matches!(error, Err(StoreError::DamagedManifest { .. })));
    assert!(before == files(store.dir()));
}

#[test]
fn there_is_one_collection_at_a_time() {
    let (_dir, store) = new_store();
    let first = store.begin_gc().unwrap();
    assert!(matches!(store.begin_gc(), Err(StoreError::Collecting)));
    drop(first);
    assert!(store.begin_gc().is_ok());
}

#[test]
fn what_is_held_is_kept() {
    let (_dir, store) = new_store();
    let added = add(&store, &image(&[1, 2]));
    let manifest = added.manifest;
    // The image is in no registry yet.
    assert_eq!(collect(&store, &[]), Default::default());
    let (hold, _) = store.hold(&manifest).unwrap();
    drop(added);
    assert_eq!(collect(&store, &[]), Default::default());
    let reader = store.open_raw(&manifest).unwrap();
    drop(hold);
    assert_eq!(collect(&store, &[]), Default::default());
    drop(reader);
    assert_eq!(collect(&store, &[]).chunks, 2);
    assert!(matches!(
        store.hold(&manifest),
        Err(StoreError::NoManifest(_))
    ));
}

#[test]
fn what_was_held_since_the_collection_began_is_kept() {
    let (_dir, store) = new_store();
    let collection = store.begin_gc().unwrap();
    // Added, entered into the registry and let go, after the registry was asked what is live.
    let manifest = add(&store, &image(&[1, 2])).manifest;
    let report = collection.sweep(&[], false).unwrap();
    assert_eq!(report, Default::default());
    assert!(is_whole(&store, &manifest));
    assert_eq!(collect(&store, &[]).manifests, 1);
}

#[test]
fn an_add_that_a_collection_passes_through_is_whole() {
    let disk = image(&[1, 2, 0, 3, 4, 5]);
    for after in [1, CHUNK, 3 * CHUNK + 1, 5 * CHUNK, disk.len()] {
        let (_dir, store) = new_store();
        // Garbage that the add can build on until the collection takes it.
        drop(add(&store, &image(&[1, 2, 3, 9])));
        let reader = Tripwire {
            rest: &disk,
            after,
            act: Some(|| {
                collect(&store, &[]);
            }),
        };
        let added = store.add(reader, AddOptions::default()).unwrap();
        assert!(read_back(&store, &added.manifest) == disk, "after {after}");
        collect(&store, &[added.manifest]);
        assert!(is_whole(&store, &added.manifest), "after {after}");
        assert_eq!(store.usage().unwrap().chunks, 5);
    }
}

#[test]
fn a_collection_that_an_add_passes_through_keeps_it() {
    let (_dir, store) = new_store();
    drop(add(&store, &image(&[1, 2, 3])));
    let collection = store.begin_gc().unwrap();
    let manifest = add(&store, &image(&[3, 2, 4])).manifest;
    let report = collection.sweep(&[], false).unwrap();
    assert_eq!((report.chunks, report.manifests), (1, 1));
    assert!(is_whole(&store, &manifest));
}

#[test]
fn a_cancelled_add_takes_nothing_that_others_use() {
    let (_dir, store) = new_store();
    let disk = image(&[1, 2, 3, 4]);
    let cancel = AtomicBool::new(false);
    let reader = Tripwire {
        rest: &disk,
        after: 3 * CHUNK,
        // The other add stores the same chunks while this one is under way.
        act: Some(|| {
            drop(add(&store, &image(&[2, 1])));
            cancel.store(true, Ordering::Relaxed);
        }),
    };
    let options = AddOptions {
        cancel: Some(&cancel),
        ..AddOptions::default()
    };
    assert!(store.add(reader, options).is_err());
    let other = add(&store, &image(&[2, 1]));
    assert_eq!(other.progress.new_chunks, 0);
    assert!(is_whole(&store, &other.manifest));
    assert_eq!(store.usage().unwrap().chunks, 2);
}

/// Four adders of overlapping images, one collector, and readers of what has been added: nobody
/// ever sees a half image. Each adder has a registry of one line, its latest image.
#[test]
fn adds_reads_and_collections_side_by_side() {
    const ROUNDS: u64 = 12;
    let (_dir, store) = new_store();
    let registry: Vec<_> = (0..4).map(|_| std::sync::Mutex::new(None)).collect();
    let adding = AtomicBool::new(true);
    let collections = std::thread::scope(|scope| {
        let adders: Vec<_> = registry
            .iter()
            .zip(0u64..)
            .map(|(line, adder)| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let seeds = [1 + round % 3, 0, 10 + adder, 20 + round];
                        let disk = image(&seeds);
                        let added = add(store, &disk);
                        // The line is what keeps it from here on.
                        *line.lock().unwrap() = Some(added.manifest);
                        drop(added.hold);
                        assert!(read_back(store, &added.manifest) == disk);
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while adding.load(Ordering::Relaxed) {
                let collection = store.begin_gc().unwrap();
                let live: Vec<_> = registry.iter().filter_map(|l| *l.lock().unwrap()).collect();
                collection.sweep(&live, false).unwrap();
                collections += 1;
            }
            collections
        });
        // The collector is let go whatever became of the adders, or a failure would hang.
        let ended: Vec<_> = adders.into_iter().map(|adder| adder.join()).collect();
        adding.store(false, Ordering::Relaxed);
        let collections = collector.join().unwrap();
        assert!(ended.iter().all(Result::is_ok), "an adder failed");
        collections
    });
    assert!(collections > 0);
    let live: Vec<_> = registry.iter().filter_map(|l| *l.lock().unwrap()).collect();
    collect(&store, &live);
    assert!(live.iter().all(|manifest| is_whole(&store, manifest)));
    // The last round's images: 1 + 11 % 3, each adder's own, and 20 + 11.
    assert_eq!(store.usage().unwrap().chunks, 6);
    assert_eq!(store.usage().unwrap().manifests, 4);
}

#[test]
fn files_of_others_are_left_alone() {
    let (_dir, store) = new_store();
    let manifest = add(&store, &image(&[1])).manifest;
    let chunk = store.manifest(&manifest).unwrap().chunks[0].hash;
    let strange = chunk_path(&store, &chunk).with_file_name("lost+found");
    std::fs::write(&strange, "?").unwrap();
    assert_eq!(store.usage().unwrap().chunks, 1);
    assert_eq!(collect(&store, &[]).chunks, 1);
    assert!(strange.exists());
}

#[test]
fn the_name_of_the_content_is_the_hash_of_the_manifest() {
    let (_dir, store) = new_store();
    let disk = [noise(1, CHUNK), vec![0; CHUNK], noise(2, 512)].concat();
    let added = add(&store, &disk);
    let manifest = store.manifest(&added.manifest).unwrap();
    let bytes = manifest.encode();
    assert_eq!(added.manifest.0, *blake3::hash(&bytes).as_bytes());
    assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
    let hashes: Vec<_> = manifest.chunks.iter().map(|c| c.hash.0).collect();
    let expected = [&disk[..CHUNK], &disk[2 * CHUNK..]].map(|c| *blake3::hash(c).as_bytes());
    assert_eq!(hashes, expected);
}

/// A server hands these to its blocking threads.
#[test]
fn everything_can_go_to_another_thread() {
    fn check<T: Send + 'static>(value: T) -> T {
        std::thread::spawn(move || value).join().unwrap()
    }
    let (_dir, store) = new_store();
    let store = check(store);
    let added = check(add(&store, &image(&[1])));
    let reader = check(store.open_raw(&added.manifest).unwrap());
    assert_eq!(reader.manifest().disk_size, CHUNK as u64);
    let collector = check(store.begin_gc().unwrap());
    assert_eq!(collector.sweep(&[], true).unwrap(), Default::default());
}
