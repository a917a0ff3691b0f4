//! Manifests and chunks: a device gets its own image, whole, and nothing else.

use crate::lab::{Lab, MIB, TestAgent};
use bugler_api::ServerKeys;
use bugler_model::{Image, ImageState};
use bugler_protocol::agent::{
    Assignment, CHUNK_STREAM, ChunkRequest, Damaged, SIGNATURE_HEADER, SUCCESSION_HEADER,
};
use bugler_protocol::manifest::{ChunkHash, Manifest};
use bugler_protocol::operator::ServerKey;
use bugler_protocol::signature::{ManifestSignature, Succession, manifest_message};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

async fn deploy(lab: &Lab, agent: &TestAgent, image: &str) {
    let order = json!({"action": {"kind": "deploy", "image": image}, "devices": [agent.id]});
    assert_eq!(lab.post("/api/v1/tasks", &order).await.status, 201);
    lab.agent_get(&agent.token, "task")
        .await
        .json::<Assignment>();
}

async fn manifest(lab: &Lab, agent: &TestAgent, image: &Image) -> Manifest {
    let answer = lab
        .agent_get(&agent.token, &format!("manifests/{}", image.manifest))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(blake3::hash(&answer.body).to_hex().as_str(), image.manifest);
    Manifest::decode(&answer.body).unwrap()
}

fn ask(hashes: &[ChunkHash]) -> ChunkRequest {
    ChunkRequest {
        hashes: hashes.iter().map(ToString::to_string).collect(),
    }
}

/// Takes the body of an answer to a chunk request apart.
fn frames(mut body: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        frames.push(frame);
        body = rest;
    }
    assert!(body.is_empty());
    frames
}

fn chunk_file(lab: &Lab, hash: ChunkHash) -> PathBuf {
    let name = hash.to_string();
    lab.dir
        .path()
        .join("images/chunks")
        .join(&name[..2])
        .join(name)
}

#[tokio::test]
async fn a_deploying_agent_gets_its_image_in_the_order_it_asks() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let (image, content) = lab.image("debian").await;
    deploy(&lab, &agent, "debian").await;
    let manifest = manifest(&lab, &agent, &image).await;
    assert_eq!(manifest.chunks.len(), 2);
    let hashes: Vec<ChunkHash> = manifest
        .chunks
        .iter()
        .rev()
        .map(|chunk| chunk.hash)
        .collect();
    let answer = lab
        .agent_post(Some(&agent.token), "chunks", &ask(&hashes))
        .await;
    assert_eq!(answer.header("content-type"), CHUNK_STREAM);
    let contents: Vec<Vec<u8>> = frames(&answer.body)
        .iter()
        .map(|frame| zstd::bulk::decompress(frame, MIB).unwrap())
        .collect();
    assert_eq!(contents, [&content[2 * MIB..], &content[..MIB]]);
    let none = lab
        .agent_post(Some(&agent.token), "chunks", &ask(&[]))
        .await;
    assert!(none.status == 200 && none.body.is_empty());
}

#[tokio::test]
async fn what_is_not_its_own_is_refused() {
    let lab = Lab::new().await;
    let (agent, idle) = (lab.agent(1).await, lab.agent(2).await);
    let (own, _) = lab.image("own").await;
    let (other, _) = lab.image("other").await;
    deploy(&lab, &agent, "own").await;
    let chunk = manifest(&lab, &agent, &own).await.chunks[0].hash;
    let others: ChunkHash = other.manifest.parse().unwrap();
    let foreign = lab.state.images.manifest(&others).unwrap().chunks[0].hash;

    let path = format!("manifests/{}", other.manifest);
    lab.agent_get(&agent.token, &path).await.error(403);
    let mixed = lab
        .agent_post(Some(&agent.token), "chunks", &ask(&[chunk, foreign]))
        .await;
    assert!(mixed.error(403).contains(&foreign.to_string()));
    let claim = Damaged {
        hash: foreign.to_string(),
        detail: String::new(),
    };
    lab.agent_post(Some(&agent.token), "damaged", &claim)
        .await
        .error(403);
    // A device without a task gets nothing at all.
    lab.agent_get(&idle.token, &format!("manifests/{}", own.manifest))
        .await
        .error(403);
    lab.agent_post(Some(&idle.token), "chunks", &ask(&[chunk]))
        .await
        .error(403);
    // Nor does one whose task has ended.
    lab.post("/api/v1/tasks/t1/cancel", &json!({})).await;
    lab.agent_post(Some(&agent.token), "chunks", &ask(&[chunk]))
        .await
        .error(403);

    let many = ask(&[chunk; 65]);
    lab.agent_post(Some(&agent.token), "chunks", &many)
        .await
        .error(400);
    lab.agent_get(&agent.token, "manifests/zz").await.error(400);
}

#[tokio::test]
async fn a_missing_chunk_is_an_empty_frame_and_marks_the_image() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let (image, _) = lab.image("debian").await;
    let (whole, _) = lab.image("whole").await;
    deploy(&lab, &agent, "debian").await;
    let chunks = manifest(&lab, &agent, &image).await.chunks;
    std::fs::remove_file(chunk_file(&lab, chunks[0].hash)).unwrap();
    let mut events = lab.store().subscribe();
    let hashes = [chunks[0].hash, chunks[1].hash];
    let answer = lab
        .agent_post(Some(&agent.token), "chunks", &ask(&hashes))
        .await;
    let frames = frames(&answer.body);
    assert!(frames[0].is_empty() && !frames[1].is_empty());
    while events.recv().await.unwrap().image != Some(image.id) {}
    while lab.store().image("debian").await.unwrap().state != ImageState::Damaged {
        events.recv().await.unwrap();
    }
    assert_eq!(lab.store().image("whole").await.unwrap().state, whole.state);
}

#[tokio::test]
async fn a_report_of_damage_is_checked_before_it_is_believed() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let (image, _) = lab.image("debian").await;
    deploy(&lab, &agent, "debian").await;
    let hash = manifest(&lab, &agent, &image).await.chunks[0].hash;
    let claim = Damaged {
        hash: hash.to_string(),
        detail: "found 00\u{7}".into(),
    };
    let answer = lab.agent_post(Some(&agent.token), "damaged", &claim).await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        lab.store().image("debian").await.unwrap().state,
        ImageState::Good
    );
    let events = lab.store().events(Default::default()).await.unwrap();
    let said = &events.last().unwrap().text;
    assert!(
        said.contains("on the way") && said.contains("found 00\u{fffd}"),
        "{said}"
    );

    let path = chunk_file(&lab, hash);
    let mut frame = std::fs::read(&path).unwrap();
    let middle = frame.len() / 2;
    frame[middle] ^= 1;
    std::fs::write(&path, frame).unwrap();
    let answer = lab.agent_post(Some(&agent.token), "damaged", &claim).await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        lab.store().image("debian").await.unwrap().state,
        ImageState::Damaged
    );
    let order = json!({"action": {"kind": "deploy", "image": "debian"}, "devices": ["d1"]});
    assert!(
        lab.post("/api/v1/tasks", &order)
            .await
            .error(409)
            .contains("damaged")
    );
}

/// What the agent checks: who has signed the manifest, and how that key came to be.
#[tokio::test]
async fn a_manifest_comes_with_the_servers_signature_also_after_a_change_of_keys() {
    let keys = tempfile::tempdir().unwrap();
    let keys = Arc::new(ServerKeys::open(keys.path()).unwrap());
    let lab = Lab::signing(keys.clone()).await;
    let (image, _) = lab.image("debian").await;
    let agent = lab.agent(1).await;
    deploy(&lab, &agent, "debian").await;
    let path = format!("manifests/{}", image.manifest);
    let verified = |answer: &crate::lab::Answer| {
        let signature: ManifestSignature = answer.header(SIGNATURE_HEADER).parse().unwrap();
        let key = ed25519_dalek::VerifyingKey::from_bytes(&signature.key.0).unwrap();
        let message = manifest_message(&image.manifest.parse().unwrap());
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.signature.0);
        key.verify_strict(&message, &bytes).unwrap();
        signature.key
    };
    let first = lab.agent_get(&agent.token, &path).await;
    assert_eq!(verified(&first), keys.public());
    assert!(!first.headers.contains_key(SUCCESSION_HEADER));
    let shown: ServerKey = lab.get("/api/v1/server/key").await.json();
    let old = keys.public().to_string();
    assert_eq!((&shown.key, shown.changes.len()), (&old, 0));

    let rotated: ServerKey = lab
        .post("/api/v1/server/key/rotate", &serde_json::json!({}))
        .await
        .json();
    assert_ne!(rotated.key, old);
    assert_eq!(rotated.changes[0].old, old);
    let second = lab.agent_get(&agent.token, &path).await;
    assert_eq!(verified(&second).to_string(), rotated.key);
    let succession: Succession = second.header(SUCCESSION_HEADER).parse().unwrap();
    assert_eq!(succession.0, keys.changes());
}
