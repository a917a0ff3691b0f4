//! Boot sessions and boot tokens.

use crate::common::{Registry, at, is_conflict, is_missing, mac, seen, token, told};
use bugler_model::{DeviceId, EventKind, Firmware, Outcome, Presence, SessionId, Stage};
use bugler_store::Store;

#[tokio::test]
async fn a_session_keeps_its_stages_in_the_order_they_were_reached() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let firmware = Some(Firmware::BiosPxe);
    let session = registry
        .begin_session(device, firmware, at(1000))
        .await
        .unwrap();
    for (stage, when) in [
        (Stage::Dhcp, 1000),
        (Stage::Loader, 1500),
        (Stage::Dhcp, 9000),
    ] {
        registry
            .reach_stage(session, stage, at(when))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        let open = registry.open_session(device).unwrap();
        assert_eq!(
            (open.id, open.device, open.firmware),
            (session, device, firmware)
        );
        assert_eq!((open.started, open.outcome), (at(1000), Outcome::Open));
        assert_eq!(
            open.stages,
            [(Stage::Dhcp, at(1000)), (Stage::Loader, at(1500))]
        );
        assert_eq!(
            registry.sessions(device, 5).await.unwrap(),
            [(*open).clone()]
        );
        registry.restart();
    }
    let known = registry.device(device).await.unwrap();
    assert_eq!(
        (known.firmware, known.presence),
        (firmware, Presence::Booting)
    );
    assert_eq!(
        told(&registry, EventKind::Boot).await,
        [
            "d1 began to boot (BIOS PXE)",
            "d1 asked for an address and a boot loader (0.0 s into its boot)",
            "d1 fetches its boot loader (0.5 s into its boot)",
        ]
    );
}

#[tokio::test]
async fn a_new_session_supersedes_the_open_one() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let first = registry.begin_session(device, None, at(1)).await.unwrap();
    let second = registry.begin_session(device, None, at(2)).await.unwrap();
    assert_eq!(registry.open_session(device).unwrap().id, second);
    let outcomes: Vec<_> = registry
        .sessions(device, 9)
        .await
        .unwrap()
        .iter()
        .map(|s| (s.id, s.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [(second, Outcome::Open), (first, Outcome::Superseded)]
    );
    assert_eq!(registry.sessions(device, 1).await.unwrap().len(), 1);
    assert!(registry.sessions(device, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_first_outcome_of_a_session_stands() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let session = registry.begin_session(device, None, at(1)).await.unwrap();
    assert!(is_conflict(
        &registry.end_session(session, Outcome::Open, at(2)).await
    ));
    registry
        .end_session(session, Outcome::Local, at(2))
        .await
        .unwrap();
    registry
        .end_session(session, Outcome::Registered, at(3))
        .await
        .unwrap();
    for _ in 0..2 {
        assert!(registry.open_session(device).is_none());
        assert_eq!(
            registry.sessions(device, 1).await.unwrap()[0].outcome,
            Outcome::Local
        );
        registry.restart();
    }
    // What was under way when it ended still belongs to it.
    registry
        .reach_stage(session, Stage::Local, at(4))
        .await
        .unwrap();
    assert!(registry.open_session(device).is_none());
    assert_eq!(
        registry.sessions(device, 1).await.unwrap()[0].stages,
        [(Stage::Local, at(4))]
    );
}

#[tokio::test]
async fn there_is_no_session_of_nobody() {
    let registry = Registry::new();
    assert!(is_missing(
        &registry.begin_session(DeviceId(1), None, at(1)).await
    ));
    let nowhere = SessionId(1);
    assert!(is_missing(
        &registry.reach_stage(nowhere, Stage::Dhcp, at(1)).await
    ));
    assert!(is_missing(
        &registry.end_session(nowhere, Outcome::Local, at(1)).await
    ));
    assert!(is_missing(
        &registry.set_boot_token(nowhere, token(1)).await
    ));
    assert!(
        registry
            .sessions(DeviceId(u64::MAX), 5)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_boot_token_is_good_for_three_boots() {
    let mut registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let session = registry.begin_session(device, None, at(1)).await.unwrap();
    // The firmware fetches its script twice: both stay good.
    registry.set_boot_token(session, token(1)).await.unwrap();
    registry.set_boot_token(session, token(2)).await.unwrap();
    registry.set_boot_token(session, token(2)).await.unwrap();
    for _ in 0..2 {
        registry.restart();
        for good in [token(1), token(2)] {
            assert_eq!(
                registry.boot_token(good).await.unwrap(),
                Some((device, session))
            );
        }
        registry.begin_session(device, None, at(2)).await.unwrap();
    }
    assert_eq!(
        registry.boot_token(token(1)).await.unwrap(),
        Some((device, session))
    );
    registry.begin_session(device, None, at(3)).await.unwrap();
    assert_eq!(registry.boot_token(token(1)).await.unwrap(), None);
    assert_eq!(registry.boot_token(token(9)).await.unwrap(), None);
}

#[tokio::test]
async fn the_boot_tokens_of_one_session_are_bounded() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let session = registry.begin_session(device, None, at(1)).await.unwrap();
    for n in 1..=17 {
        registry.set_boot_token(session, token(n)).await.unwrap();
    }
    assert_eq!(registry.boot_token(token(1)).await.unwrap(), None);
    assert_eq!(
        registry.boot_token(token(2)).await.unwrap(),
        Some((device, session))
    );
}

#[tokio::test]
async fn the_latest_fifty_sessions_are_kept() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    for n in 0..53 {
        registry.begin_session(device, None, at(n)).await.unwrap();
    }
    let kept = registry.sessions(device, usize::MAX).await.unwrap();
    assert_eq!(kept.len(), 50);
    assert_eq!(kept.last().unwrap().started, at(3));
}
