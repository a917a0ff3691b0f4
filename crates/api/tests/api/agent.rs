//! Registering, polling, reporting, heartbeats.

use crate::lab::{Lab, mac, register};
use bugler_model::{
    DiskRule, EventKind, Netboot, Phase, Presence, Progress, Stage, Task, TaskAction, TaskState,
};
use bugler_protocol::agent::{Assignment, Heartbeat, Registered, Report, ReportAnswer};
use bugler_protocol::operator::CreatedTasks;
use bugler_store::{EventFilter, TaskFilter};
use serde_json::json;
use std::sync::Arc;

fn report(state: TaskState, done: u64) -> Report {
    let progress = Progress {
        phase: Phase::Writing,
        done,
        total: 100,
        ..Progress::default()
    };
    Report {
        state,
        progress,
        message: None,
        disk: None,
    }
}

#[tokio::test]
async fn an_agent_registers_with_the_token_of_its_boot_only() {
    let lab = Lab::new().await;
    let (device, session, token) = lab.booting(mac(1)).await;
    let wrong = lab
        .agent_post(None, "register", &register(mac(1), "guessed".into()))
        .await;
    assert!(wrong.error(401).contains("boot again"));
    let answer = lab
        .agent_post(None, "register", &register(mac(1), token.clone()))
        .await;
    let registered: Registered = answer.json();
    assert_eq!(registered.device, device);
    assert_eq!(registered.token.len(), 64);
    let shown = &lab.devices().await[0];
    assert_eq!(shown.presence, Presence::Agent);
    assert_eq!(shown.inventory.as_ref().unwrap().disks[0].path, "/dev/vda");
    assert_eq!(shown.address, Some([10, 0, 0, 9].into()));
    let sessions = lab.store().sessions(device, 1).await.unwrap();
    assert_eq!(sessions[0].id, session);
    let stages: Vec<Stage> = sessions[0].stages.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, [Stage::Agent, Stage::Registered]);

    let mut old = register(mac(1), token.clone());
    old.protocol = 99;
    assert!(
        lab.agent_post(None, "register", &old)
            .await
            .error(400)
            .contains("bootenv build")
    );
    let group = register(bugler_model::MacAddr([0xff; 6]), token);
    assert!(
        lab.agent_post(None, "register", &group)
            .await
            .error(400)
            .contains("ff:ff")
    );
    let junk = lab
        .agent_post(None, "register", &json!({"protocol": "x"}))
        .await;
    assert!(junk.error(422).contains("protocol"));
}

#[tokio::test]
async fn without_its_token_an_agent_gets_nothing() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    for token in ["", "guessed", &agent.token[1..]] {
        lab.agent_get(token, "task").await.error(401);
        lab.agent_get(token, &format!("manifests/{}", "0".repeat(64)))
            .await
            .error(401);
        for (path, body) in [
            (
                "tasks/t1/report",
                serde_json::to_value(report(TaskState::Done, 1)).unwrap(),
            ),
            ("heartbeat", json!({})),
            ("chunks", json!({"hashes": []})),
            ("damaged", json!({"hash": "0", "detail": ""})),
        ] {
            lab.agent_post(Some(token), path, &body).await.error(401);
        }
    }
    // A later boot of the same device makes the earlier token worthless.
    let (_, _, token) = lab.booting(mac(1)).await;
    lab.agent_post(None, "register", &register(mac(1), token))
        .await
        .json::<Registered>();
    lab.agent_get(&agent.token, "task").await.error(401);
}

#[tokio::test]
async fn a_poll_waits_and_wakes_for_its_own_task() {
    let lab = Arc::new(Lab::new().await);
    let (agent, other) = (lab.agent(1).await, lab.agent(2).await);
    assert_eq!(lab.agent_get(&agent.token, "task").await.status, 204);
    let polling = {
        let (lab, token) = (lab.clone(), agent.token.clone());
        tokio::spawn(async move { lab.agent_get(&token, "task?wait=60").await })
    };
    let reboot = |id| json!({"action": {"kind": "reboot"}, "devices": [id]});
    let theirs: CreatedTasks = lab.post("/api/v1/tasks", &reboot(other.id)).await.json();
    let own: CreatedTasks = lab.post("/api/v1/tasks", &reboot(agent.id)).await.json();
    let assignment: Assignment = polling.await.unwrap().json();
    assert_eq!(assignment.task, own.tasks[0].id);
    assert_eq!(assignment.attempt, 1);
    // The answer was lost: the same task is handed out again.
    let again: Assignment = lab.agent_get(&agent.token, "task?wait=60").await.json();
    assert_eq!((again.task, again.attempt), (assignment.task, 2));
    let theirs_now = lab.store().task(theirs.tasks[0].id).await.unwrap();
    assert_eq!(theirs_now.state, TaskState::Queued, "nobody asked for it");
}

#[tokio::test]
async fn a_poll_ends_when_the_server_stops() {
    let lab = Arc::new(Lab::new().await);
    let agent = lab.agent(1).await;
    let polling = {
        let lab = lab.clone();
        tokio::spawn(async move { lab.agent_get(&agent.token, "task?wait=60").await })
    };
    lab.stop.cancel();
    assert_eq!(polling.await.unwrap().status, 204);
}

#[tokio::test]
async fn reports_move_the_task_and_carry_a_cancel_back() {
    let lab = Lab::new().await;
    let (agent, other) = (lab.agent(1).await, lab.agent(2).await);
    let (image, _) = lab.image("debian").await;
    let order = json!({"action": {"kind": "deploy", "image": "debian"}, "devices": [agent.id]});
    let created: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let task = created.tasks[0].id;
    let path = format!("tasks/{task}/report");

    let early = lab
        .agent_post(Some(&agent.token), &path, &report(TaskState::Running, 1))
        .await;
    early.error(409);
    lab.agent_post(Some(&agent.token), &path, &report(TaskState::Claimed, 1))
        .await
        .error(409);
    lab.agent_get(&agent.token, "task")
        .await
        .json::<Assignment>();
    let stranger = lab
        .agent_post(Some(&other.token), &path, &report(TaskState::Done, 1))
        .await;
    stranger.error(404);
    lab.agent_post(Some(&agent.token), &path, &report(TaskState::Queued, 1))
        .await
        .error(400);
    let mut checking = report(TaskState::Claimed, 1);
    checking.disk = Some("S123".into());
    lab.agent_post(Some(&other.token), &path, &checking)
        .await
        .error(404);
    let answer = lab.agent_post(Some(&agent.token), &path, &checking).await;
    assert!(!answer.json::<ReportAnswer>().cancel);
    let shown: Task = lab.get(&format!("/api/v1/tasks/{task}")).await.json();
    assert_eq!((shown.state, shown.progress.done), (TaskState::Claimed, 1));
    let TaskAction::Deploy(deploy) = shown.action else {
        panic!("it was a deploy");
    };
    assert_eq!(deploy.disk, DiskRule::Named("S123".into()));
    let cancelled = report(TaskState::Cancelled, 1);
    lab.agent_post(Some(&agent.token), &path, &cancelled)
        .await
        .error(409);
    lab.agent_post(Some(&other.token), &path, &cancelled)
        .await
        .error(404);

    let running = lab
        .agent_post(Some(&agent.token), &path, &report(TaskState::Running, 40))
        .await;
    assert!(!running.json::<ReportAnswer>().cancel);
    let shown: Task = lab.get(&format!("/api/v1/tasks/{task}")).await.json();
    assert_eq!((shown.state, shown.progress.done), (TaskState::Running, 40));
    // One that was overtaken takes nothing back.
    lab.agent_post(Some(&agent.token), &path, &checking)
        .await
        .json::<ReportAnswer>();
    let shown: Task = lab.get(&format!("/api/v1/tasks/{task}")).await.json();
    assert_eq!((shown.state, shown.progress.done), (TaskState::Running, 40));
    // A disk that is half written is not booted from.
    assert_eq!(
        lab.store().device(agent.id).await.unwrap().netboot,
        Netboot::On
    );

    lab.post(&format!("/api/v1/tasks/{task}/cancel"), &json!({}))
        .await
        .json::<Task>();
    let late = lab
        .agent_post(Some(&agent.token), &path, &report(TaskState::Running, 60))
        .await;
    assert!(late.json::<ReportAnswer>().cancel);
    let late = lab.agent_post(Some(&agent.token), &path, &checking).await;
    assert!(late.json::<ReportAnswer>().cancel);
    let obeyed = lab.agent_post(Some(&agent.token), &path, &cancelled).await;
    assert!(obeyed.json::<ReportAnswer>().cancel);
    lab.post(&format!("/api/v1/tasks/{task}/cancel"), &json!({}))
        .await
        .error(409);

    // The next one goes through, and leaves the device to its disk.
    let created: CreatedTasks = lab.post("/api/v1/tasks", &order).await.json();
    let path = format!("tasks/{}/report", created.tasks[0].id);
    lab.agent_get(&agent.token, "task")
        .await
        .json::<Assignment>();
    for state in [TaskState::Running, TaskState::Verifying, TaskState::Done] {
        let answer = lab
            .agent_post(Some(&agent.token), &path, &report(state, image.used))
            .await;
        assert!(!answer.json::<ReportAnswer>().cancel);
    }
    let device = lab.store().device(agent.id).await.unwrap();
    assert_eq!(
        (device.netboot, device.presence),
        (Netboot::Off, Presence::Local)
    );
    // It is about to reboot: a heartbeat that was on its way does not bring it back.
    lab.agent_post(Some(&agent.token), "heartbeat", &Heartbeat::default())
        .await;
    assert_eq!(
        lab.store().device(agent.id).await.unwrap().presence,
        Presence::Local
    );
    lab.agent_get(&agent.token, "task").await;
    assert_eq!(
        lab.store().device(agent.id).await.unwrap().presence,
        Presence::Agent
    );
    let open = TaskFilter {
        open_only: true,
        ..TaskFilter::default()
    };
    assert!(lab.store().tasks(open).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_heartbeat_brings_log_lines_that_are_safe_to_show() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let log = vec![
        "eth0 \u{1b}[31mup".to_owned(),
        "x".repeat(5000),
        "third".to_owned(),
    ];
    let answer = lab
        .agent_post(Some(&agent.token), "heartbeat", &Heartbeat { log })
        .await;
    assert_eq!(answer.status, 204);
    let filter = EventFilter {
        kind: Some(EventKind::Log),
        ..EventFilter::default()
    };
    let events = lab.store().events(filter).await.unwrap();
    let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
    assert_eq!(texts[0], "eth0 \u{fffd}[31mup");
    assert_eq!(texts[1].len(), 1000);
    assert_eq!(texts[2], "third");
    assert!(
        events
            .iter()
            .all(|event| event.device == Some(agent.id) && event.session.is_some())
    );
    let flood = Heartbeat {
        log: vec![String::new(); 201],
    };
    lab.agent_post(Some(&agent.token), "heartbeat", &flood)
        .await
        .error(400);
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_lost_and_found_again() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let mut events = lab.store().subscribe();
    let watching = tokio::spawn(bugler_api::watch_presence(
        lab.state.clone(),
        lab.stop.clone(),
    ));
    lab.pass(31_000);
    // The paused clock runs by itself while everything waits: the next look comes at once.
    loop {
        let event = events.recv().await.unwrap();
        if event.device == Some(agent.id) && event.kind == EventKind::Device {
            break;
        }
    }
    assert_eq!(
        lab.store().device(agent.id).await.unwrap().presence,
        Presence::Lost
    );
    let answer = lab
        .agent_post(Some(&agent.token), "heartbeat", &Heartbeat::default())
        .await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        lab.store().device(agent.id).await.unwrap().presence,
        Presence::Agent
    );
    lab.stop.cancel();
    watching.await.unwrap();
}
