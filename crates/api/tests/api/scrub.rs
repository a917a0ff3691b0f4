//! What the background does for images: its pace, and images that become whole again.

use crate::lab::{Lab, MIB, pattern};
use bugler_api::verify_slowly;
use bugler_model::{Image, ImageState};
use bugler_protocol::operator::VerifiedAll;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

fn in_background(lab: &Lab, rate: u64) -> JoinHandle<()> {
    let (state, kept) = (lab.state.clone(), lab.dir.path().join("verified"));
    tokio::spawn(async move { verify_slowly(state, rate, &kept).await })
}

fn file_of(lab: &Lab, content: &[u8]) -> PathBuf {
    let name = blake3::hash(content).to_string();
    lab.dir
        .path()
        .join("images/chunks")
        .join(&name[..2])
        .join(&name)
}

#[tokio::test]
async fn an_image_is_good_again_when_its_chunk_was_added_again() {
    let lab = Lab::new().await;
    let parts = [pattern(MIB, "a"), pattern(MIB, "b")];
    let image: Image = lab.upload("debian", &parts.concat()).await.json();
    std::fs::write(file_of(&lab, &parts[1]), b"rot").unwrap();
    let found: VerifiedAll = lab.post("/api/v1/images/verify", &json!({})).await.json();
    assert_eq!(found.damaged_chunks, 1);
    let state = async || lab.store().image("debian@1").await.unwrap().state;
    assert_eq!(state().await, ImageState::Damaged);

    // As long as the chunk is not there, nothing changes.
    let slow = in_background(&lab, 1 << 40);
    let kept = lab.dir.path().join("verified");
    while !kept.is_file() {
        tokio::task::yield_now().await;
    }
    slow.abort();
    let _ = slow.await;
    assert_eq!(state().await, ImageState::Damaged);

    // A chunk is a chunk, whichever image brought it back.
    lab.upload("other", &parts[1]).await.json::<Image>();
    let mut events = lab.store().subscribe();
    let slow = in_background(&lab, 1 << 40);
    loop {
        let event = events.recv().await.unwrap();
        if event.image == Some(image.id) && event.text.contains("is whole") {
            break;
        }
    }
    assert_eq!(state().await, ImageState::Good);
    lab.stop.cancel();
    slow.await.unwrap();
}

#[tokio::test]
async fn the_background_keeps_its_pace() {
    let lab = Lab::new().await;
    let content = pattern(6 * MIB, "x");
    lab.upload("debian", &content).await.json::<Image>();
    let now = lab.state.now();
    let kept = lab.dir.path().join("verified");
    let position = json!({"begins": now, "after": null});
    std::fs::write(&kept, position.to_string()).unwrap();
    let before = Instant::now();
    let slow = in_background(&lab, 4 * MIB as u64);
    // The round has ended when the next one has a date.
    let begins = || {
        let kept = std::fs::read(&kept).unwrap();
        serde_json::from_slice::<serde_json::Value>(&kept).unwrap()["begins"].clone()
    };
    while begins() == json!(now) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = before.elapsed();
    println!("6 MiB at 4 MiB/s: {took:?}");
    // Noise does not compress: what is read is a little more than the content.
    assert!(took >= Duration::from_millis(1490), "{took:?}");
    lab.stop.cancel();
    slow.await.unwrap();
}
