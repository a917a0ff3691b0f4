//! The device API for shell clients.

use crate::lab::{Answer, Lab, MIB, call, mac, request};
use axum::body::Body;
use axum::http::Method;
use bugler_model::{EventKind, Netboot, Presence, Task, TaskState};
use futures::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

const MAC: &str = "52:54:00:00:00:01";

impl Lab {
    async fn field_post(&self, path: &str, body: impl Into<Body>) -> Answer {
        call(
            &self.device,
            Method::POST,
            &format!("/api/{path}"),
            &[],
            body.into(),
        )
        .await
    }

    async fn field_get(&self, path: &str) -> Answer {
        call(&self.device, Method::GET, path, &[], Body::empty()).await
    }

    async fn poll(&self) -> Value {
        self.field_get(&format!("/api/device-action-poll?mac={MAC}"))
            .await
            .json()
    }

    async fn order(&self, action: Value) -> Answer {
        self.post(
            "/api/v1/tasks",
            &json!({"action": action, "devices": ["d1"]}),
        )
        .await
    }

    async fn first_task(&self) -> Task {
        self.get("/api/v1/tasks/t1").await.json()
    }
}

#[tokio::test]
async fn a_shell_client_deploys_an_image() {
    let lab = Lab::new().await;
    let (_, content) = lab.image("debian").await;
    let answer = lab
        .field_post(
            "register-device",
            format!("mac={MAC}&ip=10.0.0.7&hostname=pi"),
        )
        .await;
    assert_eq!(answer.json::<Value>()["device"], "d1");
    let device = &lab.devices().await[0];
    assert_eq!(device.address, Some([10, 0, 0, 7].into()));
    assert_eq!(device.presence, Presence::Local);
    assert_eq!(lab.poll().await, json!({"action": "none"}));

    lab.order(json!({"kind": "deploy", "image": "debian", "disk": {"named": "/dev/mmcblk0"}}))
        .await;
    let done = format!("mac={MAC}&status=ok");
    assert!(
        lab.field_post("action-done", done.clone())
            .await
            .error(409)
            .contains("poll")
    );
    let action = lab.poll().await;
    assert_eq!(action["action"], "deploy");
    assert_eq!(action["task"], "t1");
    assert_eq!(action["image"], "debian");
    assert_eq!(action["size"], "3145728");
    assert_eq!(action["disk"], "/dev/mmcblk0");
    assert_eq!(lab.first_task().await.state, TaskState::Claimed);
    assert_eq!(
        lab.poll().await,
        action,
        "a client that starts anew gets it again"
    );

    let url = action["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://127.0.0.1:8480")
        .unwrap();
    let image = lab.field_get(url).await;
    assert_eq!(image.header("content-length"), content.len().to_string());
    assert!(image.body == content);
    let task = lab.first_task().await;
    assert_eq!(
        (task.state, task.progress.done, task.progress.total),
        (TaskState::Running, 3 << 20, 3 << 20)
    );
    assert_eq!(lab.devices().await[0].netboot, Netboot::On, "half written");

    let answer: Value = lab.field_post("action-done", done.clone()).await.json();
    assert_eq!(
        answer,
        json!({"status": "ok", "task": "t1", "state": "done"})
    );
    assert_eq!(lab.first_task().await.state, TaskState::Done);
    assert_eq!(lab.devices().await[0].netboot, Netboot::Off);
    // The answer was lost, and the client says it again.
    assert_eq!(
        lab.field_post("action-done", done).await.json::<Value>(),
        json!({"status": "ok"})
    );
    assert_eq!(lab.poll().await, json!({"action": "none"}));
    lab.field_get(url).await.error(403);
}

#[tokio::test]
async fn an_answer_can_be_read_by_a_shell() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    let answer = lab
        .field_post(
            "register-device?format=text",
            json!({"mac": MAC}).to_string(),
        )
        .await;
    assert_eq!(answer.text(), "status=ok\ndevice=d1\nlabel=d1\n");
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    let text = lab
        .field_get(&format!("/api/device-action-poll?mac={MAC}&format=text"))
        .await
        .text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "action=deploy");
    assert!(
        lines[1].starts_with("url=http://127.0.0.1:8480/api/images/i1/raw?token=t1-"),
        "{text}"
    );
    assert_eq!(&lines[2..], ["image=debian", "size=3145728", "task=t1"]);
}

#[tokio::test]
async fn a_failure_is_told_with_its_reason() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    lab.poll().await;
    let body = json!({"mac_address": MAC, "status": "error", "message": "dd: no space\n"});
    lab.field_post("action-done", body.to_string())
        .await
        .json::<Value>();
    let task = lab.first_task().await;
    assert_eq!(task.state, TaskState::Failed);
    assert!(task.message.unwrap().starts_with("dd: no space"));
}

#[tokio::test]
async fn a_reboot_is_done_when_the_machine_comes_back() {
    let lab = Lab::new().await;
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    lab.order(json!({"kind": "reboot"})).await;
    assert_eq!(lab.poll().await, json!({"action": "reboot", "task": "t1"}));
    assert_eq!(lab.first_task().await.state, TaskState::Claimed);
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    assert_eq!(lab.first_task().await.state, TaskState::Done);
    // What it has no word for is left alone.
    lab.order(json!({"kind": "power_off"})).await;
    assert_eq!(lab.poll().await, json!({"action": "none"}));
    assert_eq!(
        lab.get("/api/v1/tasks/t2").await.json::<Task>().state,
        TaskState::Queued
    );
}

#[tokio::test]
async fn the_image_is_for_whoever_has_the_url_and_only_while_the_task_is_open() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.image("other").await;
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    let action = lab.poll().await;
    let url = action["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://127.0.0.1:8480")
        .unwrap();
    for wrong in [
        "/api/images/i1/raw".to_owned(),
        "/api/images/i1/raw?token=".to_owned(),
        format!("/api/images/i1/raw?token=t1-{}", "0".repeat(64)),
        url.replace("/i1/", "/i2/"),
        url.replace("token=t1", "token=t2"),
    ] {
        lab.field_get(&wrong).await.error(403);
    }
    let part = call(
        &lab.device,
        Method::GET,
        url,
        &[("range", "bytes=-5")],
        Body::empty(),
    )
    .await;
    assert_eq!((part.status.as_u16(), part.body.len()), (206, 5));
    let head = call(&lab.device, Method::HEAD, url, &[], Body::empty()).await;
    assert_eq!(head.header("content-length"), "3145728");
    lab.post("/api/v1/tasks/t1/cancel", &json!({})).await;
    lab.field_get(url).await.error(403);
}

/// A client that has been given the image's URL.
async fn ordered() -> (Lab, String) {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    let url = lab.poll().await["url"].as_str().unwrap().to_owned();
    (lab, url)
}

#[tokio::test]
async fn what_was_not_fetched_is_not_on_the_disk() {
    // Nothing; then its end alone; then a part from which a client went no further.
    for (range, sent) in [
        (None, 0),
        (Some("bytes=-5"), 5),
        (Some("bytes=0-1048575"), MIB),
    ] {
        let (lab, url) = ordered().await;
        if let Some(range) = range {
            let headers = [("range", range)];
            let part = call(&lab.device, Method::GET, &url, &headers, Body::empty()).await;
            assert_eq!(part.body.len(), sent);
        }
        let done = format!("mac={MAC}&status=ok");
        let why = lab.field_post("action-done", done).await.error(409);
        let text = format!("only {sent} of 3145728 bytes were fetched of image debian");
        assert!(why.starts_with(&text), "{why}");
        let task = lab.first_task().await;
        assert_eq!(task.state, TaskState::Failed);
        assert_eq!(task.message, Some(why));
        assert_eq!(lab.devices().await[0].open_tasks, 0);
    }
}

#[tokio::test]
async fn an_image_may_be_fetched_in_parts() {
    let (lab, url) = ordered().await;
    for range in ["bytes=0-999999", "bytes=900000-2000000", "bytes=2000001-"] {
        let headers = [("range", range)];
        let part = call(&lab.device, Method::GET, &url, &headers, Body::empty()).await;
        assert_eq!(part.status, 206);
    }
    let done = format!("mac={MAC}&status=ok");
    let answer: Value = lab.field_post("action-done", done).await.json();
    assert_eq!(answer["state"], "done");
}

#[tokio::test]
async fn parts_may_be_fetched_at_the_same_time() {
    let (lab, url) = ordered().await;
    let start = async |range| {
        let request = request(Method::GET, &url, &[("range", range)], Body::empty());
        let answer = lab.device.clone().oneshot(request).await.unwrap();
        answer.into_body().into_data_stream()
    };
    let mut streams = [
        start("bytes=2000000-").await,
        start("bytes=0-999999").await,
        start("bytes=1000000-1999999").await,
    ];
    for stream in &mut streams {
        while let Some(bytes) = stream.next().await {
            bytes.unwrap();
        }
    }
    drop(streams);
    let done = format!("mac={MAC}&status=ok");
    let answer: Value = lab.field_post("action-done", done).await.json();
    assert_eq!(answer["state"], "done");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let lab = Lab::new().await;
    for path in ["register-device", "action-done"] {
        let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        lab.field_post(path, body).await.error(408);
    }
}

#[tokio::test]
async fn a_client_that_polls_while_it_writes_does_not_begin_again() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.field_post("register-device", format!("mac={MAC}"))
        .await;
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    let action = lab.poll().await;
    let url = action["url"].as_str().unwrap();
    let response = lab
        .device
        .clone()
        .oneshot(request(Method::GET, url, &[], Body::empty()))
        .await
        .unwrap();
    let mut body = response.into_body().into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap().len(), MIB);
    assert_eq!(lab.poll().await, json!({"action": "none"}));
    drop(body);
    assert_eq!(
        lab.poll().await["action"],
        "deploy",
        "it was cut off: again"
    );
}

#[tokio::test]
async fn an_agent_or_a_stranger_is_not_overruled() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.agent(1).await;
    lab.order(json!({"kind": "deploy", "image": "debian"}))
        .await;
    assert_eq!(
        lab.poll().await,
        json!({"action": "none"}),
        "its agent does it"
    );
    lab.field_post("action-done", format!("mac={MAC}&status=ok"))
        .await
        .error(409);
    *lab.boot.stranger.lock().unwrap() = Some(mac(1));
    lab.field_get(&format!("/api/device-action-poll?mac={MAC}"))
        .await
        .error(403);
    lab.field_post("register-device", format!("mac={MAC}"))
        .await
        .error(403);
    lab.field_post("action-done", format!("mac={MAC}&status=ok"))
        .await
        .error(403);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let lab = Lab::new().await;
    assert!(
        lab.field_post("register-device", "ip=10.0.0.1")
            .await
            .error(400)
            .contains("mac")
    );
    assert!(
        lab.field_get("/api/device-action-poll")
            .await
            .error(400)
            .contains("mac")
    );
    let unknown = lab
        .field_post("action-done", format!("mac={MAC}&status=ok"))
        .await;
    assert!(unknown.error(404).contains("register-device"));
    lab.field_post("register-device", vec![b'x'; 2 << 20])
        .await
        .error_status(413);
    let event = |e: &bugler_model::Event| e.kind == EventKind::Device;
    assert!(
        !lab.store()
            .events(Default::default())
            .await
            .unwrap()
            .iter()
            .any(event)
    );
}

impl Answer {
    fn error_status(&self, status: u16) {
        assert_eq!(self.status.as_u16(), status);
    }
}

#[test]
fn any_body_gets_an_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let lab = runtime.block_on(Lab::new());
    let bodies = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        "(mac|ip|status|hostname)=[%0-9a-f:&=]{0,40}".prop_map(String::into_bytes),
        "\\{\"mac\": ?\"[0-9a-f:]{0,20}\"(, \"[a-z]{0,8}\": \\PC{0,12})?\\}"
            .prop_map(String::into_bytes),
    ];
    proptest!(ProptestConfig::with_cases(64), |(body in bodies, path in "register-device|action-done")| {
        let answer = runtime.block_on(lab.field_post(&path, body));
        prop_assert!(matches!(answer.status.as_u16(), 200 | 400 | 404 | 409), "{}", answer.text());
    });
}
