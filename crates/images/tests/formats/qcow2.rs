//! qcow2 images that QEMU's own programs made.

use crate::tools::{MIB, Place, make_disk};
use bugler_images::{Format, LocalOptions};
use std::{fs, os::unix::fs::FileExt, path::PathBuf};

fn backed(backing: &[PathBuf]) -> LocalOptions<'_> {
    LocalOptions {
        backing,
        ..LocalOptions::default()
    }
}

#[test]
fn every_kind_of_qcow2_is_the_disk_that_it_was_made_from() {
    let place = Place::new();
    make_disk(&place.path("disk"), 11 * MIB + 1536);
    let kinds: [(&str, &[&str]); 10] = [
        ("compat=0.10", &[]),
        ("compat=1.1", &[]),
        ("compat=1.1,cluster_size=512", &[]),
        ("compat=0.10,cluster_size=4k", &["-c"]),
        ("compat=1.1,cluster_size=2M", &["-c"]),
        ("compat=1.1", &["-c"]),
        ("compat=1.1,compression_type=zstd", &["-c"]),
        (
            "compat=1.1,compression_type=zstd,cluster_size=16k,extended_l2=on",
            &["-c"],
        ),
        ("compat=1.1,extended_l2=on", &["-S", "4k"]),
        ("compat=1.1,preallocation=metadata", &[]),
    ];
    let raw = place.send("disk", LocalOptions::default()).unwrap();
    for (options, flags) in kinds {
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        args.extend(flags);
        args.extend(["disk", "disk.qcow2"]);
        place.qemu_img(&args);
        let what = format!("{options} {flags:?}");
        let sent = place.send("disk.qcow2", LocalOptions::default()).unwrap();
        place.expect(&sent, "disk", &what);
        assert_eq!(sent.format, Format::Sparse);
        assert_eq!(sent.manifest, raw.manifest, "{what}: the same image");
        let uploaded = place.upload("disk.qcow2").unwrap();
        assert_eq!(uploaded.format, Format::Qcow2);
        assert_eq!(uploaded.manifest, raw.manifest, "{what}: from a stream");
    }
    assert!(
        fs::read_dir(place.store.dir().join("tmp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn a_chain_of_backing_files_is_one_disk() {
    let place = Place::new();
    make_disk(&place.path("base.raw"), 8 * MIB);
    let img = |args: &[&str]| place.qemu_img(args);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "base.raw",
        "mid.qcow2",
    ]);
    place.qemu_io(
        "mid.qcow2",
        &[
            "write -P 7 1M 3000",
            "write -z 2M 1M",
            "write -P 9 6100k 10k",
            "discard 5M 256k",
        ],
    );
    let top = "cluster_size=16k,extended_l2=on";
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        top,
        "-F",
        "qcow2",
        "-b",
        "mid.qcow2",
        "top.qcow2",
        "12M",
    ]);
    place.qemu_io(
        "top.qcow2",
        &[
            "write -P 3 3k 1k",
            "write -z 6M 4k",
            "write -P 4 11M 512",
            "write -z 0x500000 0x8000",
        ],
    );
    img(&["convert", "-O", "raw", "top.qcow2", "wanted"]);
    let sent = place.send("top.qcow2", LocalOptions::default()).unwrap();
    place.expect(&sent, "wanted", "chain");

    // A compressed overlay of it, and one whose backing file is larger than itself.
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "top.qcow2",
        "small.qcow2",
        "3M",
    ]);
    img(&["convert", "-O", "raw", "small.qcow2", "wanted"]);
    let sent = place.send("small.qcow2", LocalOptions::default()).unwrap();
    place.expect(&sent, "wanted", "smaller than its backing file");

    // Elsewhere: only when it is named.
    fs::create_dir(place.path("folder")).unwrap();
    fs::rename(place.path("top.qcow2"), place.path("folder/top.qcow2")).unwrap();
    let error = place
        .send("small.qcow2", LocalOptions::default())
        .unwrap_err();
    assert!(
        error.contains("top.qcow2") && error.contains("--backing"),
        "{error}"
    );
    let named = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(|n| place.path(n)).collect() };
    let error = place
        .send("small.qcow2", backed(&named(&["folder/top.qcow2"])))
        .unwrap_err();
    assert!(error.contains("folder/mid.qcow2"), "{error}");
    let all = named(&["folder/top.qcow2", "mid.qcow2", "base.raw"]);
    let sent = place.send("small.qcow2", backed(&all)).unwrap();
    place.expect(&sent, "wanted", "backing files that were named");
    let more = named(&["folder/top.qcow2", "mid.qcow2", "base.raw", "wanted"]);
    let error = place.send("small.qcow2", backed(&more)).unwrap_err();
    assert!(error.contains("needs no backing file"), "{error}");
}

#[test]
fn a_snapshot_inside_is_left_out() {
    let place = Place::new();
    place.qemu_img(&["create", "-q", "-f", "qcow2", "s.qcow2", "4M"]);
    place.qemu_io("s.qcow2", &["write -P 1 0 2M"]);
    place.qemu_img(&["snapshot", "-c", "before", "s.qcow2"]);
    place.qemu_io("s.qcow2", &["write -P 2 1M 64k"]);
    place.qemu_img(&["convert", "-O", "raw", "s.qcow2", "wanted"]);
    let sent = place.send("s.qcow2", LocalOptions::default()).unwrap();
    place.expect(&sent, "wanted", "as it is now");
}

#[test]
fn an_empty_terabyte_takes_no_time() {
    let place = Place::new();
    place.qemu_img(&["create", "-q", "-f", "qcow2", "big.qcow2", "8T"]);
    place.qemu_io("big.qcow2", &["write -P 5 7T 4k"]);
    let sent = place.send("big.qcow2", LocalOptions::default()).unwrap();
    assert_eq!((sent.disk_size, sent.used_bytes), (8 << 40, MIB));
    assert!(sent.progress.read_bytes < 2 * MIB, "{:?}", sent.progress);
}

#[test]
fn what_must_not_be_read_is_refused_with_the_reason() {
    let place = Place::new();
    let img = |args: &[&str]| place.qemu_img(args);
    let refused = |name: &str, words: &[&str]| {
        let sent = place.send(name, LocalOptions::default()).unwrap_err();
        for word in words {
            assert!(sent.contains(word), "{name}: {sent} lacks {word}");
        }
        let uploaded = place.upload(name).unwrap_err();
        assert!(
            uploaded.starts_with("could not read the qcow2 image that was sent"),
            "{uploaded}"
        );
        uploaded
    };
    img(&["create", "-q", "-f", "qcow2", "plain", "4M"]);
    let patched = |name: &str, at: u64, bytes: &[u8]| {
        fs::copy(place.path("plain"), place.path(name)).unwrap();
        let file = fs::OpenOptions::new()
            .write(true)
            .open(place.path(name))
            .unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    // qemu-img measures the processor before it makes one, and gives up on a busy machine.
    patched("luks", 35, &[2]);
    refused("luks", &["encrypted (method 2)"]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=data,data_file_raw=on",
        "external",
        "4M",
    ]);
    refused("external", &["external data file"]);
    patched("dirty", 79, &[1]);
    refused("dirty", &["dirty", "qemu-img check -r all"]);
    patched("corrupt", 79, &[2]);
    refused("corrupt", &["corrupt"]);
    patched("future", 78, &[1]);
    refused("future", &["does not know (bit 8"]);
    patched("old", 7, &[1]);
    refused("old", &["version 1"]);
    patched("huge", 24, &[0x7f]);
    refused("huge", &["64 TiB"]);
    patched("more", 24, &[0, 0, 0x3f]);
    refused("more", &["L1 table is too small"]);

    // Backing files: never for what was sent, and only those beside it for what is here.
    fs::write(place.path("secret"), "of this machine").unwrap();
    img(&[
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "secret", "beside", "4M",
    ]);
    assert!(place.send("beside", LocalOptions::default()).is_ok());
    let error = place.upload("beside").unwrap_err();
    assert!(
        error.contains("backing file \"secret\"") && error.contains("bugler image"),
        "{error}"
    );
    let elsewhere = place.path("secret").display().to_string();
    img(&[
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &elsewhere, "absolute", "4M",
    ]);
    refused("absolute", &["elsewhere", "--backing"]);
    img(&["rebase", "-u", "-F", "raw", "-b", "../x", "absolute"]);
    refused("absolute", &["elsewhere"]);
    img(&["rebase", "-u", "-F", "vmdk", "-b", "secret", "absolute"]);
    refused("absolute", &["format \"vmdk\""]);
    img(&[
        "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "plain", "a", "4M",
    ]);
    img(&[
        "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "a", "b", "4M",
    ]);
    img(&["rebase", "-u", "-F", "qcow2", "-b", "b", "a"]);
    refused("a", &["circle"]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "plain",
        "-o",
        "compat=0.10",
        "g",
        "4M",
    ]);
    // Without the extension that says the format.
    let mut bytes = fs::read(place.path("g")).unwrap();
    let at = bytes
        .windows(4)
        .position(|w| w == [0xe2, 0x79, 0x2a, 0xca])
        .unwrap();
    bytes[at] = 0x11;
    fs::write(place.path("g"), bytes).unwrap();
    refused("g", &["does not say what format", "qemu-img rebase"]);
}

#[test]
fn what_is_cut_off_is_refused() {
    let place = Place::new();
    make_disk(&place.path("disk"), 11 * MIB);
    for flags in [&[][..], &["-c"]] {
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend(flags);
        args.extend(["disk", "disk.qcow2"]);
        place.qemu_img(&args);
        let whole = fs::read(place.path("disk.qcow2")).unwrap();
        for part in [3, 30, 60, 95] {
            fs::write(place.path("cut"), &whole[..whole.len() * part / 100]).unwrap();
            let error = place.send("cut", LocalOptions::default()).unwrap_err();
            assert!(
                error.contains("cut off") || error.contains("too short"),
                "{part} %: {error}"
            );
        }
    }
    let stored = fs::read_dir(place.store.dir().join("manifests"))
        .unwrap()
        .count();
    assert_eq!(stored, 0);
}
