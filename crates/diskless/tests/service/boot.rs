//! What machines are started with: boot files of Raspberry Pis, and kernels that nothing needs any more.

use crate::bench::{Bench, MIB, disk, diskless};
use bugler_api::Overlays;
use bugler_boot::pi::Request;
use bugler_disk::Durability;
use bugler_diskless::{NbdExports, Shared};
use bugler_model::{ExportProtocol, OverlayKind};
use bugler_pifiles::Found;
use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Writes a FAT volume with this `config.txt`, and returns its bytes.
fn boot_partition(bench: &Bench, config: &str) -> Vec<u8> {
    let path = |name: &str| bench.dir.path().join(name).to_str().unwrap().to_owned();
    let (volume, file) = (path("volume"), path("config"));
    let _ = fs::remove_file(&volume);
    File::create(&volume).unwrap().set_len(MIB).unwrap();
    run("mkfs.fat", &["-F", "12", "-i", "12345678", &volume]);
    fs::write(&file, config).unwrap();
    run("mcopy", &["-i", &volume, &file, "::config.txt"]);
    fs::read(&volume).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raspberry_pi_gets_the_boot_files_that_it_would_see_itself() {
    let bench = Bench::new().await;
    bench.image("one").await;
    let root = fs::read(bench.dir.path().join("disk")).unwrap();
    let first = boot_partition(&bench, "of the image");
    let image = bench.dir.path().join("pi.img");
    let file = File::create(&image).unwrap();
    file.set_len(20 * MIB).unwrap();
    drop(file);
    let table = "printf 'start=1MiB, size=1MiB, type=c\\nstart=2MiB, type=83\\n' \
                 | sfdisk --quiet --label dos \"$0\"";
    run("sh", &["-c", table, image.to_str().unwrap()]);
    let place = |bytes: &[u8], at: u64| {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    place(&first, MIB);
    place(&root, 2 * MIB);
    bench.add(&image).await;

    let pi = bench.device(1).await;
    let wanted = diskless("debian");
    let request = Request::parse("91cdf03d/config.txt").unwrap();
    let config = async |wanted: &bugler_model::Diskless, device| {
        let source = bench.service.boot_files(device, wanted).await.unwrap();
        match source.unwrap().find(&request).unwrap() {
            Some(Found::Bytes(bytes)) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(config(&wanted, None).await, "of the image");
    assert_eq!(config(&wanted, Some(pi.id)).await, "of the image");

    let ready = bench.boot(&pi, &wanted, "a").await;
    assert_eq!(ready.root.unwrap().part, 2);
    let exports = NbdExports::new(bench.service.clone());
    let changed = boot_partition(&bench, "of this board");
    disk(&exports, "a")
        .write(MIB, &changed, Durability::Durable)
        .unwrap();
    assert_eq!(config(&wanted, Some(pi.id)).await, "of this board");
    let other = bench.device(2).await;
    assert_eq!(config(&wanted, Some(other.id)).await, "of the image");
    // An ephemeral layer is empty at the next boot.
    let mut ephemeral = wanted.clone();
    ephemeral.overlay = OverlayKind::Ephemeral;
    assert_eq!(config(&ephemeral, Some(pi.id)).await, "of the image");

    bench.image("without a boot partition").await;
    assert!(
        bench
            .service
            .boot_files(Some(pi.id), &wanted)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kernels_that_no_machine_starts_are_removed() {
    let bench = Bench::new().await;
    bench.image("one").await;
    let (one, two) = (bench.device(1).await, bench.device(2).await);
    let wanted = diskless("debian");
    let start = bench.boot(&one, &wanted, "a").await.start.unwrap();
    bench.boot(&two, &wanted, "b").await;
    let arch = bench.dir.path().join("boot").join(start.arch);
    let old = arch.join("5.10.0-1-old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("vmlinuz"), "a kernel of long ago").unwrap();
    let hour = Duration::from_secs(3600);
    bench.service.prune_starts(hour);
    assert!(old.exists(), "the server has just started");
    bench.service.prune_starts(Duration::ZERO);
    assert!(!old.exists() && arch.join(&start.version).join("initrd").exists());

    let overlays = Shared(bench.service.clone());
    for view in overlays.list().await.unwrap() {
        bench.service.prune_starts(Duration::ZERO);
        assert!(arch.join(&start.version).exists(), "a machine starts it");
        overlays.reset(view.export.id, true).await.unwrap();
    }
    bench.service.prune_starts(Duration::ZERO);
    assert!(!arch.join(&start.version).exists());
    // It is made again when it is needed.
    bench.boot(&one, &wanted, "c").await;
    assert!(arch.join(&start.version).join("initrd").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_files_grows_and_stays_grown() {
    let mut bench = Bench::new().await;
    bench.image("one").await;
    let one = bench.device(1).await;
    let mut wanted = diskless("debian");
    wanted.over = ExportProtocol::Nfs;
    let export = bench.boot(&one, &wanted, "a").await.export;
    assert_eq!(export.overlay_size, 4 * MIB);
    let size = async |bench: &Bench| {
        let overlays = Shared(bench.service.clone());
        overlays.list().await.unwrap()[0].export.overlay_size
    };
    assert_eq!(size(&bench).await, 4 * MIB);
    let overlays = Shared(bench.service.clone());
    assert!(
        overlays.grow(export.id, 1000).await.is_err(),
        "it holds more"
    );
    overlays.grow(export.id, 9 * MIB).await.unwrap();
    drop(overlays);
    assert_eq!(size(&bench).await, 9 * MIB);
    // Also for who looks at it before it is opened again.
    bench.restart().await;
    assert_eq!(size(&bench).await, 9 * MIB);
    bench.boot(&one, &wanted, "b").await;
    assert_eq!(size(&bench).await, 9 * MIB);
}
