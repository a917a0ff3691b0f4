//! Whose turn it is, and what captures make.

use crate::common::{Registry, at, created, deploy, image, mac, reboot, seen};
use bugler_model::{
    Capture, DeviceId, DiskRule, NewImage, NewTask, Presence, TaskAction, TaskState, Unclean,
};
use bugler_store::{Claim, Store};

/// Makes the device's agent known, so that it counts as one who waits.
async fn agent_there(registry: &Registry, device: DeviceId) {
    let presence = Presence::Agent;
    registry
        .set_presence(device, presence, at(5))
        .await
        .unwrap();
}

#[tokio::test]
async fn at_most_so_many_are_handed_out_and_the_oldest_first() {
    let registry = Registry::new();
    let image = image(&registry, "debian").await;
    let mut devices = Vec::new();
    for number in 1..=4 {
        let device = seen(&registry, mac(number), None).await.id;
        agent_there(&registry, device).await;
        let task = created(&registry, deploy(device, &image)).await;
        devices.push((device, task.id));
    }
    let claim = async |index: usize| {
        let device: (DeviceId, _) = devices[index];
        registry.claim_in_turn(device.0, 2, at(7)).await.unwrap()
    };
    let not_yet = |index: usize| Claim::NotYet(devices[index].1);
    // Two older ones are there and ask as well.
    assert_eq!(claim(2).await, not_yet(2));
    let message = registry.task(devices[2].1).await.unwrap().message.unwrap();
    assert!(message.contains("waits for its turn"), "{message}");
    assert!(matches!(claim(1).await, Claim::Task(_)));
    assert!(matches!(claim(0).await, Claim::Task(_)));
    assert_eq!(claim(3).await, not_yet(3));
    assert_eq!(claim(2).await, not_yet(2));
    // Handed out again, whatever the number.
    assert!(matches!(claim(0).await, Claim::Task(task) if task.attempts == 2));
    // One that is lost does not count, and what waits goes by age.
    let lost = Presence::Lost;
    registry
        .set_presence(devices[1].0, lost, at(8))
        .await
        .unwrap();
    assert_eq!(claim(3).await, not_yet(3));
    let Claim::Task(task) = claim(2).await else {
        panic!("its turn");
    };
    assert_eq!((task.state, task.message), (TaskState::Claimed, None));
    registry
        .cancel_task(devices[0].1, "a test", at(9))
        .await
        .unwrap();
    assert!(matches!(claim(3).await, Claim::Task(_)));
    assert_eq!(claim(0).await, Claim::Nothing);
}

#[tokio::test]
async fn a_capture_makes_one_image_and_keeps_it_while_it_is_open() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await.id;
    let action = TaskAction::Capture(Capture {
        image_name: "pc".parse().unwrap(),
        note: String::new(),
        disk: DiskRule::Auto,
        partition: None,
        whole: false,
        unclean: Unclean::Whole,
        limit_rate: None,
    });
    let task = created(&registry, NewTask { device, action }).await;
    assert_eq!(registry.captured(task.id).await.unwrap(), None);
    let image = NewImage {
        name: "pc".parse().unwrap(),
        note: "n".into(),
        origin: None,
        manifest: "0".repeat(64),
        size: 1 << 20,
        used: 0,
        stored: 0,
        sector_size: 512,
    };
    let made = registry
        .add_captured(task.id, image.clone(), at(7))
        .await
        .unwrap();
    let again = registry
        .add_captured(task.id, image.clone(), at(8))
        .await
        .unwrap();
    assert_eq!((made.id, made.version), (again.id, 1));
    assert_eq!(
        registry.captured(task.id).await.unwrap().unwrap().id,
        made.id
    );
    let refused = registry.remove_image(made.id, at(9)).await.unwrap_err();
    assert!(refused.to_string().contains("needed by task"), "{refused}");
    registry
        .cancel_task(task.id, "a test", at(9))
        .await
        .unwrap();
    let other = created(&registry, reboot(device)).await;
    let refused = registry
        .add_captured(other.id, image, at(11))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("no open capture"), "{refused}");
}
