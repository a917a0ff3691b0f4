//! Device nodes that debugfs made, and files by the numbers that debugfs says.

mod disks;

use bugler_fsread::tree::{FileKind, Volume};
use disks::run;
use std::fs::File;

#[test]
fn devices_and_numbers_are_as_debugfs_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let path = path.to_str().unwrap();
    run("mke2fs", &["-q", "-t", "ext4", path, "4M"]);
    let devices = [
        ("null", "c", 1, 3),
        ("sda", "b", 8, 0),
        // In 32 bits, as major or minor number is above 255.
        ("nvme", "b", 259, 5),
        ("many", "c", 4, 4000),
    ];
    for (name, kind, major, minor) in devices {
        let request = format!("mknod {name} {kind} {major} {minor}");
        run("debugfs", &["-w", "-R", &request, path]);
    }
    run("debugfs", &["-w", "-R", "mkdir below", path]);
    let file = File::open(path).unwrap();
    let volume = Volume::open(&file).unwrap();
    for (name, kind, major, minor) in devices {
        let entry = volume.entry(name).unwrap();
        let is_block = entry.kind == FileKind::BlockDevice;
        assert_eq!(is_block, kind == "b", "{name}");
        assert_eq!(entry.device, Some((major, minor)), "{name}");
        let said = run("debugfs", &["-R", &format!("stat {name}"), path]);
        let number = entry.number.unwrap();
        assert!(said.starts_with(&format!("Inode: {number} ")), "{said}");
    }
    let below = volume.entry("below").unwrap();
    assert_eq!(volume.parent(&below).unwrap(), 2);
    assert_eq!((below.links, below.device), (Some(2), None));
    let root = volume.by_number(2).unwrap().unwrap();
    assert_eq!(
        root.links,
        Some(4),
        "itself, its parent, below and lost+found"
    );
    assert_eq!(volume.parent(&root).unwrap(), 2);
    for number in [0, 1, 500, 100_000, u64::MAX] {
        assert!(volume.by_number(number).unwrap().is_none(), "{number}");
    }
}
