//! The client in `docs/device-api.md`, run as it stands there, but for its pauses, where it reads
//! its MAC address, and what reboots.

use crate::lab::{Lab, MIB, pattern};
use bugler_model::{Image, Task, TaskState};
use serde_json::json;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

fn script(dir: &Path) -> String {
    let page = include_str!("../../docs/device-api.md");
    let code: String = page
        .lines()
        .skip_while(|line| *line != "    #!/bin/sh")
        .map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n")
        .collect();
    assert!(code.contains("/sys/class/net/$2/address") && code.contains("reboot -f"));
    code.replace(
        "/sys/class/net/$2/address",
        &format!("{}/mac", dir.display()),
    )
    .replace("/tmp/curl", &format!("{}/curl-failed", dir.display()))
    .replace("sleep 5", "sleep 0.05")
    .replace("reboot -f", "exit 0")
}

struct Client {
    process: Child,
    disk: std::path::PathBuf,
}

async fn start(lab: &Lab) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(bugler_api::serve(
        listener,
        lab.device.clone(),
        lab.stop.clone(),
    ));
    let dir = lab.dir.path();
    std::fs::write(dir.join("mac"), "52:54:00:00:00:01\n").unwrap();
    std::fs::write(dir.join("client.sh"), script(dir)).unwrap();
    let disk = dir.join("disk");
    let process = Command::new("sh")
        .arg(dir.join("client.sh"))
        .args([&address.to_string(), "eth0"])
        .arg(&disk)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Client { process, disk }
}

/// Waits until the client has registered.
async fn registered(lab: &Lab) {
    let mut events = lab.store().subscribe();
    while lab.devices().await.is_empty() {
        events.recv().await.unwrap();
    }
}

async fn ended(lab: &Lab) -> Task {
    loop {
        let task: Task = lab.get("/api/v1/tasks/t1?wait=60").await.json();
        if !task.state.is_open() {
            return task;
        }
    }
}

fn order() -> serde_json::Value {
    json!({"action": {"kind": "deploy", "image": "debian"}, "devices": ["d1"]})
}

#[tokio::test]
async fn the_documented_client_writes_the_image() {
    let lab = Lab::new().await;
    let (_, content) = lab.image("debian").await;
    let mut client = start(&lab).await;
    registered(&lab).await;
    assert_eq!(lab.post("/api/v1/tasks", &order()).await.status, 201);
    assert_eq!(ended(&lab).await.state, TaskState::Done);
    assert!(
        client.process.wait().await.unwrap().success(),
        "it rebooted"
    );
    assert!(std::fs::read(&client.disk).unwrap() == content);
}

#[tokio::test]
async fn the_documented_client_reports_an_image_that_is_cut_off() {
    let lab = Lab::new().await;
    let (image, _) = lab.image("debian").await;
    let manifest = lab
        .state
        .images
        .manifest(&image.manifest.parse().unwrap())
        .unwrap();
    let name = manifest.chunks[1].hash.to_string();
    let path = lab
        .dir
        .path()
        .join("images/chunks")
        .join(&name[..2])
        .join(&name);
    std::fs::write(path, b"junk").unwrap();
    let client = start(&lab).await;
    registered(&lab).await;
    assert_eq!(lab.post("/api/v1/tasks", &order()).await.status, 201);
    let task = ended(&lab).await;
    assert_eq!(task.state, TaskState::Failed);
    assert!(task.message.unwrap().contains("could not be written"));
    drop(client);
}

#[tokio::test]
async fn the_documented_client_sends_its_disk() {
    let lab = Lab::new().await;
    let client = start(&lab).await;
    let content = pattern(3 * MIB, "a disk");
    std::fs::write(&client.disk, &content).unwrap();
    registered(&lab).await;
    let action = json!({"kind": "capture", "image_name": "pc", "note": "by hand"});
    let order = json!({"action": action, "devices": ["d1"]});
    assert_eq!(lab.post("/api/v1/tasks", &order).await.status, 201);
    let task = ended(&lab).await;
    assert_eq!(task.state, TaskState::Done, "{:?}", task.message);
    let image: Image = lab.get("/api/v1/tasks/t1/image").await.json();
    assert_eq!(
        (image.label().as_str(), image.note.as_str()),
        ("pc@1", "by hand")
    );
    let origin = image.origin.unwrap();
    assert_eq!(
        (
            origin.device.to_string().as_str(),
            origin.agent_version.as_str()
        ),
        ("d1", "shell client")
    );
    let manifest = image.manifest.parse().unwrap();
    let manifest = lab.state.images.manifest(&manifest).unwrap();
    let chunks = manifest.chunks.iter();
    let read: Vec<u8> = chunks
        .flat_map(|chunk| lab.state.images.read_chunk(&chunk.hash).unwrap())
        .collect();
    assert!(read == content);
    drop(client);
}
