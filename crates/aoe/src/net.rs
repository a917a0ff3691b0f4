//! Sockets and threads: one thread hears each interface, and does at once what needs no waiting; the
//! rest is the [`pool`](crate::pool)'s.
//!
//! Frames are received and sent many at a time with recvmmsg(2) and sendmmsg(2). Rings shared with the
//! kernel (packet(7), `PACKET_RX_RING`) were measured in their place. TPACKET_V2 cost as much for a
//! frame, as it woke for fewer at a time. TPACKET_V3 cost less, 1/11, 1/5.5 and 1/3 of it in three
//! measurements, but hands a block over only when it is full or 1 ms has passed, and a client with few
//! commands outstanding waits for each of them.

use crate::error::Error;
use crate::link::{Hear, Link, Outbox, Receiver};
use crate::machine::{self, Action, Answer, Ignored, Machine};
use crate::packet::{ATA_HEADER, sectors_in};
use crate::pool::{MOST_IN_LANE, Pool, Read, Task, answer_read, answer_write, count_read};
use crate::port::{Counters, Counts, Port};
use crate::target::{Target, Targets, lock};
use bugler_disk::Durability;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread looks whether it should stop, and whether its interface has changed.
const LOOK: Duration = Duration::from_millis(200);

/// Commands next to each other in one batch are done together up to this many bytes: below it, a system
/// call costs more than to copy them.
const RUN: usize = 16 << 10;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// On which interfaces, by name.
    pub interfaces: Vec<String>,
    /// How many commands a client may have outstanding for a target, from 2 to 128. The Linux driver
    /// takes at most 64 unless told otherwise.
    pub buffers: u16,
    /// How many threads wait for disks.
    pub workers: usize,
}

impl Config {
    /// As is good for most, on these interfaces.
    #[must_use]
    pub fn new(interfaces: Vec<String>) -> Self {
        Self {
            interfaces,
            buffers: 64,
            workers: 16,
        }
    }
}

/// A server of AoE targets.
#[derive(Debug)]
pub struct Server;

/// A running server. Dropping it stops it: what it has begun it ends, what it has acknowledged stays.
pub struct Handle {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    counters: Arc<Counters>,
    /// Last, so that nobody hands it anything any more when it ends.
    _pool: Arc<Pool>,
}

impl Server {
    /// Serves these targets until the handle is dropped. An interface that goes away later is served
    /// again when it is back.
    ///
    /// # Errors
    /// [`Error`], where an interface is not there, or a socket or a thread cannot be had.
    pub fn start(config: &Config, targets: Arc<dyn Targets>) -> Result<Handle, Error> {
        let no_thread = |interface: &str| {
            let interface = interface.to_owned();
            |source| Error::Socket {
                action: "start a thread",
                interface,
                source,
            }
        };
        let pool = Pool::start(config.workers).map_err(no_thread("any interface"))?;
        let mut handle = Handle {
            stop: Arc::default(),
            threads: vec![],
            counters: Arc::default(),
            _pool: Arc::new(pool),
        };
        for name in &config.interfaces {
            let ear = Ear {
                name: name.clone(),
                buffers: config.buffers.clamp(2, 128),
                stop: handle.stop.clone(),
                counters: handle.counters.clone(),
                pool: handle._pool.clone(),
                machine: Machine::new(targets.clone()),
                outbox: Outbox::default(),
                scratch: vec![],
            };
            let link = Link::open(name, Hear::Commands, LOOK)?;
            let port = Arc::new(Port::new(link, name, ear.counters.clone()));
            let thread = std::thread::Builder::new().name(format!("aoe-{name}"));
            let thread = thread.spawn(move || ear.run(port));
            handle.threads.push(thread.map_err(no_thread(name))?);
        }
        Ok(handle)
    }
}

impl Handle {
    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that serves AoE had panicked");
            }
        }
    }
}

/// What hears one interface.
struct Ear {
    name: String,
    buffers: u16,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    pool: Arc<Pool>,
    machine: Machine,
    outbox: Outbox,
    scratch: Vec<u8>,
}

impl Ear {
    fn run(mut self, port: Arc<Port>) {
        let mut port = Some(port);
        while !self.stop.load(Ordering::Acquire) {
            match port.take().or_else(|| self.reopen()) {
                Some(port) => {
                    let Err(error) = self.serve(&port) else {
                        return;
                    };
                    tracing::warn!(
                        interface = %self.name,
                        "AoE is not served any more: {error}. It is served again when the interface is back"
                    );
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// A new socket, where the interface is there and up.
    fn reopen(&self) -> Option<Arc<Port>> {
        let link = Link::open(&self.name, Hear::Commands, LOOK).ok()?;
        if !link.is_up() {
            return None;
        }
        tracing::info!(interface = %self.name, "AoE is served again");
        Some(Arc::new(Port::new(link, &self.name, self.counters.clone())))
    }

    /// Serves until it is to stop, or the interface is gone.
    fn serve(&mut self, port: &Arc<Port>) -> io::Result<()> {
        let (mut mtu, mut mac) = port.link.look()?;
        let mut receiver = Receiver::new(mtu);
        let mut looked = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let received = receiver.receive(&port.link);
            let now = Instant::now();
            if now.duration_since(looked) >= LOOK {
                looked = now;
                let overrun = port.link.dropped();
                self.counters.overrun.fetch_add(overrun, Ordering::Relaxed);
            }
            match received {
                Ok(()) => {
                    let link = machine::Link {
                        mac,
                        sectors: sectors_in(mtu),
                        buffers: self.buffers,
                    };
                    self.batch(&link, &receiver, now, port);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if looked == now {
                let changed = port.link.look()?;
                if changed != (mtu, mac) {
                    if changed.0 != mtu {
                        receiver = Receiver::new(changed.0);
                    }
                    (mtu, mac) = changed;
                }
            }
        }
        Ok(())
    }

    /// Does what the frames of one batch ask for.
    fn batch(&mut self, link: &machine::Link, receiver: &Receiver, now: Instant, port: &Arc<Port>) {
        self.machine.refresh();
        let mut actions = Vec::with_capacity(Receiver::MOST);
        let mut received = 0;
        for frame in receiver.frames() {
            received += 1;
            let count = match self.machine.handle(link, frame, now, &mut actions) {
                Ok(()) => continue,
                Err(Ignored::Malformed) => &self.counters.malformed,
                Err(Ignored::NotForUs) => &self.counters.not_for_us,
                Err(Ignored::Masked) => &self.counters.masked,
                Err(Ignored::Unknown { mac, first }) => {
                    if first {
                        tracing::warn!(
                            interface = %self.name,
                            "{mac} looks for an AoE target and is no machine that has one: it is not \
                             answered, and its further frames are only counted"
                        );
                    }
                    &self.counters.unknown
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.counters
            .received
            .fetch_add(received, Ordering::Relaxed);
        let mut rest = actions.as_slice();
        while let Some((action, after)) = rest.split_first() {
            rest = after;
            match action {
                Action::Reply(frame) => self.outbox.push(frame),
                Action::Read {
                    target,
                    offset,
                    length,
                    answer,
                } => rest = self.read(target, *offset, (*answer, *length), after, port),
                Action::Write {
                    target,
                    offset,
                    data,
                    answer,
                } => rest = self.write(target, *offset, data, *answer, after, port),
                Action::Flush { target, answer } => {
                    let tell = lock(&target.lane).flush(*answer, port);
                    if tell {
                        self.pool.push(Task::Lane(target.clone()));
                    }
                }
                Action::Change(_) => {}
            }
        }
        for action in actions {
            if let Action::Change(change) = action
                && !self.pool.push(Task::Change(change, port.clone()))
            {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        port.send(&mut self.outbox);
    }

    /// Reads, together with those in `after` that go on where it ends; returns the others.
    fn read<'a, 'f>(
        &mut self,
        target: &Arc<Target>,
        offset: u64,
        first: (Answer, usize),
        after: &'a [Action<'f>],
        port: &Arc<Port>,
    ) -> &'a [Action<'f>] {
        let mut total = first.1;
        let mut more = 0;
        for action in after {
            match action {
                Action::Read {
                    target: other,
                    offset: next,
                    length,
                    ..
                } if Arc::ptr_eq(target, other)
                    && *next == offset + total as u64
                    && total + length <= RUN =>
                {
                    total += length;
                    more += 1;
                }
                _ => break,
            }
        }
        let (run, rest) = after.split_at(more);
        let pieces = run.iter().filter_map(|action| match action {
            Action::Read { answer, length, .. } => Some((*answer, *length)),
            _ => None,
        });
        if run.is_empty() {
            let read = self.outbox.push_with(ATA_HEADER + total, |frame| {
                let (head, body) = frame.split_at_mut(ATA_HEADER);
                head.copy_from_slice(first.0.done());
                target.device().read_now(offset, body)
            });
            match read {
                Ok(true) => {
                    count_read(target, total);
                    return rest;
                }
                Ok(false) => {}
                Err(error) => {
                    answer_read(target, &first.0, Err(&error), &mut self.outbox);
                    return rest;
                }
            }
        } else {
            if self.scratch.len() < RUN {
                self.scratch.resize(RUN, 0);
            }
            let scratch = self.scratch.get_mut(..total).unwrap_or_default();
            if let Ok(true) = target.device().read_now(offset, scratch) {
                let mut data = &*scratch;
                for (answer, length) in std::iter::once(first).chain(pieces) {
                    let (piece, others) = data.split_at(length.min(data.len()));
                    answer_read(target, &answer, Ok(piece), &mut self.outbox);
                    data = others;
                }
                return rest;
            }
        }
        let read = Read {
            target: target.clone(),
            offset,
            pieces: std::iter::once(first).chain(pieces).collect(),
            port: port.clone(),
        };
        let commands = 1 + more as u64;
        if !self.pool.push(Task::Read(read)) {
            self.drop_commands(target, commands);
        }
        rest
    }

    /// Writes, together with those in `after` that go on where it ends; returns the others.
    fn write<'a, 'f>(
        &mut self,
        target: &Arc<Target>,
        offset: u64,
        data: &[u8],
        answer: Answer,
        after: &'a [Action<'f>],
        port: &Arc<Port>,
    ) -> &'a [Action<'f>] {
        let mut total = data.len();
        let mut run = vec![(answer, data)];
        for action in after {
            match action {
                Action::Write {
                    target: other,
                    offset: next,
                    data,
                    answer,
                } if Arc::ptr_eq(target, other)
                    && *next == offset + total as u64
                    && total + data.len() <= RUN =>
                {
                    total += data.len();
                    run.push((*answer, data));
                }
                _ => break,
            }
        }
        let rest = after.get(run.len() - 1..).unwrap_or_default();
        let mut lane = lock(&target.lane);
        // Not past those that wait: a write that was sent twice must not come after a later one.
        if target.durability() == Durability::Cached && lane.is_idle() {
            let together: &[u8] = if run.len() == 1 {
                data
            } else {
                self.scratch.clear();
                for (_, data) in &run {
                    self.scratch.extend_from_slice(data);
                }
                &self.scratch
            };
            if let Ok(true) = target.device().write_now(offset, together) {
                drop(lane);
                for (answer, data) in &run {
                    answer_write(target, &(*answer, data.len()), Ok(()), &mut self.outbox);
                }
                return rest;
            }
        }
        let (mut at, mut tell, mut dropped) = (offset, false, 0);
        for (answer, data) in &run {
            if lane.len() < MOST_IN_LANE {
                tell |= lane.write(at, data, *answer, port);
            } else {
                dropped += 1;
            }
            at += data.len() as u64;
        }
        drop(lane);
        if tell {
            self.pool.push(Task::Lane(target.clone()));
        }
        self.drop_commands(target, dropped);
        rest
    }

    fn drop_commands(&self, target: &Target, commands: u64) {
        if commands > 0 {
            self.counters.dropped.fetch_add(commands, Ordering::Relaxed);
            let dropped = &target.counters.dropped;
            dropped.fetch_add(commands, Ordering::Relaxed);
        }
    }
}
