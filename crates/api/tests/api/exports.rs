//! Images in every format, whole and in parts, with their block maps.

use crate::lab::{Answer, Lab, MIB, call, pattern};
use axum::body::Body;
use axum::http::Method;
use bugler_model::Image;
use std::process::Command;

async fn ask(lab: &Lab, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    call(&lab.operator, method, path, headers, Body::empty()).await
}

#[tokio::test]
async fn every_format_can_be_fetched_in_parts() {
    let lab = Lab::new().await;
    let mut content = pattern(3 * MIB, "x");
    content[MIB..2 * MIB].fill(0);
    lab.upload("pc", &content).await.json::<Image>();
    for format in ["raw", "raw.zst", "qcow2", "qcow2-zstd"] {
        let path = format!("/api/v1/images/pc/raw?format={format}");
        let head = ask(&lab, Method::HEAD, &path, &[]).await;
        let size: usize = head.header("content-length").parse().unwrap();
        let whole = ask(&lab, Method::GET, &path, &[]).await;
        assert!(head.body.is_empty() && whole.body.len() == size, "{format}");
        let tag = whole.header("etag").to_owned();
        let mut joined = Vec::new();
        while joined.len() < size {
            let start = joined.len();
            // Parts that begin and end anywhere, as those of a download that was cut.
            let range = format!("bytes={start}-{}", start + 700_001);
            let headers = [("range", range.as_str()), ("if-range", tag.as_str())];
            let part = ask(&lab, Method::GET, &path, &headers).await;
            assert_eq!(part.status, 206, "{format} {range}");
            let told = format!("bytes {start}-{}/{size}", start + part.body.len() - 1);
            assert_eq!(part.header("content-range"), told);
            joined.extend_from_slice(&part.body);
        }
        assert!(joined == whole.body, "{format}");
        let beyond = format!("bytes={size}-");
        let headers = [("range", beyond.as_str())];
        ask(&lab, Method::GET, &path, &headers).await.error(416);
        // A part of something else would not fit what is there.
        let other = [("range", "bytes=0-9"), ("if-range", "\"other\"")];
        assert_eq!(ask(&lab, Method::GET, &path, &other).await.status, 200);
        if let Some(inside) = inside(format, &joined) {
            assert!(inside == content, "{format}");
        }
    }
}

/// The disk in a file of this format, as the format's own tool reads it; `None` without the tool.
fn inside(format: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, bytes).unwrap();
    let command = match format {
        "raw" => return Some(bytes.to_vec()),
        "raw.zst" => return Some(zstd::stream::decode_all(bytes).unwrap()),
        _ => Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .args([&from, &to])
            .output(),
    };
    let Ok(output) = command else {
        eprintln!("{format} is not looked into: there is no qemu-img");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    Some(std::fs::read(&to).unwrap())
}

#[tokio::test]
async fn the_block_map_is_that_of_the_raw_export() {
    let lab = Lab::new().await;
    let mut content = pattern(4 * MIB, "x");
    content[MIB..3 * MIB].fill(0);
    lab.upload("pc", &content).await.json::<Image>();
    let map = ask(&lab, Method::GET, "/api/v1/images/pc/bmap", &[]).await;
    assert_eq!(map.header("content-type"), "application/xml");
    assert!(map.header("content-disposition").contains("\"pc.bmap\""));
    let text = map.text();
    assert!(text.contains("<ImageSize> 4194304 </ImageSize>"), "{text}");
    let ranges: Vec<_> = text
        .lines()
        .filter(|line| line.contains("<Range"))
        .filter_map(|line| Some(line.split_once('>')?.1.split_once('<')?.0.trim()))
        .collect();
    assert_eq!(ranges, ["0-255", "768-1023"]);
}
