//! Volumes that mkntfs and ntfs-3g made, and what ntfsprogs say of them.

use super::boot::Boot;
use super::mft::Mft;
use super::record::DATA;
use super::runs::Stream;
use super::used;
use crate::ReadAt;
use crate::testing::{Changed, blank, content, restore, run, with_mounts};
use crate::usage::{Unusable, Usage};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A volume as mkntfs makes it.
fn made(dir: &Path, cluster: &str, size: u64, more: &[&str]) -> PathBuf {
    let image = dir.join("volume");
    let _ = fs::remove_file(&image);
    blank(&image, size);
    let path = image.to_str().unwrap();
    run(
        "mkntfs",
        &[&["-F", "-Q", "-c", cluster], more, &[path]].concat(),
    );
    image
}

/// Files are written and deleted: `$1` is the volume, `$2` a folder to mount it on, `$3` one with files
/// to copy, `$4` how many.
const AGE: &str = r#"
ntfs-3g "$1" "$2"
cd "$2"
mkdir kept gone
cp "$3"/* kept
i=0; while [ $i -lt $4 ]; do
    cp "$3/file 3" "gone/a long name of file $i"
    printf '%3000s' $i > kept/small-$i
    i=$((i+1))
done
i=0; while [ $i -lt $4 ]; do rm "gone/a long name of file $i"; i=$((i+2)); done
truncate -s 1M kept/sparse
printf end >> kept/sparse
sync
cd /
umount "$2"
"#;

/// A volume is filled with files of two clusters each, so that the master file table grows in between,
/// and every other one is deleted for a file that fills the holes: the runs of both need several
/// records.
const TORN: &str = r#"
ntfs-3g "$1" "$2"
cd "$2"
mkdir d
i=0; while printf '%900s' $i > d/f$i; do i=$((i+1)); done 2>/dev/null
rm -f d/f$i
j=0; while [ $j -lt $i ]; do rm d/f$j; j=$((j+2)); done
printf 'wake' > hiberfil.sys
k=0; while printf '%512s' $k >> hiberfil.sys; do k=$((k+1)); done 2>/dev/null
rm d/f1 d/f3 d/f5
cd /
umount "$2"
"#;

/// Runs one of the scripts; false where this system cannot mount.
fn age(dir: &Path, script: &str, image: &Path, count: &str) -> bool {
    let (mount, files) = (dir.join("mount"), dir.join("files"));
    fs::create_dir_all(&mount).unwrap();
    fs::create_dir_all(&files).unwrap();
    for number in 0..12 {
        let bytes = content(number, number as usize * 7919);
        fs::write(files.join(format!("file {number}")), bytes).unwrap();
    }
    let [image, mount, files] = [image, &mount, &files].map(|path| path.to_str().unwrap());
    let is_aged = with_mounts(script, &[image, mount, files, count]);
    if !is_aged {
        println!("no FUSE here: the volume has no files");
    }
    is_aged
}

fn used_of(image: &Path) -> Usage {
    used(&fs::File::open(image).unwrap()).unwrap()
}

/// What ntfsinfo says of the volume.
fn number(image: &Path, name: &str) -> u64 {
    let said = run("ntfsinfo", &["-m", image.to_str().unwrap()]);
    let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
    let words = line
        .unwrap()
        .trim_start_matches(':')
        .split_whitespace()
        .next();
    words.unwrap().parse().unwrap()
}

/// That a volume is whole, in the eyes of ntfsfix and ntfsresize, which compares the bitmap with what
/// every file has.
fn check(image: &Path) {
    let image = image.to_str().unwrap();
    run("ntfsfix", &["-n", image]);
    let output = Command::new("ntfsresize")
        .args(["-i", "-f", "-P", image])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Accounting clusters ..."), "{said}");
    assert!(said.contains("Space in use"), "{said}");
}

/// That exactly the clusters in use are carried, and that a restored volume is whole.
fn round_trip(dir: &Path, image: &Path, is_aged: bool) -> Usage {
    let usage = used_of(image);
    assert_eq!(usage.clean, Ok(()));
    let cluster = number(image, "Cluster Size");
    let clusters = number(image, "Volume Size in Clusters");
    let free = number(image, "Free Clusters");
    let size = fs::metadata(image).unwrap().len();
    // What follows the last cluster is carried: the copy of the boot sector at least.
    let behind = size - clusters * cluster;
    assert!(behind >= 512);
    assert_eq!(usage.used.bytes(), (clusters - free) * cluster + behind);
    let restored = dir.join("restored");
    restore(image, &usage, &restored);
    check(&restored);
    if is_aged {
        for number in 0..12 {
            let name = format!("kept/file {number}");
            let output = Command::new("ntfscat")
                .arg(&restored)
                .arg(&name)
                .output()
                .unwrap();
            assert!(
                output.stdout == content(number, number as usize * 7919),
                "{name}"
            );
        }
    }
    println!(
        "clusters of {cluster}: {} of {} KiB carried, {} of {clusters} clusters as ntfsinfo counts \
         them, restored: ntfsfix and ntfsresize find no fault{}",
        usage.used.bytes() >> 10,
        size >> 10,
        clusters - free,
        if is_aged { ", 12 files equal" } else { "" }
    );
    usage
}

#[test]
fn what_is_used_is_what_ntfsinfo_counts_and_a_restored_volume_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, u64, &str, &[&str]); 6] = [
        ("512", 12 << 20, "60", &[]),
        ("4096", 24 << 20, "150", &[]),
        ("4096", (24 << 20) + 3 * 512, "20", &[]),
        ("65536", 60 << 20, "20", &[]),
        ("2097152", 200 << 20, "3", &[]),
        ("4096", 24 << 20, "20", &["-s", "4096"]),
    ];
    for (cluster, size, count, more) in kinds {
        let image = made(dir.path(), cluster, size, more);
        let is_aged = age(dir.path(), AGE, &image, count);
        round_trip(dir.path(), &image, is_aged);
    }
}

#[test]
fn a_torn_master_file_table_is_read_through_its_attribute_list() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "512", 16 << 20, &[]);
    if !age(dir.path(), TORN, &image, "") {
        return;
    }
    let path = image.to_str().unwrap();
    for file in [["-i", "0"], ["-F", "hiberfil.sys"]] {
        let said = run("ntfsinfo", &[&["-v"], file.as_slice(), &[path]].concat());
        assert!(said.contains("$ATTRIBUTE_LIST"), "{file:?} is in one piece");
    }
    let torn = |image: &Path| {
        let output = Command::new("ntfscat")
            .arg(image)
            .arg("hiberfil.sys")
            .output();
        output.unwrap().stdout
    };
    let before = torn(&image);
    assert!(before.len() > 1 << 20);
    round_trip(dir.path(), &image, false);
    assert!(torn(&dir.path().join("restored")) == before);
    // A larger volume, where $Bitmap has to grow.
    fs::File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(30 << 20)
        .unwrap();
    run("ntfsresize", &["-f", "-f", "-P", path]);
    run("ntfsfix", &["-d", path]);
    round_trip(dir.path(), &image, false);
    assert!(torn(&dir.path().join("restored")) == before);
}

/// Where the content of a record's attribute begins.
fn place_of(image: &Path, record: u64, kind: u32) -> u64 {
    let file = fs::File::open(image).unwrap();
    let boot = Boot::read(&file).unwrap();
    let mft = Mft::open(&file, &boot).unwrap();
    let record = mft.record(record).unwrap();
    match mft.stream(&record, kind, "").unwrap().unwrap() {
        Stream::Runs { runs, .. } => runs[0].cluster.unwrap() * boot.cluster,
        Stream::Resident(_) => panic!("it is in the record"),
    }
}

/// Why the volume with these bytes counts as dirty, or is refused; empty for neither.
fn said(image: &Path, patches: &[(u64, &[u8])]) -> String {
    let mut volume = fs::read(image).unwrap();
    for (at, bytes) in patches {
        volume[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    match used(&volume) {
        Ok(usage) => usage.clean.err().unwrap_or_default(),
        Err(Unusable::Damaged(why)) => why,
        Err(Unusable::Io(error)) => panic!("{error}"),
    }
}

#[test]
fn a_volume_with_its_dirty_flag_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "4096", 8 << 20, &[]);
    let volume = fs::read(&image).unwrap();
    let boot = Boot::read(&volume).unwrap();
    let flags = |table: u64| {
        let record = (table * boot.cluster) as usize + 3 * boot.record;
        let attribute = (record..record + boot.record)
            .step_by(8)
            .find(|at| volume[*at..*at + 4] == [0x70, 0, 0, 0])
            .unwrap();
        (attribute + usize::from(volume[attribute + 20]) + 10) as u64
    };
    let (one, copy) = (flags(boot.mft), flags(boot.mirror));
    assert_eq!(said(&image, &[]), "");
    let dirty: &[u8] = &[1, 0];
    assert_eq!(
        said(&image, &[(one, dirty), (copy, dirty)]),
        "its dirty flag is set: it wants to be checked (chkdsk)"
    );
    let checking: &[u8] = &[0, 0x40];
    assert!(said(&image, &[(one, checking), (copy, checking)]).contains("chkdsk"));
    assert_eq!(
        said(&image, &[(one, dirty)]),
        "the NTFS volume is damaged: record 3 of $MFT and its copy in $MFTMirr differ"
    );
}

#[test]
fn a_volume_on_which_windows_sleeps_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    for (head, wanted) in [
        (b"hibr", "a Windows hibernates on it"),
        (b"HIBR", "a Windows hibernates on it"),
        (b"RSTR", "its hiberfil.sys begins with \"RSTR\""),
        (b"wake", ""),
        (b"\0\0\0\0", ""),
    ] {
        let image = made(dir.path(), "4096", 8 << 20, &[]);
        let file = dir.path().join("file");
        fs::write(&file, [head.as_slice(), &[7; 9000]].concat()).unwrap();
        let (image_path, file) = (image.to_str().unwrap(), file.to_str().unwrap());
        run("ntfscp", &["-f", image_path, file, "Hiberfil.SYS"]);
        let said = said(&image, &[]);
        assert!(
            said.starts_with(wanted) && said.is_empty() == wanted.is_empty(),
            "{said}"
        );
    }
}

/// A page that begins `$LogFile`.
fn restart_page(sequence: u64, major: u16, has_clients: bool, flags: u16) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..4].copy_from_slice(b"RSTR");
    page[4..8].copy_from_slice(&[0x1e, 0, 9, 0]);
    page[16..24].copy_from_slice(&[0, 0x10, 0, 0, 0, 0x10, 0, 0]);
    page[24..26].copy_from_slice(&[0x30, 0]);
    page[26..28].copy_from_slice(&(major % 2).to_le_bytes());
    page[28..30].copy_from_slice(&major.to_le_bytes());
    page[0x30..0x38].copy_from_slice(&sequence.to_le_bytes());
    let clients = if has_clients { 0_u16 } else { u16::MAX };
    page[0x3c..0x3e].copy_from_slice(&clients.to_le_bytes());
    page[0x3e..0x40].copy_from_slice(&flags.to_le_bytes());
    // The update sequence number, at the end of each 512 bytes.
    page[0x1e] = 5;
    for end in (512..=4096).step_by(512) {
        page[end - 2] = 5;
    }
    page
}

#[test]
fn a_volume_with_an_open_journal_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "4096", 8 << 20, &[]);
    let at = place_of(&image, 2, DATA);
    let journal = |first: &[u8], second: &[u8]| said(&image, &[(at, first), (at + 4096, second)]);
    let closed = restart_page(7, 1, false, 0);
    let marked = restart_page(9, 1, true, 2);
    let open = restart_page(8, 1, true, 0);
    let garbage = vec![0; 4096];
    assert_eq!(journal(&closed, &closed), "");
    assert_eq!(journal(&garbage, &closed), "");
    assert_eq!(journal(&marked, &open), "");
    let is_open = "its journal ($LogFile) was not closed: it was not unmounted";
    assert_eq!(journal(&open, &closed), is_open);
    assert_eq!(journal(&closed, &open), is_open);
    assert!(journal(&closed, &restart_page(9, 2, false, 0)).contains("fast startup"));
    assert_eq!(
        journal(&garbage, &garbage),
        "its journal ($LogFile) cannot be read"
    );
    let mut torn = open;
    torn[1022] = 6;
    assert_eq!(journal(&torn, &closed), "");
}

#[test]
fn a_bitmap_that_calls_itself_free_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "4096", 8 << 20, &[]);
    let zeros = vec![0; 8];
    let what = said(&image, &[(place_of(&image, 6, DATA), &zeros)]);
    assert!(
        what.starts_with("the NTFS volume is damaged: $Bitmap calls clusters"),
        "{what}"
    );
}

#[test]
fn a_changed_volume_is_read_or_refused_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), "512", 4 << 20, &[]);
    age(dir.path(), AGE, &image, "20");
    let volume = fs::read(&image).unwrap();
    let boot = Boot::read(&volume).unwrap();
    let table = boot.mft * boot.cluster;
    let bitmap = place_of(&image, 6, DATA);
    let place = prop_oneof![
        2 => 0..96_u64,
        6 => table..table + 40 * 1024,
        1 => bitmap..bitmap + 1024,
        1 => 0..volume.len() as u64,
    ];
    let strategy = prop::collection::vec((place, any::<u8>()), 1..8);
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(&strategy, |changes| {
            let volume = Changed::new(&volume, changes);
            if let Ok(usage) = used(&volume) {
                let inside = usage
                    .used
                    .as_slice()
                    .iter()
                    .all(|range| range.end <= volume.size());
                prop_assert!(inside);
            }
            Ok(())
        })
        .unwrap();
}

proptest! {
    #[test]
    fn any_boot_sector_is_read_or_refused(
        mut volume in prop::collection::vec(any::<u8>(), 8192),
        clusters in 1..16_u8,
        valid: bool,
    ) {
        volume[3..11].copy_from_slice(b"NTFS    ");
        volume[510..512].copy_from_slice(&[0x55, 0xaa]);
        if valid {
            volume[11..72].fill(0);
            volume[12..14].copy_from_slice(&[2, 1]);
            volume[40] = clusters;
            volume[48] = 1;
            volume[56] = 2;
            volume[64] = 0xf6;
        }
        let _ = used(&volume);
    }
}
