//! Block maps that bmaptool made.

use crate::tools::{MIB, Place, make_disk};
use bugler_images::{Bmap, Format, LocalOptions};
use std::{fs, os::unix::fs::FileExt};

fn read(place: &Place, name: &str) -> Bmap {
    Bmap::parse(&fs::read(place.path(name)).unwrap()).unwrap()
}

fn with(bmap: &Bmap) -> LocalOptions<'_> {
    LocalOptions {
        bmap: Some(bmap),
        ..LocalOptions::default()
    }
}

fn write_at(place: &Place, name: &str, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(place.path(name))
        .unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn what_is_mapped_is_read_and_checked_and_nothing_else() {
    let place = Place::new();
    make_disk(&place.path("disk"), 11 * MIB + 1536);
    place.run("bmaptool", &["create", "disk", "-o", "disk.bmap"]);
    let bmap = read(&place, "disk.bmap");
    assert_eq!(bmap.image_size(), 11 * MIB + 1536);
    assert!(bmap.mapped_bytes() < 3 * MIB && bmap.verified_bytes() == bmap.mapped_bytes());
    place.run("cp", &["--sparse=always", "disk", "dirty"]);
    // Where nothing is mapped, there may be anything.
    write_at(&place, "dirty", 7 * MIB, &[0xa5; 8192]);
    place.run("xz", &["-0", "-k", "dirty"]);
    place.run("zstd", &["-q", "-1", "dirty"]);
    let plain = place.send("disk", LocalOptions::default()).unwrap();
    for name in ["dirty", "dirty.xz", "dirty.zst"] {
        let added = place.send(name, with(&bmap)).unwrap();
        place.expect(&added, "disk", name);
        assert_eq!(
            (added.manifest, added.format),
            (plain.manifest, Format::Sparse)
        );
    }
}

#[test]
fn the_range_that_is_damaged_is_named() {
    let place = Place::new();
    make_disk(&place.path("disk"), 11 * MIB);
    place.run("bmaptool", &["create", "disk", "-o", "disk.bmap"]);
    let bmap = read(&place, "disk.bmap");
    write_at(&place, "disk", 6 * MIB, &[0]);
    place.run("gzip", &["-1", "-k", "disk"]);
    for name in ["disk", "disk.gz"] {
        let error = place.send(name, with(&bmap)).unwrap_err();
        let named = error.contains("bytes 5242880 to") && error.contains("blocks 1280 to");
        assert!(named && error.contains("SHA-256"), "{name}: {error}");
    }
    // Another size: known at once, or when the archive ends.
    fs::write(
        place.path("short"),
        &fs::read(place.path("disk")).unwrap()[..MIB as usize],
    )
    .unwrap();
    fs::write(place.path("long"), vec![0; 12 * MIB as usize]).unwrap();
    for name in ["short", "long"] {
        let error = place.send(name, with(&bmap)).unwrap_err();
        assert!(error.contains("do not belong together"), "{name}: {error}");
    }
    make_disk(&place.path("again"), 11 * MIB);
    let whole = fs::read(place.path("again")).unwrap();
    for length in [10 * MIB as usize, 12 * MIB as usize] {
        let mut other = whole.clone();
        other.resize(length, 0);
        fs::write(place.path("other"), other).unwrap();
        place.run("zstd", &["-q", "-f", "-1", "other"]);
        let error = place.send("other.zst", with(&bmap)).unwrap_err();
        assert!(
            error.contains("do not belong together"),
            "{length}: {error}"
        );
    }
    place.qemu_img(&["create", "-q", "-f", "qcow2", "q", "11M"]);
    let error = place.send("q", with(&bmap)).unwrap_err();
    assert!(error.contains("a qcow2 image has no block map"), "{error}");
    let stored = fs::read_dir(place.store.dir().join("manifests")).unwrap();
    assert_eq!(stored.count(), 0);
}
