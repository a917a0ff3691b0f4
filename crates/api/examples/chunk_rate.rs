//! How fast chunks are served: `cargo run --release -p bugler-api --example chunk_rate`.
//!
//! One agent fetches every chunk of an image that does not compress, several times, over four
//! connections on loopback, as the real agent does but without unpacking or writing. Server and
//! client share the process, so the processor time is that of both.

use bugler_api::{
    AppState, BootContent, BootTree, BootTreeError, ServerInfo, device_router, serve, system_clock,
};
use bugler_images::{AddOptions, ChunkStore};
use bugler_model::{Deploy, Inventory, MacAddr, NewImage, NewTask, TaskAction};
use bugler_store::{Registration, Sighting, SqliteStore, Store, TokenHash};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const CHUNKS: usize = 512;
const BATCH: usize = 16;
const ROUNDS: usize = 4;
const CONNECTIONS: usize = 4;
const TOKEN: &str = "token";

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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path().join("registry.sqlite"))?);
    let images = Arc::new(ChunkStore::open(dir.path().join("images"))?);
    let stop = CancellationToken::new();
    let state = AppState::new(
        store.clone(),
        images.clone(),
        Arc::new(NoBoot),
        ServerInfo::default(),
        system_clock(),
        stop.clone(),
    );
    let mut content = vec![0; CHUNKS << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    let added = images.add(&content[..], AddOptions::default())?;
    drop(content);
    let hashes = open_deploy(&*store, &images, &added).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, device_router(state), stop.clone()));
    let bodies: Arc<Vec<String>> = Arc::new(
        hashes
            .chunks(BATCH)
            .map(|batch| format!("{{\"hashes\":[\"{}\"]}}", batch.join("\",\"")))
            .collect(),
    );
    for round in 0..ROUNDS {
        let (began, cpu) = (Instant::now(), cpu_seconds()?);
        let mut clients = Vec::new();
        for client in 0..CONNECTIONS {
            let bodies = bodies.clone();
            clients.push(tokio::spawn(async move {
                let mut got = 0;
                for body in bodies.iter().skip(client).step_by(CONNECTIONS) {
                    got += fetch(address, body).await?;
                }
                std::io::Result::Ok(got)
            }));
        }
        let mut got = 0;
        for client in clients {
            got += client.await??;
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        println!(
            "round {round}: {:.0} MB/s, {:.2} CPU s a GiB (server and client together)",
            got as f64 / 1e6 / seconds,
            cpu / (got as f64 / f64::from(1 << 30)),
        );
    }
    stop.cancel();
    Ok(())
}

/// A device that is to deploy the image, and the image's chunks.
async fn open_deploy(
    store: &dyn Store,
    images: &ChunkStore,
    added: &bugler_images::Added,
) -> Result<Vec<String>, Box<dyn Error>> {
    let now = system_clock()();
    let image = NewImage {
        name: "image".parse()?,
        note: String::new(),
        origin: None,
        manifest: added.manifest.to_string(),
        size: added.disk_size,
        used: added.used_bytes,
        stored: added.stored_bytes,
        sector_size: added.sector_size,
    };
    let image = store.add_image(image, now).await?;
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let sighting = Sighting {
        mac,
        uuid: None,
        arch: None,
        firmware: None,
    };
    let device = store.observe(sighting, now).await?.device.id;
    let session = store.begin_session(device, None, now).await?;
    let registration = Registration {
        device,
        session,
        boot_mac: mac,
        address: None,
        inventory: Inventory::default(),
        agent_token: TokenHash(*blake3::hash(TOKEN.as_bytes()).as_bytes()),
    };
    store.register(registration, now).await?;
    let action = TaskAction::Deploy(Deploy::of(&image));
    store
        .create_tasks(vec![NewTask { device, action }], now)
        .await?;
    let manifest = images.manifest(&added.manifest)?;
    Ok(manifest
        .chunks
        .iter()
        .map(|chunk| chunk.hash.to_string())
        .collect())
}

/// One request on a connection of its own; gives how many bytes came.
async fn fetch(address: SocketAddr, body: &str) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /agent/v1/chunks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut buffer = vec![0; 1 << 20];
    let mut got = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(got),
            length => got += length as u64,
        }
    }
}

/// User and system time of this process.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The fields after the program's name, which ends with the last parenthesis; 14 and 15 of
    // proc(5), in ticks of 10 ms.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap_or(0))
        .sum();
    Ok(ticks as f64 / 100.0)
}
