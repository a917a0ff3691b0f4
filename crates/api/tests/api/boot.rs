//! The boot tree over HTTP.

use crate::lab::{Lab, call, pattern, request};
use axum::body::Body;
use axum::http::Method;
use bugler_api::BootContent;
use futures::StreamExt;
use tower::ServiceExt;

async fn lab() -> (Lab, Vec<u8>) {
    let lab = Lab::new().await;
    let content = pattern(3_000_000, "initrd");
    let file = lab.dir.path().join("initrd");
    std::fs::write(&file, &content).unwrap();
    let mut tree = lab.boot.tree.lock().unwrap();
    tree.insert("bootenv/x/initrd".into(), BootContent::File(file));
    tree.insert(
        "gone".into(),
        BootContent::File(lab.dir.path().join("gone")),
    );
    tree.insert("ipxe/x".into(), BootContent::Bytes("#!ipxe\n".into()));
    drop(tree);
    (lab, content)
}

#[tokio::test]
async fn files_and_scripts_come_with_their_length() {
    let (mut lab, content) = lab().await;
    let get = async |path: &str| call(&lab.device, Method::GET, path, &[], Body::empty()).await;
    let file = get("/boot/bootenv/x/initrd").await;
    assert_eq!(file.header("content-length"), "3000000");
    assert!(file.body == content);
    let script = get("/boot/ipxe/x").await;
    assert_eq!(
        (script.header("content-length"), script.text().as_str()),
        ("7", "#!ipxe\n")
    );
    assert_eq!(get("/boot/host").await.text(), "127.0.0.1:8480");
    assert!(get("/boot/none").await.error(404).contains("none"));
    assert!(get("/boot/gone").await.error(500).contains("gone"));
    get("/nothing").await.error(404);
    call(&lab.device, Method::POST, "/boot/x", &[], Body::empty())
        .await
        .error(405);
    assert_eq!(
        lab.delivered.recv().await,
        Some(("bootenv/x/initrd".into(), 3_000_000, true))
    );
    assert_eq!(lab.delivered.recv().await, Some(("ipxe/x".into(), 7, true)));
}

#[tokio::test]
async fn head_tells_the_length_alone() {
    let (mut lab, _) = lab().await;
    let path = "/boot/bootenv/x/initrd";
    let head = call(&lab.device, Method::HEAD, path, &[], Body::empty()).await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, "3000000")
    );
    assert!(head.body.is_empty());
    assert!(lab.delivered.try_recv().is_err(), "nothing was delivered");
}

#[tokio::test]
async fn a_part_can_be_asked_for() {
    let (lab, content) = lab().await;
    for (path, all) in [("bootenv/x/initrd", &content[..]), ("ipxe/x", b"#!ipxe\n")] {
        let path = format!("/boot/{path}");
        let range = [("range", "bytes=2-4")];
        let part = call(&lab.device, Method::GET, &path, &range, Body::empty()).await;
        assert_eq!(part.status, 206);
        assert_eq!(
            part.header("content-range"),
            format!("bytes 2-4/{}", all.len())
        );
        assert_eq!(part.body, all[2..5]);
        let beyond = [("range", "bytes=9000000-")];
        let refused = call(&lab.device, Method::GET, &path, &beyond, Body::empty()).await;
        refused.error(416);
        assert_eq!(
            refused.header("content-range"),
            format!("bytes */{}", all.len())
        );
    }
}

#[tokio::test]
async fn a_transfer_that_is_cut_off_is_told_as_such() {
    let (mut lab, _) = lab().await;
    let get = request(Method::GET, "/boot/bootenv/x/initrd", &[], Body::empty());
    let response = lab.device.clone().oneshot(get).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let first = body.next().await.unwrap().unwrap().len() as u64;
    assert!(first < 3_000_000);
    drop(body);
    assert_eq!(
        lab.delivered.recv().await,
        Some(("bootenv/x/initrd".into(), first, false))
    );
}
