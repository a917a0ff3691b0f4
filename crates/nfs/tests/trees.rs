//! Shared trees that cannot be served, or were changed meanwhile.

mod common;

use bugler_nfs::{FolderTree, ImageTree, Tree};
use common::base;
use std::error::Error;
use std::fs::{self, File};
use std::process::Command;

fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}): run scripts/setup"));
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_volume_that_cannot_be_a_root_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image"));
    base::fill(&tree);
    base::image(&tree, &image);
    let path = image.to_str().unwrap();
    tool("debugfs", &["-w", "-R", "feature needs_recovery", path]);
    let refused = |path| ImageTree::open(File::open(path).unwrap()).err().unwrap();
    let error = refused(path).to_string();
    assert!(error.contains("its journal was not replayed"), "{error}");
    assert!(error.contains("run e2fsck"), "{error}");
    let fat = folder.path().join("fat");
    let fat = fat.to_str().unwrap();
    File::create(fat).unwrap().set_len(4 << 20).unwrap();
    tool("mkfs.vfat", &[fat]);
    let error = refused(fat).to_string();
    assert!(error.contains("a FAT volume cannot be a root"), "{error}");
    let nothing = folder.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    fs::write(nothing, vec![0; 1 << 20]).unwrap();
    let error = refused(nothing);
    let why = error.source().unwrap().to_string();
    assert!(why.contains("neither ext nor FAT"), "{why}");
    let error = FolderTree::open(nothing).err().unwrap().to_string();
    assert!(error.contains("nothing cannot be read"), "{error}");
}

#[test]
fn a_file_that_was_changed_under_the_server_is_an_error_and_no_other_content() {
    let folder = tempfile::tempdir().unwrap();
    base::fill(folder.path());
    let tree = FolderTree::open(folder.path()).unwrap();
    let of = |name: &[u8]| tree.find(tree.root(), name).unwrap().unwrap();
    let (longer, other, hole) = (of(b"e"), of(b"g"), of(b"hole"));
    assert_eq!(tree.read(other, 4, 100).unwrap(), b"names");
    fs::write(folder.path().join("e"), vec![b'x'; 6000]).unwrap();
    let error = tree.read(longer, 0, 10).unwrap_err();
    let why = error.source().unwrap().to_string();
    assert!(error.to_string().contains("/e cannot be read"), "{error}");
    assert!(why.contains("changed while it is served"), "{why}");
    fs::remove_file(folder.path().join("hole")).unwrap();
    fs::write(folder.path().join("hole"), vec![1; 300_000]).unwrap();
    // The kernel may have given the new file the number of the old one; then it has its size too.
    let read = tree.read(hole, 0, 1);
    assert!(read.is_err() || read.unwrap() == [1]);
    // Nothing leads out of the folder.
    let link = tree.find(tree.root(), b"f").unwrap().unwrap();
    assert!(tree.read(link, 0, 10).is_err());
    assert!(tree.read(tree.root(), 0, 10).is_err());
    assert!(tree.list(link).is_err());
}
