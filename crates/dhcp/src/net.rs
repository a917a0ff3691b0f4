//! Sockets and the task of one interface.
//!
//! ```text
//! UDP 67, UDP 4011 --\                          /--> Notify
//! ARP answers --------+--> Task (Engine) ------+---> replies, ARP questions
//! others' answers ---/       ^     |            \
//! deadlines ----------------/      v             (replies wait)
//!                            leases, all that one round brought
//!                                  |                  ^
//!                                  v                  |
//!                            LeaseLog::commit --------/  durable
//! ```
//!
//! One commit is under way at a time. What comes in meanwhile is answered if it needs no commit,
//! and otherwise goes into the next one: the busier the server, the larger the groups.

use crate::config::Subnet;
use crate::engine::{Engine, Policy};
use crate::error::Error;
use crate::frame;
use crate::interface::Interface;
use crate::machine::{
    Advisor, CLIENT_PORT, Destination, Identity, Ingress, Mode, Notice, NoticeKind, Now, Output,
    PXE_PORT, SERVER_PORT, Transmit,
};
use crate::packet::Packet;
use crate::recent::Recent;
use crate::sockets::{Buffers, Sockets, Udp};
use bugler_model::{Lease, MacAddr, Timestamp};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Leases that may wait for a commit; when there are more, no request is read until it is done.
const MOST_WAITING: usize = 4096;

/// Batches of datagrams that are read in one round, before the round's leases are committed.
const BATCHES_PER_ROUND: usize = 32;

/// Frames that are read in one round from a packet socket.
const FRAMES_PER_ROUND: usize = 64;

/// How often the same trouble is reported.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How long to wait after a socket error, so that an interface that went away is no busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Keeps leases.
#[async_trait::async_trait]
pub trait LeaseLog: Send + Sync + 'static {
    /// Stores these leases, each in the place of any other of its address, in this order. When it
    /// returns `Ok` they are durable.
    ///
    /// # Errors
    /// What went wrong, for people. None of the clients is then answered.
    async fn commit(&self, leases: Vec<Lease>) -> Result<(), String>;
}

/// Tells people.
pub trait Notify: Send + Sync + 'static {
    /// Something happened. Must not block.
    fn notify(&self, notice: Notice);
}

/// What to serve, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where.
    pub interface: Interface,
    /// As what.
    pub policy: Policy,
    /// The subnet of the interface, then those behind relays.
    pub subnets: Vec<Subnet>,
    /// The port under which `/boot/` is served over HTTP, on the same address.
    pub http_port: u16,
    /// The leases that were stored.
    pub leases: Vec<Lease>,
}

/// The DHCP and PXE server of one interface.
pub struct Server;

/// A running server. Dropping it stops the server.
pub struct Handle {
    mode: watch::Receiver<Option<Mode>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Opens the sockets and starts serving, on the runtime of the caller.
    ///
    /// # Errors
    /// Where the sockets cannot be opened, or the configuration cannot be meant.
    pub fn start(
        config: Config,
        advisor: Arc<dyn Advisor>,
        log: Arc<dyn LeaseLog>,
        notify: Arc<dyn Notify>,
    ) -> Result<Handle, Error> {
        let Config {
            interface,
            policy,
            subnets,
            http_port,
            leases,
        } = config;
        let identity = Identity {
            interface: interface.name.clone(),
            address: interface.address(),
            mtu: interface.mtu,
            http_port,
        };
        let clock = Clock(Instant::now());
        // Any number that differs from start to start.
        let xid = std::hash::RandomState::new().build_hasher().finish() as u32;
        let engine = Engine::new(
            identity,
            policy,
            subnets,
            leases,
            (interface.mac, xid),
            clock.now(),
        )?;
        let sockets = Sockets::open(&interface)?;
        let (mode_sender, mode) = watch::channel(engine.mode());
        let (stop, stopped) = oneshot::channel();
        let task = Task {
            engine,
            sockets,
            mac: interface.mac,
            address: interface.address(),
            interface: interface.name,
            clock,
            advisor,
            log,
            notify,
            mode: mode_sender,
            out: vec![],
            waiting: Group::default(),
            committing: None,
            said: Recent::new(SAY_EVERY, 64),
            failed: false,
        };
        Ok(Handle {
            mode,
            stop: Some(stop),
            task: tokio::spawn(task.run(stopped)),
        })
    }
}

impl Handle {
    /// What the server is; `None` while `auto` is still looking.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        *self.mode.borrow()
    }

    /// Waits until it is decided what the server is. `None`: it ended before.
    pub async fn decided(&self) -> Option<Mode> {
        let mut mode = self.mode.clone();
        let decided = mode.wait_for(Option::is_some).await.ok()?;
        *decided
    }

    /// Stops the server: answers what waits for a commit that is under way, then closes the
    /// sockets.
    pub async fn stop(mut self) {
        self.stop.take();
        // An error is a panic of the task, which tokio has reported; it is over in either case.
        let _ = (&mut self.task).await;
    }
}

/// The clocks, read in one place.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Now {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            wall: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            up: self.0.elapsed(),
        }
    }

    /// The moment of a deadline; far away where there is none.
    fn moment(&self, deadline: Option<Duration>) -> tokio::time::Instant {
        let far = Duration::from_secs(3600);
        (self.0 + deadline.unwrap_or_else(|| self.0.elapsed() + far)).into()
    }
}

/// Leases that are committed together, and the replies that wait for it.
#[derive(Default)]
struct Group {
    leases: Vec<Lease>,
    replies: Vec<Transmit>,
}

struct Commit {
    task: JoinHandle<Result<(), String>>,
    replies: Vec<Transmit>,
    leases: usize,
}

struct Task {
    engine: Engine,
    sockets: Sockets,
    mac: MacAddr,
    address: Ipv4Addr,
    interface: String,
    clock: Clock,
    advisor: Arc<dyn Advisor>,
    log: Arc<dyn LeaseLog>,
    notify: Arc<dyn Notify>,
    mode: watch::Sender<Option<Mode>>,
    out: Vec<Output>,
    waiting: Group,
    committing: Option<Commit>,
    said: Recent<(NoticeKind, u8)>,
    /// A socket failed in this round.
    failed: bool,
}

/// The end of a commit; never, where none is under way.
async fn committed(commit: &mut Option<Commit>) -> Result<(), String> {
    match commit {
        Some(commit) => match (&mut commit.task).await {
            Ok(result) => result,
            Err(error) => Err(format!("the lease log ended: {error}")),
        },
        None => std::future::pending().await,
    }
}

impl Task {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut buffers = Buffers::new();
        let mut frame = vec![0; 2048];
        loop {
            let deadline = self.clock.moment(self.engine.next_deadline());
            let may_read = self.waiting.leases.len() < MOST_WAITING;
            tokio::select! {
                _ = &mut stopped => break,
                result = committed(&mut self.committing) => self.finish_commit(result),
                _ = self.sockets.server.readable(), if may_read => {}
                _ = self.sockets.pxe.readable(), if may_read => {}
                _ = self.sockets.arp.readable() => {}
                _ = self.sockets.replies.readable() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            // Whatever woke us, everything that is there is taken: answers to probes before the
            // deadlines that they end.
            self.receive_answers(&mut frame);
            if may_read {
                self.receive_requests(&mut buffers);
            }
            let now = self.clock.now();
            self.engine.on_deadline(now, &*self.advisor, &mut self.out);
            self.act();
            if std::mem::take(&mut self.failed) {
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        if self.committing.is_some() {
            let result = committed(&mut self.committing).await;
            self.finish_commit(result);
        }
    }

    fn receive_requests(&mut self, buffers: &mut Buffers) {
        let Self {
            engine,
            sockets,
            clock,
            advisor,
            out,
            ..
        } = self;
        let now = clock.now();
        let mut errors = vec![];
        for (port, socket) in [(PXE_PORT, &sockets.pxe), (SERVER_PORT, &sockets.server)] {
            for _ in 0..BATCHES_PER_ROUND {
                let more =
                    socket.receive(buffers, |source, destination, bytes| {
                        match Packet::decode(bytes) {
                            Ok(packet) => {
                                engine.handle(
                                    now,
                                    Ingress {
                                        port,
                                        source,
                                        destination,
                                    },
                                    &packet,
                                    &**advisor,
                                    out,
                                );
                            }
                            Err(error) => tracing::debug!(%source, %error, "ignored a packet"),
                        }
                    });
                match more {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        errors.push(error);
                        break;
                    }
                }
            }
        }
        for error in errors {
            self.trouble("receive requests", &error);
        }
    }

    fn receive_answers(&mut self, buffer: &mut [u8]) {
        let now = self.clock.now();
        for _ in 0..FRAMES_PER_ROUND {
            match self.sockets.arp.receive(buffer) {
                Ok(Some(bytes)) => {
                    if let Some((address, by)) = frame::arp_answer(bytes) {
                        self.engine.probe_answered(now, address, by, &mut self.out);
                    }
                }
                Ok(None) => break,
                Err(error) => return self.trouble("receive ARP answers", &error),
            }
        }
        for _ in 0..FRAMES_PER_ROUND {
            match self.sockets.replies.receive(buffer) {
                Ok(Some(bytes)) => {
                    if let Some((source, payload)) = frame::udp_payload(bytes)
                        && let Ok(packet) = Packet::decode(payload)
                    {
                        self.engine.overhear(
                            now,
                            *source.ip(),
                            &packet,
                            &*self.advisor,
                            &mut self.out,
                        );
                    }
                }
                Ok(None) => break,
                Err(error) => return self.trouble("listen for other servers", &error),
            }
        }
    }

    /// Does what the engine wants, and begins a commit where one is needed and none is under way.
    fn act(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Send(transmit) => self.send(&transmit),
                Output::Commit { lease, then } => {
                    self.waiting.leases.push(*lease);
                    self.waiting.replies.extend(then.map(|then| *then));
                }
                Output::Probe { address } => {
                    let question = frame::arp_question(self.mac, self.address, address);
                    if let Err(error) = self.sockets.arp.send(&question) {
                        self.trouble("ask by ARP", &error);
                    }
                }
                Output::Search(packet) => self.search(&packet),
                Output::Report(notice) => self.notify.notify(notice),
            }
        }
        let mode = self.engine.mode();
        self.mode
            .send_if_modified(|known| std::mem::replace(known, mode) != mode);
        if self.committing.is_none() && !self.waiting.leases.is_empty() {
            let Group { leases, replies } = std::mem::take(&mut self.waiting);
            let log = self.log.clone();
            let count = leases.len();
            // A task of its own: an answer that is lost in a cancelled poll would be lost for good.
            let task = tokio::spawn(async move { log.commit(leases).await });
            self.committing = Some(Commit {
                task,
                replies,
                leases: count,
            });
        }
    }

    fn finish_commit(&mut self, result: Result<(), String>) {
        let Some(Commit {
            replies, leases, ..
        }) = self.committing.take()
        else {
            return;
        };
        match result {
            Ok(()) => {
                for reply in replies {
                    self.send(&reply);
                }
            }
            Err(error) => {
                let text = format!(
                    "{leases} leases on {} could not be stored, so {} clients were not answered; they will ask \
                     again: {error}",
                    self.interface,
                    replies.len()
                );
                self.say(NoticeKind::CommitFailed, 0, text);
            }
        }
    }

    fn send(&mut self, transmit: &Transmit) {
        let encoded = transmit.packet.encode(transmit.limit);
        for code in encoded.left_out {
            let text = format!(
                "DHCP option {code} did not fit into a reply on {}, because clients take only {} bytes: make \
                 options shorter or fewer",
                self.interface, transmit.limit
            );
            self.say(NoticeKind::LeftOut, code, text);
        }
        let from = transmit.from;
        let client = |ip| SocketAddrV4::new(ip, CLIENT_PORT);
        let framed = |mac, to| frame::udp((self.mac, from), (mac, to), &encoded.bytes);
        let sent = match transmit.to {
            Destination::Broadcast => self
                .sockets
                .replies
                .send(&framed(frame::BROADCAST, client(Ipv4Addr::BROADCAST))),
            Destination::Link { ip, mac } => self.sockets.replies.send(&framed(mac, client(ip))),
            Destination::Udp(to) => self.udp(from.port()).send(*from.ip(), to, &encoded.bytes),
        };
        if let Err(error) = sent {
            let to = match transmit.to {
                Destination::Broadcast => Ipv4Addr::BROADCAST,
                Destination::Link { ip, .. } => ip,
                Destination::Udp(to) => *to.ip(),
            };
            self.trouble(&format!("send a reply to {to}"), &error);
        }
    }

    fn udp(&self, port: u16) -> &Udp {
        if port == PXE_PORT {
            &self.sockets.pxe
        } else {
            &self.sockets.server
        }
    }

    fn search(&mut self, packet: &Packet) {
        let from = (
            self.mac,
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT),
        );
        let to = (
            frame::BROADCAST,
            SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
        );
        // A packet socket's frame does not come back to this host's own port 67.
        if let Err(error) =
            self.sockets
                .replies
                .send(&frame::udp(from, to, &packet.encode(0).bytes))
        {
            self.trouble("look for other DHCP servers", &error);
        }
    }

    /// A socket failed. One reply that cannot be sent is that client's trouble, and it asks again;
    /// what does not pass by itself is reported.
    fn trouble(&mut self, what: &str, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            tracing::debug!(interface = self.interface, what, "the send queue is full");
            return;
        }
        self.failed |= matches!(
            error.raw_os_error(),
            Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO)
        );
        let text = format!("could not {what} on {}: {error}", self.interface);
        self.say(NoticeKind::Network, 0, text);
    }

    fn say(&mut self, kind: NoticeKind, about: u8, text: String) {
        if self.said.is_first((kind, about), self.clock.now().up) {
            self.notify.notify(Notice {
                kind,
                mac: None,
                text,
            });
        }
    }
}
