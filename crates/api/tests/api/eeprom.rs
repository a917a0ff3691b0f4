//! Boot loader updates for Raspberry Pis: what is refused, and with which words.

use crate::lab::{Lab, call, mac};
use axum::body::Body;
use axum::http::Method;
use bugler_model::{Arch, Firmware};
use bugler_store::Sighting;

impl Lab {
    async fn seen(&self, last: u8, firmware: Firmware) {
        let sighting = Sighting {
            mac: mac(last),
            uuid: None,
            arch: Some(Arch::Aarch64),
            firmware: Some(firmware),
        };
        let now = self.state.now();
        self.store().observe(sighting, now).await.unwrap();
    }

    async fn eeprom(&self, method: Method, device: &str, body: Vec<u8>) -> crate::lab::Answer {
        let path = format!("/api/v1/devices/{device}/eeprom");
        let headers = [("content-type", "application/octet-stream")];
        call(&self.operator, method, &path, &headers, Body::from(body)).await
    }
}

#[tokio::test]
async fn what_is_no_image_or_for_no_raspberry_pi_is_refused() {
    let lab = Lab::new().await;
    lab.seen(1, Firmware::RaspberryPi).await;
    lab.seen(2, Firmware::UefiPxe).await;
    for (device, body, status, why) in [
        ("d9", vec![0; 10], 404, "no device"),
        (
            "d2",
            vec![0; 10],
            409,
            "boots with UEFI PXE: only a Raspberry Pi",
        ),
        ("d1", vec![], 422, "could not use the image"),
        ("d1", vec![0xff; 512 << 10], 422, "could not use the image"),
        ("d1", vec![0xff; 5 << 20], 413, "4194304 bytes at most"),
    ] {
        let text = lab.eeprom(Method::PUT, device, body).await.error(status);
        assert!(text.contains(why), "{why}: {text}");
    }
    for method in [Method::GET, Method::DELETE] {
        let text = lab.eeprom(method, "d1", vec![]).await.error(404);
        assert!(
            text.contains("no boot loader update waits for d1"),
            "{text}"
        );
    }
}
