//! The pages, over a real registry: what they show, and that nothing which a machine says of itself
//! gets out of its place.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use bugler_api::{AppState, BootContent, BootTree, BootTreeError, ServerInfo, operator_router};
use bugler_images::{AddOptions, ChunkStore};
use bugler_model::{
    Deploy, DeviceId, DevicePatch, Disk, EventKind, Inventory, MacAddr, NewEvent, NewImage,
    NewTask, Nic, Phase, Profile, Progress, Stage, Task, TaskAction, TaskState, Timestamp,
};
use bugler_store::{Registration, Sighting, SqliteStore, Store, TaskReport, TokenHash};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

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

struct Site {
    _dir: tempfile::TempDir,
    state: Arc<AppState>,
    router: Router,
    stop: CancellationToken,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(dir.path().join("registry.sqlite")).unwrap());
        let images = Arc::new(ChunkStore::open(dir.path().join("images")).unwrap());
        let stop = CancellationToken::new();
        let clock = Arc::new(|| NOW.plus_millis(90_000));
        let info = ServerInfo::default();
        let state = AppState::new(store, images, Arc::new(NoBoot), info, clock, stop.clone());
        // Put together as the server does it.
        let router = operator_router(state.clone()).merge(bugler_web::router(state.clone()));
        Self {
            _dir: dir,
            state,
            router,
            stop,
        }
    }

    async fn get_from(&self, host: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder()
            .uri(path)
            .header("host", host)
            .body(Body::empty())
            .unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 4000));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 10 << 20).await.unwrap();
        (
            parts.status,
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn page(&self, path: &str) -> String {
        let (status, _, html) = self.get_from("localhost:8481", path).await;
        assert_eq!(status, 200, "{path}: {html}");
        html
    }

    /// A device whose every text is `text`, with a task that failed saying it.
    async fn device(&self, text: &str) -> DeviceId {
        let store = &self.state.store;
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let sighting = Sighting {
            mac,
            uuid: None,
            arch: None,
            firmware: None,
        };
        let id = store.observe(sighting, NOW).await.unwrap().device.id;
        let session = store.begin_session(id, None, NOW).await.unwrap();
        store.reach_stage(session, Stage::Dhcp, NOW).await.unwrap();
        let text = || text.to_owned();
        let disk = Disk {
            path: text(),
            model: Some(text()),
            serial: Some(text()),
            size: 1 << 40,
            sector_size: 512,
            ..Disk::default()
        };
        let nic = Nic {
            name: text(),
            mac,
            link: true,
            speed: Some(1000),
            driver: Some(text()),
        };
        let mut inventory = Inventory {
            serial: Some(text()),
            vendor: Some(text()),
            model: Some(text()),
            memory: 4 << 30,
            disks: vec![disk],
            nics: vec![nic],
            ..Inventory::default()
        };
        inventory.cpu.model = text();
        inventory.cpu.threads = 4;
        let registration = Registration {
            device: id,
            session,
            boot_mac: mac,
            address: None,
            inventory,
            agent_token: TokenHash([1; 32]),
        };
        store
            .register(registration, NOW.plus_millis(6000))
            .await
            .unwrap();
        let patch = DevicePatch {
            name: Some(text()),
            add_tags: vec![text()],
            ..DevicePatch::default()
        };
        store.patch_device(id, patch, NOW).await.unwrap();
        let event = NewEvent::new(EventKind::Log, text()).device(id);
        store.append_event(event, NOW).await.unwrap();
        let task = self.task(id, TaskAction::Reboot).await;
        store.claim_task(id, NOW).await.unwrap();
        self.report(&task, TaskState::Failed, Some(text())).await;
        id
    }

    async fn task(&self, device: DeviceId, action: TaskAction) -> Task {
        let new = vec![NewTask { device, action }];
        self.state
            .store
            .create_tasks(new, NOW)
            .await
            .unwrap()
            .remove(0)
    }

    async fn report(&self, task: &Task, state: TaskState, message: Option<String>) {
        let progress = Progress {
            phase: Phase::Writing,
            done: 300_000_000,
            total: 700_000_000,
            elapsed_ms: 10_000,
            ..Progress::default()
        };
        let report = TaskReport {
            device: task.device,
            task: task.id,
            state,
            progress,
            message,
            disk: None,
        };
        self.state.store.report_task(report, NOW).await.unwrap();
    }

    async fn image(&self, name: &str) -> Deploy {
        let added = self
            .state
            .images
            .add(&[7; 4096][..], AddOptions::default())
            .unwrap();
        let new = NewImage {
            name: name.parse().unwrap(),
            note: String::new(),
            origin: None,
            manifest: added.manifest.to_string(),
            size: added.disk_size,
            used: added.used_bytes,
            stored: added.stored_bytes,
            sector_size: added.sector_size,
        };
        let image = self.state.store.add_image(new, NOW).await.unwrap();
        Deploy::of(&image)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const PATHS: [&str; 10] = [
    "/",
    "/devices/d1",
    "/images",
    "/tasks",
    "/events",
    "/fragments/devices",
    "/fragments/devices/d1",
    "/fragments/images",
    "/fragments/tasks",
    "/fragments/events?kind=log",
];

/// What a browser would run or be turned around by, were it not for escaping: nothing of it may be
/// on a page but what the templates themselves have.
fn check_inert(path: &str, html: &str) {
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or((tag, ""));
        let name = tag.split([' ', '\n']).next().unwrap_or_default();
        let known = [
            "!doctype", "html", "head", "meta", "title", "link", "script", "body", "a", "header",
            "img", "nav", "span", "noscript", "p", "div", "main", "dialog", "form", "h1", "h2",
            "h3", "button", "footer", "section", "table", "thead", "tbody", "tr", "th", "td",
            "bdi", "small", "time", "code", "progress", "fieldset", "legend", "article", "svg",
            "datalist", "rect", "ol", "ul", "li", "b", "dl", "dt", "dd", "label", "select",
            "option", "input",
        ];
        let closing = name.trim_start_matches('/');
        assert!(known.contains(&closing), "{path}: <{tag}>");
        if name == "script" {
            assert!(tag.starts_with("script src=\"/assets/"), "{path}: <{tag}>");
        }
        if name == "img" {
            assert!(tag.starts_with("img src=\"/assets/"), "{path}: <{tag}>");
        }
        let outside_quotes: String = tag.split('"').step_by(2).collect();
        assert!(!outside_quotes.contains(" on"), "{path}: <{tag}>");
        assert!(!outside_quotes.contains(" style"), "{path}: <{tag}>");
    }
}

const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</bdi></th><b onclick=alert(1)>",
    "{\"mode\":\"off\"}&quot;\u{202e}\u{200b}",
];

#[tokio::test]
async fn what_a_machine_says_of_itself_stays_text() {
    for text in HOSTILE {
        let site = Site::new().await;
        site.device(text).await;
        site.image("debian-12").await;
        for path in PATHS {
            let html = site.page(path).await;
            assert!(!html.contains(text), "{path} has {text} as it is");
            assert!(
                !html.contains(['\u{202e}', '\u{200b}']),
                "{path} has invisible characters"
            );
            check_inert(path, &html);
        }
        let page = site.page("/devices/d1").await;
        let shown = if text.starts_with('<') { "&#60;" } else { "&#" };
        assert!(page.contains(shown), "the text is shown, escaped: {page}");
    }
}

#[test]
fn any_name_stays_in_its_place() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let site = runtime.block_on(Site::new());
    let id = runtime.block_on(site.device("x"));
    proptest!(ProptestConfig::with_cases(48), |(name in "[<>\"'&/ =a-zA-Z0-9{}%\\PC]{1,40}")| {
        let patch = DevicePatch { name: Some(name), ..DevicePatch::default() };
        // A name that the registry does not take is not shown.
        let _ = runtime.block_on(site.state.store.patch_device(id, patch, NOW));
        for path in ["/", "/devices/d1", "/tasks"] {
            check_inert(path, &runtime.block_on(site.page(path)));
        }
    });
}

#[tokio::test]
async fn what_a_device_boots_is_shown_and_can_be_changed() {
    let site = Site::new().await;
    site.device("rack1-07").await;
    let page = site.page("/devices/d1").await;
    for text in [
        "Profile: as the rules say",
        "data-open=\"profile\" data-profile=\"\" data-following=\"\" data-secure=\"false\"",
        "<option value=\"agent\">agent</option>",
        "<option value=\"local\">local</option>",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let store = &site.state.store;
    let thin = Profile {
        name: "thin".parse().unwrap(),
        ..Profile::agent()
    };
    store.set_profile(thin, NOW).await.unwrap();
    let patch = DevicePatch {
        profile: Some("thin".into()),
        next: Some("local".into()),
        secure_boot: Some(true),
        ..DevicePatch::default()
    };
    let device = store.resolve_device("d1").await.unwrap();
    store.patch_device(device.id, patch, NOW).await.unwrap();
    let page = site.page("/devices/d1").await;
    for text in [
        "Profile: thin; the next time local; Secure Boot",
        "data-profile=\"thin\" data-following=\"local\" data-secure=\"true\"",
        "<option value=\"thin\">thin</option>",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    check_inert("/devices/d1", &page);
}

#[tokio::test]
async fn a_device_is_shown_with_its_inventory_its_boots_and_its_buttons() {
    let site = Site::new().await;
    site.device("rack1-07").await;
    site.image("debian-12").await;
    let page = site.page("/devices/rack1-07").await;
    for text in [
        "agent ready",
        "4.0 GiB",
        "1.1 TB",
        "1000 Mbit/s",
        "<span class=\"stage\">DHCP</span>",
        "at 0.0 s",
        "<b>6.0 s</b>",
        "the agent registered",
        "data-open=\"deploy\"",
        "Power off rack1-07?",
        "id=\"netboot-on\"",
        "debian-12@1 (4.1 kB)",
        "data-open=\"capture\"",
        "<option value=\"debian-12\"></option>",
        "data-open=\"wipe\"",
        "id=\"wipe-ok\" disabled",
        "id=\"deploy-grow\"",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(page.contains("aria-pressed=\"true\">on<"), "{page}");
    let list = site.page("/").await;
    assert!(
        list.contains("href=\"/devices/d1\"><bdi>rack1-07</bdi>"),
        "{list}"
    );
}

#[tokio::test]
async fn a_running_task_shows_how_far_it_is() {
    let site = Site::new().await;
    let id = site.device("rack1-07").await;
    let deploy = site.image("debian-12").await;
    let task = site.task(id, TaskAction::Deploy(deploy)).await;
    site.state.store.claim_task(id, NOW).await.unwrap();
    site.report(&task, TaskState::Running, None).await;
    for path in ["/", "/tasks", "/devices/d1"] {
        let page = site.page(path).await;
        assert!(page.contains("value=\"428\""), "{path}: {page}");
        assert!(
            page.contains("300.0 MB of 700.0 MB, 30.0 MB/s, 13 s left"),
            "{path}: {page}"
        );
    }
    let page = site.page("/devices/d1").await;
    assert!(
        page.contains("data-open=\"deploy\" disabled"),
        "one task at a time"
    );
    assert!(
        page.contains(&format!("/api/v1/tasks/{}/cancel", task.id)),
        "{page}"
    );
}

#[tokio::test]
async fn an_empty_registry_says_what_to_do() {
    let site = Site::new().await;
    for (path, text) in [
        ("/", "Switch one on"),
        ("/images", "bugler image add"),
        ("/tasks", "Deploy an image"),
        ("/events", "Nothing has happened"),
    ] {
        let html = site.page(path).await;
        assert!(html.contains(text), "{path}: {html}");
        check_inert(path, &html);
    }
}

#[tokio::test]
async fn pages_allow_nothing_from_elsewhere() {
    let site = Site::new().await;
    for path in ["/", "/assets/app.js", "/nothing"] {
        let (_, headers, _) = site.get_from("127.0.0.1", path).await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }
    let (status, _, _) = site.get_from("evil.example", "/").await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let site = Site::new().await;
    let (status, _, html) = site.get_from("localhost", "/devices/%3Cb%3Ex").await;
    assert_eq!(status, 404);
    assert!(html.contains("&#60;b&#62;x"), "{html}");
    check_inert("/devices/<b>x", &html);
    let (status, _, html) = site.get_from("localhost", "/nothing").await;
    assert!(status == 404 && html.contains("/nothing"));
    // The API's own errors stay JSON beside the pages.
    let (status, headers, _) = site.get_from("localhost", "/api/v1/nothing").await;
    assert!(status == 404 && headers["content-type"] == "application/json");
}

#[tokio::test]
async fn assets_are_served_with_their_type() {
    let site = Site::new().await;
    for (path, kind) in [
        ("/assets/app.js", "text/javascript; charset=utf-8"),
        ("/assets/upload.js", "text/javascript; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let (status, headers, body) = site.get_from("localhost", path).await;
        assert!(
            status == 200 && headers["content-type"] == kind && !body.is_empty(),
            "{path}"
        );
        assert!(
            !body.contains("http://") || path.ends_with("svg"),
            "{path} names another host"
        );
    }
}
