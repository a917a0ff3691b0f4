//! Leases.

use crate::common::chain;
use crate::common::{Registry, at, mac, seen, told};
use bugler_model::{EventKind, Lease, LeaseState, MacAddr, NewEvent, Timestamp};
use bugler_store::{EventFilter, SqliteStore, Store};
use std::net::Ipv4Addr;
use std::path::PathBuf;

fn lease(last: u8, owner: MacAddr, state: LeaseState, expires: Timestamp) -> Lease {
    Lease {
        address: Ipv4Addr::new(192, 0, 2, last),
        mac: owner,
        client_id: Some(vec![0xff, 0, 1]),
        hostname: Some("pc-7".into()),
        state,
        expires,
    }
}

#[tokio::test]
async fn leases_come_back_as_they_were_written() {
    let mut registry = Registry::new();
    let plain = Lease {
        client_id: None,
        hostname: None,
        address: Ipv4Addr::new(255, 255, 255, 254),
        ..lease(0, mac(2), LeaseState::Released, at(i64::MAX))
    };
    let first = lease(10, mac(1), LeaseState::Bound, at(99));
    registry
        .commit_leases(vec![plain.clone(), first.clone()])
        .await
        .unwrap();
    registry.commit_leases(Vec::new()).await.unwrap();
    registry.restart();
    assert_eq!(
        registry.leases().await.unwrap(),
        [first.clone(), plain.clone()]
    );
    let later = Lease {
        mac: mac(3),
        expires: at(200),
        ..first
    };
    registry.commit_leases(vec![later.clone()]).await.unwrap();
    registry.restart();
    assert_eq!(
        registry.leases().await.unwrap(),
        [later, plain],
        "one for each address"
    );
}

/// Events of leases are not waited for, but stand in front of what is asked for later.
async fn behind_the_events(registry: &Registry) {
    let event = NewEvent::new(EventKind::Server, "later");
    registry.append_event(event, at(1)).await.unwrap();
}

#[tokio::test]
async fn a_change_is_told_and_a_renewal_is_not() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let zero = MacAddr([0; 6]);
    for given in [
        lease(10, mac(1), LeaseState::Bound, at(1)),
        lease(10, mac(1), LeaseState::Bound, at(2)),
        lease(10, mac(1), LeaseState::Released, at(3)),
        lease(10, mac(1), LeaseState::Declined, at(4)),
        lease(11, zero, LeaseState::Declined, at(4)),
    ] {
        registry.commit_leases(vec![given]).await.unwrap();
    }
    behind_the_events(&registry).await;
    assert_eq!(
        told(&registry, EventKind::Lease).await,
        [
            "192.0.2.10 was given to 52:54:00:00:00:01 (pc-7)",
            "192.0.2.10 was given back by 52:54:00:00:00:01 (pc-7)",
            "192.0.2.10 is in use by somebody else, says 52:54:00:00:00:01 (pc-7)",
            "192.0.2.11 is in use by somebody else: a probe was answered",
        ]
    );
    let filter = EventFilter {
        device: Some(device),
        ..EventFilter::default()
    };
    assert_eq!(
        registry.events(filter).await.unwrap().len(),
        4,
        "they are the device's events"
    );
}

/// A lease of address number `n`, as large as leases get in practice.
fn numbered(n: u32, expires: i64) -> Lease {
    let [a, b, c, d] = n.to_be_bytes();
    Lease {
        address: Ipv4Addr::from_bits(0x0a00_0000 + n),
        mac: MacAddr([2, 0, a, b, c, d]),
        client_id: Some(vec![7; 19]),
        hostname: Some(format!("machine-{n}")),
        state: LeaseState::Bound,
        expires: at(expires),
    }
}

fn files(registry: &Registry) -> Vec<String> {
    let folder = registry.path().parent().unwrap().to_owned();
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("-leases"))
        .collect();
    names.sort();
    names
}

fn file(registry: &Registry, name: &str) -> PathBuf {
    registry.path().with_file_name(name)
}

#[tokio::test]
async fn full_logs_are_compacted_and_nothing_is_lost() {
    let mut registry = Registry::new();
    assert!(files(&registry).is_empty(), "no lease, no file");
    // 20 MB of commits for 2,000 addresses: several logs and snapshots.
    for round in 0..100 {
        let leases = (0..2_000).map(|n| numbered(n, round)).collect();
        registry.commit_leases(leases).await.unwrap();
    }
    let expected: Vec<Lease> = (0..2_000).map(|n| numbered(n, 99)).collect();
    assert_eq!(registry.leases().await.unwrap(), expected);
    let there = files(&registry);
    assert!(
        there.contains(&"registry.sqlite-leases".to_owned()),
        "{there:?}"
    );
    assert!(there.len() <= 4, "{there:?}");
    registry.restart();
    assert_eq!(registry.leases().await.unwrap(), expected);
    assert_eq!(files(&registry), ["registry.sqlite-leases"]);
    let size = std::fs::metadata(file(&registry, "registry.sqlite-leases"))
        .unwrap()
        .len();
    assert!(size < 400_000, "{size}");
}

#[tokio::test]
async fn a_commit_that_was_cut_off_is_left_out_whole() {
    let mut registry = Registry::new();
    registry.commit_leases(vec![numbered(1, 1)]).await.unwrap();
    let log = file(&registry, "registry.sqlite-leases.1");
    let first = std::fs::read(&log).unwrap();
    registry
        .commit_leases((2..9).map(|n| numbered(n, 1)).collect())
        .await
        .unwrap();
    let second = std::fs::read(&log).unwrap();
    registry.close().await;
    // As if the machine had stopped in the middle of the second write.
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let cut = (end(&first) + end(&second)) / 2;
    let mut torn = first.clone();
    torn[..cut].copy_from_slice(&second[..cut]);
    std::fs::write(&log, torn).unwrap();
    registry.restart();
    assert_eq!(registry.leases().await.unwrap(), [numbered(1, 1)]);
    registry.commit_leases(vec![numbered(2, 5)]).await.unwrap();
    registry.restart();
    assert_eq!(
        registry.leases().await.unwrap(),
        [numbered(1, 1), numbered(2, 5)]
    );
}

#[tokio::test]
async fn a_crash_between_snapshot_and_removal_repeats_what_is_known() {
    let mut registry = Registry::new();
    registry.commit_leases(vec![numbered(1, 1)]).await.unwrap();
    registry.commit_leases(vec![numbered(1, 2)]).await.unwrap();
    let log = file(&registry, "registry.sqlite-leases.1");
    let kept = std::fs::read(&log).unwrap();
    registry.restart();
    assert!(!log.exists());
    registry.close().await;
    std::fs::write(&log, kept).unwrap();
    registry.restart();
    assert_eq!(registry.leases().await.unwrap(), [numbered(1, 2)]);
}

#[tokio::test]
async fn a_damaged_snapshot_is_said_and_not_overwritten() {
    let mut registry = Registry::new();
    registry.commit_leases(vec![numbered(1, 1)]).await.unwrap();
    registry.restart();
    registry.close().await;
    let snapshot = file(&registry, "registry.sqlite-leases");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&snapshot, &bytes).unwrap();
    let Err(error) = SqliteStore::open(registry.path()) else {
        panic!("it was opened")
    };
    let text = chain(&error);
    assert!(
        text.contains("could not read its leases")
            && text.contains("registry.sqlite-leases: it is damaged"),
        "{text}"
    );
    assert_eq!(std::fs::read(&snapshot).unwrap(), bytes);
}

#[tokio::test]
async fn a_flood_of_changes_is_told_by_its_number() {
    let registry = Registry::new();
    for round in 0..3u32 {
        let leases = (0..2_000).map(|n| numbered(n + round * 2_000, 1)).collect();
        registry.commit_leases(leases).await.unwrap();
    }
    behind_the_events(&registry).await;
    let told = told(&registry, EventKind::Lease).await;
    assert!(told.len() < 1_000, "{}", told.len());
    assert!(
        told.iter()
            .any(|text| text.contains("more addresses changed hands")),
        "{:?}",
        told.last()
    );
}
