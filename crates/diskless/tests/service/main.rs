//! Machines run from an image that mke2fs made: what each sees, what is kept, what becomes a version.
//! That real machines boot so is shown by the lab.

mod bench;
mod boot;
mod full;

use bench::{Bench, KERNEL, MIB, block, disk, diskless, peer};
use bugler_api::{OverlayError, Overlays};
use bugler_disk::Durability;
use bugler_diskless::{NbdExports, Shared};
use bugler_model::{Diskless, DisklessStart, EventKind, OverlayKind, Timestamp};
use bugler_nbd::{Exports, Refusal};
use bugler_store::Store;
use std::fs;
use std::net::SocketAddr;

/// A place that the filesystem does not use.
const FREE: u64 = 12 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn each_machine_has_a_layer_of_its_own_and_finds_it_again() {
    let mut bench = Bench::new().await;
    bench.image("one").await;
    let (one, two) = (bench.device(1).await, bench.device(2).await);
    let wanted = diskless("debian");
    let first = bench.boot(&one, &wanted, "a").await;
    let start = first.start.unwrap();
    assert_eq!((start.arch, start.kernel.as_str()), ("x86_64", KERNEL));
    let root = first.root.unwrap();
    assert_eq!((root.part, root.kind), (0, "ext4"));
    let second = bench.boot(&two, &wanted, "b").await;
    assert_ne!(first.export.id, second.export.id);
    println!(
        "{} and {} run {}",
        first.export.id, second.export.id, first.export.label
    );

    let exports = NbdExports::new(bench.service.clone());
    for wrong in ["", "c", "A"] {
        assert_eq!(exports.open(wrong, &peer()).unwrap_err(), Refusal::Unknown);
    }
    let written = vec![7; 4096];
    disk(&exports, "a")
        .write(FREE, &written, Durability::Durable)
        .unwrap();
    assert_eq!(block(&*disk(&exports, "a"), FREE), written);
    assert_eq!(block(&*disk(&exports, "b"), FREE), vec![0; 4096]);

    // Another boot has another token. A firmware may fetch its script twice and run the first: for a
    // minute both are good, for this export alone.
    bench.boot(&one, &wanted, "a2").await;
    assert_eq!(block(&*disk(&exports, "a"), FREE), written);
    drop(exports);
    bench.restart().await;
    let exports = NbdExports::new(bench.service.clone());
    assert_eq!(block(&*disk(&exports, "a2"), FREE), written);
    assert!(exports.open("a", &peer()).is_err());
    println!("after a restart the machine reaches what it wrote, by the token of its latest boot");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_come_at_the_next_boot_and_going_back_finds_the_old_layer() {
    let bench = Bench::new().await;
    bench.image("one").await;
    let one = bench.device(1).await;
    bench.boot(&one, &diskless("debian"), "a").await;
    let exports = NbdExports::new(bench.service.clone());
    let running = disk(&exports, "a");
    running
        .write(FREE, &[1; 4096], Durability::Durable)
        .unwrap();
    bench.image("two").await;
    assert_eq!(block(&*running, FREE), [1; 4096], "it keeps its version");
    let update = bench.boot(&one, &diskless("debian"), "b").await;
    assert_eq!(update.export.label, "debian@2");
    assert_eq!(block(&*disk(&exports, "b"), FREE), [0; 4096]);
    running.read(FREE, &mut [0; 512]).unwrap_err();
    let back = bench.boot(&one, &diskless("debian@1"), "c").await;
    assert_eq!(back.export.label, "debian@1");
    assert_eq!(block(&*disk(&exports, "c"), FREE), [1; 4096]);

    let mut ephemeral = diskless("debian@1");
    ephemeral.overlay = OverlayKind::Ephemeral;
    bench.boot(&one, &ephemeral, "d").await;
    assert_eq!(block(&*disk(&exports, "d"), FREE), [0; 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_becomes_a_version_grows_and_is_forgotten() {
    let bench = Bench::new().await;
    let image = bench.image("one").await;
    let one = bench.device(1).await;
    let export = bench.boot(&one, &diskless("debian"), "a").await.export;
    let exports = NbdExports::new(bench.service.clone());
    let shown = exports.open("a", &peer()).unwrap();
    exports.attached("a", &peer(), &shown);
    let disk = shown.device();
    disk.write(FREE, &[5; 4096], Durability::Durable).unwrap();
    let overlays = Shared(bench.service.clone());
    let views = overlays.list().await.unwrap();
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].used, views[0].written), (4096, 4096));
    assert_eq!(views[0].clients, ["10.0.0.9:999"]);

    let name = || "debian".parse().unwrap();
    let refused = overlays
        .commit(export.id, name(), String::new(), false)
        .await;
    assert!(matches!(refused, Err(OverlayError::Conflict(_))), "it runs");
    assert!(overlays.reset(export.id, false).await.is_err());
    let made = overlays
        .commit(export.id, name(), "mine".into(), true)
        .await
        .unwrap();
    // One chunk differs from the base, and no other was stored.
    println!("{} bytes of new chunks", made.new);
    assert!((1..MIB).contains(&made.new));
    let manifest = made.image.manifest.parse().unwrap();
    let committed = bench.images.open_reader(&manifest).unwrap();
    let mut got = vec![0; 4096];
    bugler_fsread::ReadAt::read_at(&committed, FREE, &mut got).unwrap();
    assert_eq!(got, [5; 4096]);
    let (mut now, mut before) = (vec![0; 65536], vec![0; 65536]);
    bugler_fsread::ReadAt::read_at(&committed, 0, &mut now).unwrap();
    let base = bench.images.open_reader(&image.manifest.parse().unwrap());
    bugler_fsread::ReadAt::read_at(&base.unwrap(), 0, &mut before).unwrap();
    assert_eq!(now, before, "what was not written is as in the base");

    // 4 MiB are its quota.
    for place in 0..1023 {
        let offset = 4 * MIB + place * 4096;
        disk.write(offset, &[9; 4096], Durability::Cached).unwrap();
    }
    let full = disk.write(FREE + MIB, &[9; 4096], Durability::Cached);
    assert!(full.unwrap_err().to_string().contains("quota"));
    assert!(
        overlays.grow(export.id, MIB).await.is_err(),
        "it holds more"
    );
    overlays.grow(export.id, 8 * MIB).await.unwrap();
    disk.write(FREE + MIB, &[9; 4096], Durability::Cached)
        .unwrap();
    // What an operator gave stays when the machine boots again.
    bench.boot(&one, &diskless("debian"), "b").await;
    let views = overlays.list().await.unwrap();
    assert_eq!(views[0].export.overlay_size, 8 * MIB);

    overlays.reset(export.id, true).await.unwrap();
    assert!(overlays.list().await.unwrap().is_empty());
    disk.read(0, &mut [0; 512]).unwrap_err();
    assert!(
        !bench
            .dir
            .path()
            .join(format!("layers/{}.layer", export.id))
            .exists()
    );
    bench.boot(&one, &diskless("debian"), "c").await;
    let empty = exports.open("c", &peer()).unwrap();
    assert_eq!(block(&**empty.device(), FREE), [0; 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_with_the_reason() {
    let bench = Bench::new().await;
    let device = bench.device(1).await;
    let refused = async |wanted: Diskless| {
        let answer = bench
            .service
            .prepare(device.id, &wanted, "t", Timestamp(3))
            .await;
        answer.unwrap_err().to_string()
    };
    let text = refused(diskless("debian")).await;
    assert!(text.contains("debian"), "{text}");
    let image = bench.image("one").await;
    let mut own = diskless("debian");
    own.start = DisklessStart::Image;
    let text = refused(own).await;
    assert!(text.contains("no initramfs of its own"), "{text}");
    bench
        .store
        .set_image_state(image.id, bugler_model::ImageState::Damaged, Timestamp(4))
        .await
        .unwrap();
    let text = refused(diskless("debian")).await;
    assert!(text.contains("is damaged"), "{text}");
    let events = bench
        .store
        .events(bugler_store::EventFilter {
            kind: Some(EventKind::Boot),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(events.is_empty(), "nothing was begun: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_said_and_strays_are_removed() {
    let mut bench = Bench::new().await;
    bench.image("one").await;
    let one = bench.device(1).await;
    let export = bench.boot(&one, &diskless("debian"), "a").await.export;
    let layer = bench.dir.path().join(format!("layers/{}.layer", export.id));
    let stray = bench.dir.path().join("layers/x99.layer");
    fs::write(&stray, "left").unwrap();
    bench.restart().await;
    assert!(!stray.exists() && layer.exists());
    fs::write(&layer, "this is no layer at all").unwrap();
    let exports = NbdExports::new(bench.service.clone());
    let refused = exports.open("a", &peer());
    assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
    let views = Shared(bench.service.clone()).list().await.unwrap();
    let problem = views[0].problem.as_deref().unwrap();
    println!("{problem}");
    assert!(problem.contains("is no overlay"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_for_the_machine_that_was_told_its_name() {
    use bugler_nfs::Exports as _;
    let bench = Bench::new().await;
    bench.image("one").await;
    let (one, two) = (bench.device(1).await, bench.device(2).await);
    let mut wanted = diskless("debian");
    wanted.over = bugler_model::ExportProtocol::Nfs;
    let first = bench.boot(&one, &wanted, "a").await.export;
    bench.boot(&two, &wanted, "b").await;
    let exports = bugler_diskless::NfsExports::new(bench.service.clone());
    let machine = SocketAddr::from(([10, 0, 0, 9], 700));
    let open = |path: &str| exports.open(machine, path.as_bytes());
    let (own, other) = (open("/a").unwrap(), open("/b").unwrap());
    assert_ne!(own.root(), other.root());
    assert_eq!(own.id(), open("/a").unwrap().id());
    for wrong in ["/", "", "/c", "/a/etc"] {
        let status = open(wrong).unwrap_err();
        assert_eq!(status, bugler_nfs::MountStatus::NoEntry, "{wrong:?}");
    }
    // By a token of blocks no tree is reached, and the other way round.
    assert!(
        NbdExports::new(bench.service.clone())
            .open("a", &peer())
            .is_err()
    );
    assert!(exports.find(machine, own.id()).is_ok());
    bench.boot(&one, &diskless("debian"), "d").await;
    assert!(
        exports.find(machine, own.id()).is_err(),
        "it runs over NBD now"
    );
    let overlays = Shared(bench.service.clone());
    assert_eq!(overlays.list().await.unwrap().len(), 3);
    let refused = overlays
        .commit(first.id, "debian".parse().unwrap(), String::new(), true)
        .await;
    assert!(matches!(refused, Err(OverlayError::Conflict(_))));
    let folder = bench.dir.path().join(format!("layers/{}.tree", first.id));
    assert!(folder.is_dir());
    overlays.reset(first.id, true).await.unwrap();
    assert!(!folder.exists());
}
