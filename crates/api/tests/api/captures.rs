//! An agent captures an image: only what the store lacks is sent, and it ends whole or not at all.

use crate::lab::{Answer, Lab, MIB, TestAgent, call, pattern};
use axum::http::Method;
use bugler_model::{EventKind, Image, Task, TaskState};
use bugler_protocol::agent::{
    Assignment, CAPTURE_COMMIT, CHUNK_STREAM, Captured, Capturing, Missing,
};
use bugler_protocol::manifest::{ChunkHash, ChunkRef, Manifest};
use bugler_store::EventFilter;
use serde_json::json;
use std::process::Command;

/// A disk of these chunks, `None` for one that is zero.
pub(crate) struct TestDisk(Vec<Option<Vec<u8>>>);

impl TestDisk {
    pub(crate) fn new(seeds: &[&str]) -> Self {
        let chunk = |seed: &&str| (!seed.is_empty()).then(|| pattern(MIB, seed));
        Self(seeds.iter().map(chunk).collect())
    }

    fn chunks(&self) -> impl Iterator<Item = (u32, ChunkHash, &Vec<u8>)> {
        let used = self.0.iter().zip(0..);
        used.filter_map(|(chunk, index)| {
            let chunk = chunk.as_ref()?;
            Some((index, ChunkHash(*blake3::hash(chunk).as_bytes()), chunk))
        })
    }

    fn hashes(&self) -> Vec<String> {
        self.chunks().map(|(_, hash, _)| hash.to_string()).collect()
    }

    pub(crate) fn frames(&self, which: &[u32]) -> Vec<u8> {
        let chunks: Vec<_> = self.chunks().collect();
        let chosen = which.iter().map(|at| chunks[*at as usize].2);
        chosen.flat_map(|chunk| framed(chunk)).collect()
    }

    fn manifest(&self) -> Vec<u8> {
        Manifest {
            disk_size: (self.0.len() * MIB) as u64,
            sector_size: 512,
            chunks: self
                .chunks()
                .map(|(index, hash, _)| ChunkRef {
                    index,
                    stored_len: 1,
                    hash,
                })
                .collect(),
        }
        .encode()
    }

    fn commit(&self) -> Vec<u8> {
        let told = Capturing {
            disk: "/dev/vda".into(),
            agent_version: "1.2".into(),
            reading: vec!["partition 1: ext4, 1 of 4 MB used".into()],
        };
        let told = serde_json::to_vec(&told).unwrap();
        let length = u32::try_from(told.len()).unwrap().to_le_bytes();
        [&length[..], &told, &self.manifest()].concat()
    }
}

fn framed(content: &[u8]) -> Vec<u8> {
    let frame = zstd::bulk::compress(content, 1).unwrap();
    let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
    [&length[..], &frame].concat()
}

/// Orders a capture and has the agent take it up; the task's path.
pub(crate) async fn begin(lab: &Lab, agent: &TestAgent, name: &str) -> String {
    let action = json!({"kind": "capture", "image_name": name, "note": "before the upgrade"});
    let order = json!({"action": action, "devices": [agent.id]});
    let created = lab.post("/api/v1/tasks", &order).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let assignment: Assignment = lab.agent_get(&agent.token, "task").await.json();
    assignment.task.to_string()
}

pub(crate) async fn missing(lab: &Lab, agent: &TestAgent, task: &str, disk: &TestDisk) -> Vec<u32> {
    let path = format!("captures/{task}/missing");
    let question = json!({"hashes": disk.hashes()});
    let answer = lab.agent_post(Some(&agent.token), &path, &question).await;
    answer.json::<Missing>().missing
}

async fn send(lab: &Lab, agent: &TestAgent, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let bearer = format!("Bearer {}", agent.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
    let path = format!("/agent/v1/captures/{path}");
    call(&lab.device, Method::POST, &path, &headers, body.into()).await
}

pub(crate) async fn chunks(lab: &Lab, agent: &TestAgent, task: &str, body: Vec<u8>) -> Answer {
    send(lab, agent, &format!("{task}/chunks"), CHUNK_STREAM, body).await
}

pub(crate) async fn commit(lab: &Lab, agent: &TestAgent, task: &str, disk: &TestDisk) -> Answer {
    let body = disk.commit();
    send(lab, agent, &format!("{task}/commit"), CAPTURE_COMMIT, body).await
}

pub(crate) async fn report(lab: &Lab, agent: &TestAgent, task: &str, state: &str) {
    let path = format!("tasks/{task}/report");
    let body = json!({"state": state, "progress": {}});
    let answer = lab.agent_post(Some(&agent.token), &path, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn captures(lab: &Lab) -> usize {
    let dir = lab.dir.path().join("images/captures");
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test]
async fn only_what_the_store_lacks_is_sent_and_versions_accumulate() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let first = TestDisk::new(&["a", "", "b", "a"]);
    let task = begin(&lab, &agent, "pc").await;
    // The same content at two places is asked for once.
    assert_eq!(missing(&lab, &agent, &task, &first).await, [0, 1]);
    // A commit before all is there names what to do.
    let early = commit(&lab, &agent, &task, &first).await.error(409);
    assert!(early.contains("ask which are missing"), "{early}");
    let sent = chunks(&lab, &agent, &task, first.frames(&[0, 1])).await;
    assert_eq!((sent.status.as_u16(), sent.text().as_str()), (204, ""));
    assert_eq!(missing(&lab, &agent, &task, &first).await, [] as [u32; 0]);
    let made: Captured = commit(&lab, &agent, &task, &first).await.json();
    assert_eq!(made.version, 1);
    // The answer was lost: the same one, also when the task has ended.
    assert_eq!(
        commit(&lab, &agent, &task, &first).await.json::<Captured>(),
        made
    );
    report(&lab, &agent, &task, "running").await;
    report(&lab, &agent, &task, "done").await;
    assert_eq!(
        commit(&lab, &agent, &task, &first).await.json::<Captured>(),
        made
    );
    let image: Image = lab.get(&format!("/api/v1/tasks/{task}/image")).await.json();
    assert_eq!(
        (image.id, image.note.as_str()),
        (made.image, "before the upgrade")
    );
    assert_eq!((image.size, image.used), (4 << 20, 3 << 20));
    let origin = image.origin.unwrap();
    assert_eq!(
        (origin.device, origin.disk.as_str()),
        (agent.id, "/dev/vda")
    );
    assert_eq!(origin.reading, ["partition 1: ext4, 1 of 4 MB used"]);

    let second = TestDisk::new(&["a", "", "c", "a"]);
    let task = begin(&lab, &agent, "pc").await;
    assert_eq!(missing(&lab, &agent, &task, &second).await, [1]);
    chunks(&lab, &agent, &task, second.frames(&[1])).await;
    let made: Captured = commit(&lab, &agent, &task, &second).await.json();
    assert_eq!(made.version, 2);
    assert_eq!(captures(&lab), 0, "nothing is left of the receiving");
}

#[tokio::test]
async fn a_capture_belongs_to_its_agent_and_its_task() {
    let lab = Lab::new().await;
    let (agent, other) = (lab.agent(1).await, lab.agent(2).await);
    let disk = TestDisk::new(&["a"]);
    let task = begin(&lab, &agent, "pc").await;
    for path in ["missing", "chunks", "commit"] {
        let path = format!("{task}/{path}");
        let body = b"{\"hashes\": []}".to_vec();
        let answer = send(&lab, &other, &path, "application/json", body).await;
        answer.error(404);
    }
    assert_eq!(chunks(&lab, &other, "t99", vec![]).await.status, 404);
    // A deploy takes nothing in.
    lab.image("debian").await;
    let order = json!({"action": {"kind": "deploy", "image": "debian"}, "devices": [other.id]});
    lab.post("/api/v1/tasks", &order).await;
    let deploy: Assignment = lab.agent_get(&other.token, "task").await.json();
    let deploy = deploy.task.to_string();
    chunks(&lab, &other, &deploy, disk.frames(&[0]))
        .await
        .error(403);
    // What is cancelled is thrown away, and takes nothing any more.
    chunks(&lab, &agent, &task, disk.frames(&[0])).await;
    assert_eq!(captures(&lab), 1);
    let mut events = lab.store().subscribe();
    lab.post(&format!("/api/v1/tasks/{task}/cancel"), &json!({}))
        .await;
    while events.recv().await.unwrap().kind != EventKind::Task {}
    tokio::time::timeout(std::time::Duration::from_secs(120), async {
        while captures(&lab) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("what was sent is removed");
    let late = chunks(&lab, &agent, &task, disk.frames(&[0])).await;
    assert!(late.error(409).contains("cancelled"));
    commit(&lab, &agent, &task, &disk).await.error(409);
}

#[tokio::test]
async fn what_is_no_chunk_is_refused() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let disk = TestDisk::new(&["a", "b"]);
    let task = begin(&lab, &agent, "pc").await;
    missing(&lab, &agent, &task, &disk).await;
    let good = disk.frames(&[0]);
    let zeros = framed(&vec![0; MIB]);
    let long = framed(&pattern(MIB + 1, "long"));
    let mut flipped = good.clone();
    flipped[MIB / 2] ^= 4;
    for (body, status) in [
        (b"\0\0\0\0".to_vec(), 400),
        (u32::MAX.to_le_bytes().to_vec(), 400),
        (good[..good.len() - 1].to_vec(), 400),
        ([&5_u32.to_le_bytes()[..], b"hello"].concat(), 422),
        (zeros, 422),
        (long, 422),
    ] {
        let answer = chunks(&lab, &agent, &task, body).await;
        answer.error(status);
    }
    // Bytes that were turned on the way make another chunk, or none: never the one that was asked for.
    chunks(&lab, &agent, &task, flipped).await;
    assert_eq!(missing(&lab, &agent, &task, &disk).await, [0, 1]);
    // What came before the body was cut off is good.
    let cut = [&good[..], &disk.frames(&[1])[..100]].concat();
    assert!(
        chunks(&lab, &agent, &task, cut)
            .await
            .error(400)
            .contains("cut off")
    );
    assert_eq!(missing(&lab, &agent, &task, &disk).await, [1]);
    for bad in [
        vec![],
        vec![1, 0, 0, 0],
        b"\x02\0\0\0{}garbage".to_vec(),
        vec![0xff; 20],
    ] {
        let path = format!("{task}/commit");
        let answer = send(&lab, &agent, &path, CAPTURE_COMMIT, bad).await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
    }
    let done = json!({"state": "done", "progress": {}});
    let path = format!("tasks/{task}/report");
    let early = lab.agent_post(Some(&agent.token), &path, &done).await;
    assert!(early.error(409).contains("commit it first"));
    let many = json!({"hashes": vec!["0".repeat(64); 4097]});
    let path = format!("captures/{task}/missing");
    lab.agent_post(Some(&agent.token), &path, &many)
        .await
        .error(400);
    chunks(&lab, &agent, &task, disk.frames(&[1])).await;
    assert_eq!(commit(&lab, &agent, &task, &disk).await.status, 200);
}

#[tokio::test]
async fn two_captures_into_one_name_are_two_versions() {
    let lab = Lab::new().await;
    let (one, two) = (lab.agent(1).await, lab.agent(2).await);
    let disks = [TestDisk::new(&["a", "same"]), TestDisk::new(&["b", "same"])];
    let tasks = [begin(&lab, &one, "pc").await, begin(&lab, &two, "pc").await];
    chunks(&lab, &one, &tasks[0], disks[0].frames(&[0, 1])).await;
    chunks(&lab, &two, &tasks[1], disks[1].frames(&[0, 1])).await;
    let (first, second) = tokio::join!(
        commit(&lab, &one, &tasks[0], &disks[0]),
        commit(&lab, &two, &tasks[1], &disks[1])
    );
    let mut versions = [first, second].map(|answer| answer.json::<Captured>().version);
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
}

#[tokio::test]
async fn two_commits_of_one_capture_make_one_version() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let disk = TestDisk::new(&["a"]);
    let task = begin(&lab, &agent, "pc").await;
    chunks(&lab, &agent, &task, disk.frames(&[0])).await;
    let (first, second) = tokio::join!(
        commit(&lab, &agent, &task, &disk),
        commit(&lab, &agent, &task, &disk)
    );
    assert_eq!(first.json::<Captured>(), second.json::<Captured>());
    let images = lab.store().images().await.unwrap();
    assert_eq!(images.len(), 1);
}

/// Tells the second process of the test below that it may mount.
const CHILD: &str = "BUGLER_TEST_FULL";

#[test]
fn a_full_store_ends_the_capture_and_leaves_nothing() {
    if std::env::var_os(CHILD).is_some() {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=14m", "tmpfs"])
            .arg(std::env::temp_dir())
            .status();
        assert!(status.unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(full_store());
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "captures::a_full_store_ends_the_capture_and_leaves_nothing",
        ])
        .env(CHILD, "1")
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
}

async fn full_store() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let seeds: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let disk = TestDisk::new(&seeds);
    let task = begin(&lab, &agent, "pc").await;
    let all: Vec<u32> = (0..20).collect();
    let refusal = chunks(&lab, &agent, &task, disk.frames(&all))
        .await
        .error(507);
    assert!(refusal.contains("Remove images"), "{refusal}");
    let ended: Task = lab.get(&format!("/api/v1/tasks/{task}")).await.json();
    assert_eq!(ended.state, TaskState::Failed);
    assert!(ended.message.unwrap().contains("no room"));
    assert_eq!(captures(&lab), 0);
    let usage = lab.state.images.usage().unwrap();
    assert_eq!((usage.chunks, usage.manifests), (0, 0));
    assert!(usage.free_bytes > 8 << 20, "{usage:?}");
    // There is room for a smaller one.
    let small = TestDisk::new(&["x", "y"]);
    let task = begin(&lab, &agent, "pc").await;
    chunks(&lab, &agent, &task, small.frames(&[0, 1])).await;
    assert_eq!(
        commit(&lab, &agent, &task, &small)
            .await
            .json::<Captured>()
            .version,
        1
    );
    let events = lab.store().events(EventFilter::default()).await.unwrap();
    assert!(
        events
            .iter()
            .any(|event| event.text.contains("failed: no room"))
    );
}
