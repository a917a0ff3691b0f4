//! Looking into images with partition tables, made by the tools that everybody uses.

use crate::lab::{Lab, MIB};
use bugler_model::Image;
use bugler_protocol::operator::{ImageDiff, ImageFile, ImagePartition};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .unwrap_or_else(|error| panic!("{tool} does not start ({error}): run scripts/setup"));
    assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
}

/// A filesystem of `mib` MiB with one file, by the name of its kind.
fn volume(dir: &Path, kind: &str, mib: usize, file: (&str, &str)) -> Vec<u8> {
    let (path, root) = (dir.join("volume"), dir.join("root"));
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).unwrap();
    fs::write(root.join(file.0), file.1).unwrap();
    let (path, root) = (path.to_str().unwrap(), root.to_str().unwrap());
    File::create(path)
        .unwrap()
        .set_len((mib * MIB) as u64)
        .unwrap();
    match kind.strip_prefix("fat") {
        Some(bits) => {
            run("mkfs.fat", &["-F", bits, "-i", "0badcafe", path]);
            let from = format!("{root}/{}", file.0);
            run("mcopy", &["-m", "-i", path, &from, "::/"]);
        }
        None => run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                kind,
                "-U",
                "66ffad1e-e719-4d84-9831-b8aeed7d5f80",
                "-d",
                root,
                path,
            ],
        ),
    }
    fs::read(path).unwrap()
}

/// A disk with this table for sfdisk, and with volumes at these places in MiB.
fn disk(dir: &Path, mib: usize, table: &str, volumes: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let path = dir.join("disk");
    let file = File::create(&path).unwrap();
    file.set_len((mib * MIB) as u64).unwrap();
    let script = "printf \"$1\" | sfdisk -q \"$0\"";
    run("sh", &["-c", script, path.to_str().unwrap(), table]);
    for (at, volume) in volumes {
        file.write_all_at(volume, (at * MIB) as u64).unwrap();
    }
    fs::read(path).unwrap()
}

async fn cat(lab: &Lab, image: &str, partition: u32, path: &str) -> String {
    let path = format!("/api/v1/images/{image}/file?partition={partition}&path={path}");
    let answer = lab.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

async fn names(lab: &Lab, image: &str, partition: u32) -> Vec<String> {
    let path = format!("/api/v1/images/{image}/files?partition={partition}&path=/");
    let files: Vec<ImageFile> = lab.get(&path).await.json();
    let names = files.into_iter().map(|file| file.name);
    names.filter(|name| name != "lost+found").collect()
}

async fn contents(lab: &Lab, image: &str) -> Vec<(u32, String, bool)> {
    let path = format!("/api/v1/images/{image}/partitions");
    let parts: Vec<ImagePartition> = lab.get(&path).await.json();
    let told = parts.into_iter();
    told.map(|part| (part.number, part.content, part.readable))
        .collect()
}

#[tokio::test]
async fn a_gpt_with_fat_and_ext() {
    let lab = Lab::new().await;
    let dir = tempfile::tempdir().unwrap();
    let table = "label: gpt\nstart=1MiB,size=4MiB,name=esp\nstart=5MiB,size=8MiB\n\
                 start=13MiB,size=40MiB\n";
    let make = |note: &str| {
        let volumes = [
            (1, volume(dir.path(), "fat12", 4, ("grub.cfg", "set x=1\n"))),
            (5, volume(dir.path(), "ext2", 8, ("note", note))),
            (
                13,
                volume(dir.path(), "fat32", 40, ("A long name.txt", note)),
            ),
        ];
        disk(dir.path(), 56, table, &volumes)
    };
    lab.upload("pc", &make("one")).await.json::<Image>();
    lab.upload("pc", &make("two!")).await.json::<Image>();
    let found = contents(&lab, "pc").await;
    let expected = [(1, "FAT12", true), (2, "ext2", true), (3, "FAT32", true)];
    assert_eq!(found, expected.map(|(n, kind, is)| (n, kind.into(), is)));
    assert_eq!(names(&lab, "pc", 1).await, ["grub.cfg"]);
    assert_eq!(names(&lab, "pc@1", 3).await, ["A long name.txt"]);
    assert_eq!(cat(&lab, "pc@1", 2, "/note").await, "one");
    assert_eq!(cat(&lab, "pc@2", 2, "/note").await, "two!");
    assert_eq!(cat(&lab, "pc", 3, "/a%20LONG%20name.txt").await, "two!");
    // Which of several is meant is asked, not guessed.
    let asked = lab.get("/api/v1/images/pc/files?path=/").await.error(400);
    assert!(asked.contains("1 (FAT12), 2 (ext2), 3 (FAT32)"), "{asked}");
    let diff: ImageDiff = lab.get("/api/v1/images/pc@1/diff?to=pc@2").await.json();
    let told = diff.partitions.iter().flat_map(|part| {
        let changes = part.changes.iter();
        changes.map(|c| (part.number, c.path.as_str(), c.before, c.after))
    });
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            (2, "/note", Some(3), Some(4)),
            (3, "/A long name.txt", Some(3), Some(4))
        ]
    );
}

#[tokio::test]
async fn an_mbr_with_logical_partitions() {
    let lab = Lab::new().await;
    let dir = tempfile::tempdir().unwrap();
    let table = "label: dos\nstart=1MiB,size=16MiB,type=6\nstart=17MiB,size=20MiB,type=5\n\
                 start=18MiB,size=8MiB,type=83\nstart=28MiB,size=8MiB,type=83\n";
    let volumes = [
        (
            1,
            volume(dir.path(), "fat16", 16, ("config.txt", "arm_64bit=1\n")),
        ),
        (18, volume(dir.path(), "ext3", 8, ("first", "1"))),
        (28, volume(dir.path(), "ext4", 8, ("second", "2"))),
    ];
    let content = disk(dir.path(), 40, table, &volumes);
    lab.upload("pi", &content).await.json::<Image>();
    let found = contents(&lab, "pi").await;
    let expected = [(1, "FAT16", true), (5, "ext3", true), (6, "ext4", true)];
    assert_eq!(found, expected.map(|(n, kind, is)| (n, kind.into(), is)));
    assert_eq!(cat(&lab, "pi", 1, "/CONFIG.TXT").await, "arm_64bit=1\n");
    assert_eq!(names(&lab, "pi", 5).await, ["first"]);
    assert_eq!(cat(&lab, "pi", 6, "/second").await, "2");
}

#[tokio::test]
async fn a_fat_without_a_table() {
    let lab = Lab::new().await;
    let dir = tempfile::tempdir().unwrap();
    let content = volume(dir.path(), "fat16", 16, ("firmware.bin", "1.0"));
    lab.upload("stick", &content).await.json::<Image>();
    let found = contents(&lab, "stick").await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].1.as_str(), found[0].2), ("FAT16", true));
    let file = lab
        .get("/api/v1/images/stick/file?path=/firmware.bin")
        .await;
    assert_eq!(file.text(), "1.0");
}
