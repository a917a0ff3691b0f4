//! Clients of others. They must be installed: `tftp` (tftp-hpa), `atftp`, `curl`.

use std::fs;
use std::process::Command;

use crate::site::{Site, content};

/// Runs a program, which must be installed, in a folder of its own; gives what it left in `out`.
fn foreign(site: &Site, program: &str, arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed by this test: {error}"));
    let journal = site.journal.all();
    let told = format!("{program} {arguments:?}: {output:?}; the server saw {journal:?}");
    assert!(output.status.success(), "{told}");
    fs::read(dir.path().join("out")).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[test]
fn tftp_hpa_gets_its_file() {
    let site = Site::new();
    let expected = content(700_001);
    site.write("f", &expected);
    let port = site.address().port().to_string();
    let arguments = ["-m", "octet", "127.0.0.1", &port, "-c", "get", "f", "out"];
    assert!(foreign(&site, "tftp", &arguments) == expected);
    site.write("text", b"one\ntwo\n");
    let arguments = [
        "-m",
        "ascii",
        "127.0.0.1",
        &port,
        "-c",
        "get",
        "text",
        "out",
    ];
    assert_eq!(foreign(&site, "tftp", &arguments), b"one\ntwo\n");
}

#[test]
fn atftp_gets_its_file_with_and_without_windows() {
    let site = Site::new();
    let expected = content(700_001);
    site.write("f", &expected);
    let port = site.address().port().to_string();
    for options in [
        &[][..],
        &["blksize 1468"],
        &["blksize 1468", "windowsize 16", "tsize"],
    ] {
        let mut arguments = vec!["--get", "-r", "f", "-l", "out"];
        for option in options {
            arguments.extend(["--option", option]);
        }
        arguments.extend(["127.0.0.1", &port]);
        assert!(
            foreign(&site, "atftp", &arguments) == expected,
            "{options:?}"
        );
    }
}

#[test]
fn curl_gets_its_file() {
    let site = Site::new();
    let expected = content(700_001);
    site.write("f", &expected);
    let url = format!("tftp://{}/f", site.address());
    for extra in [&[][..], &["--tftp-blksize", "1468"], &["--tftp-no-options"]] {
        let mut arguments = vec!["-sS", "-o", "out", &url];
        arguments.extend(extra);
        assert!(foreign(&site, "curl", &arguments) == expected, "{extra:?}");
    }
}
