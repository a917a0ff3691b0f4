//! A server's state folder, with an image and machines.

use bugler_disk::BlockDevice;
use bugler_diskless::{NbdExports, Parts, PrepareError, Ready, Service, StartError, Starts};
use bugler_images::{AddOptions, ChunkStore};
use bugler_model::{Arch, Device, Diskless, Image, MacAddr, NewImage, Timestamp};
use bugler_nbd::{Exports, Peer};
use bugler_store::{Sighting, SqliteStore, Store};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const KERNEL: &str = "6.1.0-1-test";

/// A server's state folder, and the services in it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) images: Arc<ChunkStore>,
    pub(crate) service: Arc<Service>,
}

async fn service(dir: &Path, store: Arc<SqliteStore>, images: Arc<ChunkStore>) -> Arc<Service> {
    // Stands for the agent: a static program for this processor.
    let agent = Arc::new(|_: Arch| Ok("/bin/busybox".into()));
    let parts = Parts {
        store,
        images,
        layers: dir.join("layers"),
        cache: 32 * MIB,
        starts: Arc::new(Starts::new(dir.join("boot"), agent, None)),
    };
    Service::open(parts).await.unwrap()
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path().join("registry")).unwrap());
        let images = Arc::new(ChunkStore::open(dir.path().join("images")).unwrap());
        let service = service(dir.path(), store.clone(), images.clone()).await;
        Self {
            dir,
            store,
            images,
            service,
        }
    }

    /// The server ends, and another begins.
    pub(crate) async fn restart(&mut self) {
        self.service.flush_all();
        let (store, images) = (self.store.clone(), self.images.clone());
        let old = std::mem::replace(
            &mut self.service,
            service(
                &self.dir.path().join("nowhere"),
                store.clone(),
                images.clone(),
            )
            .await,
        );
        drop(old);
        self.service = service(self.dir.path(), store, images).await;
    }

    /// An image with a small system, as the next version of `debian`.
    pub(crate) async fn image(&self, motd: &str) -> Image {
        let tree = self.dir.path().join("tree");
        let _ = fs::remove_dir_all(&tree);
        for folder in ["etc", "sbin", "boot"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        let modules = tree.join("lib/modules").join(KERNEL);
        fs::create_dir_all(modules.join("kernel/drivers/block")).unwrap();
        fs::write(tree.join("etc/motd"), motd).unwrap();
        fs::write(tree.join("sbin/init"), "#!/bin/sh\n").unwrap();
        fs::write(tree.join(format!("boot/vmlinuz-{KERNEL}")), kernel()).unwrap();
        std::os::unix::fs::symlink(format!("boot/vmlinuz-{KERNEL}"), tree.join("vmlinuz")).unwrap();
        fs::write(modules.join("kernel/drivers/block/nbd.ko"), "a module").unwrap();
        fs::write(
            modules.join("modules.dep"),
            "kernel/drivers/block/nbd.ko:\n",
        )
        .unwrap();
        for name in ["modules.alias", "modules.builtin", "modules.softdep"] {
            fs::write(modules.join(name), "").unwrap();
        }
        let disk = self.dir.path().join("disk");
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .args([&tree, &disk])
            .arg("16M")
            .status()
            .unwrap();
        assert!(made.success());
        self.add(&disk).await
    }

    /// A disk, as the next version of `debian`.
    pub(crate) async fn add(&self, disk: &Path) -> Image {
        let added = self.images.add_file(disk, AddOptions::default()).unwrap();
        let new = NewImage {
            name: "debian".parse().unwrap(),
            note: String::new(),
            origin: None,
            manifest: added.manifest.to_string(),
            size: added.disk_size,
            used: added.used_bytes,
            stored: added.stored_bytes,
            sector_size: added.sector_size,
        };
        self.store.add_image(new, Timestamp(1)).await.unwrap()
    }

    pub(crate) async fn device(&self, last: u8) -> Arc<Device> {
        let sighting = Sighting {
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            uuid: None,
            arch: None,
            firmware: None,
        };
        let observed = self.store.observe(sighting, Timestamp(2)).await.unwrap();
        observed.device
    }

    /// Boots a device, as often as it takes until what starts it has been made.
    pub(crate) async fn boot(&self, device: &Device, wanted: &Diskless, token: &str) -> Ready {
        for _ in 0..6000 {
            let ready = self
                .service
                .prepare(device.id, wanted, token, Timestamp(3))
                .await;
            match ready {
                Err(PrepareError::Start(StartError::NotYet(_))) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => return other.unwrap(),
            }
        }
        panic!("the initramfs was not made in 300 s");
    }
}

/// What `boot_protocol` says a 64-bit x86 kernel looks like, and nothing else.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 4096];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x236] = 1;
    kernel
}

pub(crate) fn diskless(image: &str) -> Diskless {
    serde_json::from_str(&format!(
        r#"{{"image": "{image}", "overlay-size": 4194304}}"#
    ))
    .unwrap()
}

pub(crate) fn peer() -> Peer {
    let address = SocketAddr::from(([10, 0, 0, 9], 999));
    Peer {
        address,
        local: address,
        encrypted: false,
    }
}

/// The disk that a machine gets for a token.
pub(crate) fn disk(exports: &NbdExports, token: &str) -> Arc<dyn BlockDevice> {
    exports.open(token, &peer()).unwrap().device().clone()
}

pub(crate) fn block(disk: &dyn BlockDevice, offset: u64) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    disk.read(offset, &mut buf).unwrap();
    buf
}
