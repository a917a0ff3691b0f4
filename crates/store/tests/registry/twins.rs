//! Machines that share what should tell them apart: an adapter that is lent, a UUID that a maker
//! gave twice.

use crate::common::{
    Registry, at, created, deploy, image, mac, reboot, registered, registration, seen, sighting,
    token, told, uuid,
};
use bugler_model::{Device, DeviceId, EventKind, MacAddr, Outcome, Presence, TaskId, TaskState};
use bugler_store::{AgentAuth, Store};
use std::sync::Arc;
use uuid::Uuid;

/// The agent of a machine that booted as `device` registers.
async fn register(
    registry: &Registry,
    device: DeviceId,
    uuid: Option<Uuid>,
    macs: &[MacAddr],
    agent: u8,
    now: i64,
) -> Arc<Device> {
    let session = registry.begin_session(device, None, at(now)).await.unwrap();
    let what = registration(device, session, uuid, macs, token(agent));
    registry.register(what, at(now)).await.unwrap()
}

fn swapped(uuid: Uuid) -> Uuid {
    Uuid::from_bytes(uuid.to_bytes_le())
}

#[tokio::test]
async fn a_lent_adapter_takes_no_task_along() {
    let mut registry = Registry::new();
    let lent = mac(1);
    let one = registered(&registry, Some(uuid(1)), &[lent], token(1))
        .await
        .id;
    let image = image(&registry, "debian-12").await;
    created(&registry, deploy(one, &image)).await;
    assert!(registry.find_client(lent, Some(uuid(2))).is_none());
    let said = sighting(lent, Some(uuid(2)));
    let observed = registry.observe(said.clone(), at(5)).await.unwrap();
    assert!(observed.new);
    let two = observed.device.id;
    assert_ne!(two, one);
    assert_eq!(registry.observe(said, at(6)).await.unwrap().device.id, two);
    for _ in 0..2 {
        let find = |uuid| registry.find_client(lent, uuid).map(|device| device.id);
        assert_eq!(find(Some(uuid(2))), Some(two));
        assert_eq!(find(Some(uuid(1))), Some(one), "it is back");
        assert_eq!(find(Some(swapped(uuid(1)))), Some(one));
        assert_eq!(find(None), Some(two), "who had it last");
        registry.restart();
    }
    let back = register(&registry, two, Some(uuid(2)), &[lent], 2, 7).await;
    assert_eq!((back.id, back.open_tasks), (two, 0));
    assert_eq!(registry.claim_task(two, at(8)).await.unwrap(), None);

    let home = sighting(lent, Some(uuid(1)));
    let observed = registry.observe(home, at(90_000)).await.unwrap();
    assert_eq!((observed.device.id, observed.new), (one, false));
    assert_eq!(observed.device.macs, [lent]);
    assert!(registry.device(two).await.unwrap().macs.is_empty());
}

#[tokio::test]
async fn an_adapter_comes_back_from_a_machine_that_never_had_an_agent() {
    let registry = Registry::new();
    let one = registered(&registry, Some(uuid(1)), &[mac(1)], token(1))
        .await
        .id;
    let two = seen(&registry, mac(1), Some(uuid(2))).await.id;
    created(&registry, reboot(two)).await;
    let home = sighting(mac(1), Some(uuid(1)));
    let observed = registry.observe(home, at(90_000)).await.unwrap();
    assert_eq!((observed.device.id, observed.device.open_tasks), (one, 0));
    assert_eq!(registry.device(two).await.unwrap().open_tasks, 1);
}

#[tokio::test]
async fn firmware_that_swaps_the_bytes_of_its_uuid_is_the_same_machine() {
    let registry = Registry::new();
    let one = registered(&registry, Some(uuid(1)), &[mac(1)], token(1))
        .await
        .id;
    let same = seen(&registry, mac(1), Some(swapped(uuid(1)))).await;
    assert_eq!((same.id, same.uuid), (one, Some(uuid(1))));
}

#[tokio::test]
async fn a_lent_adapter_makes_a_new_device_where_firmware_tells_no_uuid() {
    let mut registry = Registry::new();
    let (lent, own) = (mac(1), mac(2));
    let one = registered(&registry, Some(uuid(1)), &[lent], token(1))
        .await
        .id;
    let task = created(&registry, reboot(one)).await;
    assert_eq!(seen(&registry, lent, None).await.id, one, "by MAC alone");
    let back = register(&registry, one, Some(uuid(2)), &[lent, own], 2, 6).await;
    assert_ne!(back.id, one);
    assert_eq!(back.uuid, Some(uuid(2)));
    assert_eq!(back.macs, [lent, own]);
    for _ in 0..2 {
        let first = registry.device(one).await.unwrap();
        assert_eq!((first.uuid, first.open_tasks), (Some(uuid(1)), 1));
        assert!(first.macs.is_empty());
        assert!(registry.open_session(one).is_none());
        let boot = registry.sessions(back.id, 1).await.unwrap().remove(0);
        assert_eq!(boot.outcome, Outcome::Registered);
        let auth = AgentAuth {
            device: back.id,
            session: boot.id,
        };
        assert_eq!(registry.agent_token(token(2)), Some(auth));
        assert_eq!(registry.agent_token(token(1)).unwrap().device, one);
        registry.restart();
    }
    assert_eq!(registry.claim_task(back.id, at(8)).await.unwrap(), None);
    assert_eq!(registry.task(task.id).await.unwrap().device, one);
}

#[tokio::test]
async fn two_running_machines_with_one_uuid_stay_two() {
    let mut registry = Registry::new();
    let both = Some(uuid(1));
    let one = registered(&registry, both, &[mac(1)], token(1)).await.id;
    let observed = registry.observe(sighting(mac(2), both), at(5)).await;
    let two = observed.unwrap().device;
    assert_ne!(two.id, one);
    assert_eq!(registry.device(one).await.unwrap().macs, [mac(1)]);
    let back = register(&registry, two.id, both, &[mac(2)], 2, 6).await;
    assert_eq!((back.id, back.uuid), (two.id, None));
    let warning = format!("d2 and d1 are two machines with one UUID, {}", uuid(1));
    let said = told(&registry, EventKind::Device).await;
    assert!(
        said.iter().any(|text| text.starts_with(&warning)),
        "{said:?}"
    );

    // Told apart once, they stay apart, also when the first is off.
    registry
        .set_presence(one, Presence::Local, at(90_000))
        .await
        .unwrap();
    let again = registry.observe(sighting(mac(2), both), at(90_001)).await;
    assert_eq!(again.unwrap().device.id, two.id);
    let back = register(&registry, two.id, both, &[mac(2)], 3, 90_002).await;
    assert_eq!((back.id, back.uuid), (two.id, None));
    for _ in 0..2 {
        assert_eq!(registry.find_client(mac(1), both).unwrap().id, one);
        assert_eq!(registry.find_client(mac(2), both).unwrap().id, two.id);
        registry.restart();
    }
}

#[tokio::test]
async fn a_machine_that_is_not_running_is_found_by_its_uuid_on_another_interface() {
    let registry = Registry::new();
    let one = registered(&registry, Some(uuid(1)), &[mac(1)], token(1))
        .await
        .id;
    let seen = registry.observe(sighting(mac(2), Some(uuid(1))), at(40_000));
    assert_eq!(seen.await.unwrap().device.id, one);
}

#[tokio::test]
async fn of_two_tasks_of_one_machine_the_first_stands() {
    let mut registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let older = created(&registry, reboot(two)).await.id;
    let younger = created(&registry, reboot(one)).await.id;
    let back = register(&registry, one, Some(uuid(1)), &[mac(1), mac(2)], 1, 6).await;
    assert_eq!((back.id, back.open_tasks), (one, 1));
    for _ in 0..2 {
        let open = registry.open_task(one).await.unwrap().unwrap();
        assert_eq!((open.id, open.device), (older, one));
        let ended = registry.task(younger).await.unwrap();
        assert_eq!(ended.state, TaskState::Cancelled);
        assert_eq!(
            ended.message.as_deref(),
            Some("d2 and d1 are one machine, which has an earlier task")
        );
        registry.restart();
    }
    let said = told(&registry, EventKind::Task).await;
    assert_eq!(
        said.last().unwrap(),
        "t2 (reboot of d1) was cancelled: d2 and d1 are one machine, which has an earlier task"
    );
    let claimed = registry.claim_task(one, at(7)).await.unwrap().unwrap();
    assert_eq!(claimed.id, older);
    assert_eq!(registry.open_task(DeviceId(99)).await.unwrap(), None);
    assert_eq!(younger, TaskId(2));
}
