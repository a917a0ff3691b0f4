//! The server's disk is full: a small filesystem of its own, in a mount namespace of its own.

use bugler_disk::{BlockDevice, DeviceError, Durability, EmptyBase, Overlay, OverlayOptions};
use std::{fs, io, path::Path, process::Command, sync::Arc};

/// Tells this test's second process where it may mount.
const CHILD: &str = "BUGLER_TEST_MOUNT_AT";
const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

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

fn open(path: &Path) -> Overlay {
    let size = BLOCKS * BLOCK as u64;
    let options = OverlayOptions::default();
    Overlay::open_or_create(path, Arc::new(EmptyBase { size }), &options).unwrap()
}

fn is_full(error: &DeviceError) -> bool {
    matches!(error, DeviceError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}

/// Writes one block after the other, each with its number, until there is an error; returns how many were
/// durable, and the error.
fn fill(overlay: &Overlay, from: u64) -> (u64, DeviceError) {
    for block in from..BLOCKS {
        let content = [block as u8 | 1; BLOCK];
        let written = overlay.write(block * BLOCK as u64, &content, Durability::Durable);
        if let Err(error) = written {
            return (block, error);
        }
    }
    panic!("there is room for everything");
}

fn check(overlay: &Overlay, durable: u64) {
    let mut content = [0; BLOCK];
    for block in 0..durable {
        overlay.read(block * BLOCK as u64, &mut content).unwrap();
        assert!(content == [block as u8 | 1; BLOCK], "block {block}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_was_durable_is_found() {
    let Ok(dir) = std::env::var(CHILD) else {
        return in_namespace("a_full_disk_is_an_error_and_what_was_durable_is_found");
    };
    let dir = Path::new(&dir);
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", dir, "tmpfs", flags, c"size=12m").unwrap();
    let (path, ballast) = (dir.join("overlay"), dir.join("ballast"));
    let overlay = open(&path);
    // Its first blocks, before all room is taken by something else.
    for block in 0..100_u64 {
        let content = [block as u8 | 1; BLOCK];
        overlay
            .write(block * BLOCK as u64, &content, Durability::Durable)
            .unwrap();
    }
    drop(overlay);
    let mut least = 100;
    for free_pages in [0_u64, 1, 2, 3, 5, 8, 40] {
        // To be opened it may need some room of its own.
        let overlay = open(&path);
        let room = rustix::fs::statvfs(dir).unwrap().f_bavail;
        let length = room.saturating_sub(free_pages) * BLOCK as u64;
        fs::write(&ballast, vec![0; usize::try_from(length).unwrap()]).unwrap();
        let (durable, error) = fill(&overlay, least);
        println!(
            "{free_pages} pages free: {} blocks more, {error}",
            durable - least
        );
        assert!(is_full(&error), "{error:?}");
        check(&overlay, durable);
        drop(overlay);
        fs::remove_file(&ballast).unwrap();
        check(&open(&path), durable);
        least = durable;
    }
    let overlay = open(&path);
    let (durable, error) = fill(&overlay, least);
    assert!(
        is_full(&error) && durable > least + 500,
        "{durable} {error:?}"
    );
    println!("with room again: {} blocks more", durable - least);
    check(&overlay, durable);
}
