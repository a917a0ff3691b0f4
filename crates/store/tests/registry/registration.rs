//! An agent registers: which device that is, and what becomes of others.

use crate::common::{
    Registry, at, created, is_missing, mac, reboot, registered, registration, seen, token, told,
    uuid,
};
use bugler_model::{
    DeviceId, DevicePatch, EventKind, MacAddr, Netboot, Outcome, Presence, SessionId, Stage,
};
use bugler_store::{AgentAuth, Store};

/// When an agent that was heard at the beginning of a test is not taken to be running any more.
const SILENT: i64 = 40_000;

#[tokio::test]
async fn an_agent_registers_its_machine() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let session = registry.begin_session(device, None, at(2)).await.unwrap();
    let patch = DevicePatch {
        netboot: Some(Netboot::Once),
        ..DevicePatch::default()
    };
    registry.patch_device(device, patch, at(2)).await.unwrap();
    let macs = [mac(1), mac(2)];
    let what = registration(device, session, Some(uuid(1)), &macs, token(1));
    let back = registry.register(what, at(3)).await.unwrap();
    registry.restart();
    assert_eq!(registry.device(device).await.unwrap(), back);
    assert_eq!(back.macs, macs);
    assert_eq!(back.uuid, Some(uuid(1)));
    assert_eq!(back.presence, Presence::Agent);
    assert_eq!(back.netboot, Netboot::Off, "once is over");
    assert_eq!(back.address, Some([10, 0, 0, 9].into()));
    assert_eq!(
        back.inventory.as_ref().unwrap().vendor.as_deref(),
        Some("Acme")
    );
    assert_eq!(registry.find_client(mac(2), None).unwrap().id, device);
    assert_eq!(
        registry.agent_token(token(1)),
        Some(AgentAuth { device, session })
    );
    assert!(registry.open_session(device).is_none());
    let boot = registry.sessions(device, 1).await.unwrap().remove(0);
    assert_eq!(boot.outcome, Outcome::Registered);
    assert_eq!(boot.stages, [(Stage::Registered, at(3))]);
    let told = told(&registry, EventKind::Device).await;
    assert!(
        told.iter()
            .any(|text| text.starts_with("d1 registered: Acme Anvil 3, ")),
        "{told:?}"
    );
}

#[tokio::test]
async fn netboot_on_stays_on() {
    let registry = Registry::new();
    let device = registered(&registry, None, &[mac(1)], token(1)).await;
    assert_eq!(device.netboot, Netboot::On);
}

#[tokio::test]
async fn a_later_registration_replaces_the_token() {
    let mut registry = Registry::new();
    let device = registered(&registry, None, &[mac(1)], token(1)).await.id;
    registered(&registry, None, &[mac(1)], token(2)).await;
    for _ in 0..2 {
        assert_eq!(registry.agent_token(token(1)), None);
        assert_eq!(registry.agent_token(token(2)).unwrap().device, device);
        assert_eq!(registry.agent_token(token(3)), None);
        registry.restart();
    }
}

#[tokio::test]
async fn devices_made_for_other_interfaces_are_merged() {
    let mut registry = Registry::new();
    let by_mac = seen(&registry, mac(2), None).await.id;
    let by_uuid = seen(&registry, mac(3), Some(uuid(1))).await.id;
    let device = seen(&registry, mac(1), None).await.id;
    let patch = DevicePatch {
        name: Some("pc-7".into()),
        add_tags: vec!["lab".into()],
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    registry.patch_device(by_mac, patch, at(2)).await.unwrap();
    let old_boot = registry.begin_session(by_uuid, None, at(2)).await.unwrap();
    let task = created(&registry, reboot(by_uuid)).await.id;
    let session = registry.begin_session(device, None, at(3)).await.unwrap();
    let what = registration(device, session, Some(uuid(1)), &[mac(1), mac(2)], token(1));
    registry.register(what, at(4)).await.unwrap();
    for _ in 0..2 {
        let all = registry.devices().await.unwrap();
        assert_eq!(all.len(), 1);
        let one = &all[0];
        assert_eq!(one.id, device);
        assert_eq!(one.macs, [mac(1), mac(2), mac(3)]);
        assert_eq!(
            (one.uuid, one.name.as_deref()),
            (Some(uuid(1)), Some("pc-7"))
        );
        assert_eq!(
            (&*one.tags, one.netboot),
            (&["lab".to_owned()][..], Netboot::Off)
        );
        assert_eq!(one.open_tasks, 1);
        assert_eq!(registry.task(task).await.unwrap().device, device);
        for n in 1..=3 {
            assert_eq!(registry.find_client(mac(n), None).unwrap().id, device);
        }
        for gone in [by_mac, by_uuid] {
            assert!(is_missing(&registry.device(gone).await));
            assert!(registry.open_session(gone).is_none());
        }
        let boots: Vec<_> = registry.sessions(device, 9).await.unwrap();
        assert_eq!(
            boots.iter().map(|b| (b.id, b.outcome)).collect::<Vec<_>>(),
            [
                (session, Outcome::Registered),
                (old_boot, Outcome::Superseded)
            ]
        );
        registry.restart();
    }
}

#[tokio::test]
async fn a_known_machine_with_a_new_interface_stays_the_machine_it_was() {
    let registry = Registry::new();
    let known = registered(&registry, Some(uuid(1)), &[mac(1)], token(1))
        .await
        .id;
    // The firmware of the new card tells no UUID: it looks like a new machine until the agent.
    let stranger = seen(&registry, mac(2), None).await.id;
    let session = registry.begin_session(stranger, None, at(5)).await.unwrap();
    registry.set_boot_token(session, token(7)).await.unwrap();
    let what = registration(stranger, session, Some(uuid(1)), &[mac(2)], token(2));
    let back = registry.register(what, at(SILENT)).await.unwrap();
    assert_eq!(back.id, known);
    assert_eq!(back.macs, [mac(2), mac(1)]);
    assert!(is_missing(&registry.device(stranger).await));
    assert_eq!(
        registry.agent_token(token(2)),
        Some(AgentAuth {
            device: known,
            session
        })
    );
    assert_eq!(registry.agent_token(token(1)), None);
    assert_eq!(
        registry.boot_token(token(7)).await.unwrap(),
        Some((known, session))
    );
}

#[tokio::test]
async fn a_borrowed_interface_does_not_make_two_machines_one() {
    let registry = Registry::new();
    let one = registered(&registry, Some(uuid(1)), &[mac(1)], token(1))
        .await
        .id;
    let two = registered(&registry, Some(uuid(2)), &[mac(2)], token(2))
        .await
        .id;
    // Machine two boots from the adapter that was in machine one.
    let session = registry.begin_session(one, None, at(5)).await.unwrap();
    let what = registration(one, session, Some(uuid(2)), &[mac(1), mac(2)], token(3));
    let back = registry.register(what, at(6)).await.unwrap();
    assert_eq!(
        back.id, two,
        "the UUID of its board says which machine it is"
    );
    assert_eq!(back.macs, [mac(1), mac(2)]);
    let other = registry.device(one).await.unwrap();
    assert!(other.macs.is_empty());
    assert_eq!(other.uuid, Some(uuid(1)));
    assert!(registry.open_session(one).is_none());
    assert_eq!(registry.find_client(mac(1), None).unwrap().id, two);
}

#[tokio::test]
async fn an_interface_that_moved_is_taken_from_the_machine_it_was_in() {
    let mut registry = Registry::new();
    let one = registered(&registry, Some(uuid(1)), &[mac(1), mac(9)], token(1))
        .await
        .id;
    let two = registered(&registry, Some(uuid(2)), &[mac(2), mac(9)], token(2))
        .await
        .id;
    for _ in 0..2 {
        assert_eq!(registry.device(one).await.unwrap().macs, [mac(1)]);
        assert_eq!(registry.device(two).await.unwrap().macs, [mac(2), mac(9)]);
        assert_eq!(registry.find_client(mac(9), None).unwrap().id, two);
        assert_eq!(registry.agent_token(token(1)).unwrap().device, one);
        registry.restart();
    }
}

#[tokio::test]
async fn machines_that_share_a_filler_uuid_stay_apart() {
    let registry = Registry::new();
    let filler = "03000200-0400-0500-0006-000700080009".parse().ok();
    let one = registered(&registry, filler, &[mac(1)], token(1)).await;
    let two = registered(&registry, filler, &[mac(2)], token(2)).await;
    assert_ne!(one.id, two.id);
    assert_eq!(one.uuid, None);
}

#[tokio::test]
async fn macs_are_bounded_and_only_those_of_machines_count() {
    let registry = Registry::new();
    let mut macs: Vec<MacAddr> = (1..=40).map(mac).collect();
    macs.insert(1, MacAddr([0xff; 6]));
    let device = registered(&registry, None, &macs, token(1)).await;
    assert_eq!(device.macs, (1..=32).map(mac).collect::<Vec<_>>());
    assert!(registry.find_client(mac(33), None).is_none());
}

#[tokio::test]
async fn a_registration_needs_its_device_and_its_session() {
    let registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let session = registry.begin_session(two, None, at(2)).await.unwrap();
    for (device, session) in [
        (one, session),
        (DeviceId(99), session),
        (two, SessionId(99)),
        (one, SessionId(u64::MAX)),
    ] {
        let what = registration(device, session, None, &[mac(1)], token(1));
        assert!(
            is_missing(&registry.register(what, at(3)).await),
            "{device} {session}"
        );
    }
    assert_eq!(
        registry.agent_token(token(1)),
        None,
        "nothing of it happened"
    );
    assert_eq!(
        registry.device(one).await.unwrap().presence,
        Presence::Booting
    );
}
