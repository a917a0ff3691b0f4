//! Images in and out.

use crate::lab::{Lab, MIB, call, pattern};
use axum::body::Body;
use axum::http::Method;
use bugler_api::verify_slowly;
use bugler_model::{EventKind, Image, ImageState};
use bugler_protocol::operator::{Collected, ImageSizes, Verified, VerifiedAll};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Everything in the chunk store that belongs to an image.
fn stored(lab: &Lab) -> usize {
    let usage = lab.state.images.usage().unwrap();
    usize::try_from(usage.chunks + usage.manifests).unwrap()
}

#[tokio::test]
async fn an_image_comes_in_packed_or_raw_and_goes_out_equal() {
    let lab = Lab::new().await;
    let (raw, content) = lab.image("raw").await;
    assert_eq!((raw.size, raw.used), (3 << 20, 2 << 20));
    let packed = zstd::bulk::compress(&content, 3).unwrap();
    let again: Image = lab.upload("packed", &packed).await.json();
    assert_eq!(again.manifest, raw.manifest, "the same content");

    let out = lab.get("/api/v1/images/packed/raw").await;
    assert_eq!(out.header("content-length"), content.len().to_string());
    assert!(out.header("content-disposition").contains("\"packed.img\""));
    assert!(out.body == content);
    let path = format!("/api/v1/images/{}/raw?format=raw.zst", raw.id);
    let zst = lab.get(&path).await;
    assert!(zstd::stream::decode_all(&zst.body[..]).unwrap() == content);
    lab.get("/api/v1/images/raw/raw?format=vmdk")
        .await
        .error(400);

    let names: Vec<Image> = lab.get("/api/v1/images").await.json();
    assert_eq!(
        names.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        ["packed", "raw"]
    );
    lab.get("/api/v1/images/none").await.error(404);
}

#[tokio::test]
async fn parts_of_an_image_can_be_asked_for() {
    let lab = Lab::new().await;
    let (_, content) = lab.image("debian").await;
    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=1048570-1048580", MIB - 6..MIB + 5),
        ("bytes=1000000-3000000", 1_000_000..3_000_001),
        ("bytes=-10", 3 * MIB - 10..3 * MIB),
    ] {
        let path = "/api/v1/images/debian/raw";
        let part = call(
            &lab.operator,
            Method::GET,
            path,
            &[("range", range)],
            Body::empty(),
        )
        .await;
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == content[expected], "{range}");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_before_anything_is_read() {
    let lab = Lab::new().await;
    // A body that never comes: whoever read it would wait for ever.
    let expect = [("expect", "100-continue")];
    for (path, expected) in [
        ("/api/v1/images/deb@1", "not an image name"),
        ("/api/v1/images/debian?note=a%0Ab", "one line"),
    ] {
        let never = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let refused = call(&lab.operator, Method::PUT, path, &expect, never).await;
        assert!(refused.error(400).contains(expected), "{path}");
    }
    for name in ["a%20b", "-x", "..%2fx"] {
        let path = format!("/api/v1/images/{name}");
        call(&lab.operator, Method::PUT, &path, &[], "x".into())
            .await
            .error(400);
    }
    // A name that looks like an id is refused by the registry, and leaves nothing behind.
    let before = stored(&lab);
    lab.upload("i7", &pattern(MIB, "x")).await.error(409);
    let collected: Collected = lab.post("/api/v1/images/gc", &json!({})).await.json();
    assert_eq!((collected.chunks, stored(&lab)), (1, before));
}

#[tokio::test]
async fn a_name_has_versions_with_notes_and_each_can_be_named() {
    let lab = Lab::new().await;
    let put = |content: Vec<u8>, note: &'static str| {
        let path = format!("/api/v1/images/debian?note={note}");
        let operator = &lab.operator;
        async move { call(operator, Method::PUT, &path, &[], content.into()).await }
    };
    let first: Image = put(pattern(2 * MIB, "x"), "as%20it%20came").await.json();
    let mut newer = pattern(2 * MIB, "x");
    newer[MIB..].copy_from_slice(&pattern(MIB, "new"));
    let second: Image = put(newer.clone(), "").await.json();
    assert_eq!((first.version, second.version), (1, 2));
    assert_eq!(first.note, "as it came");
    for (text, meant) in [
        ("debian", &second),
        ("debian@1", &first),
        ("debian%402", &second),
        ("i1", &first),
    ] {
        let path = format!("/api/v1/images/{text}");
        assert_eq!(&lab.get(&path).await.json::<Image>(), meant, "{text}");
    }
    lab.get("/api/v1/images/debian@3").await.error(404);
    let raw = lab.get("/api/v1/images/debian@2/raw").await;
    assert!(raw.body == newer);

    let change = json!({"note": "  with nginx "});
    let path = "/api/v1/images/debian@1";
    let body = change.to_string().into();
    let head = [("content-type", "application/json")];
    let changed = call(&lab.operator, Method::PATCH, path, &head, body).await;
    assert_eq!(changed.json::<Image>().note, "with nginx");

    let sizes: Vec<ImageSizes> = lab.get("/api/v1/image-sizes").await.json();
    let of = |label: &str| sizes.iter().find(|s| s.label == label).unwrap();
    let (one, two) = (of("debian@1"), of("debian@2"));
    assert_eq!(one.own + one.shared, one.stored);
    assert!(one.own > 0 && two.own > 0);
    assert_eq!(one.shared, two.shared, "the first chunk of both");
    assert_eq!((one.size, one.used), (2 << 20, 2 << 20));

    let delete = async |path: &str| {
        let path = format!("/api/v1/images/{path}");
        call(&lab.operator, Method::DELETE, &path, &[], Body::empty()).await
    };
    let refused = delete("debian").await.error(409);
    assert!(
        refused.contains("has 2 versions") && refused.contains("debian@2"),
        "{refused}"
    );
    delete("debian@1?all_versions=true").await.error(400);
    assert_eq!(delete("debian@1").await.status, 204);
    let sizes: Vec<ImageSizes> = lab.get("/api/v1/image-sizes").await.json();
    assert_eq!((sizes.len(), sizes[0].shared), (1, 0), "not from the cache");
    let third: Image = put(pattern(MIB, "y"), "").await.json();
    assert_eq!(third.version, 3);
    assert_eq!(delete("debian?all_versions=true").await.status, 204);
    lab.get("/api/v1/images/debian").await.error(404);
    // One version alone needs no word.
    put(pattern(MIB, "z"), "").await.json::<Image>();
    assert_eq!(delete("debian").await.status, 204);
}

#[tokio::test]
async fn everything_is_verified_and_every_version_that_needs_a_damaged_chunk_is_marked() {
    let lab = Lab::new().await;
    let shared = pattern(MIB, "shared");
    let content = |own: &str| [shared.clone(), pattern(MIB, own)].concat();
    for (name, own) in [("one", "a"), ("two", "b")] {
        lab.upload(name, &content(own)).await.json::<Image>();
    }
    lab.upload("other", &pattern(MIB, "c"))
        .await
        .json::<Image>();
    let verify = async || -> VerifiedAll {
        let path = "/api/v1/images/verify";
        lab.post(path, &json!({})).await.json()
    };
    let all = verify().await;
    assert_eq!((all.images, all.chunks, all.damaged_chunks), (3, 4, 0));

    let hash = blake3::hash(&shared).to_string();
    let file = lab
        .dir
        .path()
        .join("images/chunks")
        .join(&hash[..2])
        .join(&hash);
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 8;
    std::fs::write(&file, bad).unwrap();
    let all = verify().await;
    assert_eq!((all.images, all.chunks, all.damaged_chunks), (3, 4, 1));
    let labels: Vec<_> = all.damaged.iter().map(|d| d.label.as_str()).collect();
    assert_eq!(labels, ["one@1", "two@1"]);
    let states = async || {
        let images: Vec<Image> = lab.get("/api/v1/images").await.json();
        images.iter().map(|i| i.state).collect::<Vec<_>>()
    };
    let (good_one, damaged) = (ImageState::Good, ImageState::Damaged);
    assert_eq!(states().await, [damaged, good_one, damaged]);
    // Added again, the chunk is good for all that need it.
    lab.upload("again", &shared).await.json::<Image>();
    assert_eq!(verify().await.damaged_chunks, 0);
    assert_eq!(states().await, [good_one; 4]);
}

#[tokio::test]
async fn in_the_background_damage_is_found_and_a_restart_goes_on() {
    let lab = Lab::new().await;
    let content = [pattern(MIB, "a"), pattern(MIB, "b"), pattern(MIB, "c")].concat();
    let image: Image = lab.upload("debian", &content).await.json();
    let kept = lab.dir.path().join("verified");
    // A round that has begun, and has come to the end of the first chunk in the order of names.
    let mut names: Vec<_> = content
        .chunks(MIB)
        .map(|chunk| blake3::hash(chunk).to_string())
        .collect();
    names.sort_unstable();
    let now = lab.state.now();
    let position = json!({"begins": now, "after": names[0]});
    std::fs::write(&kept, position.to_string()).unwrap();
    let damage = |name: &str| {
        let file = lab
            .dir
            .path()
            .join("images/chunks")
            .join(&name[..2])
            .join(name);
        std::fs::write(file, b"rot").unwrap();
    };
    damage(&names[0]);
    let mut events = lab.state.store.subscribe();
    let slow = tokio::spawn({
        let (state, kept) = (lab.state.clone(), kept.clone());
        async move { verify_slowly(state, 1 << 40, &kept).await }
    });
    // What was passed before is not read again in this round: when it has ended, nothing was found.
    let ended = json!({"begins": now.0 + 7 * 86_400_000, "after": null});
    let is_kept = || serde_json::from_slice::<Value>(&std::fs::read(&kept).unwrap()).unwrap();
    while is_kept() != ended {
        tokio::task::yield_now().await;
    }
    slow.abort();
    let _ = slow.await;
    let state = async || lab.state.store.image("debian").await.unwrap().state;
    assert_eq!(state().await, ImageState::Good);

    damage(&names[2]);
    std::fs::write(&kept, position.to_string()).unwrap();
    let slow = tokio::spawn({
        let (state, kept) = (lab.state.clone(), kept.clone());
        async move { verify_slowly(state, 1 << 40, &kept).await }
    });
    loop {
        let event = events.recv().await.unwrap();
        if event.image == Some(image.id) && event.text.contains("is damaged") {
            break;
        }
    }
    assert_eq!(state().await, ImageState::Damaged);
    lab.stop.cancel();
    slow.await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_arriving_is_taken() {
    let lab = Arc::new(Lab::new().await);
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let first = {
        let lab = lab.clone();
        tokio::spawn(async move {
            let body = Body::from_stream(ReceiverStream::new(receiver));
            call(
                &lab.operator,
                Method::PUT,
                "/api/v1/images/debian",
                &[],
                body,
            )
            .await
        })
    };
    // The second part is taken only once the first one was: the upload has begun.
    for part in [pattern(1000, "a"), pattern(2000, "b"), pattern(1096, "c")] {
        sender.send(Ok(part.into())).await.unwrap();
    }
    assert!(
        lab.upload("debian", b"x")
            .await
            .error(409)
            .contains("right now")
    );
    drop(sender);
    let image: Image = first.await.unwrap().json();
    assert_eq!(image.size, 4096);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let lab = Lab::new().await;
    let content = pattern(3 * MIB, "x");
    let parts = content
        .chunks(100_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)));
    let cut: Vec<io::Result<Bytes>> = parts
        .take(20)
        .chain([Err(io::Error::other("connection reset"))])
        .collect();
    let body = Body::from_stream(stream::iter(cut));
    let path = "/api/v1/images/debian";
    let answer = call(&lab.operator, Method::PUT, path, &[], body).await;
    assert!(
        answer.error(400).contains("2000000 bytes"),
        "{}",
        answer.text()
    );

    // A body that ends before its announced length.
    let long = [("content-length", "9000000")];
    let body = Body::from_stream(stream::iter([Ok::<_, io::Error>(Bytes::from(
        content.clone(),
    ))]));
    let answer = call(&lab.operator, Method::PUT, path, &long, body).await;
    assert!(answer.error(400).contains("9000000"), "{}", answer.text());

    // An archive that ends in its middle, and things that are no disk image.
    let packed = zstd::bulk::compress(&content, 3).unwrap();
    lab.upload("debian", &packed[..packed.len() / 2])
        .await
        .error(422);
    lab.upload("debian", b"").await.error(422);
    lab.upload("debian", b"QFI\xfb\0\0\0\x03").await.error(422);

    assert_eq!(stored(&lab), 0);
    assert!(
        lab.get("/api/v1/images")
            .await
            .json::<Vec<Image>>()
            .is_empty()
    );
    lab.upload("debian", &content).await.json::<Image>();
}

#[tokio::test]
async fn an_upload_whose_client_goes_away_leaves_nothing() {
    let lab = Arc::new(Lab::new().await);
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
    let uploading = {
        let lab = lab.clone();
        tokio::spawn(async move {
            let body = Body::from_stream(ReceiverStream::new(receiver));
            call(
                &lab.operator,
                Method::PUT,
                "/api/v1/images/debian",
                &[],
                body,
            )
            .await
        })
    };
    for n in 0..60 {
        sender
            .send(Ok(pattern(100_000, &n.to_string()).into()))
            .await
            .unwrap();
    }
    uploading.abort();
    // The body fails as it does when a connection is lost, with nobody to tell.
    sender.send(Err(io::Error::other("gone"))).await.unwrap();
    // The name is free again only when everything of it is gone.
    while lab.state.store.images().await.unwrap().is_empty() {
        let answer = lab.upload("debian", &pattern(4096, "y")).await;
        assert!(answer.status == 201 || answer.error(409).contains("right now"));
        tokio::task::yield_now().await;
    }
    assert_eq!(
        stored(&lab),
        2,
        "one chunk and one manifest, of the second upload"
    );
}

#[tokio::test]
async fn damage_is_found_reported_and_never_given_out() {
    let lab = Lab::new().await;
    let (image, content) = lab.image("debian").await;
    let good: Verified = lab
        .post("/api/v1/images/debian/verify", &json!({}))
        .await
        .json();
    assert_eq!((good.chunks, good.damaged.len()), (2, 0));

    let hash = lab
        .state
        .images
        .manifest(&image.manifest.parse().unwrap())
        .unwrap()
        .chunks[1]
        .hash;
    let name = hash.to_string();
    let path = lab
        .dir
        .path()
        .join("images/chunks")
        .join(&name[..2])
        .join(&name);
    let mut frame = std::fs::read(&path).unwrap();
    frame[1000] ^= 0xff;
    std::fs::write(&path, frame).unwrap();

    let out = lab.get("/api/v1/images/debian/raw").await;
    assert_eq!(out.header("content-length"), content.len().to_string());
    assert!(
        out.body.len() <= 2 * MIB && content.starts_with(&out.body),
        "cut off before it"
    );
    let bad: Verified = lab
        .post("/api/v1/images/debian/verify", &json!({}))
        .await
        .json();
    assert_eq!(bad.damaged.len(), 1);
    assert_eq!(
        (bad.damaged[0].hash.as_str(), bad.damaged[0].offset),
        (name.as_str(), 2 << 20)
    );
    assert_eq!(
        lab.store().image("debian").await.unwrap().state,
        ImageState::Damaged
    );

    // The same content, added once more, puts the chunk back.
    lab.upload("again", &content).await.json::<Image>();
    let healed: Verified = lab
        .post("/api/v1/images/debian/verify", &json!({}))
        .await
        .json();
    assert!(healed.damaged.is_empty());
    assert_eq!(
        lab.store().image("debian").await.unwrap().state,
        ImageState::Good
    );
}

#[tokio::test]
async fn an_image_that_is_needed_stays_and_what_nobody_needs_is_collected() {
    let lab = Lab::new().await;
    lab.agent(1).await;
    lab.image("debian").await;
    let order = json!({"action": {"kind": "deploy", "image": "debian"}, "devices": ["d1"]});
    lab.post("/api/v1/tasks", &order).await;
    let path = "/api/v1/images/debian";
    assert!(
        lab.send(Method::DELETE, path, &json!({}))
            .await
            .error(409)
            .contains("t1")
    );
    lab.post("/api/v1/tasks/t1/cancel", &json!({})).await;
    assert_eq!(lab.send(Method::DELETE, path, &json!({})).await.status, 204);
    let counted: Collected = lab
        .post("/api/v1/images/gc", &json!({"dry_run": true}))
        .await
        .json();
    assert_eq!((counted.chunks, stored(&lab)), (2, 3));
    let collected: Collected = lab.post("/api/v1/images/gc", &json!({})).await.json();
    assert_eq!((collected, stored(&lab)), (counted, 0));
}

#[tokio::test]
async fn those_who_listen_hear_how_an_upload_goes() {
    let lab = Lab::new().await;
    let mut events = lab.store().subscribe();
    lab.image("debian").await;
    let mut texts = Vec::new();
    loop {
        let event = events.recv().await.unwrap();
        assert_eq!(event.kind, EventKind::Image);
        texts.push(event.text.clone());
        if event.image.is_some() {
            break;
        }
    }
    assert!(
        texts
            .iter()
            .any(|text| text.contains("adding image debian")),
        "{texts:?}"
    );
    let ended = stream::iter(texts).collect::<Vec<_>>().await;
    assert!(ended.last().unwrap().contains("was added"));
}
