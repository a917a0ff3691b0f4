//! Trees of files that mke2fs, Linux and mtools put onto volumes, read back.

use super::fuzz::read_all;
use super::*;
use crate::testing::{Changed, blank, content, run, with_mounts};
use proptest::prelude::*;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A folder with files of every kind that needs no root.
fn files(dir: &Path) -> PathBuf {
    let top = dir.join("files");
    fs::create_dir_all(top.join("deep/er/and/deeper")).unwrap();
    fs::create_dir_all(top.join("many")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(top.join(name), bytes).unwrap();
    // Around the sizes that fit into an inode.
    for size in [
        0, 1, 59, 60, 61, 100, 150, 200, 1023, 1024, 4096, 65_537, 1_000_001,
    ] {
        put(&format!("size-{size}"), &content(size, size as usize));
    }
    for number in 0..600 {
        put(
            &format!("many/a file with a longer name, number {number}"),
            &content(number, 9),
        );
    }
    put("deep/er/and/deeper/end", b"the end");
    // Holes, and bytes that only triply indirect blocks of 1 KiB reach.
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(70_000_123).unwrap();
    for at in [5_000_u64, 300_000, 20_000_000, 69_000_000] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &content(at as u32, 9000), at).unwrap();
    }
    fs::set_permissions(top.join("size-60"), fs::Permissions::from_mode(0o4750)).unwrap();
    let odd = SystemTime::UNIX_EPOCH + Duration::new(4_500_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(top.join("size-61"))
        .unwrap()
        .set_modified(odd)
        .unwrap();
    let long = format!("deep/{}er/../er/and/deeper/end", "./".repeat(60));
    for (target, name) in [
        ("deep/er/and/deeper/end", "short"),
        (long.as_str(), "long"),
        ("/deep/er", "deep/absolute"),
        ("../../../../../size-1", "deep/er/above"),
        ("loop", "loop"),
        ("nowhere", "dangling"),
    ] {
        symlink(target, top.join(name)).unwrap();
    }
    fs::write(top.join(OsStr::from_bytes(b"not \xff utf-8")), b"x").unwrap();
    run("mkfifo", &[top.join("fifo").to_str().unwrap()]);
    top
}

/// That a file is found again by its number, and a folder knows its parent and what is in it.
fn compare_by_number(volume: &Volume<'_>, walked: &Walked, wanted: &fs::Metadata) {
    let (entry, path) = (&walked.entry, &walked.path);
    let number = entry.number.unwrap();
    let again = volume.by_number(number).unwrap().unwrap();
    let all = |entry: &Entry| (entry.number, entry.kind, entry.size, entry.links);
    assert_eq!(all(&again), all(entry), "{path:?}");
    if entry.kind != FileKind::Folder {
        assert_eq!(entry.links, Some(wanted.nlink() as u32), "{path:?}");
        return;
    }
    let above = volume.entry(path.parent().unwrap()).unwrap();
    assert_eq!(
        volume.parent(entry).unwrap(),
        above.number.unwrap(),
        "{path:?}"
    );
    let listed = volume.list(path).unwrap().into_iter();
    let names: Vec<_> = listed.map(|it| (it.name, it.number.unwrap())).collect();
    assert_eq!(volume.numbers(&again).unwrap(), names, "{path:?}");
}

/// That a volume has the files of a folder, with all that is known of each; gives how many. With inline
/// data, mke2fs forgets the hole at the end of a file (debugfs says so too).
fn compare(volume: &Volume<'_>, top: &Path, has_fine_times: bool, cuts_holes: bool) -> usize {
    let mut seen = 0;
    let mut visit = |walked: &Walked| {
        let entry = &walked.entry;
        if walked.path == Path::new("") || walked.path == Path::new("lost+found") {
            return ControlFlow::Continue(());
        }
        seen += 1;
        let path = top.join(&walked.path);
        let wanted =
            fs::symlink_metadata(&path).unwrap_or_else(|_| panic!("{path:?} is not there"));
        let kind = match wanted.mode() & 0xf000 {
            0x8000 => FileKind::File,
            0x4000 => FileKind::Folder,
            0xa000 => FileKind::Symlink,
            _ => FileKind::Fifo,
        };
        assert_eq!(entry.kind, kind, "{path:?}");
        assert_eq!(entry.mode, Some((wanted.mode() & 0xfff) as u16), "{path:?}");
        assert_eq!(entry.owner, Some((wanted.uid(), wanted.gid())), "{path:?}");
        let modified = entry.modified.unwrap();
        if has_fine_times && kind != FileKind::Folder {
            let wanted = (wanted.mtime(), wanted.mtime_nsec() as u32);
            assert_eq!((modified.seconds, modified.nanoseconds), wanted, "{path:?}");
        }
        compare_by_number(volume, walked, &wanted);
        match kind {
            FileKind::File => {
                let bytes = fs::read(&path).unwrap();
                let mut bytes = bytes;
                if cuts_holes && path.ends_with("sparse") {
                    bytes.truncate(entry.size as usize);
                    assert!(bytes.len() > 69_009_000);
                }
                assert_eq!(entry.size, bytes.len() as u64, "{path:?}");
                let mut read = vec![];
                assert_eq!(volume.read(entry, &mut read, 1 << 30).unwrap(), entry.size);
                assert!(read == bytes, "{path:?} differs");
                let (from, to) = (entry.size / 3, entry.size / 3 * 2 + 1);
                let mut part = vec![];
                volume.read_range(entry, from..to, &mut part).unwrap();
                let to = to.min(entry.size) as usize;
                assert!(
                    part == bytes[from as usize..to],
                    "a part of {path:?} differs"
                );
            }
            FileKind::Symlink => {
                let target = fs::read_link(&path).unwrap();
                assert_eq!(entry.target.as_deref(), Some(target.as_os_str()));
                assert_eq!(entry.size, target.as_os_str().len() as u64);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    volume.walk("", 100_000, &mut visit).unwrap();
    seen
}

fn text(volume: &Volume<'_>, path: &str) -> Result<Vec<u8>, TreeError> {
    let mut bytes = vec![];
    volume.read(&volume.entry(path)?, &mut bytes, 1 << 20)?;
    Ok(bytes)
}

fn count(top: &Path) -> usize {
    let entries = fs::read_dir(top)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            1 + if path.is_dir() && !path.is_symlink() {
                count(&path)
            } else {
                0
            }
        })
        .sum()
}

#[test]
fn every_kind_of_ext_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let top = files(dir.path());
    let image = dir.path().join("volume");
    let kinds: [(&[&str], u64); 9] = [
        (&["-t", "ext2", "-b", "1024"], 60),
        (&["-t", "ext3", "-b", "1024"], 60),
        (&["-t", "ext3", "-b", "4096", "-I", "128"], 60),
        (&["-t", "ext4", "-b", "1024"], 60),
        (&["-t", "ext4"], 60),
        (&["-t", "ext4", "-O", "inline_data", "-I", "256"], 60),
        (
            &[
                "-t",
                "ext4",
                "-O",
                "inline_data,^metadata_csum,^64bit",
                "-I",
                "1024",
            ],
            60,
        ),
        (
            &[
                "-t",
                "ext4",
                "-O",
                "bigalloc,meta_bg,^resize_inode",
                "-C",
                "16384",
            ],
            100,
        ),
        (&["-t", "ext4", "-b", "65536"], 200),
    ];
    for (mke2fs, mib) in kinds {
        let _ = fs::remove_file(&image);
        blank(&image, mib << 20);
        let path = image.to_str().unwrap();
        let from = ["-q", "-F", "-d", top.to_str().unwrap(), path];
        run("mke2fs", &[mke2fs, &from].concat());
        let file = File::open(&image).unwrap();
        let volume = Volume::open(&file).unwrap();
        // mke2fs keeps whole seconds.
        let seen = compare(&volume, &top, false, mke2fs.join(" ").contains("inline"));
        assert_eq!(seen, count(&top));
        assert_eq!(volume.notes(), [] as [String; 0]);
        for path in [
            "short",
            "long",
            "/deep//absolute/and/./deeper/end",
            "deep/er/../er/and/deeper/end",
        ] {
            assert_eq!(text(&volume, path).unwrap(), b"the end", "{path}");
        }
        assert_eq!(text(&volume, "deep/er/above").unwrap(), content(1, 1));
        assert_eq!(volume.list("deep/absolute").unwrap().len(), 2);
        let link = volume.link_entry("long").unwrap();
        assert_eq!(link.kind, FileKind::Symlink);
        let said = |path: &str| text(&volume, path).unwrap_err().to_string();
        assert_eq!(
            said("loop"),
            "loop leads through more than 40 symbolic links"
        );
        assert_eq!(said("dangling"), "there is no dangling on the volume");
        assert_eq!(
            said("deep/nothing"),
            "there is no deep/nothing on the volume"
        );
        assert_eq!(said("size-1/x"), "size-1/x is no folder");
        assert_eq!(said("deep"), "deep is no file");
        assert!(matches!(
            volume.list("size-1"),
            Err(TreeError::NotAFolder(_))
        ));
        let large = volume.entry("size-65537").unwrap();
        let error = volume.read(&large, &mut vec![], 65_536).unwrap_err();
        assert_eq!(
            error.to_string(),
            "size-65537 has 65537 bytes; at most 65536 are read"
        );
        println!(
            "{} {}: {seen} files and folders equal",
            volume.filesystem_name(),
            mke2fs.join(" ")
        );
    }
}

/// A volume that Linux itself wrote to: `$1` is it, `$2` a folder to mount it on, `$3` files.
const AGE: &str = r#"
mount -o loop "$1" "$2"
cp -a "$3"/. "$2"
cd "$2"
mkdir big
i=0; while [ $i -lt 900 ]; do : > "big/a name that makes the folder need an index $i"; i=$((i+1)); done
# Fragments: two files grow by turns.
i=0; while [ $i -lt 120 ]; do
    printf '%4096s' $i | dd of=one bs=4k seek=$((2*i)) conv=notrunc status=none
    printf '%4096s' $i | dd of=two bs=4k seek=$((i)) conv=notrunc status=none
    i=$((i+1))
done
fallocate -l 300000 reserved 2>/dev/null || truncate -s 300000 reserved
printf 'begin' | dd of=reserved conv=notrunc status=none
rm -r many
mkdir many
echo new > many/new
cd /
# What was read back by Linux is what is compared with.
cp -a "$2" "$4"
umount "$2"
"#;

#[test]
fn a_volume_that_linux_wrote_to_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let top = files(dir.path());
    let image = dir.path().join("volume");
    let (mount, copy) = (dir.path().join("mount"), dir.path().join("copy"));
    fs::create_dir_all(&mount).unwrap();
    if fs::metadata("/proc/self").unwrap().uid() != 0 || !Path::new("/dev/loop-control").exists() {
        println!("not root, or no loop devices: nothing is shown");
        return;
    }
    let kinds: [&[&str]; 3] = [
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-O", "inline_data", "-I", "256"],
    ];
    for mke2fs in kinds {
        let _ = fs::remove_file(&image);
        blank(&image, 80 << 20);
        run(
            "mke2fs",
            &[mke2fs, &["-q", "-F", image.to_str().unwrap()]].concat(),
        );
        let arguments = [&image, &mount, &top, &copy].map(|path| path.to_str().unwrap());
        assert!(with_mounts(AGE, &arguments));
        let file = File::open(&image).unwrap();
        let volume = Volume::open(&file).unwrap();
        let is_fine = mke2fs[1] == "ext4";
        let seen = compare(&volume, &copy, is_fine, false);
        // lost+found is in the copy.
        assert_eq!(seen + 1, count(&copy));
        let one = volume.entry("one").unwrap();
        let extents = volume.extents(&one, 10_000).unwrap();
        assert!(extents.len() > 100, "{} pieces", extents.len());
        assert!(matches!(
            volume.extents(&one, 7),
            Err(TreeError::TooMany { .. })
        ));
        println!(
            "{}: {seen} files and folders equal, one of them in {} pieces",
            mke2fs.join(" "),
            extents.len()
        );
        fs::remove_dir_all(&copy).unwrap();
    }
}

/// A FAT volume with the files of a boot partition, made by mkfs.fat and mtools.
fn fat(dir: &Path, bits: &str, mib: u64) -> PathBuf {
    let image = dir.join(format!("fat{bits}"));
    blank(&image, mib << 20);
    let path = image.to_str().unwrap();
    run("mkfs.fat", &["-F", bits, "-n", "BOOTFS", path]);
    let overlays = dir.join("overlays");
    fs::create_dir_all(&overlays).unwrap();
    // So many that the folder has more than one cluster.
    for number in 0..40 {
        let name = overlays.join(format!("an overlay with a long name {number}.dtbo"));
        fs::write(name, content(number, number as usize)).unwrap();
    }
    let kernel = dir.join("kernel8.img");
    fs::write(&kernel, content(8, 3_000_001)).unwrap();
    let odd = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_198);
    File::options()
        .write(true)
        .open(&kernel)
        .unwrap()
        .set_modified(odd)
        .unwrap();
    let empty = dir.join("empty.txt");
    fs::write(&empty, b"").unwrap();
    let [overlays, kernel, empty] = [&overlays, &kernel, &empty].map(|path| path.to_str().unwrap());
    run(
        "mcopy",
        &["-s", "-m", "-i", path, overlays, kernel, empty, "::"],
    );
    image
}

#[test]
fn every_kind_of_fat_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (bits, mib) in [("12", 6), ("16", 20), ("32", 40)] {
        let file = File::open(fat(dir.path(), bits, mib)).unwrap();
        let volume = Volume::open(&file).unwrap();
        assert_eq!(volume.filesystem_name(), format!("FAT{bits}"));
        let read = |path: &str| {
            let mut bytes = vec![];
            volume
                .read(&volume.entry(path)?, &mut bytes, 4 << 20)
                .map(|_| bytes)
        };
        assert!(read("kernel8.img").unwrap() == content(8, 3_000_001));
        assert!(read("/KERNEL8.IMG").unwrap() == content(8, 3_000_001));
        assert_eq!(read("empty.txt").unwrap(), b"");
        let list = volume.list("overlays").unwrap();
        assert_eq!(list.len(), 40);
        for number in 0..40_u32 {
            let path = format!("overlays/an overlay with a long name {number}.dtbo");
            assert_eq!(read(&path).unwrap(), content(number, number as usize));
        }
        for missing in ["kernel8.im", "nothing/x", "BOOTFS"] {
            assert!(
                matches!(read(missing), Err(TreeError::NotFound(_))),
                "{missing}"
            );
        }
        assert!(matches!(read("overlays"), Err(TreeError::NotAFile(_))));
        assert!(matches!(read("empty.txt/x"), Err(TreeError::NotAFolder(_))));
        assert!(matches!(read(""), Err(TreeError::NotAFile(_))));
        let kernel = volume.entry("kernel8.img").unwrap();
        // mtools writes the local time, which is UTC in tests.
        if std::env::var_os("TZ").is_none_or(|zone| zone == "UTC")
            && !Path::new("/etc/localtime").exists()
        {
            assert_eq!(kernel.modified.unwrap().seconds, 1_709_251_198);
        }
        assert_eq!((kernel.mode, kernel.owner), (None, None));
        let mut part = vec![];
        volume
            .read_range(&kernel, 999_999..1_000_100, &mut part)
            .unwrap();
        assert_eq!(part, content(8, 1_000_100)[999_999..]);
        assert_eq!(volume.extents(&kernel, 9).unwrap().len(), 1);
        println!("FAT{bits}: 42 files equal");
    }
}

#[test]
fn what_changed_between_two_volumes_shows_in_a_walk() {
    let dir = tempfile::tempdir().unwrap();
    let image = fat(dir.path(), "16", 20);
    let walk = || {
        let file = File::open(&image).unwrap();
        let volume = Volume::open(&file).unwrap();
        let mut seen = vec![];
        let mut visit = |walked: &Walked| {
            seen.push((walked.path.clone(), walked.identity));
            ControlFlow::Continue(())
        };
        volume.walk("", 100, &mut visit).unwrap();
        assert!(matches!(
            volume.walk("", 43, &mut |_| ControlFlow::Continue(())),
            Err(TreeError::TooMany { .. })
        ));
        seen
    };
    let before = walk();
    assert_eq!(before, walk());
    assert_eq!(before.len(), 44);
    let new = dir.path().join("new");
    fs::write(&new, content(1, 5000)).unwrap();
    let name = "overlays/an overlay with a long name 7.dtbo";
    run(
        "mcopy",
        &[
            "-o",
            "-i",
            image.to_str().unwrap(),
            new.to_str().unwrap(),
            &format!("::{name}"),
        ],
    );
    let after = walk();
    let changed: Vec<&(PathBuf, Option<u64>)> = after
        .iter()
        .filter(|found| !before.contains(found))
        .collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].0, Path::new(name));
}

#[test]
fn a_changed_volume_is_read_or_refused_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("small");
    fs::create_dir_all(top.join("deep/er")).unwrap();
    for number in 0..30 {
        fs::write(
            top.join(format!("file {number}")),
            content(number, number as usize * 331),
        )
        .unwrap();
    }
    symlink("../../file 1", top.join("deep/er/above")).unwrap();
    let mut volumes = vec![];
    for kind in [
        ["ext2", "1024", "none"],
        ["ext4", "1024", "none,extent"],
        ["ext4", "1024", "none,extent,inline_data"],
    ] {
        let image = dir.path().join("volume");
        let _ = fs::remove_file(&image);
        blank(&image, 1 << 20);
        let [version, block, features] = kind;
        let from = [
            "-q", "-F", "-t", version, "-b", block, "-O", features, "-I", "256", "-N", "64", "-d",
        ];
        run(
            "mke2fs",
            &[
                &from,
                [top.to_str().unwrap(), image.to_str().unwrap()].as_slice(),
            ]
            .concat(),
        );
        let bytes = fs::read(&image).unwrap();
        assert!(Volume::open(&bytes).unwrap().entry("deep/er/above").is_ok());
        volumes.push(bytes);
    }
    volumes.push(fs::read(fat(dir.path(), "12", 6)).unwrap());
    // Most of what counts is in the first 64 KiB: the superblock, inodes, folders, tables.
    let place = prop_oneof![1 => 0..200_u64, 2 => 1024..2048_u64, 6 => 0..65_536_u64, 1 => 0..1_048_576_u64];
    let change = (place, prop_oneof![any::<u8>(), Just(0), Just(0xff)]);
    let strategy = (0..4_usize, prop::collection::vec(change, 1..8));
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&strategy, |(which, changes)| {
            read_all(&Changed::new(&volumes[which], changes));
            Ok(())
        })
        .unwrap();
}

/// A volume as the bytes that [`fuzz_tree`] takes: its size, and what is not zero.
fn pieces_of(volume: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(volume.len() / 4096).trailing_zeros() as u8];
    let mut at = 0;
    while let Some(first) = volume[at..].iter().position(|byte| *byte != 0) {
        let begin = at + first;
        let zeros = volume[begin..].windows(8).position(|eight| eight == [0; 8]);
        let length = zeros.unwrap_or(volume.len() - begin).min(65535);
        bytes.extend((begin as u32).to_le_bytes());
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(&volume[begin..begin + length]);
        at = begin + length;
    }
    bytes
}

/// The seeds of the fuzz target are these volumes: with `BUGLER_WRITE_SEEDS=1` they are written.
#[test]
fn small_volumes_are_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("small");
    fs::create_dir_all(top.join("deep/er")).unwrap();
    fs::write(top.join("inline"), b"a short text").unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    for at in [0, 20_000, 300_000] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"text", at).unwrap();
    }
    symlink("../../inline", top.join("deep/er/above")).unwrap();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/fs_tree");
    let image = dir.path().join("volume");
    let path = image.to_str().unwrap();
    let ext = |features: &'static str| {
        let from = [
            "-q", "-F", "-b", "1024", "-I", "256", "-N", "24", "-m", "0", "-O", features, "-d",
        ];
        ["mke2fs"]
            .into_iter()
            .chain(from)
            .chain([top.to_str().unwrap(), path])
            .collect::<Vec<_>>()
    };
    let fat = |bits: &'static str| vec!["mkfs.fat", "-F", bits, "-s", "1", "-f", "1", path];
    for (name, size, command) in [
        ("ext2", 512 << 10, ext("none,filetype")),
        ("ext4", 512 << 10, ext("none,filetype,extent,64bit,flex_bg")),
        ("inline", 512 << 10, ext("none,filetype,extent,inline_data")),
        ("fat12", 256 << 10, fat("12")),
        ("fat16", 4 << 20, fat("16")),
    ] {
        let _ = fs::remove_file(&image);
        blank(&image, size);
        run(command[0], &command[1..]);
        if name.starts_with("fat") {
            let files = top.join("inline");
            run("mmd", &["-i", path, "::deep"]);
            let to = "::deep/a name that is longer than others.txt";
            run("mcopy", &["-i", path, files.to_str().unwrap(), to]);
        }
        let bytes = pieces_of(&fs::read(&image).unwrap());
        assert!(bytes.len() <= 8 << 10, "{name} has {} bytes", bytes.len());
        let volume = crate::fuzz::Patchwork::parse(&bytes);
        let volume = Volume::open(&volume).unwrap();
        let mut files = 0;
        let mut visit = |_: &Walked| {
            files += 1;
            ControlFlow::Continue(())
        };
        volume.walk("", 100, &mut visit).unwrap();
        assert!(files >= 3, "{name}: {files}");
        fuzz_tree(&bytes);
        if std::env::var_os("BUGLER_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&seeds).unwrap();
            fs::write(seeds.join(name), &bytes).unwrap();
        }
        println!("{name}: {} bytes, {files} files and folders", bytes.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_volume_or_not(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        fuzz_tree(&bytes);
    }
}

impl Volume<'_> {
    fn filesystem_name(&self) -> String {
        match self.filesystem() {
            Filesystem::Fat { bits } => format!("FAT{bits}"),
            Filesystem::Ext { version } => format!("ext{version}"),
        }
    }
}
