//! The server's disk is full: its layers are on a small filesystem of their own, in a mount namespace of its
//! own.

use crate::bench::{Bench, MIB, block, disk, diskless, peer};
use bugler_disk::Durability;
use bugler_diskless::NbdExports;
use bugler_nbd::Exports;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::process::Command;

/// Says that this is the second process of a test.
const CHILD: &str = "BUGLER_TEST_IN_NAMESPACE";

/// Runs a test of this file again, in a mount namespace where it is root.
fn in_namespace(test: &str) {
    // What it leaves below its mount is removed here.
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg("--mount")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_again_when_there_is_room_again() {
    if std::env::var(CHILD).is_err() {
        return in_namespace("full::a_machine_boots_again_when_there_is_room_again");
    }
    let bench = Bench::new().await;
    bench.image("one").await;
    let layers = bench.dir.path().join("layers");
    mount("tmpfs", &layers, "tmpfs", MountFlags::empty(), c"size=8m").unwrap();
    let one = bench.device(1).await;
    let wanted = diskless("debian");
    bench.boot(&one, &wanted, "a").await;
    let exports = NbdExports::new(bench.service.clone());
    let connection = exports.open("a", &peer()).unwrap();
    let root = connection.device();
    root.write(12 * MIB, &[1; 4096], Durability::Durable)
        .unwrap();

    let ballast = layers.join("x99.layer");
    let free = rustix::fs::statvfs(&layers).unwrap().f_bavail;
    fs::write(
        &ballast,
        vec![0; usize::try_from((free - 20) * 4096).unwrap()],
    )
    .unwrap();
    let mut error = None;
    for number in 0..200 {
        let at = 13 * MIB + number * 4096;
        if let Err(failed) = root.write(at, &[2; 4096], Durability::Durable) {
            error = Some(failed.to_string());
            break;
        }
    }
    let error = error.expect("there is room for 200 blocks in 20");
    println!("{error}");
    assert!(error.contains("No space left on device"), "{error}");
    fs::remove_file(&ballast).unwrap();

    // Its connection is still open, as when its power was cut.
    bench.boot(&one, &wanted, "b").await;
    let again = disk(&exports, "b");
    assert_eq!(block(&*again, 12 * MIB), [1; 4096]);
    assert_eq!(block(&*again, 13 * MIB), [2; 4096]);
    again
        .write(14 * MIB, &[3; 65536], Durability::Durable)
        .unwrap();
    assert_eq!(block(&*again, 14 * MIB), [3; 4096]);
    drop(connection);
    assert_eq!(block(&*again, 14 * MIB), [3; 4096]);
}
