//! ext filesystems that mke2fs made and that were written to, against what dumpe2fs lists as free;
//! and what is left of them when only the used ranges are put back.
//!
//! `/usr/sbin` has e2fsprogs; mounting needs root, and is left out with a word without it.

mod disks;

use bugler_fsread::{Content, Reading, SurveyOptions, Unclean, survey, survey_partition};
use disks::{Disk, run};
use std::ops::Range;

/// What mke2fs is given, and the size of the filesystem in KiB.
const KINDS: &[(&str, u64)] = &[
    ("-t ext2 -b 1024", 8 << 10),
    ("-t ext2 -b 1024 -r 0", 20 << 10),
    ("-t ext2 -b 4096", 16 << 10),
    ("-t ext2 -b 1024 -O ^sparse_super,^resize_inode", 40 << 10),
    ("-t ext3 -b 1024", 30 << 10),
    ("-t ext3 -b 2048", 30 << 10),
    ("-t ext4 -b 1024", 50 << 10),
    ("-t ext4 -b 1024 -g 256 -G 8", 12_345),
    ("-t ext4 -b 2048 -g 1024", 33_333),
    ("-t ext4 -b 4096", 48 << 10),
    ("-t ext4 -b 4096 -g 512 -G 1", 48 << 10),
    ("-t ext4 -b 65536", 64 << 10),
    ("-t ext4 -b 1024 -O ^flex_bg", 40 << 10),
    (
        "-t ext4 -b 1024 -O ^flex_bg,^64bit,^metadata_csum,uninit_bg",
        40 << 10,
    ),
    ("-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", 40 << 10),
    ("-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg", 40 << 10),
    ("-t ext4 -b 1024 -O ^64bit", 40 << 10),
    ("-t ext4 -b 1024 -O ^64bit,^resize_inode -g 256", 20 << 10),
    ("-t ext4 -b 4096 -O ^has_journal -I 1024", 24 << 10),
    ("-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256", 30 << 10),
    (
        "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg -g 256",
        29_999,
    ),
    ("-t ext3 -b 1024 -O meta_bg,^resize_inode -g 512", 29_999),
    (
        "-t ext4 -b 4096 -O meta_bg,^resize_inode,sparse_super2 -g 256",
        150 << 10,
    ),
    ("-t ext4 -b 1024 -O sparse_super2 -g 1024", 30 << 10),
    (
        "-t ext4 -b 1024 -O sparse_super2 -E num_backup_sb=1 -g 1024",
        30 << 10,
    ),
    (
        "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=0",
        30 << 10,
    ),
    ("-t ext4 -b 1024 -O ^sparse_super,^resize_inode", 40 << 10),
    ("-t ext4 -b 1024 -E packed_meta_blocks=1", 40 << 10),
    ("-t ext4 -b 4096 -O bigalloc -C 16384", 64 << 10),
    ("-t ext4 -b 4096 -O bigalloc -C 65536 -g 8192", 100 << 10),
    ("-t ext4 -b 1024 -O bigalloc -C 8192", 60 << 10),
    (
        "-t ext4 -b 1024 -O bigalloc,^flex_bg -C 4096 -g 1024",
        50_002,
    ),
    (
        "-t ext4 -b 4096 -O inline_data,quota,project -I 512",
        32 << 10,
    ),
    (
        "-t ext4 -b 4096 -O mmp,metadata_csum_seed,orphan_file,large_dir,ea_inode",
        32 << 10,
    ),
    (
        "-t ext4 -b 4096 -O casefold,encrypt,verity,stable_inodes",
        32 << 10,
    ),
    (
        "-t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1",
        200 << 10,
    ),
    ("-t ext4 -b 1024 -N 16 -g 8192 -O ^resize_inode", 30 << 10),
];

fn make(args: &str, kib: u64) -> Disk {
    let disk = Disk::new(kib << 10);
    let args: Vec<&str> = args.split(' ').collect();
    run(
        "mke2fs",
        &[&["-q", "-F", "-L", "label"], &args[..], &[&disk.path]].concat(),
    );
    disk
}

/// The bytes that dumpe2fs calls free.
fn free(disk: &Disk) -> Vec<Range<u64>> {
    let text = run("dumpe2fs", &[&disk.path]);
    let header = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().parse::<u64>().unwrap())
    };
    let block = header("Block size:").unwrap();
    let blocks = header("Block count:").unwrap();
    // With bigalloc it lists clusters by the block that they begin with.
    let ratio = header("Cluster size:").map_or(1, |cluster| cluster / block);
    text.lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
        .flat_map(|line| line.split(", "))
        .filter(|range| !range.trim().is_empty())
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let first: u64 = first.trim().parse().unwrap();
            let last: u64 = last.trim().parse().unwrap();
            first * block..(last + ratio).min(blocks) * block
        })
        .collect()
}

/// Every byte that dumpe2fs lists as free is out, and every other one is in.
fn agrees_with_dumpe2fs(what: &str, disk: &Disk) -> u64 {
    let survey = disk.survey();
    assert_eq!(survey.parts[0].reading, Reading::UsedBlocks, "{what}");
    let mut at = 0;
    let mut expected = Vec::new();
    let mut free = free(disk);
    free.sort_by_key(|range| range.start);
    for range in free {
        if range.start > at {
            expected.push(at..range.start);
        }
        at = range.end;
    }
    if at < disk.size() {
        expected.push(at..disk.size());
    }
    assert_eq!(survey.used.as_slice(), expected, "{what}");
    survey.used.bytes()
}

/// Puts back what is used over a disk full of `fill`: e2fsck has no complaint, and every file is there.
fn comes_back(what: &str, disk: &Disk) {
    let before = disk.files();
    for fill in [0xa5, 0] {
        let back = disk.restored(fill);
        run("e2fsck", &["-f", "-n", &back.path]);
        assert_eq!(back.files(), before, "{what}");
    }
}

#[test]
fn what_dumpe2fs_lists_as_free_is_out_and_everything_else_is_in() {
    for (args, kib) in KINDS {
        let disk = make(args, *kib);
        let fresh = agrees_with_dumpe2fs(args, &disk);
        disk.age_with_debugfs();
        let aged = agrees_with_dumpe2fs(args, &disk);
        assert_eq!(disk.survey().notes, [""; 0], "{args}");
        comes_back(args, &disk);
        println!("{args}: {fresh} bytes of {}, later {aged}", disk.size());
    }
}

#[test]
fn a_filesystem_that_was_mounted_and_written_to_comes_back() {
    for (args, kib) in KINDS {
        let disk = make(args, *kib);
        if !disk.age_by_mounting() {
            println!("{args}: cannot be mounted here");
            continue;
        }
        let used = agrees_with_dumpe2fs(args, &disk);
        comes_back(args, &disk);
        println!("{args}: {used} bytes of {}", disk.size());
    }
}

#[test]
fn a_filesystem_that_was_made_larger_or_smaller_comes_back() {
    for (args, from, to) in [
        ("-t ext4 -b 1024 -g 256", 8 << 10, 64 << 10),
        ("-t ext4 -b 1024 -g 256 -E resize=10M", 8 << 10, 60 << 10),
        (
            "-t ext4 -b 1024 -g 256 -O ^resize_inode,^flex_bg",
            8 << 10,
            60 << 10,
        ),
        (
            "-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256",
            8 << 10,
            60 << 10,
        ),
        ("-t ext4 -b 4096 -O sparse_super2", 60 << 10, 33 << 10),
        ("-t ext3 -b 1024", 60 << 10, 20 << 10),
    ] {
        let disk = make(args, from);
        disk.age_with_debugfs();
        let size = to.max(from) << 10;
        disk.file().set_len(size).unwrap();
        run("e2fsck", &["-f", "-p", &disk.path]);
        run("resize2fs", &[&disk.path, &format!("{to}K")]);
        disk.file().set_len(to << 10).unwrap();
        agrees_with_dumpe2fs(args, &disk);
        comes_back(args, &disk);
    }
    // Blocks with reserved descriptors and descriptors that lie in their groups, both.
    let disk = make("-t ext4 -b 1024 -g 256 -O ^resize_inode,^64bit", 8 << 10);
    run("resize2fs", &["-b", &disk.path]);
    agrees_with_dumpe2fs("64bit later", &disk);
}

#[test]
fn versions_are_told_by_their_features() {
    for (args, version) in [
        ("-t ext2 -b 1024", 2),
        ("-t ext2 -b 1024 -r 0", 2),
        ("-t ext3 -b 1024", 3),
        ("-t ext4 -b 1024", 4),
        ("-t ext4 -b 1024 -O ^has_journal", 4),
    ] {
        let survey = make(args, 16 << 10).survey();
        assert_eq!(survey.parts[0].content, Content::Ext { version }, "{args}");
    }
}

/// Why the filesystem is read whole, with all of its bytes; and what is said when that is to be
/// refused.
fn why_whole(disk: &Disk) -> String {
    let survey = disk.survey();
    let Reading::Whole { why } = &survey.parts[0].reading else {
        panic!("{:?}", survey.parts[0].reading);
    };
    assert_eq!(survey.used.bytes(), disk.size());
    why.clone()
}

fn is_refused(disk: &Disk) -> bool {
    let options = SurveyOptions {
        unclean: Unclean::Refuse,
        ..SurveyOptions::default()
    };
    let survey = survey_partition(&disk.file(), &options).unwrap();
    assert_eq!(survey.refused().count() == 1, survey.used.bytes() == 0);
    survey.refused().count() == 1
}

#[test]
fn what_is_not_clean_is_read_whole_or_refused() {
    let mounted = make("-t ext4 -b 1024", 16 << 10);
    mounted.debugfs("feature needs_recovery\n");
    assert_eq!(
        why_whole(&mounted),
        "its journal is to be replayed: it is mounted, or was not unmounted"
    );
    assert!(is_refused(&mounted));

    let open = make("-t ext2 -b 1024", 16 << 10);
    open.debugfs("set_super_value state 0\n");
    assert_eq!(why_whole(&open), "it is mounted, or was not unmounted");
    assert!(is_refused(&open));

    let errors = make("-t ext4 -b 1024", 16 << 10);
    errors.debugfs("set_super_value state 3\n");
    assert_eq!(
        why_whole(&errors),
        "errors were found in it: it wants e2fsck"
    );
    assert!(is_refused(&errors));

    let protected = make("-t ext4 -b 4096 -O mmp", 16 << 10);
    // debugfs itself would make it clean again.
    let block: u64 = run("debugfs", &["-R", "dump_mmp", &protected.path])
        .lines()
        .find_map(|line| line.strip_prefix("block_number: "))
        .and_then(|number| number.trim().parse().ok())
        .unwrap();
    protected.write(block * 4096 + 4, &[0x17, 0, 0, 0]);
    assert_eq!(
        why_whole(&protected),
        "its mount protection says that a host uses it, or e2fsck"
    );
}

#[test]
fn a_filesystem_that_is_mounted_is_not_clean() {
    for args in ["-t ext4 -b 1024", "-t ext2 -b 1024"] {
        let disk = make(args, 16 << 10);
        let mounted = disk.while_mounted("echo a > a; sync -f a", || {
            assert!(is_refused(&disk), "{args}");
        });
        if !mounted {
            println!("{args}: cannot be mounted here");
            return;
        }
        assert!(!is_refused(&disk), "{args}");
    }
}

#[test]
fn damage_is_read_whole_with_the_reason() {
    // Offsets: of the superblock 1024; of the first descriptor 2048 with blocks of 1 KiB.
    let case = |args: &str, at: u64, byte: u8| {
        let disk = make(args, 40 << 10);
        disk.write(at, &[byte]);
        why_whole(&disk)
    };
    let csum = "-t ext4 -b 1024";
    let crc16 = "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg";
    let plain = "-t ext2 -b 1024";
    let prefix = "the ext volume is damaged: ";
    assert_eq!(
        case(csum, 1024 + 0x78, b'L'),
        "the ext volume cannot be read by its blocks: its superblock does not fit its checksum"
    );
    for args in [csum, crc16] {
        assert_eq!(
            case(args, 2048 + 0x12, 0xff),
            format!("{prefix}the descriptor of group 0 does not fit its checksum")
        );
    }
    let counts = case(plain, 2048 + 0xc, 1);
    assert!(
        counts.starts_with(&format!("{prefix}the bitmap of group 0 has ")),
        "{counts}"
    );
    assert!(
        counts.contains(" free clusters, and its descriptor "),
        "{counts}"
    );
    assert!(case(plain, 2048 + 3, 0x7f).starts_with(&format!("{prefix}metadata of group 0")));
    assert!(case(plain, 1024 + 4 + 3, 1).contains("and the partition has 41943040 bytes"));
    assert!(case(plain, 1024 + 0x60, 1).contains("a feature that is not known (incompat 0x1"));
    assert!(case(plain, 1024 + 0x66, 0x80).contains("a feature that is not known (ro_compat"));

    // A bit of a bitmap, which only its checksum tells when another one changes too.
    let disk = make(csum, 40 << 10);
    let text = run("dumpe2fs", &[&disk.path]);
    let bitmap: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("  Block bitmap at "))
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    disk.write(bitmap * 1024 + 1000, &[1]);
    assert_eq!(
        why_whole(&disk),
        format!("{prefix}the bitmap of group 0 does not fit its checksum")
    );
}

#[test]
fn a_journal_elsewhere_is_read_whole() {
    let journal = make("-O journal_dev -b 1024", 8 << 10);
    assert_eq!(journal.survey().parts[0].content, Content::ExtJournal);
    why_whole(&journal);
    let disk = make("-t ext4 -b 1024", 16 << 10);
    // As tune2fs leaves it: it would want a block device.
    disk.debugfs("set_super_value journal_inum 0\nset_super_value journal_dev 0x801\n");
    assert_eq!(
        why_whole(&disk),
        "its journal is on another device, and may hold what is not here yet"
    );
}

#[test]
fn what_lies_behind_the_filesystem_is_carried_where_it_is_little() {
    let disk = make("-t ext4 -b 1024", 16 << 10);
    let used = disk.survey().used;
    for (more, carried) in [(3 << 20, 3 << 20), (64 << 20, 1 << 20)] {
        disk.file().set_len((16 << 20) + more).unwrap();
        let survey = survey(&disk.file(), 512, &SurveyOptions::default()).unwrap();
        assert_eq!(survey.used.bytes(), used.bytes() + carried);
        assert!(survey.used.covers(disk.size() - carried..disk.size()));
        let notes: &[&str] = match more == carried {
            true => &[],
            false => &[
                "64.0 MiB of the disk lie behind its ext4 and are left out, but for the last \
                   1.0 MiB",
            ],
        };
        assert_eq!(survey.notes, notes);
    }
}

#[test]
fn a_large_filesystem_is_read_by_its_bitmaps_alone() {
    for (args, kib) in [
        (
            "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            2 << 20,
        ),
        (
            "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard -O ^flex_bg",
            20 << 20,
        ),
        (
            "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1,nodiscard -O bigalloc",
            300 << 20,
        ),
    ] {
        let disk = make(args, kib);
        let begun = std::time::Instant::now();
        let survey = disk.survey();
        println!(
            "{args}: {} KiB, {} bytes used, {:.1?}",
            kib,
            survey.used.bytes(),
            begun.elapsed()
        );
        agrees_with_dumpe2fs(args, &disk);
        let read = disk.bytes_read();
        assert!(
            read < (1 << 20).max(disk.size() / 10_000),
            "{read} bytes were read"
        );
    }
}
