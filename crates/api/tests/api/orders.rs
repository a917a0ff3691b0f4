//! Orders: deploy with everything that can be said of it, capture, wipe; and what would come of them.

use crate::lab::{Lab, call, mac};
use axum::body::Body;
use axum::http::Method;
use bugler_model::{Compare, Outcome, Presence, Task, TaskAction, TaskState, Unclean, WipeMethod};
use bugler_protocol::agent::Assignment;
use bugler_protocol::operator::{CreatedTasks, TaskPlan, Verdict};
use serde_json::{Value, json};

fn deploy(more: Value) -> Value {
    let mut action = json!({"kind": "deploy", "image": "debian"});
    let fields = more.as_object().unwrap().clone();
    action.as_object_mut().unwrap().extend(fields);
    json!({"action": action, "devices": ["d1"]})
}

async fn plan(lab: &Lab, order: &Value) -> TaskPlan {
    lab.post("/api/v1/tasks/plan", order).await.json()
}

/// Goes through a deploy as an agent that has nothing to do.
async fn done(lab: &Lab, token: &str) {
    let task: Assignment = lab.agent_get(token, "task").await.json();
    for state in ["running", "verifying", "done"] {
        let path = format!("tasks/{}/report", task.task);
        let body = json!({"state": state, "progress": {}});
        assert_eq!(lab.agent_post(Some(token), &path, &body).await.status, 200);
    }
}

#[tokio::test]
async fn everything_that_is_said_of_a_deploy_reaches_the_agent() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    lab.image("debian").await;
    let order = deploy(json!({
        "image": "debian@1", "compare": "always", "grow": true, "limit_rate": 10_000_000,
        "identity": {
            "hostname": "node-{{ device.id }}", "machine_id": true,
            "seed": {"user_data": "#cloud-config\nphone_home: {url: '{{ phone_home_url }}'}\n"},
        },
    }));
    lab.post("/api/v1/tasks", &order)
        .await
        .json::<CreatedTasks>();
    let task: Assignment = lab.agent_get(&agent.token, "task").await.json();
    let TaskAction::Deploy(deploy) = task.action else {
        panic!("{:?}", task.action);
    };
    assert_eq!(
        (deploy.version, deploy.compare, deploy.grow),
        (1, Compare::Always, true)
    );
    assert_eq!(deploy.limit_rate, Some(10_000_000));
    let identity = deploy.identity.unwrap();
    assert_eq!(identity.hostname.as_deref(), Some("node-d1"));
    assert!(identity.machine_id && !identity.ssh_host_keys);
    let seed = identity.seed.unwrap();
    assert!(
        seed.meta_data.starts_with("instance-id: bugler-d1-"),
        "{seed:?}"
    );
    assert!(
        seed.meta_data.contains("local-hostname: node-d1"),
        "{seed:?}"
    );
    assert!(
        seed.user_data.contains("http://10.0.0.1:8480/phone-home/"),
        "{seed:?}"
    );
}

#[tokio::test]
async fn an_order_that_cannot_be_meant_makes_no_task() {
    let lab = Lab::new().await;
    lab.agent(1).await;
    lab.image("debian").await;
    let identity = |identity: Value| deploy(json!({"identity": identity}));
    for (order, status, text) in [
        (
            identity(json!({"hostname": "{{ device.nmae }}"})),
            400,
            "in line 1",
        ),
        (identity(json!({"hostname": "a b"})), 400, "no host name"),
        (
            identity(json!({"hostname": "x".repeat(65)})),
            400,
            "no host name",
        ),
        (
            identity(json!({"seed": {"user_data": "a\nb\n{{ nothing }}"}})),
            400,
            "user-data is wrong in line 3",
        ),
        (
            identity(json!({"seed": {"meta_data": "local-hostname: x"}})),
            400,
            "instance-id",
        ),
        (identity(json!({"hostnme": "x"})), 422, "hostnme"),
        (deploy(json!({"limit_rate": 5})), 400, "too low"),
        (deploy(json!({"image": "debian@2"})), 404, "debian@2"),
        (
            json!({"action": {"kind": "wipe", "methods": "zero"}, "devices": ["d1"]}),
            422,
            "methods",
        ),
        (
            json!({"action": {"kind": "capture", "image_name": "a b"}, "devices": ["d1"]}),
            422,
            "a b",
        ),
        (
            json!({"action": {"kind": "capture", "image_name": "i7"}, "devices": ["d1"]}),
            409,
            "id",
        ),
        (
            json!({"action": {"kind": "capture", "image_name": "a", "partition": 0}, "devices": ["d1"]}),
            400,
            "from 1",
        ),
    ] {
        let refusal = lab.post("/api/v1/tasks", &order).await.error(status);
        assert!(refusal.contains(text), "{refusal}");
    }
    let tasks: Vec<Task> = lab.get("/api/v1/tasks").await.json();
    assert!(tasks.is_empty());
}

#[tokio::test]
async fn captures_and_wipes_are_ordered() {
    let lab = Lab::new().await;
    lab.agent(1).await;
    lab.agent(2).await;
    let order = json!({"action": {
        "kind": "capture", "image_name": "pc", "note": "n", "partition": 2, "unclean": "refuse",
    }, "devices": ["d1"]});
    let planned = plan(&lab, &order).await.devices.remove(0);
    assert_eq!(
        (planned.verdict, planned.then.as_deref()),
        (Verdict::Do, Some("pc"))
    );
    assert!(planned.disk.unwrap().starts_with("/dev/vda"));
    let made: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let TaskAction::Capture(capture) = &made.tasks[0].action else {
        panic!("{made:?}");
    };
    assert_eq!(
        (capture.partition, capture.unclean),
        (Some(2), Unclean::Refuse)
    );
    let order = json!({"action": {"kind": "wipe", "method": "nvme-format"}, "devices": ["d2"]});
    let made: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let TaskAction::Wipe(wipe) = &made.tasks[0].action else {
        panic!("{made:?}");
    };
    assert_eq!(wipe.method, WipeMethod::NvmeFormat);
}

#[tokio::test]
async fn upgrade_only_leaves_alone_what_is_no_upgrade() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    lab.image("debian").await;
    let only = |image: &str| deploy(json!({"image": image, "upgrade_only": true}));
    let skipped = |created: CreatedTasks| {
        assert!(created.tasks.is_empty(), "{created:?}");
        created.skipped[0].why.clone()
    };
    // Newer than nothing.
    let made: CreatedTasks = lab.post("/api/v1/tasks", &only("debian")).await.json();
    assert_eq!((made.tasks.len(), made.skipped.len()), (1, 0));
    done(&lab, &agent.token).await;
    let before = lab.devices().await.remove(0);
    let made: CreatedTasks = lab.post("/api/v1/tasks", &only("debian")).await.json();
    assert!(skipped(made).contains("it has debian@1 already"));
    // It boots as before.
    let after = lab.devices().await.remove(0);
    assert_eq!((after.netboot, after.open_tasks), (before.netboot, 0));

    let second = lab.upload("debian", &vec![7; 1 << 20]).await;
    assert_eq!(second.status, 201, "{}", second.text());
    lab.image("alpine").await;
    let planned = plan(&lab, &only("alpine")).await.devices.remove(0);
    assert_eq!(planned.verdict, Verdict::Skip);
    assert!(planned.why.contains("debian@1"), "{}", planned.why);
    let planned = plan(&lab, &only("debian")).await.devices.remove(0);
    assert_eq!(planned.verdict, Verdict::Do);
    assert_eq!(
        (planned.now.as_deref(), planned.then.as_deref()),
        (Some("debian@1"), Some("debian@2"))
    );
    assert!(planned.disk.unwrap().starts_with("/dev/vda"));
    let tasks: Vec<Task> = lab.get("/api/v1/tasks?open=true").await.json();
    assert!(tasks.is_empty(), "a plan makes nothing");
    let made: CreatedTasks = lab.post("/api/v1/tasks", &only("debian")).await.json();
    assert_eq!(made.tasks.len(), 1);
    // A plan says of a busy device what making the task would say.
    let planned = plan(&lab, &only("debian")).await.devices.remove(0);
    assert_eq!(planned.verdict, Verdict::Refuse);
    assert!(planned.why.contains("open task"), "{}", planned.why);
    done(&lab, &agent.token).await;
    let planned = plan(&lab, &only("debian@1")).await.devices.remove(0);
    assert_eq!(planned.verdict, Verdict::Skip);
    assert!(planned.why.contains("later"), "{}", planned.why);
}

#[tokio::test]
async fn a_machine_that_calls_home_is_up() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    lab.image("debian").await;
    let order = deploy(json!({"identity": {"seed": {"user_data": "{{ phone_home_url }}"}}}));
    let made: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let TaskAction::Deploy(deploy) = &made.tasks[0].action else {
        panic!("{made:?}");
    };
    let url = deploy.identity.clone().unwrap().seed.unwrap().user_data;
    let path = url.strip_prefix("http://10.0.0.1:8480").unwrap();
    done(&lab, &agent.token).await;
    let (device, session, _) = lab.booting(mac(1)).await;
    lab.store()
        .end_session(session, Outcome::Local, lab.state.now())
        .await
        .unwrap();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let post = || {
        call(
            &lab.device,
            Method::POST,
            path,
            &form,
            Body::from("hostname=x&pub_key_rsa=y"),
        )
    };
    for _ in 0..2 {
        assert_eq!(post().await.status, 200);
    }
    let sessions = lab.store().sessions(device, 5).await.unwrap();
    assert_eq!(sessions[0].outcome, Outcome::Up);
    assert_eq!(lab.devices().await[0].presence, Presence::Local);
    let events: Vec<bugler_model::Event> = lab.get("/api/v1/events?limit=100").await.json();
    let calls = events
        .iter()
        .filter(|event| event.text.contains("called home"))
        .count();
    assert_eq!(calls, 1, "it is told once");
    let get = call(&lab.device, Method::GET, path, &[], Body::empty()).await;
    assert_eq!(get.status, 200);
    for wrong in [
        "/phone-home/x".to_owned(),
        format!("/phone-home/{}", "0".repeat(64)),
    ] {
        call(&lab.device, Method::GET, &wrong, &[], Body::empty())
            .await
            .error(404);
    }
    let long = vec![b'x'; 2 << 20];
    call(&lab.device, Method::POST, path, &form, long.into())
        .await
        .error(413);
    let task: Task = lab
        .get(&format!("/api/v1/tasks/{}", made.tasks[0].id))
        .await
        .json();
    assert_eq!(task.state, TaskState::Done);
}
