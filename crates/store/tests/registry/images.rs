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
async fn a_name_has_versions_and_is_no_id() {
    let registry = Registry::new();
    let first = image(&registry, "debian-12").await;
    let again = |name: &str, size| NewImage {
        name: name.parse().unwrap(),
        note: String::new(),
        origin: None,
        manifest: "cd".repeat(32),
        size,
        used: 1,
        stored: 1,
        sector_size: 512,
    };
    let later = registry
        .add_image(again("debian-12", 1), at(5))
        .await
        .unwrap();
    assert_eq!((first.version, later.version), (1, 2));
    for (text, meant) in [
        ("debian-12", &later),
        ("debian-12@1", &first),
        ("debian-12@2", &later),
        ("i1", &first),
    ] {
        assert_eq!(&registry.image(text).await.unwrap(), meant, "{text}");
    }
    for text in ["debian-12@3", "debian-12@", "debian-12@x", "@1"] {
        assert!(is_missing(&registry.image(text).await), "{text}");
    }
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
        [later.clone(), first.clone()]
    );
    registry.remove_image(first.id, at(6)).await.unwrap();
    assert!(is_missing(&registry.remove_image(first.id, at(6)).await));
    registry.remove_image(later.id, at(6)).await.unwrap();
    let third = registry
        .add_image(again("debian-12", 1), at(7))
        .await
        .unwrap();
    assert!(third.id > later.id, "an id is never given twice");
    assert_eq!(third.version, 3, "nor is a version");
}

#[tokio::test]
async fn versions_go_together_or_not_at_all() {
    let mut registry = Registry::new();
    let (first, second) = (
        image(&registry, "debian-12").await,
        image(&registry, "debian-12").await,
    );
    let gone = ImageId(99);
    let refused = registry.remove_images(vec![first.id, gone], at(5)).await;
    assert!(is_missing(&refused));
    registry.restart();
    assert_eq!(registry.images().await.unwrap().len(), 2, "none of them");
    registry
        .remove_images(vec![first.id, second.id], at(6))
        .await
        .unwrap();
    assert!(registry.images().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_note_can_be_changed_and_is_kept() {
    let mut registry = Registry::new();
    let id = image(&registry, "debian-12").await.id;
    let noted = registry
        .set_image_note(id, "with nginx".into(), at(5))
        .await
        .unwrap();
    assert_eq!(noted.note, "with nginx");
    registry.restart();
    assert_eq!(registry.image("debian-12@1").await.unwrap(), noted);
    assert!(is_missing(
        &registry
            .set_image_note(ImageId(9), String::new(), at(6))
            .await
    ));
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
            "image debian-12@1 (i1) was added: 2000 MB, 700 MB of them used",
            "image debian-12@1 (i1) is damaged: it is not deployed any more",
            "image debian-12@1 (i1) is whole",
            "image debian-12@1 (i1) was removed",
        ]
    );
}
