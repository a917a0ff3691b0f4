//! What is given out, judged by those who made the formats.

use crate::tools::{MIB, Place, make_disk, noise};
use bugler_images::{Added, ExportFormat, LocalOptions};
use proptest::prelude::*;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

const FORMATS: [ExportFormat; 4] = [
    ExportFormat::Raw,
    ExportFormat::Zstd,
    ExportFormat::Qcow2,
    ExportFormat::Qcow2Zstd,
];

fn export(place: &Place, added: &Added, format: ExportFormat, name: &str) {
    let mut file = File::create(place.path(name)).unwrap();
    let written = place
        .store
        .export(&added.manifest, &mut file, format)
        .unwrap();
    let export = place.store.open_export(&added.manifest, format).unwrap();
    assert_eq!(export.size(), written, "{format:?}");
    assert_eq!(file.metadata().unwrap().len(), written);
}

/// Exports in every format and has it judged.
fn judge(place: &Place, added: &Added, raw: &str) {
    export(place, added, ExportFormat::Zstd, "out.zst");
    place.run("zstd", &["-q", "-d", "-f", "out.zst", "-o", "out.raw"]);
    place.run("cmp", &["out.raw", raw]);
    for (format, kind) in [
        (ExportFormat::Qcow2, "zlib"),
        (ExportFormat::Qcow2Zstd, "zstd"),
    ] {
        export(place, added, format, "out.qcow2");
        let info = place.qemu_img(&["info", "out.qcow2"]);
        assert!(
            info.contains(&format!("compression type: {kind}")),
            "{info}"
        );
        let checked = place.qemu_img(&["check", "-f", "qcow2", "out.qcow2"]);
        assert!(checked.contains("No errors were found"), "{checked}");
        let compared = place.qemu_img(&["compare", "-f", "qcow2", "-F", "raw", "out.qcow2", raw]);
        assert!(compared.contains("Images are identical"), "{compared}");
        // It can be written to, and comes in again as the same image.
        let again = place.send("out.qcow2", LocalOptions::default()).unwrap();
        assert_eq!(again.manifest, added.manifest, "{format:?}");
        place.qemu_io(
            "out.qcow2",
            &["write -P 1 1000k 100k", "read -P 1 1000k 100k"],
        );
        place.qemu_img(&["check", "-q", "-f", "qcow2", "out.qcow2"]);
    }
}

#[test]
fn every_format_holds_the_disk() {
    let place = Place::new();
    for size in [11 * MIB, 11 * MIB + 1536, 3 * MIB + 512] {
        make_disk(&place.path("disk"), size);
        let added = place.send("disk", LocalOptions::default()).unwrap();
        export(&place, &added, ExportFormat::Raw, "out.raw");
        place.run("cmp", &["out.raw", "disk"]);
        judge(&place, &added, "disk");
    }
    // Zeros at the end, and content that cannot be packed.
    let file = File::create(place.path("disk")).unwrap();
    file.write_all_at(&noise(9, 5 * MIB as usize), MIB).unwrap();
    file.set_len(9 * MIB + 512).unwrap();
    let added = place.send("disk", LocalOptions::default()).unwrap();
    judge(&place, &added, "disk");
}

#[test]
fn a_disk_of_zeros_is_small_in_every_format_but_one() {
    let place = Place::new();
    File::create(place.path("disk"))
        .unwrap()
        .set_len(2 * MIB + 512)
        .unwrap();
    let added = place.send("disk", LocalOptions::default()).unwrap();
    judge(&place, &added, "disk");
}

#[test]
fn a_disk_of_terabytes_has_several_tables() {
    let place = Place::new();
    let file = File::create(place.path("disk")).unwrap();
    file.set_len(1 << 40).unwrap();
    let gib = 1 << 30;
    for at in [
        0,
        127 * gib,
        128 * gib,
        700 * gib + 5 * MIB,
        (1 << 40) - MIB,
    ] {
        file.write_all_at(&noise(at + 1, 3 * 65536), at).unwrap();
    }
    let added = place.send("disk", LocalOptions::default()).unwrap();
    for format in [ExportFormat::Qcow2, ExportFormat::Qcow2Zstd] {
        export(&place, &added, format, "out.qcow2");
        let checked = place.qemu_img(&["check", "-f", "qcow2", "out.qcow2"]);
        assert!(checked.contains("No errors were found"), "{checked}");
        let again = place.send("out.qcow2", LocalOptions::default()).unwrap();
        assert_eq!(again.manifest, added.manifest, "{format:?}");
    }
}

#[test]
fn bmaptool_takes_the_block_map() {
    let place = Place::new();
    make_disk(&place.path("disk"), 11 * MIB + 1536);
    let added = place.send("disk", LocalOptions::default()).unwrap();
    let map = place
        .store
        .block_map(&added.manifest, |_, _| true)
        .unwrap()
        .unwrap();
    fs::write(place.path("disk.bmap"), &map).unwrap();
    export(&place, &added, ExportFormat::Zstd, "out.zst");
    // Chunks that are zero throughout are not mapped, so they are zero in a new file.
    for image in ["disk", "out.zst"] {
        place.run(
            "bmaptool",
            &["copy", "--bmap", "disk.bmap", image, "copied"],
        );
        place.run("cmp", &["copied", "disk"]);
        fs::remove_file(place.path("copied")).unwrap();
    }
    // It checks what it copies.
    let file = File::options()
        .write(true)
        .open(place.path("disk"))
        .unwrap();
    file.write_all_at(&[1], 6 * MIB).unwrap();
    let failed = std::process::Command::new("bmaptool")
        .args(["copy", "--bmap", "disk.bmap", "disk", "copied"])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    assert!(!failed.status.success());
    let ended = place
        .store
        .block_map(&added.manifest, |done, _| done < 2)
        .unwrap();
    assert_eq!(ended, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// Whatever part is asked for is that part of the whole.
    #[test]
    fn any_range_is_a_part_of_the_whole(
        seeds in prop::collection::vec(0u64..3, 1..4), tail in 0u64..2048,
        asked in prop::collection::vec(any::<(prop::sample::Index, u32)>(), 6),
    ) {
        let place = Place::new();
        let mut disk: Vec<u8> = seeds.iter().flat_map(|seed| match seed {
            0 => vec![0; MIB as usize],
            1 => vec![7; MIB as usize],
            seed => noise(*seed, MIB as usize),
        }).collect();
        disk.resize(disk.len() + tail as usize / 2 * 512, 9 * (tail % 2) as u8);
        fs::write(place.path("disk"), disk).unwrap();
        let added = place.send("disk", LocalOptions::default()).unwrap();
        for format in FORMATS {
            let mut whole = Vec::new();
            place.store.export(&added.manifest, &mut whole, format).unwrap();
            let export = place.store.open_export(&added.manifest, format).unwrap();
            prop_assert_eq!(export.size(), whole.len() as u64);
            for (start, length) in &asked {
                let start = start.index(whole.len());
                let end = whole.len().min(start + *length as usize % (3 << 20) + 1);
                let mut found = Vec::new();
                for piece in export.pieces(start as u64..end as u64) {
                    let bytes = export.read(&piece).unwrap();
                    prop_assert_eq!(bytes.len() as u64, piece.range.end - piece.range.start);
                    let from = start.max(piece.range.start as usize) - piece.range.start as usize;
                    let to = end.min(piece.range.end as usize) - piece.range.start as usize;
                    found.extend_from_slice(&bytes[from..to]);
                }
                prop_assert!(found == whole[start..end], "{:?} {}..{}", format, start, end);
            }
        }
    }
}
