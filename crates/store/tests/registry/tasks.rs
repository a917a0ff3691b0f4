//! Tasks, one step at a time.

use crate::common::{
    Registry, at, created, deploy, image, is_conflict, is_missing, mac, reboot, report, report_of,
    seen, told,
};
use bugler_model::{
    DeviceId, DevicePatch, DiskRule, EventKind, ImageState, Netboot, NewTask, Phase, Progress,
    TaskAction, TaskId, TaskState,
};
use bugler_store::{Store, TaskFilter, TaskReport};

const HALF: Progress = Progress {
    phase: Phase::Writing,
    done: 287_400_000,
    total: 700_000_000,
    skipped: 0,
    fetched: 100,
    elapsed_ms: 9,
};

#[tokio::test]
async fn a_deploy_from_queue_to_disk() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let off = DevicePatch {
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    registry.patch_device(device, off, at(2)).await.unwrap();
    let image = image(&registry, "debian-12").await;
    let task = created(&registry, deploy(device, &image)).await;
    assert_eq!(
        (task.state, task.attempts, task.created),
        (TaskState::Queued, 0, at(5))
    );
    let known = registry.device(device).await.unwrap();
    assert_eq!(known.open_tasks, 1);

    let claimed = registry.claim_task(device, at(6)).await.unwrap().unwrap();
    assert_eq!((claimed.id, claimed.state), (task.id, TaskState::Claimed));
    assert_eq!((claimed.attempts, claimed.updated), (1, at(6)));
    assert_eq!(registry.device(device).await.unwrap().netboot, Netboot::Off);
    for (state, netboot) in [
        (TaskState::Running, Netboot::On),
        (TaskState::Verifying, Netboot::On),
        (TaskState::Done, Netboot::Off),
    ] {
        let said = registry
            .report_task(report(&task, state), at(7))
            .await
            .unwrap();
        assert_eq!(said.state, state);
        registry.restart();
        assert_eq!(
            registry.task(task.id).await.unwrap().state,
            state,
            "durable"
        );
        assert_eq!(
            registry.device(device).await.unwrap().netboot,
            netboot,
            "{state}"
        );
    }
    let known = registry.device(device).await.unwrap();
    assert_eq!(known.open_tasks, 0);
    assert_eq!(
        told(&registry, EventKind::Task).await,
        [
            "t1 (deploy of debian-12 to d1) was asked for",
            "t1 (deploy of debian-12 to d1) was taken up by its agent",
            "t1 (deploy of debian-12 to d1) is running",
            "t1 (deploy of debian-12 to d1) is written, and is being verified",
            "t1 (deploy of debian-12 to d1) is done",
        ]
    );
    assert_eq!(
        told(&registry, EventKind::Device).await[2..],
        [
            "d1 boots from the network from now on: debian-12 is being written to its disk",
            "d1 boots its local disk from now on: debian-12 is on it",
        ]
    );
}

#[tokio::test]
async fn a_failed_deploy_keeps_the_device_on_the_network() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let image = image(&registry, "debian-12").await;
    let task = created(&registry, deploy(device, &image)).await;
    registry.claim_task(device, at(6)).await.unwrap();
    registry
        .report_task(report(&task, TaskState::Running), at(7))
        .await
        .unwrap();
    let failed = TaskReport {
        message: Some("no disk is large enough\nfor it".into()),
        ..report(&task, TaskState::Failed)
    };
    let said = registry.report_task(failed, at(8)).await.unwrap();
    assert_eq!(
        said.message.as_deref(),
        Some("no disk is large enough for it")
    );
    assert_eq!(registry.device(device).await.unwrap().netboot, Netboot::On);
    assert_eq!(
        told(&registry, EventKind::Task).await.last().unwrap(),
        "t1 (deploy of debian-12 to d1) failed: no disk is large enough for it"
    );
}

#[tokio::test]
async fn a_reboot_leaves_netboot_alone() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let task = created(&registry, reboot(device)).await;
    registry.claim_task(device, at(6)).await.unwrap();
    for state in [TaskState::Running, TaskState::Done] {
        registry
            .report_task(report(&task, state), at(7))
            .await
            .unwrap();
    }
    assert_eq!(registry.device(device).await.unwrap().netboot, Netboot::On);
}

#[tokio::test]
async fn tasks_are_made_all_or_none() {
    let registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let open = created(&registry, reboot(two)).await;
    let refused = registry
        .create_tasks(vec![reboot(one), reboot(two)], at(6))
        .await;
    assert!(is_conflict(&refused));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("t1 (reboot of d2)")
    );
    assert_eq!(registry.device(one).await.unwrap().open_tasks, 0);
    assert!(is_conflict(
        &registry
            .create_tasks(vec![reboot(one), reboot(one)], at(6))
            .await
    ));
    let unknown = vec![reboot(one), reboot(DeviceId(99))];
    assert!(is_missing(&registry.create_tasks(unknown, at(6)).await));
    assert!(
        registry
            .create_tasks(Vec::new(), at(6))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        registry.tasks(TaskFilter::default()).await.unwrap(),
        std::slice::from_ref(&open)
    );
    registry
        .cancel_task(open.id, "operator", at(7))
        .await
        .unwrap();
    let both = registry
        .create_tasks(vec![reboot(one), reboot(two)], at(8))
        .await
        .unwrap();
    assert_eq!(
        both.iter().map(|task| task.device).collect::<Vec<_>>(),
        [one, two]
    );
    assert_eq!(
        told(&registry, EventKind::Task).await.len(),
        4,
        "nothing told of what was undone"
    );
}

#[tokio::test]
async fn of_two_operators_one_gets_the_device() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let image = image(&registry, "debian-12").await;
    let ask = || registry.create_tasks(vec![deploy(device, &image)], at(6));
    let (one, two) = tokio::join!(ask(), ask());
    assert_eq!(one.unwrap().len(), 1);
    assert_eq!(
        two.unwrap_err().to_string(),
        "d1 has an open task already, t1 (deploy of debian-12 to d1), which is queued: wait for \
         it, or cancel it first"
    );
}

#[tokio::test]
async fn a_deploy_needs_a_whole_image() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let image = image(&registry, "debian-12").await;
    let make = async |new: NewTask| registry.create_tasks(vec![new], at(6)).await;
    let mut other = deploy(device, &image);
    if let TaskAction::Deploy(deploy) = &mut other.action {
        deploy.manifest = "cd".repeat(32);
    }
    assert!(is_conflict(&make(other).await));
    registry
        .set_image_state(image.id, ImageState::Damaged, at(5))
        .await
        .unwrap();
    assert!(is_conflict(&make(deploy(device, &image)).await));
    registry
        .set_image_state(image.id, ImageState::Good, at(5))
        .await
        .unwrap();
    make(deploy(device, &image)).await.unwrap();
    assert!(
        is_conflict(&registry.remove_image(image.id, at(6)).await),
        "a task needs it"
    );
    registry
        .cancel_task(TaskId(1), "operator", at(7))
        .await
        .unwrap();
    registry.remove_image(image.id, at(8)).await.unwrap();
    assert!(is_missing(&make(deploy(device, &image)).await));
}

#[tokio::test]
async fn an_agent_that_comes_back_gets_its_task_again() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    assert_eq!(registry.claim_task(device, at(1)).await.unwrap(), None);
    assert!(is_missing(&registry.claim_task(DeviceId(99), at(1)).await));
    let task = created(&registry, reboot(device)).await;
    for (state, attempt) in [
        (TaskState::Claimed, 1),
        (TaskState::Running, 2),
        (TaskState::Verifying, 3),
    ] {
        let claimed = registry.claim_task(device, at(6)).await.unwrap().unwrap();
        assert_eq!(
            (claimed.state, claimed.attempts),
            (TaskState::Claimed, attempt)
        );
        registry
            .report_task(report(&task, state), at(7))
            .await
            .unwrap();
    }
    assert_eq!(
        told(&registry, EventKind::Task).await[2],
        "t1 (reboot of d1) is resumed by its agent: attempt 2"
    );
}

#[tokio::test]
async fn the_first_disk_that_a_deploy_names_is_the_one_it_writes_to() {
    let named = |text: &str| DiskRule::Named(text.into());
    for asked in [DiskRule::Auto, named("Anvil SSD 1 TB")] {
        let mut registry = Registry::new();
        let device = seen(&registry, mac(1), None).await.id;
        let image = image(&registry, "debian-12").await;
        let mut new = deploy(device, &image);
        if let TaskAction::Deploy(deploy) = &mut new.action {
            deploy.disk = asked;
        }
        let task = created(&registry, new).await;
        let chosen = |state, disk: &str| TaskReport {
            disk: Some(disk.into()),
            ..report(&task, state)
        };
        registry.claim_task(device, at(6)).await.unwrap();
        for bad in ["", "  ", &"x".repeat(257)] {
            let said = registry.report_task(chosen(TaskState::Running, bad), at(7));
            assert!(is_conflict(&said.await), "{bad:?}");
        }
        for (state, disk) in [
            (TaskState::Claimed, "S123\n4"),
            (TaskState::Claimed, "S123 4"),
            (TaskState::Running, "/dev/sdb"),
        ] {
            let said = registry.report_task(chosen(state, disk), at(7)).await;
            let TaskAction::Deploy(deploy) = said.unwrap().action else {
                panic!("it was a deploy");
            };
            assert_eq!(deploy.disk, named("S123 4"));
        }
        registry.restart();
        let again = registry.claim_task(device, at(8)).await.unwrap().unwrap();
        let TaskAction::Deploy(deploy) = again.action else {
            panic!("it was a deploy");
        };
        assert_eq!((deploy.disk, again.attempts), (named("S123 4"), 2));
        let said = told(&registry, EventKind::Task).await;
        let writes: Vec<_> = said.iter().filter(|text| text.contains("writes")).collect();
        assert_eq!(writes, ["t1 (deploy of debian-12 to d1) writes to S123 4"]);
        let late = chosen(TaskState::Done, "S9");
        registry.report_task(late.clone(), at(9)).await.unwrap();
        assert_eq!(
            registry.report_task(late, at(9)).await.unwrap().state,
            TaskState::Done,
            "an ended task takes no report"
        );
    }
}

#[tokio::test]
async fn a_report_on_an_ended_task_learns_of_it() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let other = seen(&registry, mac(2), None).await.id;
    let task = created(&registry, reboot(device)).await;
    registry.claim_task(device, at(6)).await.unwrap();
    registry
        .report_task(report(&task, TaskState::Running), at(7))
        .await
        .unwrap();
    let cancelled = registry
        .cancel_task(task.id, "cancelled by ann", at(8))
        .await
        .unwrap();
    assert_eq!(cancelled.state, TaskState::Cancelled);
    assert_eq!(cancelled.message.as_deref(), Some("cancelled by ann"));
    for state in [TaskState::Running, TaskState::Done] {
        let said = registry
            .report_task(report(&task, state), at(9))
            .await
            .unwrap();
        assert_eq!(said, cancelled);
    }
    assert!(is_conflict(
        &registry.cancel_task(task.id, "again", at(9)).await
    ));
    assert!(is_missing(
        &registry.cancel_task(TaskId(99), "x", at(9)).await
    ));
    for (whose, which) in [
        (other, task.id),
        (device, TaskId(99)),
        (DeviceId(99), task.id),
    ] {
        let stray = report_of(whose, which, TaskState::Running);
        assert!(
            is_missing(&registry.report_task(stray, at(9)).await),
            "{whose} {which}"
        );
    }
    assert_eq!(registry.claim_task(device, at(9)).await.unwrap(), None);
    assert_eq!(registry.device(device).await.unwrap().open_tasks, 0);
}

#[tokio::test]
async fn a_step_that_does_not_exist_is_refused() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let task = created(&registry, reboot(device)).await;
    for state in [TaskState::Running, TaskState::Verifying, TaskState::Done] {
        assert!(
            is_conflict(&registry.report_task(report(&task, state), at(6)).await),
            "{state}"
        );
    }
    assert_eq!(
        registry.task(task.id).await.unwrap().state,
        TaskState::Queued
    );
}

#[tokio::test]
async fn progress_is_seen_at_once_told_and_written_in_the_end() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let task = created(&registry, reboot(device)).await;
    registry.claim_task(device, at(6)).await.unwrap();
    registry
        .report_task(report(&task, TaskState::Running), at(7))
        .await
        .unwrap();
    let (commits, kept) = (registry.commits(), told(&registry, EventKind::Task).await);
    let mut listener = registry.subscribe();
    let half = TaskReport {
        progress: HALF,
        ..report(&task, TaskState::Running)
    };
    let said = registry.report_task(half.clone(), at(7)).await.unwrap();
    assert_eq!((said.progress, said.state), (HALF, TaskState::Running));
    assert_eq!(registry.commits(), commits, "no commit for progress alone");
    assert_eq!(registry.task(task.id).await.unwrap(), said);
    assert_eq!(
        registry.tasks(TaskFilter::default()).await.unwrap(),
        std::slice::from_ref(&said)
    );
    let event = listener.try_recv().unwrap();
    assert_eq!((event.kind, event.id.0), (EventKind::Progress, 0));
    assert_eq!((event.task, event.device), (Some(task.id), Some(device)));
    assert_eq!(event.text, "writing: 41 % (287 of 700 MB)");
    assert_eq!(told(&registry, EventKind::Task).await, kept);
    assert!(told(&registry, EventKind::Progress).await.is_empty());
    registry.restart();
    assert_eq!(registry.task(task.id).await.unwrap(), said);
    // What another operation changes does not take the progress back.
    registry.report_task(half, at(8)).await.unwrap();
    let cancelled = registry.cancel_task(task.id, "ann", at(9)).await.unwrap();
    assert_eq!(cancelled.progress, HALF);
}

#[tokio::test]
async fn a_message_with_progress_is_kept() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let task = created(&registry, reboot(device)).await;
    registry.claim_task(device, at(6)).await.unwrap();
    let note = TaskReport {
        progress: HALF,
        message: Some("a retry".into()),
        ..report(&task, TaskState::Claimed)
    };
    let said = registry.report_task(note, at(6)).await.unwrap();
    assert_eq!(
        (said.progress, said.message.as_deref()),
        (HALF, Some("a retry"))
    );
    registry.restart();
    assert_eq!(registry.task(task.id).await.unwrap(), said);
}

#[tokio::test]
async fn tasks_are_listed_latest_first() {
    let registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let first = created(&registry, reboot(one)).await.id;
    registry.cancel_task(first, "x", at(6)).await.unwrap();
    let second = created(&registry, reboot(one)).await.id;
    let third = created(&registry, reboot(two)).await.id;
    let list = async |device, open_only, limit| {
        let filter = TaskFilter {
            device,
            open_only,
            limit,
        };
        let tasks = registry.tasks(filter).await.unwrap();
        tasks.iter().map(|task| task.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, false, 9).await, [third, second, first]);
    assert_eq!(list(Some(one), false, 9).await, [second, first]);
    assert_eq!(list(Some(one), true, 9).await, [second]);
    assert_eq!(list(None, true, usize::MAX).await, [third, second]);
    assert_eq!(list(None, false, 1).await, [third]);
    assert_eq!(list(Some(DeviceId(u64::MAX)), false, 1).await, []);
    assert!(is_missing(&registry.task(TaskId(99)).await));
}
