//! What diskless devices run from.

use crate::common::{Registry, at, image, is_conflict, is_missing, mac, seen};
use bugler_model::{DeviceId, ExportId, ExportProtocol, ImageId, NewExport, OverlayKind};
use bugler_store::{Store, TokenHash};

fn wanted(device: DeviceId, image: ImageId) -> NewExport {
    NewExport {
        device,
        image,
        over: ExportProtocol::Nbd,
        overlay: OverlayKind::Persistent,
        overlay_size: 1 << 30,
        durable: true,
        aoe_address: "e1.2".parse().unwrap(),
    }
}

#[tokio::test]
async fn a_device_has_one_export_a_version_and_finds_it_again() {
    let mut registry = Registry::new();
    let one = seen(&registry, mac(1), None).await;
    let two = seen(&registry, mac(2), None).await;
    let debian = image(&registry, "debian-12").await;
    let newer = image(&registry, "debian-12").await;
    let begin = async |registry: &Registry, device, image, token, now| {
        registry
            .begin_export(wanted(device, image), TokenHash([token; 32]), at(now))
            .await
            .unwrap()
    };
    let first = begin(&registry, one.id, debian.id, 1, 10).await;
    assert_eq!(
        (first.id, first.label.as_str()),
        (ExportId(1), "debian-12@1")
    );
    assert_eq!(first.manifest, debian.manifest);
    begin(&registry, two.id, debian.id, 2, 11).await;
    let update = begin(&registry, one.id, newer.id, 3, 12).await;
    assert_eq!((update.id, update.current), (ExportId(3), true));
    // Going back finds the layer of then.
    let back = begin(&registry, one.id, debian.id, 4, 13).await;
    assert_eq!(
        (back.id, back.created, back.booted),
        (first.id, at(10), at(13))
    );
    registry.restart();
    let all = registry.exports().await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|known| (known.export.id.0, known.export.current, known.token.0[0]))
        .collect();
    assert_eq!(told, [(1, true, 4), (3, false, 3), (2, true, 2)]);
    // Files are another layer than blocks.
    let mut files = wanted(one.id, debian.id);
    files.over = ExportProtocol::Nfs;
    let files = registry
        .begin_export(files, TokenHash([9; 32]), at(14))
        .await
        .unwrap();
    assert!(all.iter().all(|known| known.export.id != files.id));
    registry.remove_export(files.id, at(15)).await.unwrap();
    assert!(is_missing(&registry.remove_export(files.id, at(15)).await));
    let none = registry
        .begin_export(wanted(one.id, ImageId(77)), TokenHash([9; 32]), at(15))
        .await;
    assert!(is_missing(&none));
}

#[tokio::test]
async fn what_a_layer_stands_on_stays() {
    let registry = Registry::new();
    let device = seen(&registry, mac(1), None).await;
    let debian = image(&registry, "debian-12").await;
    let export = registry
        .begin_export(wanted(device.id, debian.id), TokenHash([1; 32]), at(9))
        .await
        .unwrap();
    let refused = registry.remove_image(debian.id, at(10)).await;
    assert!(is_conflict(&refused));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("lies under the layer of"), "{text}");
    let refused = registry.remove_device(device.id, at(10)).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("layer of its own that would be lost"),
        "{text}"
    );
    registry.remove_export(export.id, at(11)).await.unwrap();
    registry.remove_image(debian.id, at(12)).await.unwrap();
    registry.remove_device(device.id, at(12)).await.unwrap();
}
