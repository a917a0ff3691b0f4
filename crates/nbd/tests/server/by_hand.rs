use crate::{overlay, serve, serve_with};
use bugler_disk::{BlockDevice, DeviceError, Durability, Extent, RawDevice};
use bugler_nbd::{
    Export, Options,
    packet::{Command, REQUEST_LEN, Request, command_flags, option, reply},
};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

/// A client that sends what it is told to.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects, and answers the greeting.
    pub(crate) fn greet(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let mut client = Self { stream };
        assert_eq!(client.receive(18), b"NBDMAGICIHAVEOPT\x00\x03");
        client.send(&3_u32.to_be_bytes());
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            // It was reset: there were bytes that nobody read.
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn option_bytes(number: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    /// Type and data of a reply to an option.
    pub(crate) fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.receive(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let length = u32::from_be_bytes(*head[16..].first_chunk().unwrap());
        let kind = u32::from_be_bytes(*head[12..].first_chunk().unwrap());
        (kind, self.receive(length as usize))
    }

    fn ask(&mut self, number: u32, data: &[u8]) -> (u32, Vec<u8>) {
        self.send(&Self::option_bytes(number, data));
        self.option_reply()
    }

    /// Chooses an export.
    fn go(address: SocketAddr, name: &str) -> Self {
        let mut client = Self::greet(address);
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 0]);
        client.send(&Self::option_bytes(option::GO, &data));
        loop {
            match client.option_reply() {
                (reply::INFO, _) => {}
                (reply::ACK, _) => return client,
                other => panic!("{other:?}"),
            }
        }
    }

    fn request(&mut self, command: Command, cookie: u64, offset: u64, length: u32) {
        self.request_with(command, 0, cookie, offset, length);
    }

    fn request_with(
        &mut self,
        command: Command,
        flags: u16,
        cookie: u64,
        offset: u64,
        length: u32,
    ) {
        let request = Request {
            flags,
            command,
            cookie,
            offset,
            length,
        };
        self.send(&request.encode());
    }

    /// Cookie and error of a simple reply.
    fn simple(&mut self) -> (u64, u32) {
        let head = self.receive(16);
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        (
            u64::from_be_bytes(*head[8..].first_chunk().unwrap()),
            u32::from_be_bytes(*head[4..].first_chunk().unwrap()),
        )
    }
}

#[test]
fn bad_options_are_answered_and_bad_bytes_end_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let running = serve(&[("disk", overlay(dir.path(), 32 << 20, None))]);
    let mut client = Client::greet(running.address);
    assert_eq!(client.ask(4711, b"?").0, reply::UNSUPPORTED);
    assert_eq!(client.ask(option::LIST, b"?").0, reply::INVALID);
    assert_eq!(client.ask(option::LIST, b"").0, reply::ACK);
    assert_eq!(client.ask(option::STARTTLS, b"").0, reply::POLICY);
    assert_eq!(client.ask(option::GO, &[0, 0, 0, 9, 0]).0, reply::INVALID);
    assert_eq!(
        client.ask(option::GO, &[0, 0, 0, 1, 0xff, 0, 0]).0,
        reply::INVALID
    );
    assert_eq!(
        client.ask(option::GO, &[0, 0, 0, 1, b'x', 0, 0]).0,
        reply::UNKNOWN
    );
    assert_eq!(
        client.ask(option::LIST, &vec![0; 1 << 20]).0,
        reply::TOO_BIG
    );
    let meta = [&[0, 0, 0, 4][..], b"disk", &[0; 4]].concat();
    assert_eq!(
        client.ask(option::SET_META_CONTEXT, &meta).0,
        reply::INVALID,
        "not yet structured"
    );
    assert_eq!(client.ask(option::ABORT, b"").0, reply::ACK);
    assert!(client.is_closed());

    let mut client = Client::greet(running.address);
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.is_closed());
    let mut client = Client::greet(running.address);
    for _ in 0..64 {
        assert_eq!(client.ask(4711, b"").0, reply::UNSUPPORTED);
    }
    client.send(&Client::option_bytes(4711, b""));
    assert!(client.is_closed(), "too many options");
    let mut client = Client::greet(running.address);
    client.send(&Client::option_bytes(option::EXPORT_NAME, b"other"));
    assert!(client.is_closed(), "the old way knows no refusal");
    let mut client = Client::greet(running.address);
    client.send(&Client::option_bytes(option::EXPORT_NAME, b"disk"));
    assert_eq!(client.receive(8), (32_u64 << 20).to_be_bytes());
    client.receive(2);
    client.send(&[0; REQUEST_LEN]);
    assert!(client.is_closed(), "a request without its magic number");
}

#[test]
fn bad_requests_get_their_errors_and_the_connection_goes_on() {
    const SIZE: u64 = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fixed");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let fixed: Arc<dyn BlockDevice> = Arc::new(RawDevice::open(&path, true).unwrap());
    let running = serve(&[
        ("disk", overlay(dir.path(), SIZE, None)),
        ("fixed", Export::new(fixed, "")),
    ]);
    let mut client = Client::go(running.address, "disk");
    for (command, flags, offset, length, error) in [
        (Command::Read, 0, SIZE, 512, 22),
        (Command::Read, 0, u64::MAX, 512, 22),
        (Command::Read, 0, 0, (32 << 20) + 1, 22),
        (Command::Read, command_flags::DF, 0, 512, 22),
        (Command::WriteZeroes, 0, SIZE - 512, 1024, 28),
        (Command::WriteZeroes, command_flags::FAST_ZERO, 0, 512, 22),
        (Command::Trim, 0, SIZE, 1, 22),
        (Command::BlockStatus, 0, 0, 512, 22),
        (Command::Other(8), 0, 0, 0, 22),
        (Command::Flush, 0x8000, 0, 0, 22),
        (Command::Flush, 0, 0, 0, 0),
        (Command::Cache, 0, 512, 3 << 20, 0),
        (Command::Trim, 0, 0, SIZE as u32, 0),
        (
            Command::WriteZeroes,
            command_flags::FUA | command_flags::NO_HOLE,
            1,
            300_000,
            0,
        ),
        (Command::Read, 0, 0, 0, 0),
    ] {
        client.request_with(command, flags, 5, offset, length);
        assert_eq!(
            client.simple(),
            (5, error),
            "{command:?} {flags} {offset} {length}"
        );
    }
    client.request(Command::Write, 6, SIZE - 512, 1024);
    client.send(&[1; 1024]);
    assert_eq!(
        client.simple(),
        (6, 28),
        "behind the end; its data is passed over"
    );
    client.request(Command::Write, 7, 3, 5);
    client.send(b"seven");
    assert_eq!(client.simple(), (7, 0));
    client.request(Command::Read, 8, 2, 7);
    assert_eq!(client.simple(), (8, 0));
    assert_eq!(client.receive(7), b"\0seven\0");
    client.request(Command::Disconnect, 9, 0, 0);
    assert!(client.is_closed());

    let mut client = Client::go(running.address, "fixed");
    client.request(Command::Write, 1, 0, 512);
    client.send(&[0; 512]);
    assert_eq!(client.simple(), (1, 1));
    client.request(Command::WriteZeroes, 2, 0, 512);
    assert_eq!(client.simple(), (2, 1));
    client.request(Command::Write, 3, 0, u32::MAX);
    assert!(client.is_closed(), "so much is not read to be thrown away");
}

/// A disk whose reads of the first block wait until they are let go.
#[derive(Default)]
struct Slow {
    free: Mutex<bool>,
    told: Condvar,
}

impl BlockDevice for Slow {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        if offset == 0 {
            let free = self.free.lock().unwrap();
            drop(self.told.wait_while(free, |free| !*free).unwrap());
        }
        buf.fill(offset as u8);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8], _: Durability) -> Result<(), DeviceError> {
        Err(DeviceError::ReadOnly)
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Durability) -> Result<(), DeviceError> {
        Err(DeviceError::ReadOnly)
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Err(DeviceError::ReadOnly)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn extents(&self, _: u64, length: u64, _: usize) -> Result<Vec<Extent>, DeviceError> {
        Ok(vec![Extent {
            length,
            hole: false,
            zero: false,
        }])
    }
}

#[test]
fn a_slow_request_holds_up_no_other() {
    let slow = Arc::new(Slow::default());
    let device: Arc<dyn BlockDevice> = slow.clone();
    let running = serve(&[("slow", Export::new(device, ""))]);
    let mut client = Client::go(running.address, "slow");
    client.request(Command::Read, 1, 0, 4);
    client.request(Command::Read, 2, 512, 4);
    client.request(Command::Flush, 3, 0, 0);
    let mut early = Vec::new();
    for _ in 0..2 {
        let (cookie, error) = client.simple();
        assert_eq!(error, 0);
        if cookie == 2 {
            client.receive(4);
        }
        early.push(cookie);
    }
    early.sort_unstable();
    assert_eq!(early, [2, 3]);
    *slow.free.lock().unwrap() = true;
    slow.told.notify_all();
    assert_eq!(client.simple(), (1, 0));
}

#[test]
fn who_comes_and_who_is_gone_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let export = overlay(dir.path(), 32 << 20, None);
    let running = serve(&[("disk", Arc::clone(&export))]);
    let mut polite = Client::go(running.address, "disk");
    assert_eq!(running.events.recv().unwrap(), "disk attached");
    assert_eq!(export.stats().clients, 1);
    polite.request(Command::Disconnect, 1, 0, 0);
    assert_eq!(running.events.recv().unwrap(), "disk detached: goodbye");
    let mut rude = Client::go(running.address, "disk");
    assert_eq!(running.events.recv().unwrap(), "disk attached");
    rude.request(Command::Write, 1, 0, 4096);
    rude.send(&[1; 100]);
    drop(rude);
    let why = running.events.recv().unwrap();
    assert!(
        why.starts_with("disk detached: ") && why.contains("in the middle of a write"),
        "{why}"
    );
    assert_eq!(export.stats().clients, 0);
    let cut = Client::go(running.address, "disk");
    assert_eq!(running.events.recv().unwrap(), "disk attached");
    running.server.disconnect("127.0.0.1".parse().unwrap());
    assert!(
        running
            .events
            .recv()
            .unwrap()
            .starts_with("disk detached: ")
    );
    drop(cut);
    let last = Client::go(running.address, "disk");
    assert_eq!(running.events.recv().unwrap(), "disk attached");
    running.server.stop();
    assert!(
        running
            .events
            .recv()
            .unwrap()
            .starts_with("disk detached: ")
    );
    drop(last);
    assert_eq!(running.server.connections(), 0);
    // Nobody listens any more, once the programs that other tests are just starting have closed what they
    // have of this process.
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(running.address).is_ok() {
        assert!(Instant::now() < end, "somebody listens still");
        std::thread::yield_now();
    }
}

#[test]
fn connections_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let export = overlay(dir.path(), 32 << 20, None);
    let options = Options {
        max_per_address: 2,
        negotiation_seconds: 3600,
        ..Options::default()
    };
    let running = serve_with(&[("disk", export)], options, false).unwrap();
    let one = Client::go(running.address, "disk");
    let _idle = Client::greet(running.address);
    let mut third = TcpStream::connect(running.address).unwrap();
    assert_eq!(
        third.read(&mut [0; 18]).unwrap_or(0),
        0,
        "the third is turned away"
    );
    drop(one);
}

#[test]
fn a_client_must_choose_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        negotiation_seconds: 1,
        ..Options::default()
    };
    let disk = ("disk", overlay(dir.path(), 32 << 20, None));
    let running = serve_with(&[disk], options, false).unwrap();
    let mut idle = TcpStream::connect(running.address).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let mut said = Vec::new();
    idle.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"NBDMAGICIHAVEOPT\x00\x03", "and then its end");
}
