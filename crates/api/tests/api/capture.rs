//! Recording one device's packets, on loopback.

use crate::lab::{Lab, mac, request};
use axum::body::Body;
use axum::http::Method;
use bugler_diagnose::recording;
use bugler_diagnose::timeline::{Protocol, What};
use bugler_model::Timestamp;
use futures::StreamExt;
use std::net::{Ipv4Addr, UdpSocket};
use tower::ServiceExt;

/// An address of loopback that nobody else in these tests uses.
const DEVICE: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 10);

fn ask_for(path: &str, from: Ipv4Addr) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    let request = [&[0, 1][..], path.as_bytes(), b"\0octet\0"].concat();
    socket.send_to(&request, (Ipv4Addr::LOCALHOST, 69)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_devices_packets_and_no_others_are_recorded() {
    let lab = Lab::new().await;
    let (device, ..) = lab.booting(mac(9)).await;
    lab.store()
        .touch(device, Some(DEVICE), Timestamp(1_800_000_001_000));
    let path = format!("/api/v1/devices/{device}/packets?duration=2");
    let get = request(Method::GET, &path, &[], Body::empty());
    let response = lab.operator.clone().oneshot(get).await.unwrap();
    if response.status() == 500 {
        // Only who may open packet sockets can show it.
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(text.contains("CAP_NET_RAW"), "{text}");
        println!("not shown here: {text}");
        return;
    }
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-pcapng");
    let mut body = response.into_body().into_data_stream();
    // The file's head comes once the capture has begun.
    let mut file = body.next().await.unwrap().unwrap().to_vec();
    ask_for("somebody-elses.efi", OTHER);
    ask_for("snponly.efi", DEVICE);
    while let Some(piece) = body.next().await {
        file.extend(piece.unwrap());
    }
    let recording = recording::read(&file[..]).unwrap();
    let fetched: Vec<_> = recording
        .timelines
        .iter()
        .flat_map(|timeline| &timeline.steps)
        .filter_map(|step| match &step.what {
            What::Fetched(fetch) => Some((fetch.by, fetch.path.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(fetched, [(Protocol::Tftp, "snponly.efi")]);
    println!(
        "{} bytes of pcapng, {} frames",
        file.len(),
        recording.frames
    );
}

#[tokio::test]
async fn a_capture_that_cannot_be_says_why() {
    let lab = Lab::new().await;
    let (device, ..) = lab.booting(mac(9)).await;
    let path = format!("/api/v1/devices/{device}/packets");
    let error = lab.get(&format!("{path}?duration=0")).await.error(400);
    assert!(error.contains("86400"), "{error}");
    lab.get("/api/v1/devices/nobody/packets").await.error(404);
}
