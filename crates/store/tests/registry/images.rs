//! Images.

use crate::common::{Registry, at, image, is_conflict, is_missing, told};
use bugler_model::{EventKind, ImageId, ImageState, NewImage};
use bugler_store::Store;

#[tokio::test]
async fn an_image_is_found_by_id_and_by_name() {
    let mut registry = Registry::new();
    let zebra = image(&registry, "zebra").await;
    let debian = image(&registry, "debian-12").await;
    assert_eq!(
        (debian.id, debian.size, debian.used),
        (ImageId(2), 2_000_000_000, 700_000_000)
    );
    assert_eq!((debian.stored, debian.sector_size), (300_000_000, 512));
    assert_eq!((debian.state, debian.created), (ImageState::Good, at(4)));
    registry.restart();
    assert_eq!(registry.image("debian-12").await.unwrap(), debian);
    assert_eq!(registry.image("i2").await.unwrap(), debian);
    assert_eq!(registry.images().await.unwrap(), [debian, zebra], "by name");
    for missing in ["i3", "debian", "", "i99999999999999999999"] {
        assert!(is_missing(&registry.image(missing).await), "{missing:?}");
    }
}

#[tokio::test]
async fn a_name_is_one_image_s_and_no_id() {
    let registry = Registry::new();
    let first = image(&registry, "debian-12").await;
    let again = |name: &str, size| NewImage {
        name: name.parse().unwrap(),
        manifest: "cd".repeat(32),
        size,
        used: 1,
        stored: 1,
        sector_size: 512,
    };
    let taken = registry.add_image(again("debian-12", 1), at(5)).await;
    assert!(is_conflict(&taken));
    assert!(taken.unwrap_err().to_string().contains("(i1)"));
    assert!(is_conflict(
        &registry.add_image(again("i7", 1), at(5)).await
    ));
    assert!(
        registry
            .add_image(again("huge", u64::MAX), at(5))
            .await
            .is_err()
    );
    assert_eq!(
        registry.images().await.unwrap(),
        std::slice::from_ref(&first)
    );
    registry.remove_image(first.id, at(6)).await.unwrap();
    assert!(is_missing(&registry.remove_image(first.id, at(6)).await));
    let second = registry
        .add_image(again("debian-12", 1), at(7))
        .await
        .unwrap();
    assert_ne!(second.id, first.id, "an id is never given twice");
}

#[tokio::test]
async fn damage_is_kept_and_told_once() {
    let mut registry = Registry::new();
    let id = image(&registry, "debian-12").await.id;
    for state in [ImageState::Damaged, ImageState::Damaged, ImageState::Good] {
        registry.set_image_state(id, state, at(5)).await.unwrap();
        registry.restart();
        assert_eq!(registry.image("i1").await.unwrap().state, state);
    }
    registry.remove_image(id, at(6)).await.unwrap();
    assert!(is_missing(
        &registry.set_image_state(id, ImageState::Good, at(7)).await
    ));
    assert_eq!(
        told(&registry, EventKind::Image).await,
        [
            "image debian-12 (i1) was added: 2000 MB, 700 MB of them used",
            "image debian-12 (i1) is damaged: it is not deployed any more",
            "image debian-12 (i1) is whole",
            "image debian-12 (i1) was removed",
        ]
    );
}
