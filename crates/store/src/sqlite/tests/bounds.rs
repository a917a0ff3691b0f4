//! What could grow for ever does not.

use super::{Fixture, NOW, fixture, log, mac, observed};
use crate::sqlite::Limits;
use crate::{EventFilter, Registration, Sighting, Store, TaskFilter, TokenHash};
use bugler_model::{
    DeviceId, DevicePatch, Inventory, Netboot, NewTask, TaskAction, TaskId, Timestamp,
};
use uuid::Uuid;

#[test]
fn the_bounds_are_those_that_are_documented() {
    let Limits {
        macs,
        strangers,
        sessions,
        ended_tasks,
        events,
    } = Limits::default();
    assert_eq!((macs, strangers, sessions), (32, 10_000, 50));
    assert_eq!((ended_tasks, events), (10_000, 100_000));
}

#[tokio::test]
async fn of_the_devices_that_only_packets_told_of_the_oldest_are_forgotten() {
    let limits = Limits {
        strangers: 4,
        ..Limits::default()
    };
    let Fixture { store, .. } = &fixture(limits);
    let named = observed(store, 1, 1).await;
    let patch = DevicePatch {
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    store.patch_device(named, patch, NOW).await.unwrap();
    let asked = observed(store, 2, 2).await;
    store
        .create_tasks(
            vec![NewTask {
                device: asked,
                action: TaskAction::Reboot,
            }],
            NOW,
        )
        .await
        .unwrap();
    let agent = observed(store, 3, 3).await;
    let session = store.begin_session(agent, None, NOW).await.unwrap();
    let registration = Registration {
        device: agent,
        session,
        boot_mac: mac(3),
        address: None,
        inventory: Inventory::default(),
        agent_token: TokenHash([1; 32]),
    };
    store.register(registration, NOW).await.unwrap();
    for n in 10..=13 {
        observed(store, n, n.into()).await;
    }
    let mut listener = store.subscribe();
    let newest = observed(store, 14, 1).await;
    let left: Vec<u16> = (0..20)
        .filter(|n| store.find_client(mac(*n), None).is_some())
        .collect();
    assert_eq!(left, [1, 2, 3, 11, 12, 13, 14]);
    assert_eq!(listener.try_recv().unwrap().device, Some(newest));
    assert!(
        listener
            .try_recv()
            .unwrap()
            .text
            .starts_with("d4 was forgotten")
    );
    for n in 100..200 {
        observed(store, n, 1000).await;
    }
    assert_eq!(store.devices().await.unwrap().len(), 3 + 4);
    assert!(store.device(DeviceId(1)).await.is_ok());
}

#[tokio::test]
async fn a_device_keeps_the_latest_of_its_addresses() {
    let limits = Limits {
        macs: 3,
        ..Limits::default()
    };
    let Fixture { store, .. } = &fixture(limits);
    for n in 1..=5 {
        let uuid = Some(Uuid::from_u128(0x1234_5678_9abc_def0));
        let seen = Sighting {
            mac: mac(n),
            uuid,
            arch: None,
            firmware: None,
        };
        store.observe(seen, NOW).await.unwrap();
    }
    let devices = store.devices().await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].macs, [mac(5), mac(4), mac(3)]);
    assert!(store.find_client(mac(1), None).is_none());
}

#[tokio::test]
async fn the_oldest_ended_tasks_are_dropped_and_no_open_one() {
    let limits = Limits {
        ended_tasks: 3,
        ..Limits::default()
    };
    let Fixture { store, .. } = &fixture(limits);
    let waiting = observed(store, 1, 1).await;
    let device = observed(store, 2, 1).await;
    let make = |device| {
        store.create_tasks(
            vec![NewTask {
                device,
                action: TaskAction::Reboot,
            }],
            NOW,
        )
    };
    make(waiting).await.unwrap();
    for _ in 0..6 {
        let task = make(device).await.unwrap().remove(0);
        store.cancel_task(task.id, "operator", NOW).await.unwrap();
    }
    let left: Vec<TaskId> = store
        .tasks(TaskFilter::default())
        .await
        .unwrap()
        .iter()
        .map(|task| task.id)
        .collect();
    assert_eq!(left, [TaskId(7), TaskId(6), TaskId(5), TaskId(1)]);
}

#[tokio::test]
async fn the_oldest_events_are_dropped() {
    let limits = Limits {
        events: 10,
        ..Limits::default()
    };
    let Fixture { store, .. } = &fixture(limits);
    let texts = async || {
        let filter = EventFilter {
            limit: usize::MAX,
            ..EventFilter::default()
        };
        let events = store.events(filter).await.unwrap();
        events
            .into_iter()
            .map(|event| event.text)
            .collect::<Vec<_>>()
    };
    for n in 1..=99 {
        store
            .append_event(log(n.to_string()), Timestamp(n))
            .await
            .unwrap();
        assert!(
            texts().await.len() < 20,
            "at most as many again wait to be dropped"
        );
    }
    assert_eq!(
        *texts().await,
        (81..=99).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}
