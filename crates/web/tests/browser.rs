//! The dashboard in a real browser: Chromium, driven over WebDriver (W3C). Everything is on loopback.
//!
//! Needs the programs `chromium` and `chromedriver`; `make setup` installs them.

mod webdriver;

use bugler_api::{
    AppState, BootContent, BootTree, BootTreeError, ServerInfo, operator_router, serve,
    system_clock,
};
use bugler_images::{AddOptions, ChunkStore};
use bugler_model::{
    Arch, DeviceId, DevicePatch, Disk, Firmware, Inventory, MacAddr, Netboot, NewImage, Phase,
    Progress, SessionId, Stage, Task, TaskState,
};
use bugler_store::{Registration, Sighting, SqliteStore, Store, TaskFilter, TaskReport, TokenHash};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use webdriver::Browser;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);

struct NoBoot;

#[async_trait::async_trait]
impl BootTree for NoBoot {
    async fn open(
        &self,
        _: SocketAddr,
        _: Option<&str>,
        path: &str,
    ) -> Result<BootContent, BootTreeError> {
        Err(BootTreeError::NotFound(path.into()))
    }
    fn delivered(&self, _: SocketAddr, _: &str, _: u64, _: bool) {}
    fn may_act_for(&self, _: SocketAddr, _: MacAddr) -> bool {
        true
    }
    fn bootenv(&self) -> Option<String> {
        None
    }
}

/// A server on loopback with one image and one device that begins to boot.
struct Site {
    _dir: tempfile::TempDir,
    state: Arc<AppState>,
    address: SocketAddr,
    device: DeviceId,
    session: SessionId,
    stop: CancellationToken,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(dir.path().join("registry.sqlite")).unwrap());
        let images = Arc::new(ChunkStore::open(dir.path().join("images")).unwrap());
        let stop = CancellationToken::new();
        let state = AppState::new(
            store.clone(),
            images.clone(),
            Arc::new(NoBoot),
            ServerInfo::default(),
            system_clock(),
            stop.clone(),
        );
        let added = images.add(&[7; 8192][..], AddOptions::default()).unwrap();
        let image = NewImage {
            name: "debian-12".parse().unwrap(),
            note: String::new(),
            origin: None,
            manifest: added.manifest.to_string(),
            size: added.disk_size,
            used: added.used_bytes,
            stored: added.stored_bytes,
            sector_size: added.sector_size,
        };
        store.add_image(image, state.now()).await.unwrap();
        let sighting = Sighting {
            mac: MAC,
            uuid: None,
            arch: Some(Arch::X86_64),
            firmware: Some(Firmware::UefiPxe),
        };
        let now = state.now();
        let device = store.observe(sighting, now).await.unwrap().device.id;
        let name = DevicePatch {
            name: Some("rack1-node7".into()),
            ..DevicePatch::default()
        };
        store.patch_device(device, name, now).await.unwrap();
        let firmware = Some(Firmware::UefiPxe);
        let session = store.begin_session(device, firmware, now).await.unwrap();
        store.reach_stage(session, Stage::Dhcp, now).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = operator_router(state.clone()).merge(bugler_web::router(state.clone()));
        tokio::spawn(serve(listener, router, stop.clone()));
        Self {
            _dir: dir,
            state,
            address,
            device,
            session,
            stop,
        }
    }

    async fn reach(&self, stage: Stage) {
        let (store, now) = (&self.state.store, self.state.now());
        store.reach_stage(self.session, stage, now).await.unwrap();
        let event = bugler_model::NewEvent::new(bugler_model::EventKind::Boot, "a step")
            .device(self.device);
        store.append_event(event, now).await.unwrap();
    }

    async fn register(&self) {
        let disk = Disk {
            path: "/dev/nvme0n1".into(),
            model: Some("LAB DISK".into()),
            serial: Some("S1234".into()),
            size: 8 << 30,
            sector_size: 512,
            ..Disk::default()
        };
        let registration = Registration {
            device: self.device,
            session: self.session,
            boot_mac: MAC,
            address: None,
            inventory: Inventory {
                disks: vec![disk],
                ..Inventory::default()
            },
            agent_token: TokenHash([1; 32]),
        };
        let store = &self.state.store;
        store
            .register(registration, self.state.now())
            .await
            .unwrap();
    }

    async fn report(&self, task: &Task, state: TaskState, done: u64) {
        let report = TaskReport {
            device: self.device,
            task: task.id,
            state,
            progress: Progress {
                phase: Phase::Writing,
                done,
                total: 8000,
                elapsed_ms: 1000,
                ..Progress::default()
            },
            message: None,
            disk: Some("S1234".into()),
        };
        let store = &self.state.store;
        store.report_task(report, self.state.now()).await.unwrap();
    }
}

/// Runs what blocks beside the server.
async fn browse<T: Send + 'static>(
    browser: &Arc<Browser>,
    work: impl FnOnce(&Browser) -> T + Send + 'static,
) -> T {
    let browser = browser.clone();
    tokio::task::spawn_blocking(move || work(&browser))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_watches_a_boot_and_deploys() {
    let site = Site::new().await;
    let base = format!("http://{}", site.address);
    let browser = Arc::new(tokio::task::spawn_blocking(Browser::start).await.unwrap());

    // The list, and from there to the device.
    browse(&browser, move |b| {
        b.go(&format!("{base}/"));
        b.wait_text("#live", "live");
        b.wait_text("tbody [data-label=State]", "booting");
        b.click("tbody th a");
        b.wait_text("h1", "rack1-node7");
        b.wait_text("#live", "live");
        b.wait_text(".stages", "DHCP");
        b.wait_text(".stages", "so far");
    })
    .await;

    // The boot goes on: each stage is one more bar, without a reload.
    for (count, stage, word) in [
        (2, Stage::Loader, "loader"),
        (3, Stage::Script, "script"),
        (4, Stage::Kernel, "kernel transfer"),
    ] {
        site.reach(stage).await;
        browse(&browser, move |b| {
            b.wait_text(".stages", word);
            b.wait_count(".stages li rect", count);
        })
        .await;
    }
    site.register().await;
    browse(&browser, |b| {
        b.wait_text(".status", "agent ready");
        b.wait_text(".boot h3", "the agent registered");
        b.wait_count(".stages rect.open", 0);
        let widths = b.script(
            "return [...document.querySelectorAll('.stages rect')].map(r => r.getBoundingClientRect().width)",
        );
        let widths: Vec<f64> = serde_json::from_value(widths).unwrap();
        assert!(widths.len() >= 5 && widths.iter().all(|width| *width > 0.0), "{widths:?}");
        println!("bars: {widths:?} pixels");
        b.screenshot("device");
    })
    .await;

    // The inventory came while the page was open: the dialog is part of the page, so it is fetched.
    let page = format!("http://{}/devices/{}", site.address, site.device);
    let (question, button) = browse(&browser, move |b| {
        b.go(&page);
        b.wait_text("#live", "live");
        b.click("#do-deploy");
        b.wait_text("#deploy-text", "overwritten");
        (b.text("#deploy-text"), b.text("#deploy-ok"))
    })
    .await;
    println!("asked: {question} [{button}]");
    for part in [
        "/dev/nvme0n1",
        "LAB DISK",
        "S1234",
        "rack1-node7",
        "debian-12",
    ] {
        assert!(question.contains(part), "{part:?} is not in {question:?}");
    }
    assert_eq!(button, "Overwrite /dev/nvme0n1");
    let tasks = site.state.store.tasks(TaskFilter::default()).await.unwrap();
    assert!(tasks.is_empty(), "a task was made before it was confirmed");

    browse(&browser, |b| {
        b.click("#deploy-ok");
        b.wait_text("table.list", "deploy debian-12");
        b.wait_count("#do-deploy:disabled", 1);
        b.wait_text("legend", "on for its task");
    })
    .await;
    let task = site
        .state
        .store
        .tasks(TaskFilter::default())
        .await
        .unwrap()
        .remove(0);
    site.state
        .store
        .claim_task(site.device, site.state.now())
        .await
        .unwrap();
    site.report(&task, TaskState::Running, 2000).await;
    browse(&browser, |b| {
        b.wait_count("progress[value='250']", 1);
    })
    .await;
    site.report(&task, TaskState::Running, 6000).await;
    browse(&browser, |b| {
        b.wait_count("progress[value='750']", 1);
        b.screenshot("deploy");
    })
    .await;
    site.report(&task, TaskState::Verifying, 8000).await;
    site.report(&task, TaskState::Done, 8000).await;
    browse(&browser, |b| {
        b.wait_text("table.list", "done");
        b.wait_text("legend", "Network boot: off");
        b.wait_count("#netboot-off[aria-pressed=true]", 1);
    })
    .await;
    let device = site.state.store.device(site.device).await.unwrap();
    assert_eq!(device.netboot, Netboot::Off);

    // Network boot is switched by a click.
    browse(&browser, |b| {
        b.click("#netboot-on");
        b.wait_count("#netboot-on[aria-pressed=true]", 1);
    })
    .await;
    let device = site.state.store.device(site.device).await.unwrap();
    assert_eq!(device.netboot, Netboot::On);

    let complaints = browse(&browser, Browser::complaints).await;
    assert!(
        complaints.is_empty(),
        "the browser complains: {complaints:#?}"
    );
    site.stop.cancel();
}
