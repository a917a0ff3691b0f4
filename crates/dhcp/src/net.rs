//! Sockets and the thread of one interface.
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
//! and otherwise goes into the next one: the busier the server, the larger the groups. Packets come
//! and go by the batch, one system call each; DISCOVERs that came together with other requests are
//! answered after them ([`backlog`](crate::backlog)).

use crate::backlog::{Backlog, is_discover};
use crate::batch::Inbox;
use crate::config::Subnet;
use crate::engine::{Engine, Policy};
use crate::error::Error;
use crate::frame;
use crate::interface::Interface;
use crate::machine::{Advisor, CLIENT_PORT, Identity, Ingress, Mode, Now, PXE_PORT, SERVER_PORT};
use crate::output::{Destination, Notice, NoticeKind, Output, Transmit};
use crate::packet::Packet;
use crate::recent::Recent;
use crate::sockets::{Sockets, inbox};
use bugler_model::{Lease, MacAddr, Timestamp};
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

/// Leases that may wait for a commit; when there are more, no request is read until it is done.
const MOST_WAITING: usize = 4096;

/// Batches of datagrams that are read in one round, before the round's leases are committed.
const BATCHES_PER_ROUND: usize = 32;

/// DISCOVERs that are answered in one round, before it is looked for what else has come in.
const DISCOVERS_PER_ROUND: usize = 64;

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
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Opens the sockets and starts serving, on a thread of its own: whatever else the program does,
    /// packets are answered, and nothing is handed from thread to thread but leases.
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
        let (mode_sender, mode) = watch::channel(engine.mode());
        let (stop, stopped) = oneshot::channel();
        let link = interface.clone();
        let task = move |sockets| Task {
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
            backlog: Backlog::default(),
            waiting: Group::default(),
            committing: None,
            said: Recent::new(SAY_EVERY, 64),
            failed: false,
        };
        Ok(Handle {
            mode,
            stop: Some(stop),
            ended: spawn(link, task, stopped)?,
        })
    }
}

/// Starts the thread that opens the sockets and runs the task. What is returned ends with it.
fn spawn(
    interface: Interface,
    task: impl FnOnce(Sockets) -> Task + Send + 'static,
    stopped: oneshot::Receiver<()>,
) -> Result<oneshot::Receiver<()>, Error> {
    let failed = |interface: &Interface, source| Error::Socket {
        what: "a thread for DHCP",
        interface: interface.name.clone(),
        source,
    };
    let (opened, outcome) = std::sync::mpsc::sync_channel(1);
    let (ending, ended) = oneshot::channel();
    let name = interface.name.clone();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| failed(&interface, source));
        let prepared = runtime.and_then(|runtime| {
            // Sockets are watched by the runtime in which they are opened.
            let sockets = {
                let _within = runtime.enter();
                Sockets::open(&interface)?
            };
            Ok((runtime, sockets))
        });
        match prepared {
            Ok((runtime, sockets)) => {
                // Whoever started us waits for this.
                let _ = opened.send(Ok(()));
                runtime.block_on(task(sockets).run(stopped));
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        }
        drop(ending);
    };
    std::thread::Builder::new()
        .name(format!("dhcp-{name}"))
        .spawn(work)
        .map_err(|source| Error::Socket {
            what: "a thread for DHCP",
            interface: name,
            source,
        })?;
    // An error: the thread has panicked before it could say anything, which `ended` tells.
    outcome.recv().unwrap_or(Ok(()))?;
    Ok(ended)
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
        // The other end is dropped with the thread, whatever became of it.
        let _ = (&mut self.ended).await;
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
    /// Kept here, not in the poll that may be cancelled: an answer that is lost is lost for good.
    work: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
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
    backlog: Backlog,
    waiting: Group,
    committing: Option<Commit>,
    said: Recent<(NoticeKind, u8)>,
    /// A socket failed in this round.
    failed: bool,
}

/// The end of a commit; never, where none is under way.
async fn committed(commit: &mut Option<Commit>) -> Result<(), String> {
    match commit {
        Some(commit) => (&mut commit.work).await,
        None => std::future::pending().await,
    }
}

impl Task {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut inbox = inbox();
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
                () = std::future::ready(()), if may_read && !self.backlog.is_empty() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            // Whatever woke us, everything that is there is taken: answers to probes before the
            // deadlines that they end.
            self.receive_answers(&mut frame);
            if may_read {
                self.receive_requests(&mut inbox);
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

    fn receive_requests(&mut self, inbox: &mut Inbox) {
        let Self {
            engine,
            sockets,
            clock,
            advisor,
            out,
            backlog,
            ..
        } = self;
        let now = clock.now();
        let mut handle = |ingress: Ingress, bytes: &[u8]| match Packet::decode(bytes) {
            Ok(packet) => engine.handle(now, ingress, &packet, &**advisor, out),
            Err(error) => tracing::debug!(source = %ingress.source, %error, "ignored a packet"),
        };
        let mut errors = vec![];
        for (port, socket) in [(PXE_PORT, &sockets.pxe), (SERVER_PORT, &sockets.server)] {
            for _ in 0..BATCHES_PER_ROUND {
                let more = socket.receive(inbox, |source, destination, bytes| {
                    let ingress = Ingress {
                        port,
                        source,
                        destination,
                    };
                    if is_discover(bytes) {
                        backlog.push(ingress, bytes);
                    } else {
                        handle(ingress, bytes);
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
        for _ in 0..DISCOVERS_PER_ROUND {
            if !backlog.next(&mut handle) {
                break;
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
                        self.engine.arp_answered(now, address, by, &mut self.out);
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
                Output::Send(transmit) => self.post(&transmit),
                Output::Commit { lease, then } => {
                    self.waiting.leases.push(*lease);
                    self.waiting.replies.extend(then.map(|then| *then));
                }
                Output::Probe { address } => {
                    // Asked about our own address with it as the sender, nobody would answer
                    // (RFC 5227 section 1.1).
                    let from = if address == self.address {
                        Ipv4Addr::UNSPECIFIED
                    } else {
                        self.address
                    };
                    let question = frame::arp_question(self.mac, from, address);
                    if let Err(error) = self.sockets.arp.send(&question) {
                        self.trouble("ask by ARP", &error);
                    }
                }
                Output::Search(packet) => self.search(&packet),
                Output::Report(notice) => self.notify.notify(notice),
            }
        }
        self.flush();
        let mode = self.engine.mode();
        self.mode
            .send_if_modified(|known| std::mem::replace(known, mode) != mode);
        if self.committing.is_none() && !self.waiting.leases.is_empty() {
            let Group { leases, replies } = std::mem::take(&mut self.waiting);
            let log = self.log.clone();
            let count = leases.len();
            self.committing = Some(Commit {
                work: Box::pin(async move { log.commit(leases).await }),
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
                    self.post(&reply);
                }
                self.flush();
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

    /// Puts a reply with those that [`flush`](Self::flush) sends.
    fn post(&mut self, transmit: &Transmit) {
        let from = transmit.from;
        let client = |ip| SocketAddrV4::new(ip, CLIENT_PORT);
        let left_out = match transmit.to {
            Destination::Udp(to) => {
                let socket = if from.port() == PXE_PORT {
                    &mut self.sockets.pxe
                } else {
                    &mut self.sockets.server
                };
                socket.post(*from.ip(), to, |bytes| {
                    transmit.packet.encode_to(transmit.limit, bytes)
                })
            }
            Destination::Broadcast => {
                self.post_frame(transmit, frame::BROADCAST, client(Ipv4Addr::BROADCAST))
            }
            Destination::Link { ip, mac } => self.post_frame(transmit, mac, client(ip)),
        };
        for code in left_out {
            let text = format!(
                "DHCP option {code} did not fit into a reply on {}, because clients take only {} bytes: make \
                 options shorter or fewer",
                self.interface, transmit.limit
            );
            self.say(NoticeKind::LeftOut, code, text);
        }
    }

    fn post_frame(&mut self, transmit: &Transmit, mac: MacAddr, to: SocketAddrV4) -> Vec<u8> {
        let encoded = transmit.packet.encode(transmit.limit);
        let framed = frame::udp((self.mac, transmit.from), (mac, to), &encoded.bytes);
        self.sockets.replies.post(&framed);
        encoded.left_out
    }

    /// Sends what was posted.
    fn flush(&mut self) {
        let mut errors = vec![];
        for socket in [&mut self.sockets.server, &mut self.sockets.pxe] {
            socket.flush(|to, error| {
                let to = to.map_or(Ipv4Addr::UNSPECIFIED, |to| *to.ip());
                errors.push((format!("send a reply to {to}"), error));
            });
        }
        self.sockets
            .replies
            .flush(|error| errors.push(("send a reply".to_owned(), error)));
        for (what, error) in errors {
            self.trouble(&what, &error);
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
