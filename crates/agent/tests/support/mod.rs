//! A server for the agent's tests: small, in this process, and able to misbehave.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unreachable_pub, missing_docs)]

use bugler_model::{Compare, Deploy, Disk, DiskRule, ImageId, Inventory, MacAddr, VerifyMode};
use bugler_protocol::agent::{
    Assignment, ChunkRequest, Damaged, Heartbeat, Register, Registered, Report, ReportAnswer,
    VERSION,
};
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash, ChunkRef, Manifest};
use captures::{Captures, Trick};
use serde_json::{from_slice, to_vec};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub mod captures;

pub const CHUNK: usize = CHUNK_SIZE as usize;

/// An image with its chunks.
pub struct Image {
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
    pub frames: HashMap<String, Vec<u8>>,
}

impl Image {
    pub fn new(bytes: Vec<u8>, sector_size: u32) -> Self {
        let mut frames = HashMap::new();
        let mut chunks = Vec::new();
        for (index, content) in (0..).zip(bytes.chunks(CHUNK)) {
            if content.iter().all(|&byte| byte == 0) {
                continue;
            }
            let frame = zstd::bulk::compress(content, 1).unwrap();
            let hash = ChunkHash(*blake3::hash(content).as_bytes());
            chunks.push(ChunkRef {
                index,
                stored_len: frame.len() as u32,
                hash,
            });
            frames.insert(hash.to_string(), frame);
        }
        let manifest = Manifest {
            disk_size: bytes.len() as u64,
            sector_size,
            chunks,
        };
        Self {
            bytes,
            manifest,
            frames,
        }
    }

    /// A disk whose chunks are, by the letters: `.` zero, others by their letter. `tail` bytes
    /// follow as a last, short chunk.
    pub fn drawn(letters: &str, tail: usize) -> Self {
        let mut bytes = Vec::new();
        for letter in letters.bytes() {
            let len = bytes.len();
            bytes.resize(len + CHUNK, 0);
            if letter != b'.' {
                fill(&mut bytes[len..], letter.into());
            }
        }
        let len = bytes.len();
        bytes.resize(len + tail, 0);
        fill(&mut bytes[len..], 255);
        Self::new(bytes, 512)
    }

    pub fn name(&self) -> String {
        blake3::hash(&self.manifest.encode()).to_hex().to_string()
    }

    pub fn task(&self) -> Deploy {
        Deploy {
            image: ImageId(1),
            image_name: "test".parse().unwrap(),
            version: 1,
            manifest: self.name(),
            disk: DiskRule::Auto,
            verify: VerifyMode::ReadBack,
            compare: Compare::Auto,
            grow: false,
            identity: None,
            limit_rate: None,
        }
    }

    pub fn hash(&self, position: usize) -> String {
        self.manifest.chunks[position].hash.to_string()
    }
}

/// Bytes that compress about by half and differ for each seed.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for word in bytes.chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 32).to_le_bytes();
        let len = word.len();
        word.copy_from_slice(&value[..len]);
    }
}

/// What the server does wrong.
#[derive(Default)]
pub struct Faults {
    /// Chunks that come damaged, and how often they still do.
    pub damage: HashMap<String, usize>,
    /// Chunks that it has not got.
    pub absent: HashSet<String>,
    /// After this many chunks it dies: every connection is cut, in the middle of a chunk.
    pub die_after: Option<usize>,
    /// After this many chunks it sends nothing more, and keeps the connection.
    pub stall_after: Option<usize>,
    /// Knows no token any more, not even that of the boot.
    pub refuse_all: bool,
    /// Sends this instead of the next chunk's frame.
    pub garbage: Option<Vec<u8>>,
    /// What happens to each of the next requests of a capture.
    pub tricks: VecDeque<Trick>,
}

#[derive(Default)]
pub struct Seen {
    pub registrations: Vec<Register>,
    pub damaged: Vec<Damaged>,
    pub reports: Vec<Report>,
    pub log: Vec<String>,
    /// How many chunks it has begun to send.
    pub begun: usize,
    /// Every chunk that was sent whole.
    pub sent: Vec<String>,
    /// Requests with a token that this server did not give.
    pub refused: usize,
}

struct State {
    image: Arc<Image>,
    faults: Mutex<Faults>,
    seen: Mutex<Seen>,
    changed: Condvar,
    tasks: Mutex<VecDeque<Assignment>>,
    token: String,
    connections: Mutex<Option<Vec<TcpStream>>>,
    captures: Mutex<Captures>,
}

pub struct Server {
    state: Arc<State>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(image: &Arc<Image>) -> Self {
        Self::start_at(image, "127.0.0.1:0".parse().unwrap(), "first")
    }

    /// Starts at an address that no other server or client gets by chance, so that one can be
    /// [started there](Self::start_at) again: an address of loopback for this process, and a port that
    /// the kernel gives to nobody unasked.
    pub fn start_alone(image: &Arc<Image>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(18480);
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = (Ipv4Addr::new(127, 64 | a, b, c), port).into();
        Self::start_at(image, address, "first")
    }

    /// Starts at an address that an earlier one had; knows only `token`.
    pub fn start_at(image: &Arc<Image>, address: SocketAddr, token: &str) -> Self {
        let end = Instant::now() + Duration::from_secs(60);
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                // A program that another test is just starting has the earlier one's socket still.
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{address}: {error}"),
            }
        };
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            image: image.clone(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            changed: Condvar::new(),
            tasks: Mutex::default(),
            token: token.into(),
            connections: Mutex::new(Some(Vec::new())),
            captures: Mutex::default(),
        });
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                match shared.connections.lock().unwrap().as_mut() {
                    Some(open) => open.push(stream.try_clone().unwrap()),
                    None => return,
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let kept_open = stream.try_clone().unwrap();
                    shared.serve(stream);
                    let _ = kept_open.shutdown(Shutdown::Both);
                });
            }
        });
        Self {
            state,
            address,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn api(&self) -> bugler_agent::api::Api {
        let introduction = || Register {
            protocol: VERSION,
            agent_version: "test".into(),
            boot_token: "boot".into(),
            boot_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            inventory: Inventory::default(),
            uptime_ms: 1,
        };
        bugler_agent::api::Api::new(&self.url(), Box::new(introduction)).unwrap()
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.faults.lock().unwrap());
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.state.seen.lock().unwrap())
    }

    pub fn captures<T>(&self, look: impl FnOnce(&mut Captures) -> T) -> T {
        look(&mut self.state.captures.lock().unwrap())
    }

    pub fn assign(&self, assignment: Assignment) {
        self.state.tasks.lock().unwrap().push_back(assignment);
    }

    /// Waits until something is seen.
    pub fn wait_until(&self, is_seen: impl Fn(&Seen) -> bool) {
        let seen = self.state.seen.lock().unwrap();
        drop(
            self.state
                .changed
                .wait_while(seen, |seen| !is_seen(seen))
                .unwrap(),
        );
    }

    /// Ends every connection that is open now.
    pub fn cut(&self) {
        let mut open = self.state.connections.lock().unwrap();
        for stream in open.iter_mut().flat_map(|open| open.drain(..)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends it, with every connection.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.state.die();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn die(&self) {
        for stream in self
            .connections
            .lock()
            .unwrap()
            .take()
            .into_iter()
            .flatten()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }

    /// Serves a connection until it ends; every error ends it.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
            let mut words = line.split_whitespace();
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let (mut length, mut token) = (0, None);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                let header = header.trim();
                if header.is_empty() {
                    break;
                }
                let (name, value) = header.split_once(':')?;
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().ok()?,
                    "authorization" => {
                        token = value.trim().strip_prefix("Bearer ").map(str::to_owned)
                    }
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let path = path.strip_prefix("/agent/v1/").unwrap_or("?").to_owned();
            let refuse_all = self.faults.lock().unwrap().refuse_all;
            let is_known = path == "register" || token.as_deref() == Some(&self.token);
            if refuse_all || !is_known {
                self.note(|seen| seen.refused += 1);
                answer(&mut stream, 401, b"{\"error\":\"register again\"}")?;
                continue;
            }
            self.handle(&mut stream, &method, &path, &body)?;
        }
    }

    fn handle(&self, stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) -> Option<()> {
        match (method, path) {
            ("POST", "register") => {
                let registered = Registered {
                    protocol: VERSION,
                    device: "d3".parse().unwrap(),
                    label: "rack1-07".into(),
                    token: self.token.clone(),
                    heartbeat_s: 1,
                };
                let register = from_slice(body).unwrap();
                self.note(|seen| seen.registrations.push(register));
                answer(stream, 200, &to_vec(&registered).unwrap())
            }
            ("POST", "heartbeat") => {
                let heartbeat: Heartbeat = from_slice(body).unwrap();
                self.note(|seen| seen.log.extend(heartbeat.log));
                answer(stream, 204, b"")
            }
            ("POST", "damaged") => {
                let damaged = from_slice(body).unwrap();
                self.note(|seen| seen.damaged.push(damaged));
                answer(stream, 204, b"")
            }
            ("POST", "chunks") => {
                let request: ChunkRequest = from_slice(body).unwrap();
                self.chunks(stream, &request.hashes)
            }
            ("POST", path) if path.ends_with("/report") => {
                let report: Report = from_slice(body).unwrap();
                self.note(|seen| seen.reports.push(report));
                answer(stream, 200, &to_vec(&ReportAnswer::default()).unwrap())
            }
            ("POST", path) if path.starts_with("captures/") => self.capture(stream, path, body),
            ("GET", path) if path.starts_with("task?wait=") => {
                let task = self.tasks.lock().unwrap().pop_front();
                match task {
                    Some(task) => answer(stream, 200, &to_vec(&task).unwrap()),
                    None => answer(stream, 204, b""),
                }
            }
            ("GET", path) if path.starts_with("manifests/") => {
                answer(stream, 200, &self.image.manifest.encode())
            }
            _ => answer(stream, 404, b"{\"error\":\"no such thing\"}"),
        }
    }

    /// Sends chunks in an answer of unknown length, as a server that streams does.
    fn chunks(&self, stream: &mut TcpStream, hashes: &[String]) -> Option<()> {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .ok()?;
        for hash in hashes {
            let mut frame = self.image.frames[hash].clone();
            let (mut die, mut stall) = (false, false);
            {
                let mut faults = self.faults.lock().unwrap();
                if let Some(left) = faults.damage.get_mut(hash).filter(|left| **left > 0) {
                    *left -= 1;
                    // Good zstd, wrong content: only the hash can tell.
                    let content = zstd::bulk::decompress(&frame, CHUNK).unwrap();
                    let wrong: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
                    frame = zstd::bulk::compress(&wrong, 1).unwrap();
                }
                if faults.absent.contains(hash) {
                    frame.clear();
                }
                // Counted where it is looked at: connections are served side by side, and two that
                // counted what was sent would both be let through as the last one.
                let mut seen = self.seen.lock().unwrap();
                let count = seen.begun;
                seen.begun += 1;
                drop(seen);
                die |= faults.die_after.is_some_and(|after| count >= after);
                stall |= faults.stall_after.is_some_and(|after| count >= after);
                if let Some(garbage) = faults.garbage.take() {
                    http_chunk(stream, &garbage)?;
                    return None;
                }
            }
            let mut bytes = (frame.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(&frame);
            if die {
                http_chunk(stream, &bytes[..bytes.len() / 2])?;
                self.die();
                self.changed.notify_all();
                return None;
            }
            if stall {
                http_chunk(stream, &bytes[..bytes.len() / 2])?;
                // Until the agent goes away.
                self.note(|seen| seen.log.push("stalled".into()));
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
                return None;
            }
            self.note(|seen| seen.sent.push(hash.clone()));
            http_chunk(stream, &bytes)?;
        }
        stream.write_all(b"0\r\n\r\n").ok()
    }
}

fn http_chunk(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    stream
        .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
        .ok()?;
    stream.write_all(bytes).ok()?;
    stream.write_all(b"\r\n").ok()
}

fn answer(stream: &mut TcpStream, status: u16, body: &[u8]) -> Option<()> {
    let length = match status {
        204 => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status} X\r\n{length}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}

/// A file that stands for a disk.
pub struct FileDisk {
    file: tempfile::NamedTempFile,
    pub disk: Disk,
}

impl FileDisk {
    /// A disk of `size` bytes, each of them `content`; a hole where that is zero.
    pub fn new(size: usize, content: u8) -> Self {
        // Beside the build, not in /tmp, which is often a filesystem without O_DIRECT.
        let dir = option_env!("CARGO_TARGET_TMPDIR").unwrap_or(".");
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        file.as_file().set_len(size as u64).unwrap();
        if content != 0 {
            std::fs::write(file.path(), vec![content; size]).unwrap();
        }
        let disk = Disk {
            path: file.path().to_str().unwrap().into(),
            size: size as u64,
            sector_size: 512,
            ..Disk::default()
        };
        Self { file, disk }
    }

    pub fn path(&self) -> &std::path::Path {
        self.file.path()
    }

    pub fn read(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub fn write(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
    }
}
