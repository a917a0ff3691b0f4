//! Leases.

use crate::common::{Registry, at, mac, seen, told};
use bugler_model::{EventKind, Lease, LeaseState, MacAddr, Timestamp};
use bugler_store::{EventFilter, Store};
use std::net::Ipv4Addr;

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
