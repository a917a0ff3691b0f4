use crate::{overlay, run, serve};
use bugler_disk::{BlockDevice, RawDevice};
use bugler_nbd::Export;
use std::{fs, sync::Arc};

const SIZE: u64 = 64 << 20;

#[test]
fn nbdinfo_sees_all_that_is_offered_and_no_list() {
    let dir = tempfile::tempdir().unwrap();
    let running = serve(&[("lab-7/secret", overlay(dir.path(), SIZE, None))]);
    let told = run("nbdinfo", &["--json", &running.url("lab-7/secret")]).unwrap();
    for line in [
        "\"protocol\": \"newstyle-fixed\"",
        "\"structured\": true",
        "\"export-size\": 67108864",
        "\"base:allocation\"",
        "\"is_read_only\": false",
        "\"can_cache\": true",
        "\"can_df\": true",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_multi_conn\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
        "\"description\": \"lab-7's disk\"",
    ] {
        assert!(told.contains(line), "{line} is not in {told}");
    }
    let listed = run("nbdinfo", &["--list", "--json", &running.url("")]).unwrap();
    assert!(!listed.contains("lab-7"), "{listed}");
    let refused = run("nbdinfo", &[&running.url("lab-8")]).unwrap_err();
    assert!(
        refused.contains("No such file or directory for export: lab-8"),
        "{refused}"
    );
    let refused = run("nbdinfo", &[&running.url("busy")]).unwrap_err();
    assert!(refused.contains("for export: busy"), "{refused}");
    // QEMU's client also shows the reason.
    let refused = run("qemu-img", &["info", &running.url("busy")]).unwrap_err();
    assert!(
        refused.contains("its overlay is being committed"),
        "{refused}"
    );
}

#[test]
fn qemu_io_writes_flushes_discards_and_finds_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let export = overlay(dir.path(), SIZE, None);
    let running = serve(&[("disk", Arc::clone(&export))]);
    let url = running.url("disk");
    let io = |commands: &[&str]| {
        let mut arguments = vec!["-f", "raw"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&url);
        run("qemu-io", &arguments)
    };
    let told = io(&[
        "write -P 0x11 0 1M",
        "write -f -P 0x22 512 1024",
        "write -P 0x33 33553920 70k",
        "discard 65536 65536",
        "write -z 200k 8k",
        "write -z -u 300k 8k",
        "flush",
        "aio_write -P 0x44 40M 1M",
        "aio_write -P 0x55 41M 1M",
        "aio_flush",
    ])
    .unwrap();
    assert!(!told.contains("failed"), "{told}");
    let told = io(&[
        "read -P 0x11 0 512",
        "read -P 0x22 512 1024",
        "read -P 0x11 1536 64000",
        "read -P 0 64k 64k",
        "read -P 0 200k 8k",
        "read -P 0x11 208k 92k",
        "read -P 0 300k 8k",
        "read -P 0x33 33553920 70k",
        "read -P 0x44 40M 1M",
        "read -P 0x55 41M 1M",
        "read -P 0 63M 1M",
    ])
    .unwrap();
    assert!(!told.contains("failed"), "{told}");
    let map = run("nbdinfo", &["--map", &url]).unwrap();
    let first: Vec<&str> = map
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(first.get(..3), Some(&["0", "65536", "0"][..]), "{map}");
    assert!(map.contains("hole,zero"), "{map}");
    let stats = export.stats();
    assert!(
        stats.written_bytes >= (3 << 20) + 70 * 1024 && stats.errors == 0,
        "{stats:?}"
    );
    assert!(
        stats.read_bytes >= 3 << 20 && stats.requests > 20,
        "{stats:?}"
    );
}

#[test]
fn images_are_copied_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut image = Vec::new();
    for block in 0..SIZE / 4096 {
        let byte = if block % 5 == 0 {
            0
        } else {
            (block % 251) as u8
        };
        image.extend_from_slice(&[byte; 4096]);
    }
    fs::write(path("image"), &image).unwrap();
    let running = serve(&[("disk", overlay(dir.path(), SIZE, None))]);
    let url = running.url("disk");
    run(
        "nbdcopy",
        &["--connections=4", "--flush", &path("image"), &url],
    )
    .unwrap();
    run("nbdcopy", &["--connections=4", &url, &path("copy")]).unwrap();
    assert!(fs::read(path("copy")).unwrap() == image, "nbdcopy");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            &url,
            &path("converted"),
        ],
    )
    .unwrap();
    assert!(
        fs::read(path("converted")).unwrap() == image,
        "qemu-img convert"
    );
    image.rotate_left(8192);
    fs::write(path("image"), &image).unwrap();
    run(
        "qemu-img",
        &[
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            &path("image"),
            &url,
        ],
    )
    .unwrap();
    let told = run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", &path("image"), &url],
    )
    .unwrap();
    assert!(told.contains("Images are identical"), "{told}");
}

/// fio's own checksums, over an overlay and over a plain file, with many requests at once.
#[test]
fn fio_verifies_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    fs::File::create(&raw).unwrap().set_len(SIZE).unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(RawDevice::open(&raw, false).unwrap());
    let running = serve(&[
        ("overlay", overlay(dir.path(), SIZE, None)),
        ("raw", Export::new(device, "a file")),
    ]);
    for name in ["overlay", "raw"] {
        let uri = format!("--uri={}", running.url(name));
        let told = run(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randrw",
                "--bsrange=512-64k",
                "--bs_unaligned=0",
                "--blockalign=512",
                "--size=16m",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--fsync=64",
                "--randseed=7",
                "--do_verify=1",
                "--serialize_overlap=1",
            ],
        )
        .unwrap();
        assert!(told.contains("err= 0"), "{told}");
    }
}

#[test]
fn a_full_overlay_is_no_space_left() {
    let dir = tempfile::tempdir().unwrap();
    let running = serve(&[("disk", overlay(dir.path(), SIZE, Some(1 << 20)))]);
    let url = running.url("disk");
    let result = run(
        "qemu-io",
        &["-f", "raw", "-c", "write 0 1M", "-c", "write 8M 4k", &url],
    );
    let told = result.unwrap_or_else(|error| error);
    assert!(told.contains("wrote 1048576/1048576"), "{told}");
    assert!(told.contains("No space left on device"), "{told}");
}
