//! A set number of devices at work at once, and a set rate.

use crate::lab::{Lab, MIB, TestAgent};
use bugler_api::DeployLimits;
use bugler_model::{Presence, Task};
use bugler_protocol::agent::{Assignment, ChunkRequest};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

async fn order(lab: &Lab, agents: &[&TestAgent]) {
    let devices: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    let order = json!({"action": {"kind": "deploy", "image": "debian"}, "devices": devices});
    assert_eq!(lab.post("/api/v1/tasks", &order).await.status, 201);
}

fn poll(lab: &Arc<Lab>, agent: &TestAgent) -> JoinHandle<Assignment> {
    let (lab, token) = (lab.clone(), agent.token.clone());
    tokio::spawn(async move { lab.agent_get(&token, "task?wait=60").await.json() })
}

async fn report(lab: &Lab, agent: &TestAgent, task: &Assignment, state: &str) {
    let path = format!("tasks/{}/report", task.task);
    let body = json!({"state": state, "progress": {}, "message": "as the test says"});
    let answer = lab.agent_post(Some(&agent.token), &path, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_task_beyond_the_number_waits_for_its_turn_by_age() {
    let limits = DeployLimits {
        at_once: Some(1),
        ..DeployLimits::default()
    };
    let lab = Arc::new(Lab::limited(&limits).await);
    let (one, two, three) = (lab.agent(1).await, lab.agent(2).await, lab.agent(3).await);
    lab.image("debian").await;
    order(&lab, &[&one, &two, &three]).await;
    // The youngest asks first, and is not given what is the oldest's.
    assert_eq!(lab.agent_get(&three.token, "task").await.status, 204);
    let first: Assignment = lab.agent_get(&one.token, "task").await.json();
    let (late, early) = (poll(&lab, &three), poll(&lab, &two));
    let held = async {
        loop {
            let open: Vec<Task> = lab.get("/api/v1/tasks?open=true").await.json();
            let says = |task: &&Task| {
                let message = task.message.as_deref().unwrap_or_default();
                message.contains("waits for its turn")
            };
            if open.iter().filter(says).count() == 2 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    held.await;
    assert!(!late.is_finished() && !early.is_finished());
    // Asking again for what was claimed is no new turn.
    let again: Assignment = lab.agent_get(&one.token, "task").await.json();
    assert_eq!((again.task, again.attempt), (first.task, 2));
    report(&lab, &one, &first, "running").await;
    report(&lab, &one, &first, "done").await;
    let second = early.await.unwrap();
    let shown: Task = lab
        .get(&format!("/api/v1/tasks/{}", second.task))
        .await
        .json();
    assert_eq!(shown.message, None, "why it waited is over");
    assert!(!late.is_finished());
    // One whose agent has gone silent holds up nobody.
    let now = lab.state.now();
    lab.store()
        .set_presence(two.id, Presence::Lost, now)
        .await
        .unwrap();
    let third: Assignment = match lab.agent_get(&three.token, "task").await {
        answer if answer.status == 200 => answer.json(),
        _ => late.await.unwrap(),
    };
    report(&lab, &three, &third, "failed").await;
}

#[tokio::test]
async fn other_tasks_do_not_wait() {
    let limits = DeployLimits {
        at_once: Some(1),
        ..DeployLimits::default()
    };
    let lab = Arc::new(Lab::limited(&limits).await);
    let (one, two) = (lab.agent(1).await, lab.agent(2).await);
    lab.image("debian").await;
    order(&lab, &[&one]).await;
    lab.agent_get(&one.token, "task").await.json::<Assignment>();
    let reboot = json!({"action": {"kind": "reboot"}, "devices": [two.id]});
    lab.post("/api/v1/tasks", &reboot).await;
    lab.agent_get(&two.token, "task").await.json::<Assignment>();
}

#[tokio::test]
async fn chunks_are_given_at_the_rate_that_is_set() {
    let limits = DeployLimits {
        rate: Some(4 * MIB as u64),
        ..DeployLimits::default()
    };
    let lab = Lab::limited(&limits).await;
    let agent = lab.agent(1).await;
    let (image, _) = lab.image("debian").await;
    order(&lab, &[&agent]).await;
    lab.agent_get(&agent.token, "task")
        .await
        .json::<Assignment>();
    let bytes = lab
        .agent_get(&agent.token, &format!("manifests/{}", image.manifest))
        .await;
    let manifest = Manifest::decode(&bytes.body).unwrap();
    let hashes: Vec<ChunkHash> = manifest.chunks.iter().map(|chunk| chunk.hash).collect();
    let ask = ChunkRequest {
        hashes: hashes.iter().map(ToString::to_string).collect(),
    };
    let before = Instant::now();
    let mut moved = 0;
    for _ in 0..3 {
        let answer = lab.agent_post(Some(&agent.token), "chunks", &ask).await;
        moved += answer.body.len();
    }
    let took = before.elapsed();
    // 6 MiB at 4 MiB/s, the first of them at once.
    println!("{moved} bytes in {took:?}");
    assert!(moved >= 6 * MIB);
    assert!(took >= Duration::from_millis(1150), "{took:?}");
}
