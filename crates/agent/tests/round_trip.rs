//! Disks with real filesystems: captured, deployed onto a disk that is full of poison, checked by
//! the filesystems' own tools.

mod support;

use bugler_agent::api::ApiError;
use bugler_agent::capture::{self, CaptureError};
use bugler_agent::deploy::{self, Context, Settings};
use bugler_agent::log::Log;
use bugler_model::{Capture, Disk, DiskRule, Progress, TaskId, TaskState, Unclean};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::{CHUNK, FileDisk, Image, Server};

const MIB: u64 = 1 << 20;

fn quiet(_: TaskState, _: Progress, _: Option<&str>) -> Result<bool, ApiError> {
    Ok(false)
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder beside the build: /tmp is often a filesystem without holes that can be found.
fn folder() -> tempfile::TempDir {
    let dir = option_env!("CARGO_TARGET_TMPDIR").unwrap_or(".");
    tempfile::tempdir_in(dir).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that do not compress, and differ for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

/// Files to be put on a filesystem.
fn files(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("etc/deep")).unwrap();
    fs::write(tree.join("etc/hostname"), "rack1-07\n").unwrap();
    fs::write(tree.join("etc/deep/large"), noise(1, 5 << 20)).unwrap();
    for n in 0..40 {
        fs::write(tree.join(format!("small{n}")), noise(n, 3000 * n as usize)).unwrap();
    }
    tree
}

/// An ext4 of 24 MiB with files, and with the blocks of files that were removed.
fn ext4(dir: &Path) -> Vec<u8> {
    let (path, tree) = (dir.join("ext4"), files(dir));
    fs::File::create(&path).unwrap().set_len(24 * MIB).unwrap();
    let options = ["-q", "-t", "ext4", "-d", text(&tree), text(&path)];
    tool("mke2fs", &options);
    // Used, then free again: their old content is on the disk still.
    for n in (0..40).step_by(3) {
        tool(
            "debugfs",
            &["-w", "-R", &format!("rm small{n}"), text(&path)],
        );
    }
    tool("e2fsck", &["-fn", text(&path)]);
    fs::read(path).unwrap()
}

/// A FAT16 of 16 MiB with files of which some were removed.
fn fat(dir: &Path) -> Vec<u8> {
    let path = dir.join("fat");
    fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
    tool("mkfs.fat", &["-n", "BOOT", text(&path)]);
    for n in 0..6u64 {
        let file = dir.join(format!("kernel{n}"));
        fs::write(&file, noise(100 + n, 400_000)).unwrap();
        tool("mcopy", &["-i", text(&path), text(&file), "::/"]);
    }
    tool("mdel", &["-i", text(&path), "::/kernel2", "::/kernel4"]);
    fs::read(path).unwrap()
}

fn swap(dir: &Path) -> Vec<u8> {
    let path = dir.join("swap");
    fs::File::create(&path).unwrap().set_len(4 * MIB).unwrap();
    tool("mkswap", &["-L", "swap", text(&path)]);
    let mut bytes = fs::read(path).unwrap();
    // Somebody's secrets, swapped out long ago.
    bytes[CHUNK..].fill(0x5e);
    bytes
}

/// Every file of an ext4, by name and content.
fn ext4_files(dir: &Path, volume: &[u8]) -> Vec<(PathBuf, blake3::Hash)> {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let (path, out) = (dir.path().join("volume"), dir.path().join("out"));
    fs::write(&path, volume).unwrap();
    tool("e2fsck", &["-fn", text(&path)]);
    fs::create_dir(&out).unwrap();
    let output = Command::new("debugfs")
        .args(["-R", &format!("rdump / {}", text(&out)), text(&path)])
        .output()
        .unwrap();
    assert!(output.status.success());
    let (mut found, mut folders) = (Vec::new(), vec![out.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = blake3::hash(&fs::read(&path).unwrap());
                found.push((path.strip_prefix(&out).unwrap().to_owned(), hash));
            }
        }
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    found
}

fn check_fat(dir: &Path, volume: &[u8]) {
    let path = dir.join("check");
    fs::write(&path, volume).unwrap();
    tool("fsck.fat", &["-n", text(&path)]);
    for n in [0u64, 1, 3, 5] {
        let out = dir.join("out");
        let name = format!("::/kernel{n}");
        tool("mcopy", &["-n", "-i", text(&path), &name, text(&out)]);
        assert!(fs::read(&out).unwrap() == noise(100 + n, 400_000));
        fs::remove_file(out).unwrap();
    }
}

fn task() -> Capture {
    Capture {
        image_name: "test".parse().unwrap(),
        note: String::new(),
        disk: DiskRule::Auto,
        partition: None,
        whole: false,
        unclean: Unclean::Whole,
        limit_rate: None,
    }
}

fn with_context<T>(server: &Server, disk: &Disk, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let bulk = server.api().bulk();
    let context = Context {
        bulk: &bulk,
        disks: &|| vec![disk.clone()],
        settled: &|| true,
        report: &quiet,
        log: &Log::stderr(),
        settings: Settings::default(),
    };
    work(&context)
}

/// Captures a disk; gives what its reading was, and the image.
fn captured(disk: &FileDisk, task: &Capture) -> Result<(Vec<String>, Arc<Image>), CaptureError> {
    let server = Server::start(&Arc::new(Image::drawn("", 512)));
    with_context(&server, &disk.disk, |context| {
        capture::run(task, TaskId(5), context)
    })?;
    let reading = server.captures(|store| store.commits[0].0.reading.clone());
    Ok((reading, server.captures(|store| store.image())))
}

/// What a disk full of poison holds after a deploy.
fn restored(image: &Arc<Image>) -> Vec<u8> {
    let server = Server::start(image);
    let disk = FileDisk::new(image.bytes.len(), 0xa5);
    with_context(&server, &disk.disk, |context| {
        deploy::run(&image.task(), 1, context).unwrap()
    });
    disk.read()
}

/// A disk with an ext4, a FAT and swap space, beginning at 1, 26 and 43 MiB, its free space full of
/// something.
fn disk(dir: &Path, script: &str) -> FileDisk {
    let disk = FileDisk::new(64 * CHUNK, 0);
    let mut bytes = vec![0x77; 64 * CHUNK];
    bytes[..CHUNK].fill(0);
    bytes[63 * CHUNK..].fill(0);
    for (at, volume) in [(1, ext4(dir)), (26, fat(dir)), (43, swap(dir))] {
        bytes[at * CHUNK..at * CHUNK + volume.len()].copy_from_slice(&volume);
    }
    disk.write(&bytes);
    let command = format!(
        "sfdisk -q --wipe never {} <<'E'\n{script}E\n",
        text(disk.path())
    );
    tool("sh", &["-c", &command]);
    disk
}

fn round_trip(script: &str) {
    let dir = folder();
    let disk = disk(dir.path(), script);
    let original = disk.read();
    let (reading, image) = captured(&disk, &task()).unwrap();
    assert!(disk.read() == original, "the disk was changed");
    println!("{reading:#?}");
    for (n, start) in [
        (0, "partition 1: ext4, "),
        (1, "partition 2: FAT16, "),
        (2, "partition 3: swap, 4 MiB, its header only"),
    ] {
        assert!(reading[n].starts_with(start), "{}", reading[n]);
    }
    assert!(reading[0].ends_with("by its block bitmap"));

    let found = restored(&image);
    assert_eq!(found.len(), original.len());
    let volume =
        |bytes: &[u8], at: usize, len: usize| bytes[at * CHUNK..(at + len) * CHUNK].to_vec();
    let files = ext4_files(dir.path(), &volume(&found, 1, 24));
    assert_eq!(files, ext4_files(dir.path(), &volume(&original, 1, 24)));
    assert!(files.len() > 25, "{} files", files.len());
    check_fat(dir.path(), &volume(&found, 26, 16));
    assert!(found[43 * CHUNK..43 * CHUNK + 4096] == original[43 * CHUNK..43 * CHUNK + 4096]);
    // What was swapped out, or removed, is not carried; nor is anything left of the poison.
    assert!(found[44 * CHUNK..47 * CHUNK].iter().all(|&byte| byte == 0));
    let removed = &noise(102, 400_000)[..4096];
    let contains = |bytes: &[u8]| bytes.chunks_exact(512).any(|part| part == &removed[..512]);
    assert!(contains(&original) && !contains(&found));
    assert!(!found.chunks_exact(4096).any(|page| page == [0xa5; 4096]));
    let listed = |bytes: &[u8]| {
        let path = dir.path().join("disk");
        fs::write(&path, bytes).unwrap();
        tool("sfdisk", &["-d", text(&path)])
    };
    assert_eq!(listed(&found), listed(&original));

    // One partition alone.
    let alone = Capture {
        partition: Some(2),
        ..task()
    };
    let (reading, image) = captured(&disk, &alone).unwrap();
    assert_eq!(reading.len(), 1, "{reading:?}");
    assert_eq!(image.bytes.len(), 16 * CHUNK);
    check_fat(dir.path(), &restored(&image));
    let none = Capture {
        partition: Some(9),
        ..task()
    };
    let error = captured(&disk, &none).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("has no partition 9; it has 1 (ext4, 24 MiB)"),
        "{error}"
    );

    // Every byte.
    let whole = Capture {
        whole: true,
        ..task()
    };
    assert!(captured(&disk, &whole).unwrap().1.bytes == original);
}

#[test]
fn a_gpt_disk_comes_back() {
    round_trip(
        "label: gpt\nstart=2048, size=49152\nstart=53248, size=32768\nstart=88064, size=8192\n",
    );
}

#[test]
fn an_mbr_disk_comes_back() {
    round_trip(
        "label: dos\nstart=2048, size=49152, type=83\nstart=53248, size=32768, type=6\n\
         start=88064, size=8192, type=82\n",
    );
}

#[test]
fn a_filesystem_that_is_not_clean_is_refused_when_asked() {
    let dir = folder();
    let mut bytes = fat(dir.path());
    // The bit of "not unmounted" in the second entry of a FAT16.
    let reserved = u16::from_le_bytes([bytes[14], bytes[15]]);
    bytes[usize::from(reserved) * 512 + 3] &= 0x7f;
    let disk = FileDisk::new(bytes.len(), 0);
    disk.write(&bytes);
    let refuse = Capture {
        unclean: Unclean::Refuse,
        ..task()
    };
    let error = captured(&disk, &refuse).err().unwrap();
    assert!(matches!(error, CaptureError::Unclean { .. }), "{error:?}");
    let (reading, image) = captured(&disk, &task()).unwrap();
    assert!(reading[0].contains("all of its 16 MiB: "), "{reading:?}");
    assert!(image.bytes == bytes);
}
