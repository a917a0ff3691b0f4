//! Many devices on one tree, at the same time.

mod common;

use bugler_nfs::packet::How;
use bugler_nfs::{Export, ExportId, Exports, Layer, MountStatus, SetAttributes, Stability, Status};
use common::base;
use common::client::Client;
use common::server::{from_any_port, start};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

const DEVICES: u8 = 40;

struct Many(HashMap<u8, Arc<Export>>);

impl Exports for Many {
    fn open(&self, _: SocketAddr, path: &[u8]) -> Result<Arc<Export>, MountStatus> {
        let number = std::str::from_utf8(path).ok();
        let number = number.and_then(|path| path.strip_prefix('/')?.parse().ok());
        let export = number.and_then(|number: u8| self.0.get(&number));
        export.cloned().ok_or(MountStatus::NoEntry)
    }

    fn find(&self, _: SocketAddr, export: ExportId) -> Result<Arc<Export>, Status> {
        self.0.get(&export.0[0]).cloned().ok_or(Status::Stale)
    }
}

/// What this process holds in memory, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[test]
fn forty_devices_have_forty_layers_on_one_tree() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
    base::fill(&tree);
    base::image(&tree, &image);
    let tree = base::image_tree(&image);
    let before = resident();
    let exports = (1..=DEVICES).map(|number| {
        let path = folder.path().join(number.to_string());
        let layer = Layer::open(&path, tree.clone(), &base::options(number)).unwrap();
        (number, Arc::new(Export::start(layer).unwrap()))
    });
    let exports = Arc::new(Many(exports.collect()));
    let (_runtime, address) = start(exports.clone(), from_any_port());
    std::thread::scope(|scope| {
        for number in 1..=DEVICES {
            scope.spawn(move || device(address, number));
        }
    });
    let after = resident();
    println!("{DEVICES} devices: {before} MiB before, {after} MiB after");
    assert!(
        after.saturating_sub(before) < 300,
        "{before} MiB before, {after} MiB after"
    );
    for export in exports.0.values() {
        let usage = export.usage();
        assert!(
            usage.written >= 1 << 20 && usage.taken >= 1 << 20,
            "{usage:?}"
        );
    }
}

/// Changes the same files as all others, in its own way.
fn device(address: SocketAddr, number: u8) {
    let mut client = Client::connect(address).unwrap();
    let root = client.mount(&format!("/{number}")).unwrap();
    let own = vec![number; 1 << 18];
    let file = client.lookup(&root, b"e").unwrap();
    for part in 0..4 {
        let how = Stability::Unstable;
        client.write(&file, part << 18, &own, how).unwrap();
    }
    client.commit(&file).unwrap();
    let folder = client.lookup(&root, b"a").unwrap();
    client.rename((&root, b"g"), (&folder, b"b")).unwrap();
    for at in 0..20 {
        let name = format!("{number} {at}");
        let how = How::Guarded(SetAttributes::default());
        client.create(&folder, name.as_bytes(), how).unwrap();
    }
    assert_eq!(client.read_all(&file).unwrap(), own.repeat(4));
    let renamed = client.lookup(&folder, b"b").unwrap();
    assert_eq!(client.read_all(&renamed).unwrap(), b"two names");
    let (entries, end) = client.list(&folder, 0, 60_000).unwrap();
    assert!(end);
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.retain(|name| name.iter().any(u8::is_ascii_digit));
    assert_eq!(names.len(), 20, "no names of others");
    let prefix = format!("{number} ").into_bytes();
    assert!(names.iter().all(|name| name.starts_with(&prefix)));
}
