//! The dashboard over a registry in a temporary folder with plausible devices, tasks and images:
//! `cargo run -p bugler-web --example preview [ADDR:PORT]`. One deploy goes on by itself, so that
//! the live updates can be watched.

use bugler_api::{
    AppState, BootContent, BootTree, BootTreeError, ServerInfo, operator_router, serve,
    system_clock,
};
use bugler_images::{AddOptions, ChunkStore};
use bugler_model::{
    Cpu, Deploy, DeviceId, DevicePatch, Disk, EventKind, Firmware, Image, Inventory, MacAddr,
    Netboot, NewEvent, NewImage, NewTask, Nic, Outcome, Phase, Presence, Progress, Stage,
    TaskAction, TaskState, Timestamp, Transport,
};
use bugler_store::{Registration, Sighting, SqliteStore, Store, TaskReport, TokenHash};
use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

type Done = Result<(), Box<dyn Error>>;

/// A preview boots nothing.
struct NoBoot;

#[async_trait::async_trait]
impl BootTree for NoBoot {
    async fn open(
        &self,
        _: SocketAddr,
        _: Option<&str>,
        path: &str,
    ) -> Result<BootContent, BootTreeError> {
        Err(BootTreeError::NotFound(format!("a preview has no {path}")))
    }

    fn delivered(&self, _: SocketAddr, _: &str, _: u64, _: bool) {}

    fn may_act_for(&self, _: SocketAddr, _: MacAddr) -> bool {
        true
    }

    fn bootenv(&self) -> Option<String> {
        Some("6.1.0-37-amd64+4f2c".into())
    }
}

#[tokio::main]
async fn main() -> Done {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:8481")
        .parse()?;
    let dir = tempfile::tempdir()?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path().join("registry.sqlite"))?);
    let images = Arc::new(ChunkStore::open(dir.path().join("images"))?);
    let stop = CancellationToken::new();
    let services = [
        "eth1: DHCP proxy beside 10.0.0.1, TFTP",
        "device plane: HTTP on 0.0.0.0:8480",
        "operator plane: HTTP on 127.0.0.1:8481",
    ];
    let info = ServerInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        services: Arc::new(Mutex::new(services.map(str::to_owned).to_vec())),
        ..ServerInfo::default()
    };
    let clock = system_clock();
    let state = AppState::new(
        store.clone(),
        images.clone(),
        Arc::new(NoBoot),
        info,
        clock,
        stop.clone(),
    );
    let debian = fill(&*store, &images, state.now()).await?;
    tokio::spawn(deploy_for_ever(state.clone(), debian));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}/", listener.local_addr()?);
    let router = operator_router(state.clone()).merge(bugler_web::router(state));
    serve(listener, router, stop).await;
    Ok(())
}

fn image(images: &ChunkStore, name: &str, mib: u64, seed: u8) -> Result<NewImage, Box<dyn Error>> {
    let data = std::io::repeat(seed)
        .take(mib << 18)
        .chain(std::io::repeat(0).take((mib * 3) << 18));
    let added = images.add(data, AddOptions::default())?;
    Ok(NewImage {
        name: name.parse()?,
        note: String::new(),
        origin: None,
        manifest: added.manifest.to_string(),
        size: added.disk_size,
        used: added.used_bytes,
        stored: added.stored_bytes,
        sector_size: added.sector_size,
    })
}

fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0x12, 0x34, number])
}

fn disk(path: &str, gb: u64, model: &str, serial: &str) -> Disk {
    Disk {
        path: path.into(),
        model: Some(model.into()),
        serial: Some(serial.into()),
        size: gb * 1_000_000_000 / 4096 * 4096,
        sector_size: 512,
        transport: Transport::Nvme,
        removable: path.ends_with("sdb"),
        read_only: false,
    }
}

/// A device whose agent has registered.
async fn machine(
    store: &dyn Store,
    number: u8,
    vendor: &str,
    model: &str,
    at: Timestamp,
) -> Result<DeviceId, Box<dyn Error>> {
    let firmware = Some(if number.is_multiple_of(2) {
        Firmware::UefiPxe
    } else {
        Firmware::BiosPxe
    });
    let sighting = Sighting {
        mac: mac(number),
        uuid: None,
        arch: None,
        firmware,
    };
    let device = store.observe(sighting, at).await?.device.id;
    let session = store.begin_session(device, firmware, at).await?;
    let stages = [
        (Stage::Dhcp, 0),
        (Stage::Loader, 410),
        (Stage::Script, 1350),
        (Stage::Kernel, 1420),
        (Stage::Initramfs, 1980),
        (Stage::Start, 3410),
        (Stage::Agent, 5720),
    ];
    for (stage, after) in stages {
        store
            .reach_stage(session, stage, at.plus_millis(after))
            .await?;
    }
    let disks = vec![
        disk(
            "/dev/nvme0n1",
            512,
            "SAMSUNG MZVL2512HCJQ",
            &format!("S64ANX0T{number:06}"),
        ),
        disk("/dev/sda", 2000, "ST2000NM0055", &format!("ZC2{number:05}")),
        disk(
            "/dev/sdb",
            16,
            "SanDisk Ultra Fit",
            &format!("4C5300{number:03}"),
        ),
    ];
    let nics = vec![
        Nic {
            name: "eno1".into(),
            mac: mac(number),
            link: true,
            speed: Some(1000),
            driver: Some("igb".into()),
        },
        Nic {
            name: "eno2".into(),
            mac: MacAddr([0x52, 0x54, 1, 0x12, 0x34, number]),
            link: false,
            speed: None,
            driver: Some("igb".into()),
        },
    ];
    let inventory = Inventory {
        uuid: Some(uuid::Uuid::from_u128(
            0x4c4c4544_0042_3510_8051_b7c04f483233 + u128::from(number),
        )),
        serial: Some(format!("7B5Q{number:03}")),
        vendor: Some(vendor.into()),
        model: Some(model.into()),
        cpu: Cpu {
            model: "Intel(R) Xeon(R) E-2336 CPU @ 2.90GHz".into(),
            threads: 12,
        },
        memory: 32 << 30,
        disks,
        nics,
    };
    let registration = Registration {
        device,
        session,
        boot_mac: mac(number),
        address: Some([10, 0, 0, 100 + number].into()),
        inventory,
        agent_token: TokenHash([number; 32]),
    };
    store.register(registration, at.plus_millis(6240)).await?;
    Ok(device)
}

async fn fill(
    store: &dyn Store,
    images: &ChunkStore,
    now: Timestamp,
) -> Result<Image, Box<dyn Error>> {
    let earlier = |minutes: i64| now.plus_millis(-60_000 * minutes);
    let debian = store
        .add_image(image(images, "debian-12", 2048, 7)?, earlier(300))
        .await?;
    let ubuntu = store
        .add_image(image(images, "ubuntu-24.04-lab", 4096, 9)?, earlier(90))
        .await?;
    let names = [
        "rack1-01", "rack1-02", "rack1-03", "rack1-04", "bench-pi", "old-dell",
    ];
    let mut devices = Vec::new();
    for (number, name) in (1..).zip(names) {
        let at = earlier(40 - i64::from(number));
        let id = machine(store, number, "Dell Inc.", "PowerEdge R250", at).await?;
        let add_tags = name.split('-').take(1).map(str::to_owned).collect();
        let patch = DevicePatch {
            name: Some(name.into()),
            add_tags,
            ..DevicePatch::default()
        };
        store.patch_device(id, patch, at).await?;
        devices.push(id);
    }
    let stranger = Sighting {
        mac: mac(77),
        uuid: None,
        arch: None,
        firmware: Some(Firmware::UefiHttp),
    };
    let stranger = store.observe(stranger, now).await?.device.id;
    store
        .begin_session(stranger, Some(Firmware::UefiHttp), now)
        .await?;
    let hostile = machine(
        store,
        66,
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)> \u{202e}txet",
        earlier(3),
    )
    .await?;
    let name = Some("<b>bold</b> & \"quoted\"".into());
    store
        .patch_device(
            hostile,
            DevicePatch {
                name,
                ..DevicePatch::default()
            },
            now,
        )
        .await?;

    for (at, state) in [(2, TaskState::Done), (3, TaskState::Failed)] {
        let id = devices[at];
        let task = store
            .create_tasks(vec![deploy(id, &ubuntu)], earlier(20))
            .await?
            .remove(0);
        store.claim_task(id, earlier(19)).await?;
        let message = (state == TaskState::Failed).then(|| {
            "could not write 1048576 bytes at 734003200 to /dev/nvme0n1: Input/output error (os \
             error 5): the disk is failing; replace it and deploy again"
                .to_owned()
        });
        let progress = Progress {
            phase: Phase::Verifying,
            done: ubuntu.used,
            total: ubuntu.used,
            fetched: ubuntu.stored,
            elapsed_ms: 41_300,
            ..Progress::default()
        };
        for step in [TaskState::Running, state] {
            let message = message.clone().filter(|_| step == state);
            let report = TaskReport {
                device: id,
                task: task.id,
                state: step,
                progress,
                message,
                disk: None,
            };
            store.report_task(report, earlier(18)).await?;
        }
    }
    store
        .set_presence(devices[2], Presence::Local, earlier(17))
        .await?;
    let session = store
        .begin_session(devices[2], Some(Firmware::BiosPxe), earlier(16))
        .await?;
    store.reach_stage(session, Stage::Dhcp, earlier(16)).await?;
    store
        .reach_stage(session, Stage::Local, earlier(16).plus_millis(1800))
        .await?;
    store
        .end_session(session, Outcome::Local, earlier(16).plus_millis(1800))
        .await?;
    store
        .set_presence(devices[5], Presence::Lost, earlier(10))
        .await?;
    let off = DevicePatch {
        netboot: Some(Netboot::Off),
        ..DevicePatch::default()
    };
    store.patch_device(devices[4], off, earlier(9)).await?;
    for line in [
        "eno1: link is up, 1000 Mbit/s",
        "address 10.0.0.101/24 from 10.0.0.1",
    ] {
        store
            .append_event(NewEvent::new(EventKind::Log, line).device(devices[0]), now)
            .await?;
    }
    Ok(debian)
}

fn deploy(device: DeviceId, image: &Image) -> NewTask {
    let action = TaskAction::Deploy(Deploy::of(image));
    NewTask { device, action }
}

/// Deploys to the first device, again and again, as its agent would report it.
async fn deploy_for_ever(state: Arc<AppState>, image: Image) {
    let device = DeviceId(1);
    loop {
        for number in [1, 2, 4, 5, 8] {
            state.store.touch(DeviceId(number), None, state.now());
        }
        if let Err(error) = deploy_once(&state, device, &image).await {
            eprintln!("the preview's deploy: {error}");
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn deploy_once(state: &AppState, device: DeviceId, image: &Image) -> Done {
    let store = &state.store;
    let task = store
        .create_tasks(vec![deploy(device, image)], state.now())
        .await?
        .remove(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.claim_task(device, state.now()).await?;
    let steps = 40;
    for (phase, going) in [
        (Phase::Writing, TaskState::Running),
        (Phase::Verifying, TaskState::Verifying),
    ] {
        for step in 1..=steps {
            let progress = Progress {
                phase,
                done: image.used * step / steps,
                total: image.used,
                fetched: image.stored * step / steps,
                elapsed_ms: step * 500,
                ..Progress::default()
            };
            let report = TaskReport {
                device,
                task: task.id,
                state: going,
                progress,
                message: None,
                disk: None,
            };
            if !store
                .report_task(report, state.now())
                .await?
                .state
                .is_open()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let progress = store.task(task.id).await?.progress;
    let report = TaskReport {
        device,
        task: task.id,
        state: TaskState::Done,
        progress,
        message: None,
        disk: None,
    };
    store.report_task(report, state.now()).await?;
    Ok(())
}
