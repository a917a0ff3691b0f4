//! The folder refuses when chunks are already being put in place.

use crate::helpers::{add, chunk_path, files, image, new_store, read_back};
use bugler_images::{AddError, AddOptions, StoreError};
use std::fs;

/// Something in the way of one of these makes the add fail after others are in place.
#[test]
fn an_add_that_fails_while_it_is_put_in_place_is_taken_back() {
    let (_elsewhere, other) = new_store();
    let disk = image(&[1, 2, 3, 4]);
    let hash = add(&other, &disk).manifest;
    let last = other.manifest(&hash).unwrap().chunks[3].hash;

    let (_dir, store) = new_store();
    let shared = image(&[2]);
    let kept = add(&store, &shared).manifest;
    let before = files(store.dir());
    let manifest_path = store.dir().join(format!("manifests/{hash}"));
    for in_the_way in [manifest_path, chunk_path(&store, &last)] {
        fs::create_dir(&in_the_way).unwrap();
        let error = store.add(&disk[..], AddOptions::default()).unwrap_err();
        match &error {
            AddError::Store(StoreError::Io { path, .. }) => assert_eq!(*path, in_the_way),
            _ => panic!("{error:?}"),
        }
        assert!(before == files(store.dir()), "{error}");
        fs::remove_dir(&in_the_way).unwrap();
    }
    assert!(read_back(&store, &kept) == shared);
    let added = add(&store, &disk);
    assert_eq!(added.manifest, hash);
    let counts = (added.progress.new_chunks, added.progress.dup_chunks);
    assert_eq!(counts, (3, 1));
}
