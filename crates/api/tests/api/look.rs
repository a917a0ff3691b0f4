//! Looking into images that mke2fs made, and comparing them.

use crate::lab::{Lab, MIB};
use bugler_model::Image;
use bugler_protocol::operator::{FileChange, ImageDiff, ImageFile, ImagePartition};
use std::fs;
use std::path::Path;
use std::process::Command;

/// An ext4 filesystem of 16 MiB with these files.
fn ext4(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    std::os::unix::fs::symlink("hostname", root.join("etc/name")).unwrap();
    let image = dir.path().join("image");
    make(&image, &root);
    fs::read(image).unwrap()
}

fn make(image: &Path, root: &Path) {
    let output = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "hash_seed=66ffad1e-e719-4d84-9831-b8aeed7d5f80",
        ])
        .args(["-U", "66ffad1e-e719-4d84-9831-b8aeed7d5f80", "-d"])
        .arg(root)
        .arg(image)
        .arg("16M")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn files_are_listed_given_and_compared() {
    let lab = Lab::new().await;
    let big: Vec<u8> = (0..3 * MIB).map(|n| (n / 7) as u8).collect();
    let mut other = big.clone();
    other[2 * MIB] ^= 1;
    let before = ext4(&[
        ("etc/hostname", b"one\n".to_vec()),
        ("etc/gone", b"x".to_vec()),
        ("big", big.clone()),
        ("same", big.clone()),
    ]);
    let after = ext4(&[
        ("etc/hostname", b"two\n".to_vec()),
        ("etc/new", b"yy".to_vec()),
        ("big", other),
        ("same", big.clone()),
    ]);
    lab.upload("disk", &before).await.json::<Image>();
    lab.upload("disk", &after).await.json::<Image>();

    let parts: Vec<ImagePartition> = lab.get("/api/v1/images/disk@1/partitions").await.json();
    assert_eq!(parts.len(), 1);
    assert_eq!(
        (parts[0].content.as_str(), parts[0].readable),
        ("ext4", true)
    );
    let files: Vec<ImageFile> = lab
        .get("/api/v1/images/disk@1/files?path=/etc")
        .await
        .json();
    let names: Vec<_> = files
        .iter()
        .map(|f| (f.name.as_str(), f.kind.as_str()))
        .collect();
    assert_eq!(
        names,
        [("gone", "file"), ("hostname", "file"), ("name", "symlink")]
    );
    assert_eq!(files[2].target.as_deref(), Some("hostname"));

    let cat = async |image: &str, path: &str| {
        let path = format!("/api/v1/images/{image}/file?path={path}");
        lab.get(&path).await
    };
    assert_eq!(&cat("disk@1", "/etc/name").await.body[..], b"one\n");
    assert_eq!(&cat("disk", "/etc/name").await.body[..], b"two\n");
    let answer = cat("disk@1", "big").await;
    assert_eq!(answer.header("content-length"), big.len().to_string());
    assert!(answer.body == big);
    cat("disk", "/etc/gone").await.error(404);
    cat("disk", "/etc").await.error(409);
    let path = "/api/v1/images/disk/files?partition=9";
    assert!(lab.get(path).await.error(404).contains("(ext4)"));

    let diff: ImageDiff = lab.get("/api/v1/images/disk@1/diff?to=disk@2").await.json();
    assert!(diff.ranges_in_all > 0 && diff.bytes < 16 << 20, "{diff:?}");
    assert_eq!(
        (diff.partitions.len(), diff.partitions[0].note.as_deref()),
        (1, None)
    );
    let changes: Vec<_> = diff.partitions[0]
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.change, c.before, c.after))
        .collect();
    let size = Some(3 << 20);
    assert_eq!(
        changes,
        [
            ("/big", FileChange::Content, size, size),
            ("/etc/gone", FileChange::Removed, Some(1), None),
            ("/etc/hostname", FileChange::Content, Some(4), Some(4)),
            ("/etc/new", FileChange::Added, None, Some(2)),
        ]
    );
    let same: ImageDiff = lab.get("/api/v1/images/disk/diff?to=disk@2").await.json();
    assert_eq!((same.ranges_in_all, same.partitions.len()), (0, 0));
}
