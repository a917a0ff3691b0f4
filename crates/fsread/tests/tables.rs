//! Disks that sgdisk and sfdisk have partitioned.
//!
//! They are in Debian's gdisk and fdisk.

mod disks;

use bugler_fsread::{Content, Reading, Survey, SurveyOptions, Table, Unclean, survey};
use disks::{Disk, run, run_with_input};

const MIB: u64 = 1 << 20;

fn gpt(size: u64, parts: &[&str]) -> Disk {
    let disk = Disk::new(size);
    run("sgdisk", &[&["-a", "1"], parts, &[&disk.path]].concat());
    disk
}

fn sfdisk(disk: &Disk, script: &str) {
    run_with_input("sfdisk", &["-q", "--no-tell-kernel", &disk.path], script);
}

fn ext4(size: u64) -> Disk {
    let disk = Disk::new(size);
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-b", "1024", &disk.path],
    );
    disk.age_with_debugfs();
    disk
}

fn made(size: u64, tool: &str, args: &[&str]) -> Disk {
    let disk = Disk::new(size);
    run(tool, &[args, &[&disk.path]].concat());
    disk
}

fn whole(survey: &Survey, part: usize) -> &str {
    match &survey.parts[part].reading {
        Reading::Whole { why } => why,
        other => panic!("{other:?}"),
    }
}

/// Sectors of 512 bytes, with a poisoned restore that sgdisk or sfdisk must accept.
fn comes_back(disk: &Disk, tool: &str) -> Disk {
    let back = disk.restored(0xa5);
    let args: &[&str] = if tool == "sgdisk" {
        &["-p", "-i", "1"]
    } else {
        &["-d"]
    };
    let table =
        |disk: &Disk| run(tool, &[args, &[&disk.path]].concat()).replace(disk.path.as_str(), "");
    if tool == "sgdisk" {
        let verified = run("sgdisk", &["-v", &back.path]);
        assert!(verified.contains("No problems found"), "{verified}");
    }
    assert_eq!(table(&back), table(disk));
    back
}

#[test]
fn a_gpt_with_a_filesystem_in_each_partition() {
    let disk = gpt(
        256 * MIB,
        &[
            "-n1:2048:+1M",
            "-t1:ef02",
            "-c1:bios",
            "-n2:6144:+32M",
            "-t2:ef00",
            "-c2:EFI \u{1f427}",
            "-n3:81920:+40M",
            "-c3:root",
            "-n4:180224:+16M",
            "-t4:8200",
            "-n7:229376:+64M",
        ],
    );
    let fat = made(32 * MIB, "mkfs.fat", &["-F", "16"]);
    let root = ext4(40 * MIB);
    let swap = made(16 * MIB, "mkswap", &["-q", "-L", "swap"]);
    disk.put(6144 * 512, &fat);
    disk.put(81920 * 512, &root);
    disk.put(180_224 * 512, &swap);
    disk.write(2048 * 512, b"loader");
    disk.write(100 * 512, b"also a loader");
    // What a partition held before is not carried.
    disk.write(180_224 * 512 + MIB, &[7; 4096]);

    let survey = disk.survey();
    assert_eq!(survey.table, Table::Gpt);
    let found: Vec<_> = survey
        .parts
        .iter()
        .map(|part| {
            let reading = part.reading.to_string();
            let name = part.name.as_deref().unwrap_or("-");
            format!("{} {name} {}: {reading}", part.number, part.content)
        })
        .collect();
    assert_eq!(
        found,
        [
            "1 bios unknown: whole: what it holds is not known",
            "2 EFI \u{1f427} FAT16: used blocks",
            "3 root ext4: used blocks",
            "4 - swap: header only",
            "7 - empty: whole: its beginning is zero, which says nothing of the rest",
        ]
    );
    assert_eq!(survey.parts[3].used, 4096);
    assert_eq!(
        survey.notes,
        ["80.0 MiB behind partition 7 belong to no partition and are left out",]
    );
    // The table, the loaders, and small gaps; both copies of the GPT.
    assert!(survey.used.covers(0..3 * MIB));
    assert!(survey.used.covers(256 * MIB - 33 * 512..256 * MIB));
    assert!(!survey.used.covers(200 * MIB..201 * MIB));

    let back = comes_back(&disk, "sgdisk");
    let part = back.part(81920 * 512, 40 * MIB);
    run("e2fsck", &["-f", "-n", &part.path]);
    assert_eq!(part.files(), root.files());
    run("fsck.fat", &["-n", &back.part(6144 * 512, 32 * MIB).path]);
    assert_eq!(
        run(
            "blkid",
            &[
                "-p",
                "-s",
                "LABEL",
                "-o",
                "value",
                &back.part(180_224 * 512, 16 * MIB).path
            ]
        ),
        "swap\n"
    );

    // All of it, where that is asked for.
    let options = SurveyOptions {
        whole_disk: true,
        ..SurveyOptions::default()
    };
    let all = survey_of(&disk, 512, &options);
    assert!(all.used.covers(0..disk.size()));
    assert_eq!(all.parts[2].content, Content::Ext { version: 4 });
    assert_eq!(whole(&all, 2), "every byte was asked for");
}

fn survey_of(disk: &Disk, sector: u32, options: &SurveyOptions) -> Survey {
    survey(&disk.file(), sector, options).unwrap()
}

#[test]
fn a_gpt_with_one_damaged_copy_is_read_from_the_other() {
    let disk = gpt(64 * MIB, &["-n1:2048:+8M", "-n2:0:0"]);
    let before = disk.survey();
    let file = disk.file();
    let size = disk.size();
    for (at, note) in [
        (
            512,
            "the GPT is damaged (its header has no signature); its backup at the end of the disk was read",
        ),
        (
            512 + 40,
            "the GPT is damaged (its header does not fit its checksum); its backup at the end of the disk was read",
        ),
        (
            1024 + 4,
            "the GPT is damaged (its array of partitions does not fit its checksum); its backup at the end of the disk was read",
        ),
        (
            size - 512,
            "the backup of the GPT is damaged (its header has no signature); it is carried as it is",
        ),
        (
            size - 33 * 512,
            "the backup of the GPT is damaged (its array of partitions does not fit its checksum); it is carried as it is",
        ),
    ] {
        let old = disk.part(at, 1);
        disk.write(at, &[0xee]);
        let survey = disk.survey();
        assert_eq!(survey.parts, before.parts);
        assert_eq!(survey.used, before.used);
        assert_eq!(survey.notes, [note]);
        disk.put(at, &old);
        // A zero is not copied.
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&old.file(), &mut byte, 0).unwrap();
        disk.write(at, &byte);
    }
    disk.write(512, &[0; 512]);
    disk.write(size - 512, &[0; 512]);
    let survey = disk.survey();
    assert_eq!(survey.table, Table::Gpt);
    assert!(survey.used.covers(0..size));
    assert_eq!(
        survey.notes,
        [
            "every byte of the disk is carried: its GPT is damaged (its header has no signature), and \
          so is the backup at the end of the disk (its header has no signature)"
        ]
    );
    // An image on a disk that is larger: the backup is in the middle.
    let disk = gpt(64 * MIB, &["-n1:2048:+8M"]);
    file.set_len(0).unwrap();
    disk.file().set_len(500 * MIB).unwrap();
    let survey = disk.survey();
    assert!(survey.used.covers(64 * MIB - 33 * 512..64 * MIB));
    assert!(!survey.used.covers(60 * MIB..61 * MIB));
    assert_eq!(
        survey.notes[0],
        "the backup of the GPT is in sector 131071, not in the last one (1023999)"
    );
}

#[test]
fn a_gpt_for_other_sectors_is_not_guessed_at() {
    let disk = gpt(64 * MIB, &["-n1:2048:+8M"]);
    let survey = survey_of(&disk, 4096, &SurveyOptions::default());
    assert!(survey.used.covers(0..disk.size()));
    assert_eq!(
        survey.notes,
        [
            "every byte of the disk is carried: its GPT is made for sectors of 512 bytes, and the disk \
          has sectors of 4096 bytes"
        ]
    );
}

#[test]
fn an_mbr_with_logical_partitions() {
    let disk = Disk::new(256 * MIB);
    sfdisk(
        &disk,
        "label: dos\nstart=2048, size=65536, type=c\nstart=67584, size=450560, type=f\n\
         start=69632, size=81920, type=83\nstart=153600, size=32768, type=82\n\
         start=300000, size=100000, type=83\n",
    );
    let root = ext4(40 * MIB);
    disk.put(69632 * 512, &root);
    disk.put(2048 * 512, &made(32 * MIB, "mkfs.fat", &["-F", "32"]));
    disk.put(153_600 * 512, &made(16 * MIB, "mkswap", &["-q"]));
    disk.write(300_000 * 512, b"XFSB");
    let survey = disk.survey();
    assert_eq!(survey.table, Table::Mbr);
    let found: Vec<_> = survey
        .parts
        .iter()
        .map(|part| format!("{} {} {}", part.number, part.start / 512, part.content))
        .collect();
    assert_eq!(
        found,
        [
            "1 2048 FAT32",
            "5 69632 ext4",
            "6 153600 swap",
            "7 300000 XFS"
        ]
    );
    assert_eq!(whole(&survey, 3), "used blocks of XFS are not read");
    assert_eq!(
        survey.notes,
        [
            "55.5 MiB between partition 6 and partition 7 belong to no partition and are left out",
            "60.7 MiB behind partition 7 belong to no partition and are left out",
        ]
    );
    let back = comes_back(&disk, "sfdisk");
    run(
        "e2fsck",
        &["-f", "-n", &back.part(69632 * 512, 40 * MIB).path],
    );
}

#[test]
fn a_chain_that_goes_wrong_is_copied_whole() {
    let disk = Disk::new(64 * MIB);
    let script = "label: dos\nstart=2048, size=120000, type=5\nstart=4096, size=2048, type=83\n\
                  start=8192, size=2048, type=83\nstart=12288, size=2048, type=83\n";
    sfdisk(&disk, script);
    let good = disk.survey();
    assert_eq!(good.parts.len(), 3);
    // The second link of the first extended record: a loop, far away, nothing.
    for (link, why) in [
        (0_u32, "sector 2048 comes twice in the chain"),
        (200_000, "the chain goes on in sector 202048, beyond it"),
        (5000, "sector 7048 has no boot record"),
    ] {
        disk.write(2048 * 512 + 470, &link.to_le_bytes());
        let survey = disk.survey();
        assert!(survey.used.covers(2048 * 512..122_048 * 512));
        assert_eq!(
            survey.notes[0],
            format!(
                "the logical partitions of partition 1 cannot be relied on ({why}): it is copied whole"
            )
        );
    }
}

#[test]
fn partitions_that_overlap_or_end_elsewhere_are_copied_whole() {
    let disk = Disk::new(64 * MIB);
    sfdisk(
        &disk,
        "label: dos\nstart=2048, size=81920, type=83\nstart=90000, size=20000, type=83\n",
    );
    disk.put(2048 * 512, &ext4(40 * MIB));
    assert_eq!(disk.survey().parts[0].reading, Reading::UsedBlocks);
    // The second one begins in the first one.
    disk.write(446 + 16 + 8, &60_000_u32.to_le_bytes());
    let survey = disk.survey();
    assert_eq!(whole(&survey, 0), "it overlaps partition 2");
    assert_eq!(whole(&survey, 1), "it overlaps partition 1");
    assert!(survey.used.covers(0..83_968 * 512));
    // It ends behind the disk.
    disk.write(446 + 16 + 8, &130_000_u32.to_le_bytes());
    let survey = disk.survey();
    assert_eq!(whole(&survey, 1), "it ends beyond the end of the disk");
    assert_eq!(survey.parts[1].size, 64 * MIB - 130_000 * 512);
    // It begins there.
    disk.write(446 + 16 + 8, &140_000_u32.to_le_bytes());
    assert_eq!(
        disk.survey().notes[0],
        "partition 2 (20000 sectors from sector 140000) is not on the disk and is left out"
    );
}

#[test]
fn a_partition_that_is_cut_up_further_is_copied_whole() {
    // A dynamic disk of Windows: volumes lie one behind the other, without a table that is read.
    let disk = Disk::new(128 * MIB);
    sfdisk(&disk, "label: dos\nstart=2048, size=250000, type=42\n");
    disk.put(MIB, &ext4(40 * MIB));
    let survey = disk.survey();
    assert_eq!(
        whole(&survey, 0),
        "it is cut up further, by a dynamic disk of Windows"
    );
    let disk = gpt(
        128 * MIB,
        &["-n1:2048:+100M", "-t1:4200", "-n2:0:+8M", "-t2:a503"],
    );
    disk.put(MIB, &ext4(40 * MIB));
    let survey = disk.survey();
    assert_eq!(
        whole(&survey, 0),
        "it is cut up further, by a dynamic disk of Windows"
    );
    let disk = Disk::new(128 * MIB);
    sfdisk(&disk, "label: dos\nstart=2048, size=250000, type=a5\n");
    disk.put(MIB, &ext4(40 * MIB));
    assert_eq!(
        whole(&disk.survey(), 0),
        "it is cut up further, by a BSD disklabel"
    );
}

#[test]
fn a_hybrid_mbr_is_carried_with_what_only_it_knows() {
    let disk = gpt(64 * MIB, &["-n1:2048:+8M", "-n2:20480:+8M", "-h1:2"]);
    assert_eq!(disk.survey().table, Table::Gpt);
    let sound: Vec<String> = disk.survey().notes;
    assert!(!sound.iter().any(|note| note.contains("MBR")), "{sound:?}");
    // One of its records leads elsewhere.
    let mut mbr = [0; 512];
    std::os::unix::fs::FileExt::read_exact_at(&disk.file(), &mut mbr, 0).unwrap();
    let record = (0..4)
        .map(|index| 446 + 16 * index)
        .find(|&at| mbr[at + 4] != 0xee && mbr[at + 4] != 0)
        .unwrap();
    disk.write(record as u64 + 8, &80_000_u32.to_le_bytes());
    let survey = disk.survey();
    assert!(survey.used.covers(80_000 * 512..(80_000 + 16384) * 512));
    assert!(
        survey
            .notes
            .iter()
            .any(|note| note.contains("has a partition of its own"))
    );
}

#[test]
fn tables_that_contradict_are_not_chosen_between() {
    // A GPT that lost its protective MBR.
    let disk = gpt(64 * MIB, &["-n1:2048:+8M"]);
    disk.write(0, &[0; 512]);
    let survey = disk.survey();
    assert_eq!(
        (survey.table, survey.used.bytes()),
        (Table::None, disk.size())
    );
    assert_eq!(
        whole(&survey, 0),
        "there is a GPT, but no protective MBR before it"
    );

    // One over which an MBR was made.
    let disk = gpt(64 * MIB, &["-n1:2048:+8M"]);
    disk.write(0, &[0; 512]);
    let mbr = Disk::new(64 * MIB);
    sfdisk(&mbr, "label: dos\nstart=2048, size=4096\n");
    disk.put(0, &mbr.part(0, 512));
    let survey = disk.survey();
    assert_eq!(survey.table, Table::Mbr);
    assert!(survey.notes[0].contains("a GPT from earlier"));

    // A disk that is a member of a RAID as a whole.
    let disk = gpt(64 * MIB, &["-n1:2048:+8M"]);
    disk.write(
        ((64 * MIB / 512 - 16) & !7) * 512,
        &0xa92b_4efc_u32.to_le_bytes(),
    );
    let survey = disk.survey();
    assert_eq!(survey.used.bytes(), disk.size());
    let last = survey.notes.last().unwrap();
    assert!(last.ends_with("beside its GPT the disk itself has the mark of Linux RAID"));

    // A table without a partition.
    let survey = gpt(64 * MIB, &["-o"]).survey();
    assert_eq!((survey.table, survey.used.bytes()), (Table::Gpt, 64 * MIB));
}

#[test]
fn disks_without_a_table() {
    let root = ext4(40 * MIB);
    assert_eq!(root.survey().table, Table::None);
    assert_eq!(root.survey().parts[0].reading, Reading::UsedBlocks);

    for args in [&["-F", "32"][..], &["-F", "16"], &["-F", "32", "--mbr=y"]] {
        let fat = made(40 * MIB, "mkfs.fat", &[&["-I"], args].concat());
        let survey = fat.survey();
        assert_eq!(survey.table, Table::None, "{args:?}");
        assert_eq!(survey.parts[0].reading, Reading::UsedBlocks, "{args:?}");
        assert!(survey.used.bytes() < MIB, "{args:?}");
    }
    let empty = Disk::new(10 * MIB).survey();
    assert_eq!(empty.parts[0].content, Content::Empty);
    assert_eq!(empty.used.bytes(), 10 * MIB);
    // Two filesystems have left their marks.
    root.write(4096 - 10, b"SWAPSPACE2");
    let survey = root.survey();
    assert_eq!(survey.parts[0].content, Content::Several);
    assert_eq!(
        whole(&survey, 0),
        "it has the marks of ext4 and swap at once"
    );
    // Smaller than anything.
    for size in [1, 511, 512, 513, 4095, 65_537] {
        assert_eq!(Disk::new(size).survey().used.bytes(), size);
    }
}

#[test]
fn swap_space_is_its_header_unless_a_system_sleeps_in_it() {
    for page in [4096, 8192, 16384, 65536_u64] {
        let swap = made(
            16 * MIB,
            "mkswap",
            &["-q", "-L", "swap", "-p", &page.to_string()],
        );
        swap.write(MIB, &[1; 4096]);
        let survey = swap.survey();
        assert_eq!(survey.parts[0].reading, Reading::HeaderOnly, "{page}");
        assert_eq!(survey.used, std::iter::once(0..page).collect());
        let back = swap.restored(0);
        let tags =
            |disk: &Disk| run("blkid", &["-p", "-o", "export", &disk.path]).replace(&disk.path, "");
        assert_eq!(tags(&back), tags(&swap));

        for mark in [&b"S1SUSPEND\0"[..], b"ULSUSPEND\0", b"LINHIB0001"] {
            swap.write(page - 10, mark);
            assert_eq!(whole(&swap.survey(), 0), "a hibernated system lies in it");
            let options = SurveyOptions {
                unclean: Unclean::Refuse,
                ..SurveyOptions::default()
            };
            assert_eq!(survey_of(&swap, 512, &options).refused().count(), 1);
        }
    }
    let short = made(16 * MIB, "mkswap", &["-q"]);
    short.file().set_len(8 * MIB).unwrap();
    assert!(
        whole(&short.survey(), 0).starts_with("its swap header counts 4096 pages of 4096 bytes")
    );
}

#[test]
fn what_has_no_reader_is_named() {
    let marks: [(u64, &[u8], Content); 8] = [
        (0, b"LUKS\xba\xbe", Content::Luks),
        (512, b"LABELONE", Content::Lvm),
        (0x1_0040, b"_BHRfS_M", Content::Btrfs),
        (3, b"-FVE-FS-", Content::BitLocker),
        (32769, b"CD001", Content::Iso9660),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0], Content::MdRaid),
        (0, b"hsqs", Content::Squashfs),
        (132 << 10, &0x00ba_b10c_u64.to_le_bytes(), Content::Zfs),
    ];
    for (at, mark, content) in marks {
        let disk = Disk::new(4 * MIB);
        disk.write(at, mark);
        let survey = disk.survey();
        assert_eq!(survey.parts[0].content, content);
        assert_eq!(
            whole(&survey, 0),
            format!("used blocks of {content} are not read")
        );
        assert_eq!(survey.used.bytes(), disk.size());
    }
    // RAID of version 1.0 stands at the end, around a filesystem.
    let disk = ext4(40 * MIB);
    disk.write(
        ((40 * MIB / 512 - 16) & !7) * 512,
        &0xa92b_4efc_u32.to_le_bytes(),
    );
    assert_eq!(disk.survey().parts[0].content, Content::MdRaid);
}
