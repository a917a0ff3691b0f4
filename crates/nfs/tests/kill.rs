//! A server that is killed in the middle of its work: what it has acknowledged is found again.

mod common;

use bugler_nfs::packet::How;
use bugler_nfs::{SetAttributes, Stability, Status};
use common::base;
use common::client::{Client, Handle};
use common::server::{Process, serve_if_asked};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The process that [`Process::spawn`] starts is this test.
#[test]
fn server_process() {
    serve_if_asked();
}

/// Numbers that look like chance, and are the same each time (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn guarded() -> How {
    How::Guarded(SetAttributes {
        mode: Some(0o644),
        ..SetAttributes::default()
    })
}

/// A file as its client knows it.
struct Known {
    handle: Handle,
    content: Vec<u8>,
    /// What was written and not committed: offset, bytes.
    open: Vec<(u64, Vec<u8>)>,
    verifier: Option<[u8; 8]>,
}

impl Known {
    /// As a kernel does: what a server has lost that was started anew, is written again.
    fn commit(&mut self, client: &mut Client) {
        loop {
            let verifier = client.commit(&self.handle).unwrap();
            if self.open.is_empty() || self.verifier == Some(verifier) {
                self.open.clear();
                return;
            }
            self.verifier = None;
            for (offset, data) in std::mem::take(&mut self.open) {
                self.write(client, offset, data);
            }
        }
    }

    fn write(&mut self, client: &mut Client, offset: u64, data: Vec<u8>) {
        let verifier = client.write(&self.handle, offset, &data, Stability::Unstable);
        let verifier = verifier.unwrap();
        // One that differs shows at the commit, which compares with the first.
        self.verifier.get_or_insert(verifier);
        self.open.push((offset, data));
    }
}

/// Works on, whatever happens to the server, and gives what must be there.
fn work(client: &mut Client, root: &[u8], seed: u64, steps: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut chance = Chance(seed | 1);
    let mut files: BTreeMap<Vec<u8>, Known> = BTreeMap::new();
    let folder = client
        .make_folder(root, format!("work {seed}").as_bytes())
        .unwrap();
    for step in 0..steps {
        let name = format!("file {}", chance.below(12)).into_bytes();
        let other = format!("file {}", chance.below(12)).into_bytes();
        match (chance.below(8), files.contains_key(&name)) {
            (_, false) => {
                let handle = client.create(&folder, &name, guarded()).unwrap();
                let known = Known {
                    handle,
                    content: vec![],
                    open: vec![],
                    verifier: None,
                };
                files.insert(name, known);
            }
            (0, true) => {
                client.remove(&folder, &name).unwrap();
                files.remove(&name);
                let gone = client.lookup(&folder, &name);
                assert_eq!(gone, Err(Status::NoEntry as u32));
            }
            (1, true) => {
                client.rename((&folder, &name), (&folder, &other)).unwrap();
                let known = files.remove(&name).unwrap();
                files.insert(other, known);
            }
            (2 | 3, true) => files.get_mut(&name).unwrap().commit(client),
            (kind, true) => {
                let known = files.get_mut(&name).unwrap();
                let offset = chance.below(20_000);
                let data = vec![step as u8 | 1; 1 + chance.below(9000) as usize];
                let end = offset as usize + data.len();
                known.content.resize(known.content.len().max(end), 0);
                known.content[offset as usize..end].copy_from_slice(&data);
                match kind {
                    4 if known.open.is_empty() => {
                        let how = Stability::File;
                        client.write(&known.handle, offset, &data, how).unwrap();
                    }
                    _ => known.write(client, offset, data),
                }
            }
        }
    }
    for known in files.values_mut() {
        known.commit(client);
    }
    let contents = files.into_iter();
    contents
        .map(|(name, known)| (name, known.content))
        .collect()
}

/// Rounds, each with some calls and a kill within every few of them.
fn rounds(count: u64, steps: u64) {
    let folder = tempfile::tempdir().unwrap();
    base::fill(&folder.path().join("tree"));
    let mut process = Process::spawn(folder.path(), 0, None);
    let port = process.address.port();
    let mut kills = 0;
    for round in 0..count {
        let address = process.address;
        let mut client = Client::connect(address).unwrap();
        // A client does not mount again by itself.
        let root = client.mount("/1").unwrap();
        let calls = client.calls.clone();
        let contents = std::thread::scope(|scope| {
            let working = scope.spawn(|| work(&mut client, &root, round * 7919 + 1, steps));
            let mut chance = Chance(round * 31 + 5);
            let mut next = 0;
            while !working.is_finished() {
                if calls.load(Ordering::Relaxed) < next {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                // At any time within a call.
                std::thread::sleep(Duration::from_micros(chance.below(5000)));
                process.kill();
                kills += 1;
                process = Process::spawn(folder.path(), port, None);
                next = calls.load(Ordering::Relaxed) + 2 + chance.below(30);
            }
            working.join().unwrap()
        });
        process.kill();
        process = Process::spawn(folder.path(), port, None);
        let mut client = Client::connect(process.address).unwrap();
        let name = format!("work {}", round * 7919 + 1);
        let work = client.lookup(&root, name.as_bytes()).unwrap();
        let (entries, end) = client.list(&work, 0, 60_000).unwrap();
        assert!(end);
        let names: Vec<_> = entries[2..]
            .iter()
            .map(|entry| entry.name.clone())
            .collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert!(sorted.iter().eq(contents.keys()), "{names:?}");
        for (name, content) in contents {
            let file = client.lookup(&work, &name).unwrap();
            let found = client.read_all(&file).unwrap();
            let differs = found
                .iter()
                .zip(&content)
                .position(|(one, other)| one != other);
            assert_eq!(
                (found.len(), differs),
                (content.len(), None),
                "round {round}, {name:?}"
            );
        }
    }
    println!("{count} rounds, {kills} kills, everything found again");
}

#[test]
fn what_was_acknowledged_is_found_again_after_kills() {
    rounds(3, 100);
}

/// `cargo test -p bugler-nfs --test kill -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes: some 200 kills"]
fn what_was_acknowledged_is_found_again_after_200_kills() {
    rounds(12, 400);
}

#[test]
fn a_layer_is_refused_by_a_second_server_and_on_another_base() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    base::fill(&tree);
    let tree = base::folder_tree(&tree);
    let layer = base::layer(&folder.path().join("layer"), tree.clone());
    let open = |options: &bugler_nfs::LayerOptions| {
        let opened = bugler_nfs::Layer::open(&folder.path().join("layer"), tree.clone(), options);
        opened.map(drop).unwrap_err().to_string()
    };
    let error = open(&base::options(1));
    assert!(error.contains("is in use by another process"), "{error}");
    drop(layer);
    for path in ["", "layer.db", "data", "lock"] {
        let path = folder.path().join("layer").join(path);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path:?} is nobody else's");
    }
    let mut other = base::options(1);
    other.base = "image 2".into();
    let error = open(&other);
    assert!(
        error.contains("was made on test, not on image 2"),
        "{error}"
    );
    let error = open(&base::options(2));
    assert!(error.contains("belongs to another export"), "{error}");
    // A page of the database is no longer what it was.
    let path = folder.path().join("layer/layer.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = 4096 + 50;
    bytes[middle..middle + 2000].fill(0xa5);
    bytes[4096..4104].fill(0x77);
    std::fs::write(&path, bytes).unwrap();
    let error = open(&base::options(1));
    assert!(
        error.contains("damaged") || error.contains("database"),
        "{error}"
    );
}
