//! The server on a real link: two ends of a virtual wire in a network namespace that each test makes.

use bugler_aoe::link::{Hear, Link, Outbox, Receiver};
use bugler_aoe::packet::{
    Ata, Config as Query, ConfigCommand, Header, LBA48, Message, Selector, WRITE, ata,
};
use bugler_aoe::{Address, Config, Error, Forget, Identity, Options, Server, Table, Target};
use bugler_disk::{BlockDevice, DeviceError, Durability, Extent};
use bugler_model::MacAddr;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const INSIDE: &str = "BUGLER_AOE_TEST_INSIDE";
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SIZE: usize = 1 << 20;
const E0: Selector = Selector { shelf: 0, slot: 0 };
const LONG: Duration = Duration::from_secs(60);

/// Runs `test` where `srv` and `cli` are the ends of a wire, as root or as an ordinary user.
fn in_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        wire(1500);
        return test();
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let status = unshare
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (package util-linux) runs");
    assert!(status.success(), "{name} failed in its namespace: {status}");
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.expect("ip (package iproute2) runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {said}");
}

fn wire(mtu: u32) {
    ip(&format!(
        "link add srv mtu {mtu} type veth peer name cli address {CLIENT} mtu {mtu}"
    ));
    ip("link set srv up");
    ip("link set cli up");
}

/// A disk in memory whose writes can be made to wait, and that counts its flushes.
#[derive(Default)]
struct Memory {
    sectors: Mutex<BTreeMap<u64, u8>>,
    log: Mutex<Vec<(u64, usize, u8)>>,
    flushes: AtomicUsize,
    closed: Mutex<bool>,
    opened: Condvar,
    /// It has no room for what begins here or later.
    full_from: Option<u64>,
}

impl Memory {
    /// Has writes wait until what is returned is dropped.
    fn close(self: &Arc<Self>) -> Closed {
        *self.closed.lock().unwrap() = true;
        Closed(self.clone())
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
    }
}

struct Closed(Arc<Memory>);

impl Drop for Closed {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap() = false;
        self.0.opened.notify_all();
    }
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let sectors = self.sectors.lock().unwrap();
        for (number, sector) in (offset / 512..).zip(buf.chunks_mut(512)) {
            sector.fill(sectors.get(&number).copied().unwrap_or(0));
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), DeviceError> {
        self.pass();
        if self
            .full_from
            .is_some_and(|from| offset + data.len() as u64 > from)
        {
            return Err(DeviceError::Full { quota: 4096 });
        }
        let mut sectors = self.sectors.lock().unwrap();
        for (number, sector) in (offset / 512..).zip(data.chunks(512)) {
            sectors.insert(number, sector[0]);
        }
        drop(sectors);
        self.log.lock().unwrap().push((offset, data.len(), data[0]));
        match durability {
            Durability::Durable => self.flush(),
            Durability::Cached => Ok(()),
        }
    }
    fn write_zeroes(&self, _: u64, _: u64, _: Durability) -> Result<(), DeviceError> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, DeviceError> {
        Ok(vec![])
    }
}

fn target(shelf: u16, device: Arc<Memory>, durability: Durability) -> Arc<Target> {
    let options = Options {
        name: format!("disk{shelf}"),
        address: Address::new(shelf, 0).unwrap(),
        identity: Identity {
            model: "Bugler disk".into(),
            serial: "1".into(),
        },
        durability,
    };
    Arc::new(Target::open(options, device, Arc::new(Forget)).unwrap())
}

/// Status and data, by tag.
type Answers = BTreeMap<u32, (u8, Vec<u8>)>;

/// A machine at the other end.
struct Client {
    link: Link,
    receiver: Receiver,
    outbox: Outbox,
    server: MacAddr,
    /// Searches that went out.
    searches: u64,
}

impl Client {
    fn new() -> Self {
        let link = Link::open("cli", Hear::Answers, Duration::from_millis(100)).unwrap();
        Self {
            receiver: Receiver::new(9000),
            outbox: Outbox::default(),
            link,
            server: MacAddr([0xff; 6]),
            searches: 0,
        }
    }

    fn post(&mut self, to: Selector, tag: u32, message: &Message<'_>) {
        let header = Header::request(self.server, CLIENT, to, tag);
        let mut frame = vec![];
        message.encode(&header, &mut frame);
        self.outbox.push(&frame);
    }

    fn post_ata(&mut self, tag: u32, command: u8, first: u64, count: u8, data: &[u8]) {
        let [a, b, c, d, e, f, ..] = first.to_le_bytes();
        let message = Message::Ata(Ata {
            flags: LBA48 | if data.is_empty() { 0 } else { WRITE },
            error: 0,
            count,
            command,
            lba: [a, b, c, d, e, f],
            data,
        });
        self.post(E0, tag, &message);
    }

    fn flush(&mut self) {
        let (failed, error) = self.link.send(&mut self.outbox);
        assert_eq!(failed, 0, "{error:?}");
    }

    /// The answers to the next `count` commands.
    fn answers(&mut self, count: usize) -> Answers {
        self.answers_until(|answers| answers.len() >= count)
    }

    fn answers_until(&mut self, enough: impl Fn(&Answers) -> bool) -> Answers {
        self.flush();
        let mut answers = Answers::new();
        let end = Instant::now() + LONG;
        while !enough(&answers) {
            assert!(
                Instant::now() < end,
                "only {:?} were answered",
                answers.keys()
            );
            if self.receiver.receive(&self.link).is_err() {
                continue;
            }
            for frame in self.receiver.frames() {
                let (header, rest) = Header::decode(frame).unwrap();
                assert!(header.response && header.error == 0 && header.destination == CLIENT);
                // A busy computer answers a search when it has been sent again.
                if header.command != 0 {
                    continue;
                }
                let status = rest[3];
                answers.insert(
                    header.tag,
                    (status, rest.get(12..).unwrap_or_default().to_vec()),
                );
            }
        }
        answers
    }

    /// Asks until an answer comes: who is there, and how many sectors it takes in a frame.
    fn discover(&mut self) -> (Vec<Selector>, u8) {
        let query = Message::Config(Query {
            buffers: 0,
            firmware: 0,
            sectors: 0,
            command: ConfigCommand::Read,
            string: &[],
        });
        let end = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < end, "nobody answers");
            self.post(Selector::ALL, 1, &query);
            // The interface may be down.
            let (failed, _) = self.link.send(&mut self.outbox);
            self.searches += 1 - failed;
            if self.receiver.receive(&self.link).is_err() {
                continue;
            }
            let mut found = vec![];
            let mut sectors = 0;
            for frame in self.receiver.frames() {
                let (header, rest) = Header::decode(frame).unwrap();
                if let Ok(Message::Config(config)) = Message::decode(header.command, rest) {
                    // Two searches may be answered at once.
                    if !found.contains(&header.target) {
                        found.push(header.target);
                    }
                    sectors = config.sectors;
                    self.server = header.source;
                }
            }
            return (found, sectors);
        }
    }
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !happened() {
        assert!(
            Instant::now() < end,
            "{what}: not within {} s",
            LONG.as_secs()
        );
        std::thread::yield_now();
    }
}

/// A server of one disk, and a client that has found it.
fn start(disk: &Arc<Memory>, durability: Durability) -> (bugler_aoe::Handle, Arc<Table>, Client) {
    let table = Arc::new(Table::default());
    table.set(CLIENT, vec![target(0, disk.clone(), durability)]);
    let config = Config::new(vec!["srv".into()]);
    let server = Server::start(&config, table.clone()).unwrap();
    let mut client = Client::new();
    assert_eq!(client.discover(), (vec![E0], 2));
    // Searches that were sent again meanwhile are answered before a test begins to count.
    until("every search is answered", || {
        let counts = server.counts();
        counts.received == client.searches && counts.sent + counts.unsent == counts.received
    });
    (server, table, client)
}

#[test]
fn what_is_written_is_read_and_durable() {
    in_namespace("what_is_written_is_read_and_durable", || {
        let disk = Arc::new(Memory::default());
        let (server, _, mut client) = start(&disk, Durability::Durable);
        client.post_ata(5, ata::WRITE_EXT, 8, 2, &[0xab; 1024]);
        assert_eq!(client.answers(1)[&5], (0x40, vec![]));
        assert_eq!(disk.flushes.load(Ordering::SeqCst), 1, "before the answer");
        client.post_ata(6, ata::READ_EXT, 9, 1, &[]);
        client.post_ata(7, ata::READ_EXT, 10, 2, &[]);
        client.post_ata(8, ata::IDENTIFY, 0, 1, &[]);
        let answers = client.answers(3);
        assert_eq!(answers[&6], (0x40, vec![0xab; 512]));
        assert_eq!(answers[&7], (0x40, vec![0; 1024]));
        assert_eq!(answers[&8].1.len(), 512);
        client.post_ata(9, ata::READ_EXT, SIZE as u64 / 512, 1, &[]);
        assert_eq!(client.answers(1)[&9].0, 0x41);
        let counts = server.counts();
        assert_eq!(
            (counts.dropped, counts.malformed, counts.unknown),
            (0, 0, 0)
        );
        assert!(counts.received >= 6 && counts.unsent == 0, "{counts:?}");
        until("all answers are counted", || {
            let counts = server.counts();
            counts.sent == counts.received
        });
    });
}

#[test]
fn writes_that_wait_become_durable_together_and_in_order() {
    in_namespace(
        "writes_that_wait_become_durable_together_and_in_order",
        || {
            let disk = Arc::new(Memory::default());
            let (_server, _, mut client) = start(&disk, Durability::Durable);
            let closed = disk.close();
            // The first one holds the others up; those next to each other become one.
            for n in 0..32u8 {
                client.post_ata(
                    n.into(),
                    ata::WRITE_EXT,
                    2 * u64::from(n % 8),
                    2,
                    &[n + 1; 1024],
                );
            }
            // A command to another place shows that all before it have been taken.
            client.post_ata(99, ata::IDENTIFY, 0, 1, &[]);
            assert!(
                client.answers(1).contains_key(&99),
                "nothing waits for a disk that does"
            );
            drop(closed);
            assert_eq!(client.answers(32).len(), 32);
            let flushes = disk.flushes.load(Ordering::SeqCst);
            assert!(flushes <= 8, "{flushes} flushes for 32 writes");
            client.post_ata(100, ata::READ_EXT, 14, 2, &[]);
            assert_eq!(
                client.answers(1)[&100].1,
                vec![32; 1024],
                "the last write to it counts"
            );
            let log = disk.log.lock().unwrap();
            assert!(log.len() < 32, "{log:?}");
            for place in 0..8 {
                let to = log.iter().filter(|(offset, length, _)| {
                    (*offset..offset + *length as u64).contains(&(place * 1024))
                });
                assert_eq!(to.count(), 4, "none was left out: {log:?}");
            }
        },
    );
}

#[test]
fn a_full_layer_takes_what_needs_no_room() {
    in_namespace("a_full_layer_takes_what_needs_no_room", || {
        let disk = Arc::new(Memory {
            full_from: Some(4096),
            ..Memory::default()
        });
        let (_server, _, mut client) = start(&disk, Durability::Cached);
        for n in 0..8u8 {
            client.post_ata(n.into(), ata::WRITE_EXT, 4 + u64::from(n), 1, &[n; 512]);
        }
        for (tag, (status, _)) in client.answers(8) {
            let expected = if tag < 4 { 0x40 } else { 0x61 };
            assert_eq!(status, expected, "command {tag}");
        }
    });
}

#[test]
fn a_lane_that_is_full_drops_and_the_rest_goes_on() {
    in_namespace("a_lane_that_is_full_drops_and_the_rest_goes_on", || {
        let disk = Arc::new(Memory::default());
        let (server, table, mut client) = start(&disk, Durability::Cached);
        let other = Arc::new(Memory::default());
        let stuck = table.clone();
        let closed = disk.close();
        for n in 0..600u32 {
            client.post_ata(n, ata::WRITE_EXT, 4 * u64::from(n % 100), 1, &[1; 512]);
        }
        client.flush();
        until("commands are dropped", || server.counts().dropped > 0);
        stuck.set(CLIENT, vec![target(0, other, Durability::Cached)]);
        client.post_ata(1000, ata::WRITE_EXT, 0, 1, &[2; 512]);
        // Some of the 600 may have come to this disk as well.
        let answers = client.answers_until(|answers| answers.contains_key(&1000));
        assert_eq!(answers[&1000].0, 0x40, "another disk is not held up");
        drop(closed);
    });
}

#[test]
fn strangers_get_nothing() {
    in_namespace("strangers_get_nothing", || {
        let disk = Arc::new(Memory::default());
        let (server, table, mut client) = start(&disk, Durability::Cached);
        table.remove(CLIENT);
        client.post_ata(1, ata::WRITE_EXT, 0, 1, &[1; 512]);
        client.post_ata(2, ata::READ_EXT, 0, 1, &[]);
        client.flush();
        until("they are counted", || server.counts().unknown == 2);
        assert!(disk.log.lock().unwrap().is_empty());
        // Answers to a search may be on their way still.
        while client.receiver.receive(&client.link).is_ok() {
            for frame in client.receiver.frames() {
                let (header, _) = Header::decode(frame).unwrap();
                assert_ne!(header.command, 0, "a command was answered");
            }
        }
    });
}

#[test]
fn jumbo_frames_and_an_interface_that_comes_and_goes() {
    in_namespace("jumbo_frames_and_an_interface_that_comes_and_goes", || {
        let disk = Arc::new(Memory::default());
        let (_server, table, mut client) = start(&disk, Durability::Durable);
        table.set(
            CLIENT,
            vec![
                target(0, disk.clone(), Durability::Durable),
                target(3, disk, Durability::Cached),
            ],
        );
        // Larger frames, while it serves.
        ip("link set srv mtu 9000");
        ip("link set cli mtu 9000");
        until("17 sectors are told", || client.discover().1 == 17);
        client.post_ata(2, ata::WRITE_EXT, 0, 17, &[3; 17 * 512]);
        client.post_ata(3, ata::READ_EXT, 17, 17, &[]);
        assert_eq!(client.answers(2)[&3].1.len(), 17 * 512);
        client.post_ata(4, ata::READ_EXT, 0, 17, &[]);
        assert_eq!(client.answers(1)[&4].1, vec![3; 17 * 512]);

        ip("link set srv down");
        ip("link set srv up");
        assert_eq!(client.discover().1, 17, "served again");

        // Another interface of the same name.
        ip("link del srv");
        wire(1500);
        let mut client = Client::new();
        let mut found = vec![];
        until("both disks are found", || {
            let (more, sectors) = client.discover();
            assert_eq!(sectors, 2);
            found.extend(more);
            found.contains(&E0) && found.contains(&Selector { shelf: 3, slot: 0 })
        });
        client.post_ata(5, ata::READ_EXT, 0, 2, &[]);
        assert_eq!(client.answers(1)[&5].1, vec![3; 1024]);
    });
}

#[test]
fn an_interface_that_is_not_there_is_told() {
    in_namespace("an_interface_that_is_not_there_is_told", || {
        let config = Config::new(vec!["nowhere".into()]);
        let error = Server::start(&config, Arc::new(Table::default())).unwrap_err();
        assert!(matches!(error, Error::NoInterface { .. }));
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}
