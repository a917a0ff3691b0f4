//! Switching machines over HTTP.

use crate::lab::{Answer, Lab, mac};
use axum::http::Method;
use bugler_model::{Device, EventKind, PowerState};
use bugler_protocol::operator::{CreatedTasks, PowerResult, PowerVerdict, PowerView};
use bugler_store::{EventFilter, Sighting};
use serde_json::json;
use std::process::Command;
use std::sync::Arc;

/// A program that switches `$1`: a file beside it has the state.
const PROGRAM: &str = "#!/bin/sh\n\
    [ \"$2\" = status ] && { cat \"$0.$1\" 2>/dev/null || echo off; exit 0; }\n\
    [ \"$2\" = boot ] && { echo \"$3\" > \"$0.boot\"; exit 0; }\n\
    echo \"$2\" > \"$0.$1\"\n";

fn program(lab: &Lab) {
    let folder = lab.dir.path().join("commands");
    std::fs::create_dir_all(&folder).unwrap();
    let text = folder.join("switch.text");
    std::fs::write(&text, PROGRAM).unwrap();
    // By another process: a child of a test beside this one would hold the program open for writing,
    // and nobody could run it meanwhile.
    let mut install = Command::new("install");
    install.arg("-m755").arg(&text).arg(folder.join("switch"));
    assert!(install.status().unwrap().success());
}

/// A device that was seen once.
async fn seen(lab: &Lab, number: u8) -> Arc<Device> {
    let sighting = Sighting {
        mac: mac(number),
        uuid: None,
        arch: None,
        firmware: None,
    };
    let seen = lab.store().observe(sighting, lab.state.now()).await;
    seen.unwrap().device
}

async fn put(lab: &Lab, path: &str, body: &serde_json::Value) -> Answer {
    lab.send(Method::PUT, path, body).await
}

async fn delete(lab: &Lab, path: &str) -> Answer {
    lab.send(Method::DELETE, path, &json!({})).await
}

fn command(number: &str) -> serde_json::Value {
    json!({"driver": {
        "kind": "command", "program": "switch", "arguments": [number, "{action}", "{device}"],
        "status": true, "boot": true, "timeout_s": 60,
    }})
}

fn results(text: &str) -> Vec<PowerResult> {
    let mut results: Vec<PowerResult> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    results.sort_by_key(|result| result.device);
    results
}

#[tokio::test]
async fn a_driver_is_set_used_shown_and_taken_away() {
    let lab = Lab::new().await;
    program(&lab);
    let device = seen(&lab, 1).await;
    let path = format!("/api/v1/devices/{}/power", device.id);
    let view: PowerView = lab.get(&path).await.json();
    assert!(view.drivers.is_empty());
    let view: PowerView = put(&lab, &path, &command("7")).await.json();
    assert_eq!(view.drivers.len(), 1);
    assert_eq!(view.state, PowerState::Unknown);
    let order = json!({"action": "on", "boot": {"device": "pxe"}, "devices": [device.id]});
    let answer = lab.post("/api/v1/power", &order).await;
    let done = results(&answer.text());
    assert_eq!(done[0].verdict, PowerVerdict::Done, "{done:?}");
    let status = json!({"action": "status", "devices": [device.id]});
    let asked = results(&lab.post("/api/v1/power", &status).await.text());
    assert_eq!(asked[0].state, PowerState::On);
    let all: Vec<PowerView> = lab.get("/api/v1/power").await.json();
    assert_eq!(all[0].state, PowerState::On);
    let boot = lab.dir.path().join("commands/switch.boot");
    assert_eq!(std::fs::read_to_string(boot).unwrap(), "pxe\n");
    assert_eq!(delete(&lab, &path).await.status.as_u16(), 204);
    delete(&lab, &path).await.error(404);
    let gone = results(&lab.post("/api/v1/power", &status).await.text());
    assert_eq!(gone[0].verdict, PowerVerdict::Failed);
}

#[tokio::test]
async fn secrets_are_taken_and_never_told() {
    let lab = Lab::new().await;
    let device = seen(&lab, 1).await;
    let path = format!("/api/v1/devices/{}/power", device.id);
    let set = json!({
        "driver": {"kind": "ipmi", "address": "127.0.0.1:9", "user": "admin"},
        "password": "open sesame", "group_key": "and this",
    });
    let answer = put(&lab, &path, &set).await;
    let view: PowerView = answer.json();
    assert!(view.drivers[0].has_secret);
    let hook = json!({
        "role": "hard", "driver": {"kind": "webhook", "url": "http://me:open%20sesame@127.0.0.1/?k=and+this"},
        "token": "open sesame",
    });
    let texts = [
        answer.text(),
        put(&lab, &path, &hook).await.text(),
        lab.get(&path).await.text(),
        lab.get("/api/v1/power").await.text(),
        lab.get("/api/v1/events").await.text(),
        lab.get(&format!("/api/v1/devices/{}", device.id))
            .await
            .text(),
    ];
    for text in texts {
        for secret in ["open sesame", "and this", "open%20sesame", "and+this"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    // Without its password it is not a BMC that could be spoken to.
    let set = json!({"driver": {"kind": "ipmi", "address": "127.0.0.1:9", "user": "admin"}});
    let why = put(&lab, &path, &set).await.error(400);
    assert!(why.contains("needs a password"), "{why}");
}

#[tokio::test]
async fn orders_that_cannot_be_meant_are_refused() {
    let lab = Lab::new().await;
    let device = seen(&lab, 1).await;
    for (order, status) in [
        (json!({"devices": [device.id]}), 400),
        (json!({"action": "on"}), 400),
        (json!({"action": "on", "devices": ["nobody"]}), 404),
        (json!({"action": "on", "tag": "nowhere"}), 404),
        (
            json!({"action": "on", "devices": [device.id], "every_ms": 3_600_001}),
            400,
        ),
        (
            json!({"action": "on", "devices": [device.id], "at_once": 0}),
            400,
        ),
        (
            json!({"action": "on", "devices": [device.id], "timeout_s": 0}),
            400,
        ),
    ] {
        lab.post("/api/v1/power", &order).await.error(status);
    }
    let path = format!("/api/v1/devices/{}/power", device.id);
    put(&lab, &path, &command("7")).await.error(400);
}

#[tokio::test]
async fn a_capture_says_how_the_device_gets_into_its_agent() {
    let lab = Lab::new().await;
    program(&lab);
    let (with, without) = (seen(&lab, 1).await, seen(&lab, 2).await);
    let path = format!("/api/v1/devices/{}/power", with.id);
    put(&lab, &path, &command("7")).await.json::<PowerView>();
    let mut events = lab.state.store.subscribe();
    // Both are not booting any more.
    lab.pass(120_000);
    let order = |devices: &[&Device], leave: bool| {
        let devices: Vec<_> = devices.iter().map(|device| device.id).collect();
        json!({
            "action": {"kind": "capture", "image_name": "debian"},
            "devices": devices, "leave_power": leave,
        })
    };
    let made: CreatedTasks = lab
        .post("/api/v1/tasks", &order(&[&with, &without], false))
        .await
        .json();
    let told: Vec<_> = made
        .power
        .iter()
        .map(|note| (note.device, note.by_hand))
        .collect();
    assert_eq!(told, [(with.id, false), (without.id, true)]);
    assert!(made.power[1].text.contains("F12"), "{:?}", made.power[1]);
    // It was off, so it is switched on, and boots the network.
    let wanted = format!("{}: power on: ", with.id);
    loop {
        let event = events.recv().await.unwrap();
        if event.text.starts_with(&wanted) {
            break;
        }
    }
    let boot = lab.dir.path().join("commands/switch.boot");
    assert_eq!(std::fs::read_to_string(boot).unwrap(), "pxe\n");
    for task in &made.tasks {
        lab.store()
            .cancel_task(task.id, "a test", lab.state.now())
            .await
            .unwrap();
    }
    let left: CreatedTasks = lab
        .post("/api/v1/tasks", &order(&[&with], true))
        .await
        .json();
    assert!(left.power[0].by_hand);
    let filter = EventFilter {
        kind: Some(EventKind::Power),
        ..EventFilter::default()
    };
    let events = lab.store().events(filter).await.unwrap();
    let switched = events
        .iter()
        .filter(|event| event.text.starts_with(&wanted));
    assert_eq!(switched.count(), 1);
}
