//! Shared trees.

use bugler_nfs::{ExportId, FolderTree, ImageTree, Layer, LayerOptions, Tree};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Fills a folder: files, folders, a symbolic link, a file with two names, one with a hole.
pub fn fill(folder: &Path) {
    fs::create_dir_all(folder.join("a/c")).unwrap();
    fs::create_dir_all(folder.join("empty")).unwrap();
    fs::write(folder.join("a/b"), b"content of b").unwrap();
    fs::write(folder.join("a/c/d"), b"content of d").unwrap();
    fs::write(folder.join("e"), vec![b'e'; 5000]).unwrap();
    fs::write(folder.join("g"), b"two names").unwrap();
    fs::hard_link(folder.join("g"), folder.join("a/h")).unwrap();
    symlink("a/b", folder.join("f")).unwrap();
    let hole = File::create(folder.join("hole")).unwrap();
    hole.set_len(300_000).unwrap();
    for (path, mode) in [
        (".", 0o755),
        ("a", 0o755),
        ("a/c", 0o755),
        ("empty", 0o755),
        ("a/b", 0o644),
        ("a/c/d", 0o644),
        ("e", 0o600),
        ("g", 0o644),
        ("hole", 0o644),
    ] {
        let path = folder.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// An ext4 volume with what is in a folder.
pub fn image(folder: &Path, file: &Path) {
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"])
        .arg(folder)
        .arg(file)
        .arg("16M")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .expect("mke2fs of the package e2fsprogs");
    assert!(made.status.success(), "{made:?}");
    // It holds no journal that is to be replayed, and no folder of fsck.
    let removed = Command::new("debugfs")
        .args(["-w", "-R", "rmdir lost+found"])
        .arg(file)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .expect("debugfs of the package e2fsprogs");
    assert!(removed.status.success(), "{removed:?}");
}

pub fn folder_tree(folder: &Path) -> Arc<dyn Tree> {
    Arc::new(FolderTree::open(folder).unwrap())
}

pub fn image_tree(file: &Path) -> Arc<dyn Tree> {
    Arc::new(ImageTree::open(File::open(file).unwrap()).unwrap())
}

pub fn options(export: u8) -> LayerOptions {
    LayerOptions {
        export: ExportId([export; 16]),
        base: "test".into(),
        quota: None,
        durable: false,
    }
}

pub fn layer(folder: &Path, tree: Arc<dyn Tree>) -> Layer {
    Layer::open(folder, tree, &options(1)).unwrap()
}
