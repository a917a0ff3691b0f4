//! A server of layers in folders: `/1` to `/9`, each for the peer whose address ends in that number, in
//! this process or in one of its own.

use super::base;
use bugler_nfs::{
    Export, ExportId, Exports, Layer, MountStatus, ServeOptions, Status, Tree, serve,
};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Lines};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

pub struct Devices {
    pub tree: Arc<dyn Tree>,
    pub layers: PathBuf,
    pub durable: bool,
    pub quota: Option<u64>,
    /// Whether an export is for whoever asks.
    pub for_all: bool,
    pub open: Mutex<HashMap<u8, Arc<Export>>>,
}

impl Devices {
    pub fn new(tree: Arc<dyn Tree>, layers: &Path) -> Self {
        Self {
            tree,
            layers: layers.into(),
            durable: false,
            quota: None,
            for_all: false,
            open: Mutex::default(),
        }
    }

    pub fn export(&self, number: u8) -> Arc<Export> {
        let mut open = self.open.lock().unwrap();
        let export = open.entry(number).or_insert_with(|| {
            let mut options = base::options(number);
            options.durable = self.durable;
            options.quota = self.quota;
            let folder = self.layers.join(number.to_string());
            let layer = Layer::open(&folder, self.tree.clone(), &options).unwrap();
            Arc::new(Export::start(layer).unwrap())
        });
        export.clone()
    }

    fn may(&self, peer: SocketAddr, number: u8) -> bool {
        let last = match peer {
            SocketAddr::V4(peer) => peer.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        };
        self.for_all || last == number
    }
}

impl Exports for Devices {
    fn open(&self, peer: SocketAddr, path: &[u8]) -> Result<Arc<Export>, MountStatus> {
        let number = std::str::from_utf8(path).ok();
        let number = number.and_then(|path| path.strip_prefix('/')?.parse().ok());
        let number = number.filter(|number| (1..10).contains(number));
        let number = number.ok_or(MountStatus::NoEntry)?;
        match self.may(peer, number) {
            true => Ok(self.export(number)),
            false => Err(MountStatus::Access),
        }
    }

    fn find(&self, peer: SocketAddr, export: ExportId) -> Result<Arc<Export>, Status> {
        let number = export.0[0];
        match (1..10).contains(&number) && self.may(peer, number) {
            true => Ok(self.export(number)),
            false => Err(Status::Stale),
        }
    }
}

/// Serves until the runtime that is given back is dropped.
pub fn start(
    exports: Arc<dyn Exports>,
    options: ServeOptions,
) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(any))
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(serve(listener, exports, options));
    (runtime, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// From any port, as tests are no kernels.
pub fn from_any_port() -> ServeOptions {
    ServeOptions {
        low_ports_only: false,
        ..ServeOptions::default()
    }
}

/// The variable with the folder of a server that has a process of its own.
const PROCESS: &str = "BUGLER_NFS_TEST_SERVER";

/// Serves for ever, where this is the process of [`spawn`]. A test calls it that is named
/// `server_process`.
pub fn serve_if_asked() {
    let Ok(arguments) = std::env::var(PROCESS) else {
        return;
    };
    let [folder, port, quota] = arguments.split('|').collect::<Vec<_>>()[..] else {
        panic!("{arguments}");
    };
    let folder = Path::new(folder);
    let image = folder.join("image");
    let tree = match image.exists() {
        true => base::image_tree(&image),
        false => base::folder_tree(&folder.join("tree")),
    };
    let mut devices = Devices::new(tree, &folder.join("layers"));
    (devices.durable, devices.for_all) = (true, true);
    devices.quota = quota.parse().ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        // The line ends what the test harness has begun.
        println!("\nPORT {}", listener.local_addr().unwrap().port());
        serve(listener, Arc::new(devices), from_any_port())
            .await
            .unwrap();
    });
}

/// A server in a process of its own, over the tree in `folder/tree` or `folder/image`.
pub struct Process {
    pub child: Child,
    /// Open for as long as it runs: its test harness prints now and then.
    _output: Lines<BufReader<ChildStdout>>,
    pub address: SocketAddr,
}

impl Process {
    /// `port`: 0 for any.
    pub fn spawn(folder: &Path, port: u16, quota: Option<u64>) -> Self {
        let quota = quota.map_or(String::new(), |quota| quota.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--nocapture"])
            .env(PROCESS, format!("{}|{port}|{quota}", folder.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("the server says its port").unwrap();
            if let Some(port) = line.strip_prefix("PORT ") {
                break port.parse().unwrap();
            }
        };
        Self {
            child,
            _output: lines,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
