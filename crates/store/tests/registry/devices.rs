//! Devices: seen, found, named, changed, forgotten.

use crate::common::{
    Registry, at, created, is_conflict, is_missing, mac, reboot, seen, sighting, token, told, uuid,
};
use bugler_model::{
    Arch, DeviceId, DevicePatch, EventKind, Firmware, MacAddr, Netboot, Presence, ProfileName,
    TaskState,
};
use bugler_store::{ResolveError, Sighting, Store};
use uuid::Uuid;

#[tokio::test]
async fn an_unknown_client_becomes_a_device() {
    let mut registry = Registry::new();
    assert!(registry.find_client(mac(1), Some(uuid(1))).is_none());
    let observed = registry
        .observe(sighting(mac(1), Some(uuid(1))), at(7))
        .await
        .unwrap();
    assert!(observed.new);
    registry.restart();
    let device = registry.find_client(mac(1), None).unwrap();
    assert_eq!(*device, *observed.device);
    assert_eq!(device.uuid, Some(uuid(1)));
    assert_eq!(device.macs, [mac(1)]);
    assert_eq!(device.arch, Some(Arch::X86_64));
    assert_eq!(device.firmware, Some(Firmware::UefiPxe));
    assert_eq!((device.created, device.seen), (at(7), at(7)));
    assert_eq!(device.presence, Presence::Booting);
    assert_eq!(device.netboot, Netboot::On);
    assert_eq!(
        told(&registry, EventKind::Device).await,
        ["d1 was seen for the first time: 52:54:00:00:00:01 (UEFI PXE, x86-64)"]
    );
}

#[tokio::test]
async fn a_client_is_found_by_mac_first_and_then_by_uuid() {
    let registry = Registry::new();
    let one = seen(&registry, mac(1), Some(uuid(1))).await;
    let two = seen(&registry, mac(2), Some(uuid(2))).await;
    assert_ne!(one.id, two.id);
    let found = |mac, uuid| registry.find_client(mac, uuid).map(|device| device.id);
    assert_eq!(found(mac(1), Some(uuid(2))), Some(one.id));
    assert_eq!(found(mac(9), Some(uuid(2))), Some(two.id));
    assert_eq!(found(mac(9), Some(uuid(9))), None);
    assert_eq!(found(mac(9), None), None);
}

#[tokio::test]
async fn another_interface_of_a_known_uuid_is_the_same_machine() {
    let mut registry = Registry::new();
    let one = seen(&registry, mac(1), Some(uuid(1))).await;
    let observed = registry
        .observe(sighting(mac(2), Some(uuid(1))), at(8))
        .await
        .unwrap();
    assert!(!observed.new);
    assert_eq!(observed.device.id, one.id);
    assert_eq!(
        observed.device.macs,
        [mac(2), mac(1)],
        "the one it booted from last is first"
    );
    registry.restart();
    assert_eq!(
        registry.find_client(mac(2), None).unwrap().macs,
        [mac(2), mac(1)]
    );
    let again = seen(&registry, mac(1), Some(uuid(1))).await;
    assert_eq!(again.macs, [mac(1), mac(2)]);
}

#[tokio::test]
async fn a_filler_uuid_is_no_identity() {
    let registry = Registry::new();
    for filler in [
        Uuid::nil(),
        Uuid::max(),
        "03000200-0400-0500-0006-000700080009".parse().unwrap(),
    ] {
        let before = registry.devices().await.unwrap().len();
        let last = u8::try_from(2 * before + 1).unwrap();
        let one = seen(&registry, mac(last), Some(filler)).await;
        let two = seen(&registry, mac(last + 1), Some(filler)).await;
        assert_ne!(one.id, two.id, "{filler}");
        assert_eq!((one.uuid, two.uuid), (None, None), "{filler}");
        assert!(registry.find_client(mac(99), Some(filler)).is_none());
    }
}

#[tokio::test]
async fn no_device_is_made_of_a_group_or_empty_address() {
    let registry = Registry::new();
    for bad in [
        MacAddr([0; 6]),
        MacAddr([0xff; 6]),
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
    ] {
        assert!(
            is_conflict(&registry.observe(sighting(bad, None), at(1)).await),
            "{bad}"
        );
    }
    assert!(registry.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_firmware_that_began_a_boot_stays_until_the_next() {
    let registry = Registry::new();
    let by = |firmware| Sighting {
        firmware: Some(firmware),
        ..sighting(mac(1), None)
    };
    let observe = async |firmware| registry.observe(by(firmware), at(1)).await.unwrap().device;
    observe(Firmware::UefiPxe).await;
    let chained = observe(Firmware::IpxeUefi).await;
    assert_eq!(chained.firmware, Some(Firmware::UefiPxe));
    registry
        .set_presence(chained.id, Presence::Agent, at(2))
        .await
        .unwrap();
    let rom = observe(Firmware::IpxeUefi).await;
    assert_eq!(
        rom.firmware,
        Some(Firmware::IpxeUefi),
        "a new boot, begun by iPXE in ROM"
    );
    assert_eq!(rom.presence, Presence::Booting);
}

#[tokio::test]
async fn a_sighting_without_firmware_leaves_a_running_agent_alone() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    registry
        .set_presence(device.id, Presence::Agent, at(2))
        .await
        .unwrap();
    let lease = Sighting {
        firmware: None,
        ..sighting(mac(1), None)
    };
    let observed = registry.observe(lease, at(3)).await.unwrap();
    assert_eq!(observed.device.presence, Presence::Agent);
    assert_eq!(observed.device.seen, at(3));
}

#[tokio::test]
async fn a_sighting_that_tells_nothing_new_costs_no_commit() {
    let registry = Registry::new();
    seen(&registry, mac(1), Some(uuid(1))).await;
    let commits = registry.commits();
    let observed = registry
        .observe(sighting(mac(1), Some(uuid(1))), at(50))
        .await
        .unwrap();
    assert_eq!(observed.device.seen, at(50));
    assert_eq!(registry.commits(), commits);
}

#[tokio::test]
async fn what_a_device_is_told_survives_a_restart() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    let patch = DevicePatch {
        name: Some(" pc-7 ".into()),
        add_tags: vec!["rack-2".into(), "lab".into(), "lab".into()],
        netboot: Some(Netboot::Once),
        profile: Some("local".into()),
        next: Some("agent".into()),
        secure_boot: Some(true),
        ..DevicePatch::default()
    };
    let patched = registry
        .patch_device(device.id, patch, at(2))
        .await
        .unwrap();
    assert_eq!(patched.name.as_deref(), Some("pc-7"));
    assert_eq!(patched.tags, ["lab", "rack-2"]);
    assert_eq!(
        (patched.netboot, &patched.profile, &patched.next),
        (
            Netboot::Once,
            &Some(ProfileName::local()),
            &Some(ProfileName::agent())
        )
    );
    registry.restart();
    assert_eq!(registry.device(device.id).await.unwrap(), patched);
    let patch = DevicePatch {
        name: Some(String::new()),
        remove_tags: vec!["lab".into()],
        ..DevicePatch::default()
    };
    let patched = registry
        .patch_device(device.id, patch, at(3))
        .await
        .unwrap();
    assert_eq!((&patched.name, patched.label()), (&None, "d1".into()));
    assert_eq!(patched.tags, ["rack-2"]);
    assert_eq!(
        patched.netboot,
        Netboot::Once,
        "what a patch does not name stays"
    );
    assert_eq!(
        told(&registry, EventKind::Device).await[1..],
        [
            "d1 is now called pc-7",
            "pc-7 is now tagged lab, rack-2",
            "pc-7 boots local when nothing else is asked of it",
            "pc-7 boots agent the next time, once",
            "pc-7 is offered signed programs alone",
            "pc-7 boots from the network once more, then its local disk",
            "pc-7 has no name any more: it is d1",
            "d1 is now tagged rack-2",
        ]
    );
}

#[tokio::test]
async fn a_name_is_one_device_s_and_no_other_s() {
    let registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let rename = async |id, name: &str| {
        let patch = DevicePatch {
            name: Some(name.into()),
            ..DevicePatch::default()
        };
        registry.patch_device(id, patch, at(2)).await
    };
    rename(one, "pc-7").await.unwrap();
    rename(one, "pc-7").await.unwrap();
    assert!(is_conflict(&rename(two, "pc-7").await));
    let uuid = uuid(1).to_string();
    for bad in [
        "d9",
        "52:54:00:00:00:09",
        &uuid,
        "a\nb",
        "a,b",
        &"n".repeat(65),
    ] {
        assert!(is_conflict(&rename(two, bad).await), "{bad:?}");
    }
    assert_eq!(registry.device(two).await.unwrap().name, None);
    rename(one, "").await.unwrap();
    rename(two, "pc-7").await.unwrap();
    assert!(is_missing(&rename(DeviceId(99), "x").await));
    assert!(is_missing(&rename(DeviceId(u64::MAX), "y").await));
}

#[tokio::test]
async fn tags_are_bounded() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let tag = async |tags: Vec<String>| {
        let patch = DevicePatch {
            add_tags: tags,
            ..DevicePatch::default()
        };
        registry.patch_device(device, patch, at(2)).await
    };
    assert!(is_conflict(&tag(vec!["t".repeat(65)]).await));
    assert!(is_conflict(&tag(vec![" ".into()]).await));
    assert!(is_conflict(
        &tag((0..65).map(|n| n.to_string()).collect()).await
    ));
    tag((0..64).map(|n| n.to_string()).collect()).await.unwrap();
}

#[tokio::test]
async fn a_patch_that_changes_nothing_is_no_event() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let patch = DevicePatch {
        netboot: Some(Netboot::On),
        ..DevicePatch::default()
    };
    registry.patch_device(device, patch, at(2)).await.unwrap();
    assert_eq!(told(&registry, EventKind::Device).await.len(), 1);
}

#[tokio::test]
async fn a_person_finds_a_device_by_whatever_they_know() {
    let registry = Registry::new();
    for n in 1..=12 {
        seen(&registry, mac(n), Some(uuid(n))).await;
    }
    for (id, name) in [(3, "pc-1"), (4, "pc-10"), (5, "printer")] {
        let patch = DevicePatch {
            name: Some(name.into()),
            ..DevicePatch::default()
        };
        registry
            .patch_device(DeviceId(id), patch, at(2))
            .await
            .unwrap();
    }
    let uuid_7 = uuid(7).to_string();
    for (text, id) in [
        ("d1", 1),
        (" d12 ", 12),
        ("pc-1", 3),
        ("pri", 5),
        ("52:54:00:00:00:06", 6),
        ("52-54-00-00-00-0A", 10),
        ("01-52-54-00-00-00-0b", 11),
        (&uuid_7, 7),
        (&uuid_7.to_uppercase(), 7),
    ] {
        assert_eq!(
            registry.resolve_device(text).await.unwrap().id,
            DeviceId(id),
            "{text:?}"
        );
    }
    for text in ["", "d", "d99", "52", "nobody", "d525"] {
        let found = registry.resolve_device(text).await;
        assert!(
            matches!(found, Err(ResolveError::Unknown(_))),
            "{text:?}: {found:?}"
        );
    }
    for (text, most) in [("pc", 2), ("52:54:00", 10), ("4c4c4544", 10)] {
        match registry.resolve_device(text).await {
            Err(ResolveError::Ambiguous { candidates, .. }) => {
                assert_eq!(candidates.len(), most, "{text:?}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    registry.remove_device(DeviceId(1), at(3)).await.unwrap();
    let gone = registry.resolve_device("d1").await;
    assert!(
        matches!(gone, Err(ResolveError::Unknown(_))),
        "d1 is not d10: {gone:?}"
    );
    let unique = registry
        .resolve_device("5254 0000 000c".replace(' ', "").as_str())
        .await;
    assert_eq!(unique.unwrap().id, DeviceId(12));
}

#[tokio::test]
async fn a_device_is_forgotten_with_its_sessions_and_ended_tasks() {
    let mut registry = Registry::new();
    let device = crate::common::registered(&registry, None, &[mac(1)], token(1))
        .await
        .id;
    let task = created(&registry, reboot(device)).await;
    let refused = registry.remove_device(device, at(6)).await;
    assert!(is_conflict(&refused));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("t1 (reboot of d1)")
    );
    registry
        .cancel_task(task.id, "operator", at(7))
        .await
        .unwrap();
    registry.remove_device(device, at(8)).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            registry.restart();
        }
        assert!(registry.find_client(mac(1), None).is_none());
        assert!(registry.agent_token(token(1)).is_none());
        assert!(is_missing(&registry.device(device).await));
        assert!(is_missing(&registry.task(task.id).await));
        assert!(registry.sessions(device, 10).await.unwrap().is_empty());
    }
    assert!(is_missing(&registry.remove_device(device, at(9)).await));
    assert_eq!(
        told(&registry, EventKind::Device).await.last().unwrap(),
        "d1 was removed"
    );
    let next = seen(&registry, mac(1), None).await;
    assert_ne!(next.id, device, "an id is never given twice");
    assert_eq!(
        TaskState::Queued,
        created(&registry, reboot(next.id)).await.state
    );
}

#[tokio::test]
async fn presence_is_kept_and_told_once() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    for _ in 0..2 {
        registry
            .set_presence(device, Presence::Lost, at(90))
            .await
            .unwrap();
    }
    registry.restart();
    let lost = registry.device(device).await.unwrap();
    assert_eq!(lost.presence, Presence::Lost);
    assert_eq!(lost.seen, at(1), "silence is not a sign of life");
    registry
        .set_presence(device, Presence::Agent, at(91))
        .await
        .unwrap();
    assert_eq!(registry.device(device).await.unwrap().seen, at(91));
    assert!(is_missing(
        &registry
            .set_presence(DeviceId(9), Presence::Lost, at(1))
            .await
    ));
    assert_eq!(
        told(&registry, EventKind::Device).await[1..],
        [
            "d1 has gone silent: its agent is not heard any more",
            "d1 runs its agent"
        ]
    );
}

#[tokio::test]
async fn a_touch_is_seen_at_once_and_written_when_the_server_stops() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let commits = registry.commits();
    registry.touch(device, Some([10, 0, 0, 5].into()), at(500));
    registry.touch(device, None, at(400));
    registry.touch(DeviceId(77), None, at(500));
    let touched = registry.device(device).await.unwrap();
    assert_eq!(
        (touched.seen, touched.address),
        (at(500), Some([10, 0, 0, 5].into()))
    );
    assert_eq!(registry.commits(), commits, "no commit for it");
    // A change that reads the older row from the disk does not take the touch back.
    registry
        .set_presence(device, Presence::Agent, at(3))
        .await
        .unwrap();
    assert_eq!(registry.device(device).await.unwrap().seen, at(500));
    registry.restart();
    let touched = registry.device(device).await.unwrap();
    assert_eq!(
        (touched.seen, touched.address),
        (at(500), Some([10, 0, 0, 5].into()))
    );
}
