//! A server in a temporary folder, and clients for it.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bugler_api::{
    AppState, BootContent, BootTree, BootTreeError, DeployLimits, ServerInfo, ServerKeys,
    device_router, operator_router,
};
use bugler_images::ChunkStore;
use bugler_model::{
    Device, DeviceId, Disk, Image, Inventory, MacAddr, Nic, OfferShape, SessionId, Timestamp,
};
use bugler_protocol::agent::{ErrorBody, Register, Registered, VERSION};
use bugler_protocol::operator::{PlanAction, PlanGoal, PlanView};
use bugler_store::{Sighting, SqliteStore, Store, TokenHash};
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const MIB: usize = 1 << 20;

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) state: Arc<AppState>,
    pub(crate) device: Router,
    pub(crate) operator: Router,
    pub(crate) boot: Arc<FakeBoot>,
    pub(crate) clock: Arc<AtomicI64>,
    pub(crate) stop: CancellationToken,
    /// What the boot tree was told of: path, bytes, complete.
    pub(crate) delivered: mpsc::UnboundedReceiver<(String, u64, bool)>,
}

pub(crate) struct FakeBoot {
    pub(crate) tree: Mutex<HashMap<String, BootContent>>,
    /// An address that is known to belong to another interface.
    pub(crate) stranger: Mutex<Option<MacAddr>>,
    /// Whether it has no plan for any device.
    pub(crate) boots_nothing: Mutex<bool>,
    told: mpsc::UnboundedSender<(String, u64, bool)>,
}

#[async_trait::async_trait]
impl BootTree for FakeBoot {
    async fn open(
        &self,
        _: SocketAddr,
        host: Option<&str>,
        path: &str,
    ) -> Result<BootContent, BootTreeError> {
        if path == "host" {
            return Ok(BootContent::Bytes(host.unwrap_or("none").to_owned().into()));
        }
        let found = self.tree.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| BootTreeError::NotFound(format!("no {path}")))
    }

    fn delivered(&self, _: SocketAddr, path: &str, bytes: u64, complete: bool) {
        let _ = self.told.send((path.to_owned(), bytes, complete));
    }

    fn may_act_for(&self, _: SocketAddr, mac: MacAddr) -> bool {
        *self.stranger.lock().unwrap() != Some(mac)
    }

    fn bootenv(&self) -> Option<String> {
        Some("6.1-test".into())
    }

    fn explain(&self, device: &Device) -> Option<PlanView> {
        let action = PlanAction::Silent;
        let plan = PlanView {
            device: device.id,
            mac: device.macs.first().copied(),
            firmware: device.firmware,
            heard: false,
            from: device.address,
            goal: PlanGoal::None,
            profile: None,
            boots: None,
            why: "a test boots nothing".into(),
            answer: action.to_string(),
            action,
            shape: OfferShape::Standard,
            unanswered: 0,
            rules: vec![],
            netboot: device.netboot,
            secure_boot: device.secure_boot,
            quirks: device.quirks,
            tries: device.tries,
            most_tries: 8,
        };
        (!*self.boots_nothing.lock().unwrap()).then_some(plan)
    }
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of an error answer with this status.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        serde_json::from_slice::<ErrorBody>(&self.body)
            .unwrap()
            .error
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::limited(&DeployLimits::default()).await
    }

    pub(crate) async fn limited(limits: &DeployLimits) -> Self {
        Self::with(limits, None).await
    }

    /// A server that signs manifests.
    pub(crate) async fn signing(keys: Arc<ServerKeys>) -> Self {
        Self::with(&DeployLimits::default(), Some(keys)).await
    }

    async fn with(limits: &DeployLimits, keys: Option<Arc<ServerKeys>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(dir.path().join("registry.sqlite")).unwrap());
        let images = Arc::new(ChunkStore::open(dir.path().join("images")).unwrap());
        let (told, delivered) = mpsc::unbounded_channel();
        let boot = Arc::new(FakeBoot {
            tree: Mutex::default(),
            stranger: Mutex::default(),
            boots_nothing: Mutex::default(),
            told,
        });
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
        let reading = clock.clone();
        let now = Arc::new(move || Timestamp(reading.load(Ordering::Relaxed)));
        let options = bugler_power::Options {
            state_dir: dir.path().to_owned(),
            commands: dir.path().join("commands"),
            clock: now.clone(),
        };
        let power = bugler_power::Power::open(store.clone(), options).unwrap();
        let stop = CancellationToken::new();
        let info = ServerInfo {
            version: "0.0-test".into(),
            interfaces: vec!["lo".into()],
            device_port: 8480,
            device_address: Some([10, 0, 0, 1].into()),
            keys,
            power: Some(power),
            ..ServerInfo::default()
        };
        let (tree, end) = (boot.clone(), stop.clone());
        let state = AppState::limited(store, images, tree, info, now, end, limits);
        Self {
            dir,
            device: device_router(state.clone()),
            operator: operator_router(state.clone()),
            state,
            boot,
            clock,
            stop,
            delivered,
        }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.state.store
    }

    /// Lets the clock go on.
    pub(crate) fn pass(&self, millis: i64) {
        self.clock.fetch_add(millis, Ordering::Relaxed);
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        call(&self.operator, Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        call(
            &self.operator,
            method,
            path,
            &[("content-type", "application/json")],
            body.into(),
        )
        .await
    }

    /// A device that asked to boot, and a boot token for it.
    pub(crate) async fn booting(&self, mac: MacAddr) -> (DeviceId, SessionId, String) {
        let sighting = Sighting {
            mac,
            uuid: None,
            arch: None,
            firmware: None,
        };
        let now = self.state.now();
        let device = self.store().observe(sighting, now).await.unwrap().device;
        let session = self
            .store()
            .begin_session(device.id, None, now)
            .await
            .unwrap();
        let token = format!("boot token of {session}");
        let hash = TokenHash(*blake3::hash(token.as_bytes()).as_bytes());
        self.store().set_boot_token(session, hash).await.unwrap();
        (device.id, session, token)
    }

    /// A device whose agent has registered.
    pub(crate) async fn agent(&self, number: u8) -> TestAgent {
        let mac = mac(number);
        let (_, _, token) = self.booting(mac).await;
        let body = register(mac, token);
        let answer = self.agent_post(None, "register", &body).await;
        let registered: Registered = answer.json();
        TestAgent {
            id: registered.device,
            token: registered.token,
        }
    }

    pub(crate) async fn agent_post(
        &self,
        token: Option<&str>,
        path: &str,
        body: &impl Serialize,
    ) -> Answer {
        let bearer = format!("Bearer {}", token.unwrap_or_default());
        let mut headers = vec![("content-type", "application/json")];
        if token.is_some() {
            headers.push(("authorization", &bearer));
        }
        let body = serde_json::to_vec(body).unwrap();
        let path = format!("/agent/v1/{path}");
        call(&self.device, Method::POST, &path, &headers, body.into()).await
    }

    pub(crate) async fn agent_get(&self, token: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let path = format!("/agent/v1/{path}");
        let headers = [("authorization", bearer.as_str())];
        call(&self.device, Method::GET, &path, &headers, Body::empty()).await
    }

    pub(crate) async fn upload(&self, name: &str, content: &[u8]) -> Answer {
        let path = format!("/api/v1/images/{name}");
        let length = content.len().to_string();
        let headers = [("content-length", length.as_str())];
        call(
            &self.operator,
            Method::PUT,
            &path,
            &headers,
            content.to_vec().into(),
        )
        .await
    }

    /// An image with content in its chunks 0 and 2, and nothing in 1.
    pub(crate) async fn image(&self, name: &str) -> (Image, Vec<u8>) {
        let mut content = pattern(3 * MIB, name);
        content[MIB..2 * MIB].fill(0);
        (self.upload(name, &content).await.json(), content)
    }

    pub(crate) async fn devices(&self) -> Vec<Device> {
        self.get("/api/v1/devices").await.json()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) struct TestAgent {
    pub(crate) id: DeviceId,
    pub(crate) token: String,
}

pub(crate) fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number])
}

pub(crate) fn register(mac: MacAddr, boot_token: String) -> Register {
    let nic = Nic {
        name: "eth0".into(),
        mac,
        link: true,
        speed: None,
        driver: None,
    };
    let disk = Disk {
        path: "/dev/vda".into(),
        size: 8 << 20,
        sector_size: 512,
        ..Disk::default()
    };
    Register {
        protocol: VERSION,
        agent_version: "test".into(),
        boot_token,
        boot_mac: mac,
        inventory: Inventory {
            nics: vec![nic],
            disks: vec![disk],
            ..Inventory::default()
        },
        uptime_ms: 1500,
    }
}

/// Bytes that differ with `seed` and do not compress away.
pub(crate) fn pattern(length: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Request<Body> {
    let peer = SocketAddr::from(([10, 0, 0, 9], 40_000));
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:8480");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    request
}

pub(crate) async fn call(
    router: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Answer {
    let response = router
        .clone()
        .oneshot(request(method, path, headers, body))
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    // What came before an error is kept: that is what a client sees of a body that is cut off.
    let mut collected = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        collected.extend_from_slice(&bytes);
    }
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: collected.into(),
    }
}
