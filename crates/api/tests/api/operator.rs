//! Devices, tasks and the server itself, as an operator sees them.

use crate::lab::{Lab, call, mac};
use axum::body::Body;
use axum::http::Method;
use bugler_model::{Device, Netboot, Task, TaskState};
use bugler_protocol::operator::{CreatedTasks, ServerStatus};
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn devices_are_named_listed_changed_and_forgotten() {
    let lab = Lab::new().await;
    let (id, _, _) = lab.booting(mac(1)).await;
    lab.booting(mac(2)).await;
    let path = format!("/api/v1/devices/{id}");
    let patch = json!({"name": "rack1-07", "add_tags": ["rack1"]});
    let named: Device = lab.send(Method::PATCH, &path, &patch).await.json();
    assert_eq!(
        (named.name.as_deref(), named.tags.as_slice()),
        (Some("rack1-07"), &["rack1".to_owned()][..])
    );
    for text in ["rack1-07", "rack1", "52:54:00:00:00:01", "d1"] {
        let shown: Device = lab.get(&format!("/api/v1/devices/{text}")).await.json();
        assert_eq!(shown.id, id, "{text}");
    }
    assert!(
        lab.get("/api/v1/devices/52:54")
            .await
            .error(409)
            .contains("rack1-07")
    );
    lab.get("/api/v1/devices/nobody").await.error(404);
    let taken = json!({"name": "rack1-07"});
    lab.send(Method::PATCH, "/api/v1/devices/d2", &taken)
        .await
        .error(409);
    for bad in [
        json!({"name": "a\u{1b}"}),
        json!({"add_tags": [" "]}),
        json!({"name": "x".repeat(65)}),
    ] {
        lab.send(Method::PATCH, "/api/v1/devices/d2", &bad)
            .await
            .error(400);
    }
    lab.send(Method::PATCH, "/api/v1/devices/d2", &json!({"nmae": "x"}))
        .await
        .error(422);

    let off: Device = lab
        .post(&format!("{path}/netboot"), &json!({"mode": "off"}))
        .await
        .json();
    assert_eq!(off.netboot, Netboot::Off);
    lab.post(&format!("{path}/netboot"), &json!({"mode": "sometimes"}))
        .await
        .error(422);
    let boots: Value = lab.get(&format!("{path}/sessions?limit=3")).await.json();
    assert_eq!(boots.as_array().unwrap().len(), 1);

    lab.post(
        "/api/v1/tasks",
        &json!({"action": {"kind": "reboot"}, "devices": ["d2"]}),
    )
    .await;
    lab.send(Method::DELETE, "/api/v1/devices/d2", &json!({}))
        .await
        .error(409);
    let gone = lab.send(Method::DELETE, &path, &json!({})).await;
    assert_eq!(gone.status, 204);
    assert_eq!(lab.devices().await.len(), 1);
}

#[tokio::test]
async fn two_operators_do_not_get_one_device() {
    let lab = Lab::new().await;
    lab.image("debian").await;
    lab.booting(mac(1)).await;
    lab.booting(mac(2)).await;
    let order = |devices: &[&str]| json!({"action": {"kind": "deploy", "image": "debian"}, "devices": devices});
    let created: CreatedTasks = lab.post("/api/v1/tasks", &order(&["d1"])).await.json();
    let second = lab.post("/api/v1/tasks", &order(&["d2", "d1"])).await;
    let text = second.error(409);
    assert!(
        text.contains(&created.tasks[0].id.to_string()) && text.contains("d1"),
        "{text}"
    );
    // All or none: the other device got no task either.
    let open: Vec<Task> = lab.get("/api/v1/tasks?open=true").await.json();
    assert_eq!(open.len(), 1);
    let of_two: Vec<Task> = lab.get("/api/v1/tasks?device=d2").await.json();
    assert!(of_two.is_empty());
}

#[tokio::test]
async fn an_order_names_devices_images_and_disks_that_are_there() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let (image, _) = lab.image("debian").await;
    let order = |image: &str, devices: &[&str]| json!({"action": {"kind": "deploy", "image": image}, "devices": devices});
    lab.post("/api/v1/tasks", &order("nothing", &["d1"]))
        .await
        .error(404);
    lab.post("/api/v1/tasks", &order("debian", &["nobody"]))
        .await
        .error(404);
    lab.post("/api/v1/tasks", &order("debian", &[]))
        .await
        .error(400);
    lab.post("/api/v1/tasks", &json!({"action": {"kind": "format"}}))
        .await
        .error(422);
    let tagged = json!({"action": {"kind": "reboot"}, "tag": "none"});
    assert!(
        lab.post("/api/v1/tasks", &tagged)
            .await
            .error(404)
            .contains("none")
    );

    let large: bugler_model::Image = lab
        .upload("large", &crate::lab::pattern(11 << 20, "l"))
        .await
        .json();
    let text = lab
        .post("/api/v1/tasks", &order("large", &["d1"]))
        .await
        .error(409);
    assert!(
        text.contains(&large.size.to_string()) && text.contains("8388608"),
        "{text}"
    );

    lab.send(
        Method::PATCH,
        "/api/v1/devices/d1",
        &json!({"add_tags": ["t"]}),
    )
    .await;
    let by_both = json!({
        "action": {"kind": "deploy", "image": image.id, "disk": {"named": "/dev/vda"}},
        "devices": ["d1", "52:54:00:00:00:01"], "tag": "t",
    });
    let created: CreatedTasks = lab.post("/api/v1/tasks", &by_both).await.json();
    assert_eq!(
        created.tasks.len(),
        1,
        "one device, however often it is named"
    );
    assert_eq!(created.tasks[0].device, agent.id);
}

#[tokio::test]
async fn a_task_can_be_waited_for_and_cancelled() {
    let lab = Arc::new(Lab::new().await);
    lab.booting(mac(1)).await;
    let order = json!({"action": {"kind": "power_off"}, "devices": ["d1"]});
    let created: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let path = format!("/api/v1/tasks/{}", created.tasks[0].id);
    let now: Task = lab.get(&path).await.json();
    assert_eq!(now.state, TaskState::Queued);
    let waiting = {
        let (lab, path) = (lab.clone(), path.clone());
        tokio::spawn(async move { lab.get(&format!("{path}?wait=60")).await })
    };
    tokio::task::yield_now().await;
    lab.post(&format!("{path}/cancel"), &json!({}))
        .await
        .json::<Task>();
    let ended: Task = waiting.await.unwrap().json();
    assert_eq!(ended.state, TaskState::Cancelled);
    // One that has ended is answered at once.
    let again: Task = lab.get(&format!("{path}?wait=60")).await.json();
    assert_eq!(again.state, TaskState::Cancelled);
    lab.post(&format!("{path}/cancel"), &json!({}))
        .await
        .error(409);
    lab.get("/api/v1/tasks/t99").await.error(404);
    lab.get("/api/v1/tasks/x").await.error(404);
}

#[tokio::test]
async fn the_server_tells_what_it_is() {
    let lab = Lab::new().await;
    lab.state
        .info
        .services
        .lock()
        .unwrap()
        .push("eth1: DHCP proxy".into());
    lab.pass(5000);
    let status: ServerStatus = lab.get("/api/v1/server").await.json();
    assert_eq!(status.version, "0.0-test");
    assert_eq!(status.uptime_s, 5);
    assert_eq!(status.bootenv.as_deref(), Some("6.1-test"));
    assert_eq!(status.services, ["eth1: DHCP proxy"]);
    assert!(
        lab.get("/api/v1/nothing")
            .await
            .error(404)
            .contains("/api/v1/nothing")
    );
    lab.send(Method::DELETE, "/api/v1/server", &json!({}))
        .await
        .error(405);
}

#[tokio::test]
async fn pages_of_other_sites_are_kept_out() {
    let lab = Lab::new().await;
    let path = "/api/v1/devices";
    let rebound = [("host", "evil.example:8481")];
    call(&lab.operator, Method::GET, path, &rebound, Body::empty())
        .await
        .error(403);
    let post = "/api/v1/images/gc";
    let crossing = [
        ("origin", "https://evil.example"),
        ("content-type", "application/json"),
    ];
    call(&lab.operator, Method::POST, post, &crossing, "{}".into())
        .await
        .error(403);
    let fine = call(&lab.operator, Method::GET, path, &[], Body::empty()).await;
    assert_eq!(
        (fine.status.as_u16(), fine.header("x-content-type-options")),
        (200, "nosniff")
    );
}
