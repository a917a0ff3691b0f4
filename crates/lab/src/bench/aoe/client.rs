//! An AoE client that keeps a number of commands outstanding, as fast as they are answered.

use anyhow::{Context, Result, bail, ensure};
use bugler_aoe::link::{Hear, Link, Outbox, Receiver};
use bugler_aoe::packet::{
    Ata, Config, ConfigCommand, Header, LBA48, Message, SECTOR, Selector, WRITE, ata,
};
use bugler_model::MacAddr;
use std::time::{Duration, Instant};

/// How long an answer is waited for before the command is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// What the commands of a load do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Requests of 4 KiB anywhere, cut into frames.
    Random,
    /// One after the other.
    Sequential,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) kind: Kind,
    pub(super) order: Order,
    /// Sectors of the disk that are used.
    pub(super) sectors: u64,
    /// Sectors in a frame.
    pub(super) in_frame: u8,
    /// Commands outstanding.
    pub(super) depth: usize,
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    /// Commands answered.
    pub(super) commands: u64,
    pub(super) bytes: u64,
    /// Commands that were sent again.
    pub(super) again: u64,
    pub(super) elapsed: Duration,
}

/// A client of one target.
pub(super) struct Client {
    link: Link,
    /// Taken out while its frames are looked at.
    receiver: Receiver,
    outbox: Outbox,
    frame: Vec<u8>,
    own: MacAddr,
    server: MacAddr,
    target: Selector,
}

/// A command that is outstanding.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    first: u64,
    count: u8,
    sent: Instant,
}

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end.max(1)
    }
}

/// Which sectors come next.
struct Walk {
    load: Load,
    random: Random,
    next: u64,
    left: u64,
}

impl Walk {
    fn step(&mut self) -> (u64, u8) {
        let load = &self.load;
        let frame = u64::from(load.in_frame);
        if self.left == 0 {
            (self.next, self.left) = match load.order {
                Order::Random => (self.random.below(load.sectors / 8) * 8, 8),
                Order::Sequential => (0, load.sectors / frame * frame),
            };
        }
        let count = frame.min(self.left);
        let first = self.next;
        self.next += count;
        self.left -= count;
        (first, count as u8)
    }
}

impl Client {
    /// Finds the target on this interface.
    pub(super) fn find(interface: &str, target: Selector) -> Result<Self> {
        let link = Link::open(interface, Hear::Answers, AGAIN)?;
        let (mtu, own) = link.look().context("cannot ask for the interface")?;
        let mut client = Self {
            receiver: Receiver::new(mtu),
            outbox: Outbox::default(),
            frame: vec![],
            server: MacAddr([0xff; 6]),
            link,
            own,
            target,
        };
        let query = Message::Config(Config {
            buffers: 0,
            firmware: 0,
            sectors: 0,
            command: ConfigCommand::Read,
            string: &[],
        });
        for _ in 0..50 {
            client.send(1, &query);
            client.flush()?;
            if client.receiver.receive(&client.link).is_err() {
                continue;
            }
            let found = client.receiver.frames().find_map(|frame| {
                let (header, _) = Header::decode(frame).ok()?;
                (header.target == target).then_some(header.source)
            });
            if let Some(server) = found {
                client.server = server;
                return Ok(client);
            }
        }
        bail!("no target answered on {interface} within 10 s")
    }

    fn send(&mut self, tag: u32, message: &Message<'_>) {
        let header = Header::request(self.server, self.own, self.target, tag);
        self.frame.clear();
        message.encode(&header, &mut self.frame);
        self.outbox.push(&self.frame);
    }

    fn flush(&mut self) -> Result<()> {
        match self.link.send(&mut self.outbox) {
            (0, _) | (_, None) => Ok(()),
            (_, Some(error)) => Err(error).context("cannot send"),
        }
    }

    /// Keeps that many commands outstanding for that long. Each sector that is written begins with its
    /// number, and so does each that is read.
    pub(super) fn run(&mut self, load: &Load) -> Result<Report> {
        let mut walk = Walk {
            load: *load,
            random: Random(0x9e37_79b9_7f4a_7c15),
            next: 0,
            left: 0,
        };
        let begun = Instant::now();
        let mut slots = Vec::with_capacity(load.depth);
        let mut data = vec![0x5a; usize::from(load.in_frame) * SECTOR];
        for index in 0..load.depth {
            slots.push(self.command(load, index as u32, walk.step(), begun, &mut data));
        }
        self.flush()?;
        let mut report = Report::default();
        let mut outstanding = load.depth;
        let mut looked = begun;
        while outstanding > 0 {
            let received = self.receiver.receive(&self.link);
            let now = Instant::now();
            if received.is_ok() {
                let receiver = std::mem::replace(&mut self.receiver, Receiver::new(64));
                for frame in receiver.frames() {
                    let Some((index, bytes)) = check(load, &slots, frame)? else {
                        continue;
                    };
                    report.commands += 1;
                    report.bytes += bytes;
                    let tag = slots[index].tag.wrapping_add(1 << 16);
                    if now - begun < load.time {
                        slots[index] = self.command(load, tag, walk.step(), now, &mut data);
                    } else {
                        slots[index].tag = u32::MAX;
                        outstanding -= 1;
                    }
                }
                self.receiver = receiver;
            }
            if now - looked > AGAIN {
                looked = now;
                for slot in &mut slots {
                    if slot.tag != u32::MAX && now - slot.sent > AGAIN {
                        report.again += 1;
                        let (first, count) = (slot.first, slot.count);
                        *slot = self.command(load, slot.tag, (first, count), now, &mut data);
                    }
                }
                ensure!(report.again < 10_000, "the target answers no more");
            }
            self.flush()?;
        }
        report.elapsed = begun.elapsed();
        Ok(report)
    }

    fn command(
        &mut self,
        load: &Load,
        tag: u32,
        (first, count): (u64, u8),
        now: Instant,
        data: &mut [u8],
    ) -> Slot {
        let [a, b, c, d, e, f, ..] = first.to_le_bytes();
        let bytes = usize::from(count) * SECTOR;
        let (flags, command, data) = match load.kind {
            Kind::Read => (LBA48, ata::READ_EXT, &[][..]),
            Kind::Write => {
                for (number, sector) in (first..).zip(data.chunks_exact_mut(SECTOR)) {
                    sector[..8].copy_from_slice(&number.to_le_bytes());
                }
                (LBA48 | WRITE, ata::WRITE_EXT, &data[..bytes])
            }
        };
        let header = Header::request(self.server, self.own, self.target, tag);
        let message = Message::Ata(Ata {
            flags,
            error: 0,
            count,
            command,
            lba: [a, b, c, d, e, f],
            data,
        });
        self.frame.clear();
        message.encode(&header, &mut self.frame);
        self.outbox.push(&self.frame);
        Slot {
            tag,
            first,
            count,
            sent: now,
        }
    }
}

/// Whether this is the answer to a command that is outstanding: which, and how many bytes it moved.
fn check(load: &Load, slots: &[Slot], frame: &[u8]) -> Result<Option<(usize, u64)>> {
    let (header, rest) = Header::decode(frame)?;
    let index = (header.tag & 0xffff) as usize;
    let Some(slot) = slots.get(index).filter(|slot| slot.tag == header.tag) else {
        return Ok(None);
    };
    let Message::Ata(ata) = Message::decode(header.command, rest)? else {
        return Ok(None);
    };
    ensure!(
        header.error == 0 && ata.command & 0xa9 == 0,
        "the target failed sector {}: status {:#x}, AoE error {}",
        slot.first,
        ata.command,
        header.error
    );
    let bytes = usize::from(slot.count) * SECTOR;
    if load.kind == Kind::Read {
        let number = ata
            .data
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes));
        ensure!(
            ata.data.len() >= bytes && number == Some(slot.first),
            "sector {} came as {} bytes that begin with {number:?}",
            slot.first,
            ata.data.len()
        );
    }
    Ok(Some((index, bytes as u64)))
}
