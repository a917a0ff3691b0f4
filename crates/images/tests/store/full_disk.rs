//! The server's disk is full: a small filesystem of its own, in a mount namespace of its own.

use crate::helpers::{CHUNK, add, files, image, noise, read_back};
use bugler_images::{AddError, AddOptions, ChunkStore};
use std::{fs, path::Path, process::Command};

/// Tells this test's second process where it may mount.
const CHILD: &str = "BUGLER_TEST_MOUNT_AT";

/// Runs a test of this file again, in a mount namespace where it is root.
fn in_namespace(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}{errors}");
}

fn mount_tmpfs(at: &Path, options: &std::ffi::CStr) {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, options).unwrap();
}

fn full(store: &ChunkStore, input: &[u8]) -> (u64, u64) {
    match store.add(input, AddOptions::default()) {
        Err(AddError::NoRoom {
            written, free, dir, ..
        }) => {
            assert_eq!(dir, store.dir());
            (written, free)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    let Ok(dir) = std::env::var(CHILD) else {
        return in_namespace("full_disk::a_full_disk_leaves_nothing");
    };
    let dir = Path::new(&dir);
    mount_tmpfs(dir, c"size=12m");
    let store = ChunkStore::open(dir.join("images")).unwrap();
    let disk = image(&[1, 2]);
    let kept = add(&store, &disk).manifest;
    let before = files(dir);
    let room = store.usage().unwrap().free_bytes;

    let large: Vec<u64> = (10..40).collect();
    let (written, free) = full(&store, &image(&large));
    assert!(before == files(dir));
    assert!(written > 6 * CHUNK as u64 && written < room, "{written}");
    assert_eq!(free, room);
    assert!(read_back(&store, &kept) == disk);

    // However little is missing, and for what: a chunk, the manifest, a folder's entry.
    let small = noise(99, 300_000);
    let ballast = dir.join("ballast");
    let (mut fitted, mut refused) = (0, 0);
    for free_pages in 0..90u64 {
        let length = room - free_pages * 4096;
        fs::write(&ballast, vec![0; usize::try_from(length).unwrap()]).unwrap();
        match store.add(&small[..], AddOptions::default()) {
            Ok(added) => {
                fitted += 1;
                assert!(read_back(&store, &added.manifest)[..small.len()] == small);
                drop(added);
                store.begin_gc().unwrap().sweep(&[kept], false).unwrap();
            }
            Err(AddError::NoRoom { .. }) => refused += 1,
            Err(error) => panic!("with {free_pages} pages free: {error:?}"),
        }
        fs::remove_file(&ballast).unwrap();
        assert!(before == files(dir), "with {free_pages} pages free");
    }
    assert!(fitted > 0 && refused > 60, "{fitted} {refused}");
}

#[test]
fn a_disk_without_inodes_is_full_too() {
    let Ok(dir) = std::env::var(CHILD) else {
        return in_namespace("full_disk::a_disk_without_inodes_is_full_too");
    };
    let dir = Path::new(&dir);
    mount_tmpfs(dir, c"size=64m,nr_inodes=273");
    let store = ChunkStore::open(dir.join("images")).unwrap();
    let before = files(dir);
    let seeds: Vec<u64> = (1..30).collect();
    full(&store, &image(&seeds));
    assert!(before == files(dir));
    let added = add(&store, &image(&[1]));
    assert_eq!(store.verify(&added.manifest, |_, _| true).unwrap(), vec![]);
}
