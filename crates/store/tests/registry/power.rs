//! What switches devices.

use crate::common::{Registry, at, is_missing, mac, seen};
use bugler_model::{DeviceId, PowerDriver, PowerEntry, PowerRole};
use bugler_store::{EventFilter, Store};

fn ipmi(device: DeviceId, address: &str) -> PowerEntry {
    PowerEntry {
        device,
        role: PowerRole::Power,
        driver: PowerDriver::Ipmi {
            address: address.into(),
            user: "admin".into(),
            allow_v15: false,
        },
        sealed: Some(vec![1, 2, 3]),
        known: None,
    }
}

#[tokio::test]
async fn a_device_has_one_driver_a_role_and_they_outlive_a_restart() {
    let mut registry = Registry::new();
    let one = seen(&registry, mac(1), None).await.id;
    let two = seen(&registry, mac(2), None).await.id;
    let hard = PowerEntry {
        role: PowerRole::Hard,
        driver: PowerDriver::Command {
            program: "pdu".into(),
            arguments: vec!["7".into(), "{action}".into()],
            status: true,
            boot: false,
            timeout_s: 10,
        },
        sealed: None,
        ..ipmi(one, "")
    };
    registry.set_power(hard.clone(), at(1)).await.unwrap();
    registry
        .set_power(ipmi(one, "10.0.9.9"), at(2))
        .await
        .unwrap();
    registry
        .set_power(ipmi(one, "10.0.9.1"), at(3))
        .await
        .unwrap();
    registry
        .set_power(ipmi(two, "10.0.9.2"), at(4))
        .await
        .unwrap();
    registry.restart();
    let all = registry.power_entries(None).await.unwrap();
    assert_eq!(
        all,
        [ipmi(one, "10.0.9.1"), hard.clone(), ipmi(two, "10.0.9.2")]
    );
    assert_eq!(
        registry.power_entries(Some(one)).await.unwrap(),
        [ipmi(one, "10.0.9.1"), hard]
    );
    registry
        .remove_power(one, PowerRole::Hard, at(5))
        .await
        .unwrap();
    let again = registry.remove_power(one, PowerRole::Hard, at(6)).await;
    assert!(is_missing(&again), "{again:?}");
    registry.remove_device(two, at(7)).await.unwrap();
    assert_eq!(
        registry.power_entries(None).await.unwrap(),
        [ipmi(one, "10.0.9.1")]
    );
    let nobody = registry.set_power(ipmi(two, "10.0.9.2"), at(8)).await;
    assert!(is_missing(&nobody), "{nobody:?}");
    for event in registry.events(EventFilter::default()).await.unwrap() {
        assert!(!event.text.contains("[1, 2, 3]"), "{}", event.text);
    }
}

#[tokio::test]
async fn what_is_learned_is_kept_for_the_driver_that_was_asked() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let asked = ipmi(device, "10.0.9.1");
    registry.set_power(asked.clone(), at(1)).await.unwrap();
    let learned = PowerEntry {
        known: Some("suite 17".into()),
        ..asked
    };
    registry.learn_power(learned.clone()).await.unwrap();
    assert_eq!(
        registry.power_entries(Some(device)).await.unwrap(),
        std::slice::from_ref(&learned)
    );
    // It is another BMC by now.
    let other = ipmi(device, "10.0.9.2");
    registry.set_power(other.clone(), at(2)).await.unwrap();
    registry.learn_power(learned).await.unwrap();
    assert_eq!(registry.power_entries(Some(device)).await.unwrap(), [other]);
}
