//! A server that is killed in the middle of an add.

use crate::helpers::{CHUNK, add, files, image, new_store, noise, read_back};
use bugler_images::{AddOptions, AddPhase, ChunkStore};
use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Command, Stdio},
};

/// Tells this test's second process which folder to add to.
const CHILD: &str = "BUGLER_TEST_ADD_TO";

/// The second process: adds what comes from its input and says how far it is. It is killed.
fn child(dir: &str) {
    let store = ChunkStore::open(dir).unwrap();
    let mut out = io::stderr();
    let mut progress = |now: &bugler_images::AddProgress| {
        let line = match now.phase {
            AddPhase::Reading => format!("read {}\n", now.disk_bytes / CHUNK as u64),
            AddPhase::Syncing => "syncing\n".to_owned(),
        };
        out.write_all(line.as_bytes()).unwrap();
    };
    let options = AddOptions {
        progress: Some(&mut progress),
        ..AddOptions::default()
    };
    store.add(io::stdin().lock(), options).unwrap();
    eprintln!("added");
}

/// Kills an add when it says `moment`, after `sent` chunks of input, of which the end is sent
/// too where `whole`.
fn kill_at(dir: &std::path::Path, moment: &str, sent: u64, whole: bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::a_killed_add_leaves_nothing",
            "--nocapture",
        ])
        .env(CHILD, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A broken pipe is what the kill does; then there is nobody to send to.
            let all_sent = (0..sent).all(|seed| input.write_all(&noise(seed + 1, CHUNK)).is_ok());
            if all_sent && !whole {
                // Keep the pipe open: the add must be waiting when it is killed.
                std::mem::forget(input);
            }
        });
        let mut lines = output.lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line == moment),
            "the add never said {moment:?}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_killed_add_leaves_nothing() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(&dir);
        return;
    }
    let (dir, store) = new_store();
    let folder = dir.path().join("images");
    let disk = image(&[1, 0, 100]);
    let kept = add(&store, &disk).manifest;
    let before = files(&folder);
    drop(store);
    // Reading is at most a handful of chunks ahead of storing.
    let moments = [
        ("read 1", 1, false),
        ("read 20", 20, false),
        ("read 15", 40, true),
        ("syncing", 1, true),
        ("syncing", 20, true),
        ("added", 5, true),
    ];
    for (moment, sent, whole) in moments {
        kill_at(&folder, moment, sent, whole);
        let store = ChunkStore::open(&folder).unwrap();
        store.begin_gc().unwrap().sweep(&[kept], false).unwrap();
        assert!(before == files(&folder), "killed when it said {moment:?}");
        assert!(read_back(&store, &kept) == disk);
    }
    // And the same add, left alone, works.
    let store = ChunkStore::open(&folder).unwrap();
    let all: Vec<u8> = (0..5).flat_map(|seed| noise(seed + 1, CHUNK)).collect();
    let added = add(&store, &all);
    assert_eq!(
        (added.progress.new_chunks, added.progress.dup_chunks),
        (4, 1)
    );
}
