//! Garbage is collected all the time while images arrive, are captured, deployed and removed: nothing
//! that anybody needs goes.

use crate::captures::{self, TestDisk};
use crate::lab::{Lab, MIB, TestAgent, call, pattern};
use axum::body::Body;
use axum::http::Method;
use bugler_model::Image;
use bugler_protocol::agent::{Assignment, Captured, ChunkRequest};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use bugler_protocol::operator::{Collected, VerifiedAll};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often each of those who work does its work.
const ROUNDS: usize = 12;

/// A disk of three chunks of which the first is in every image and the second in some.
fn content(round: usize, own: &str) -> [String; 3] {
    [
        "all".to_owned(),
        format!("some {}", round % 3),
        format!("{own} {round}"),
    ]
}

/// Deploys the latest version of `pc` again and again; every chunk comes, and is what it is named.
async fn deploys(lab: &Lab, agent: &TestAgent) -> u64 {
    let mut moved = 0;
    for _ in 0..ROUNDS {
        let order = json!({"action": {"kind": "deploy", "image": "pc"}, "devices": [agent.id]});
        let made = lab.post("/api/v1/tasks", &order).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let assignment: Assignment = lab.agent_get(&agent.token, "task").await.json();
        let task = assignment.task.to_string();
        captures::report(lab, agent, &task, "running").await;
        let bugler_model::TaskAction::Deploy(deploy) = assignment.action else {
            panic!("another task");
        };
        let path = format!("manifests/{}", deploy.manifest);
        let manifest = lab.agent_get(&agent.token, &path).await;
        let manifest = Manifest::decode(&manifest.body).unwrap();
        for chunk in &manifest.chunks {
            let ask = ChunkRequest {
                hashes: vec![chunk.hash.to_string()],
            };
            let answer = lab.agent_post(Some(&agent.token), "chunks", &ask).await;
            let content = zstd::bulk::decompress(&answer.body[4..], MIB).unwrap();
            let hash = ChunkHash(*blake3::hash(&content).as_bytes());
            assert_eq!(hash, chunk.hash);
            moved += 1;
            tokio::task::yield_now().await;
        }
        captures::report(lab, agent, &task, "done").await;
    }
    moved
}

/// Captures disks that share chunks with images that come and go.
async fn takes(lab: &Lab, agent: &TestAgent) -> u64 {
    let mut sent = 0;
    for round in 0..ROUNDS {
        let seeds = content(round, "capture");
        let disk = TestDisk::new(&seeds.each_ref().map(String::as_str));
        let task = captures::begin(lab, agent, "backup").await;
        // What it was told to be there stays there until it has ended.
        let missing = captures::missing(lab, agent, &task, &disk).await;
        for one in &missing {
            captures::chunks(lab, agent, &task, disk.frames(&[*one])).await;
            tokio::task::yield_now().await;
        }
        sent += missing.len() as u64;
        let answer = captures::commit(lab, agent, &task, &disk).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json::<Captured>().version as usize, round + 1);
        captures::report(lab, agent, &task, "done").await;
    }
    sent
}

/// Adds versions, and removes what is older as far as nobody needs it.
async fn comes_and_goes(lab: &Lab) -> u64 {
    let mut removed = 0;
    for round in 0..ROUNDS {
        let seeds = content(round, "add");
        let parts = seeds.each_ref().map(|seed| pattern(MIB, seed));
        let image: Image = lab.upload("pc", &parts.concat()).await.json();
        let images: Vec<Image> = lab.get("/api/v1/images").await.json();
        for old in images.iter().filter(|old| old.id < image.id) {
            let path = format!("/api/v1/images/{}", old.id);
            let gone = call(&lab.operator, Method::DELETE, &path, &[], Body::empty()).await;
            // 409: an open task needs it.
            assert!(
                [204, 404, 409].contains(&gone.status.as_u16()),
                "{}",
                gone.text()
            );
            removed += u64::from(gone.status == 204);
        }
    }
    removed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_needed_goes_while_everything_happens_at_once() {
    let lab = Arc::new(Lab::new().await);
    let first = content(0, "add").map(|seed| pattern(MIB, &seed));
    lab.upload("pc", &first.concat()).await.json::<Image>();
    let working = Arc::new(AtomicBool::new(true));
    let collected = Arc::new(AtomicU64::new(0));
    let collector = tokio::spawn({
        let (lab, working, collected) = (lab.clone(), working.clone(), collected.clone());
        async move {
            let mut rounds = 0;
            while working.load(Ordering::Relaxed) {
                let body = json!({"dry_run": rounds % 4 == 3});
                let told: Collected = lab.post("/api/v1/images/gc", &body).await.json();
                if rounds % 4 != 3 {
                    collected.fetch_add(told.chunks, Ordering::Relaxed);
                }
                rounds += 1;
            }
            rounds
        }
    });
    let agents = [lab.agent(1).await, lab.agent(2).await, lab.agent(3).await];
    let [one, two, three] = agents;
    let spawn = |agent: TestAgent| {
        let lab = lab.clone();
        tokio::spawn(async move { deploys(&lab, &agent).await })
    };
    let (one, two) = (spawn(one), spawn(two));
    let capturing = {
        let lab = lab.clone();
        tokio::spawn(async move { takes(&lab, &three).await })
    };
    let adding = {
        let lab = lab.clone();
        tokio::spawn(async move { comes_and_goes(&lab).await })
    };
    let removed = adding.await.unwrap();
    let (moved, sent) = (
        one.await.unwrap() + two.await.unwrap(),
        capturing.await.unwrap(),
    );
    working.store(false, Ordering::Relaxed);
    let rounds: u64 = collector.await.unwrap();

    let all: VerifiedAll = lab.post("/api/v1/images/verify", &json!({})).await.json();
    assert_eq!(all.damaged_chunks, 0, "{all:?}");
    let last: Collected = lab.post("/api/v1/images/gc", &json!({})).await.json();
    let collected = collected.load(Ordering::Relaxed) + last.chunks;
    println!(
        "{rounds} collections took {collected} chunks while {moved} chunks were deployed, {sent} came \
         from captures, and {removed} images were removed; {} images are whole",
        all.images
    );
    assert!(rounds > 4 && collected > 0 && removed > 0);
    let mut needed = HashSet::new();
    for image in lab.store().images().await.unwrap() {
        let manifest = lab.state.images.manifest(&image.manifest.parse().unwrap());
        needed.extend(manifest.unwrap().chunks.iter().map(|chunk| chunk.hash));
    }
    let usage = lab.state.images.usage().unwrap();
    assert_eq!(
        usage.chunks,
        needed.len() as u64,
        "and nothing else is kept"
    );
}
