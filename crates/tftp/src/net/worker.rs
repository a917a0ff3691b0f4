//! The thread that has all sockets and all transfers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::Config;
use super::conn::{self, Conn};
use super::conns::Conns;
use super::link::Link;
use super::listener::{Listener, Route};
use super::openers::{Job, Opened, Openers, Waker};
use super::timers::Timers;
use crate::error::Error;
use crate::observer::{Event, Observer, Transfer};
use crate::packet::{DecodeError, ErrorCode, Packet, Request};
use crate::path::normalise;
use crate::source::{OpenError, Source};

/// How many sockets one epoll call may report.
const EVENTS: usize = 512;
/// How many requests are taken before transfers get their turn again.
const REQUESTS_AT_A_TIME: usize = 64;
/// The largest request that is read. RFC 2347 allows 512.
const REQUEST_BUFFER: usize = 2048;
/// The token of the eventfd; the listeners follow it, and those of [`Conns`] begin far beyond.
const WAKER: u64 = 0;
/// A client that asks again for what it is being sent, and has been silent for so long, has begun
/// again: it was reset, for example.
const MOVED_ON: Duration = Duration::from_secs(2);
/// How often the log may say that requests are dropped.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Worker {
    config: Config,
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    openers: Openers,
    observer: Arc<dyn Observer>,
    conns: Conns,
    timers: Timers,
    /// What a client's port is waiting for.
    by_route: HashMap<Route, Waiting>,
    opening: usize,
    requests: u64,
    complained: Option<Duration>,
    epoch: Instant,
}

/// A request that has no answer yet, or the transfer that is its answer.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    fingerprint: u64,
    token: Option<u64>,
}

impl Worker {
    pub(super) fn new(
        config: Config,
        listeners: Vec<Listener>,
        source: Arc<dyn Source>,
        observer: Arc<dyn Observer>,
        waker: Waker,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let watch = Error::resources("watch its sockets (epoll)");
        let watch = |errno: Errno| watch(errno.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(watch)?;
        let add = |fd: BorrowedFd<'_>, token| {
            epoll::add(
                &epoll,
                fd,
                epoll::EventData::new_u64(token),
                epoll::EventFlags::IN,
            )
        };
        add(waker.as_fd(), WAKER).map_err(watch)?;
        for (listener, token) in listeners.iter().zip(WAKER + 1..) {
            add(listener.as_fd(), token).map_err(watch)?;
        }
        let openers = Openers::start(config.openers, config.max_transfers.max(1), &source, &waker)?;
        Ok(Self {
            config,
            epoll,
            listeners,
            waker,
            stop,
            openers,
            observer,
            conns: Conns::default(),
            timers: Timers::default(),
            by_route: HashMap::new(),
            opening: 0,
            requests: 0,
            complained: None,
            epoch: Instant::now(),
        })
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.stop.load(Ordering::Acquire) {
            let now = self.wait(&mut events)?;
            for event in &events {
                self.ready(event.data.u64(), now);
            }
            // ACKs before timeouts: what arrived while this thread slept is not late. A full list
            // means that more may have arrived.
            if events.len() < EVENTS {
                self.expire(now);
            }
        }
        for conn in self.conns.drain() {
            self.observer
                .event(&conn.transfer, &conn.failed("the server was stopped"));
        }
        Ok(())
    }

    /// Waits for something to do, and gives the time at which it came.
    fn wait(&self, events: &mut Vec<epoll::Event>) -> Result<Duration, Error> {
        events.clear();
        let timeout = self
            .timers
            .next()
            .map(|due| timespec(due.saturating_sub(self.now())));
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(self.now()),
            Err(errno) => Err(Error::Resources {
                what: "wait for its sockets (epoll)",
                source: errno.into(),
            }),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn ready(&mut self, token: u64, now: Duration) {
        if token == WAKER {
            self.waker.clear();
            while let Some(opened) = self.openers.done() {
                self.opening = self.opening.saturating_sub(1);
                self.opened(opened, now);
            }
        } else if token < Conns::FIRST_TOKEN {
            self.requests_at(token - 1, now);
        } else if let Some(conn) = self.conns.get_mut(token) {
            let ended = conn.readable(now);
            self.after(token, ended);
        }
    }

    fn expire(&mut self, now: Duration) {
        while let Some((token, alarm)) = self.timers.pop(now) {
            let Some(conn) = self
                .conns
                .get_mut(token)
                .filter(|conn| conn.alarm == Some(alarm))
            else {
                continue;
            };
            conn.alarm = None;
            let ended = conn.timeout(now);
            self.after(token, ended);
        }
        // Short transfers leave their entries behind; they go before they outnumber the living.
        if self.timers.len() > 1024 + 8 * self.conns.len() {
            let conns = &self.conns;
            self.timers
                .retain(|token, alarm| conns.get(token).is_some_and(|c| c.alarm == Some(alarm)));
        }
    }

    /// Ends a transfer or sets its alarm.
    fn after(&mut self, token: u64, ended: Option<Event>) {
        if let Some(event) = ended {
            self.end(token, &event);
        } else if let Some(conn) = self.conns.get_mut(token) {
            let deadline = conn.deadline();
            conn.alarm = Some(match conn.alarm {
                Some(alarm) => self.timers.move_to(alarm, token, deadline),
                None => self.timers.set(token, deadline),
            });
        }
    }

    fn end(&mut self, token: u64, event: &Event) {
        let Some(conn) = self.conns.remove(token) else {
            return;
        };
        if self
            .by_route
            .get(&conn.route)
            .is_some_and(|waiting| waiting.token == Some(token))
        {
            self.by_route.remove(&conn.route);
        }
        self.observer.event(&conn.transfer, event);
    }

    fn requests_at(&mut self, index: u64, now: Duration) {
        let mut buffer = [0; REQUEST_BUFFER];
        for _ in 0..REQUESTS_AT_A_TIME {
            let listener = usize::try_from(index)
                .ok()
                .and_then(|index| self.listeners.get(index));
            let Some((datagram, route)) = listener.and_then(|l| l.receive(&mut buffer)) else {
                return;
            };
            self.request(datagram, route, now);
        }
    }

    fn request(&mut self, datagram: &[u8], route: Route, now: Duration) {
        match Packet::decode(datagram) {
            Ok(Packet::ReadRequest(request)) => {
                let mut hasher = DefaultHasher::new();
                datagram.hash(&mut hasher);
                self.read_request(&request, route, hasher.finish(), now);
            }
            Ok(Packet::WriteRequest(request)) => {
                let transfer = self.transfer(&request, &route);
                conn::refuse(
                    &route,
                    ErrorCode::ACCESS_VIOLATION,
                    "this server is read-only",
                );
                let reason = "it asked to write, and this server is read-only".to_owned();
                self.observer.event(&transfer, &Event::Refused { reason });
            }
            Err(error @ (DecodeError::Incomplete | DecodeError::Mode)) => {
                conn::refuse(&route, ErrorCode::ILLEGAL_OPERATION, &error.to_string());
                tracing::debug!(peer = %route.peer, %error, "TFTP request");
            }
            Ok(packet) if self.config.single_port => self.answer(&packet, &route, now),
            // Not a request: an answer to a stray packet might make two programs talk for ever.
            Ok(_) | Err(_) => {}
        }
    }

    /// What a client sends in the course of a transfer, when there is one port for everything.
    fn answer(&mut self, packet: &Packet<'_>, route: &Route, now: Duration) {
        let waiting = self.by_route.get(route);
        let Some(token) = waiting.and_then(|waiting| waiting.token) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(token) {
            let ended = conn.packet(packet, now);
            self.after(token, ended);
        }
    }

    fn transfer(&mut self, request: &Request<'_>, route: &Route) -> Transfer {
        self.requests += 1;
        let path = normalise(request.filename)
            .unwrap_or_else(|| String::from_utf8_lossy(request.filename).into_owned());
        Transfer {
            id: self.requests,
            peer: route.peer,
            local: route.local,
            path,
        }
    }

    fn read_request(
        &mut self,
        request: &Request<'_>,
        route: Route,
        fingerprint: u64,
        now: Duration,
    ) {
        if self.is_repeated(&route, fingerprint, now) {
            return;
        }
        if self.conns.len() + self.opening >= self.config.max_transfers {
            self.complain(now);
            return;
        }
        let transfer = self.transfer(request, &route);
        if normalise(request.filename).is_none() {
            conn::refuse(
                &route,
                ErrorCode::ACCESS_VIOLATION,
                "this file name is not allowed",
            );
            let reason = "the file name leads out of the boot files or is no name".to_owned();
            self.observer.event(&transfer, &Event::Refused { reason });
            return;
        }
        let job = Job {
            transfer,
            route: route.clone(),
            raw: request.filename.to_vec(),
            mode: request.mode,
            options: request.options,
            fingerprint,
            received: now,
        };
        if self.openers.submit(job) {
            self.opening += 1;
            self.by_route.insert(
                route,
                Waiting {
                    fingerprint,
                    token: None,
                },
            );
        }
    }

    /// Whether a request is one that is being answered. A client that never heard the answer sends
    /// its request again, from the same port; the answer is on its way or will be repeated in time.
    ///
    /// A request for something else from that port means that the client has moved on: some ROMs use
    /// one port for all. When the client had answered before, the transfer is left to itself: a
    /// request that the network delivers twice must not break the transfer that it began, and a
    /// client that has moved on ends the old transfer with an ERROR or by silence. With a single port
    /// the two could not be told apart, so there the old one ends, unless the request is the one that
    /// began it and the client has answered a moment ago.
    fn is_repeated(&mut self, route: &Route, fingerprint: u64, now: Duration) -> bool {
        let Some(waiting) = self.by_route.get(route).copied() else {
            return false;
        };
        let Some(token) = waiting.token else {
            return waiting.fingerprint == fingerprint;
        };
        let Some(conn) = self.conns.get(token) else {
            return false;
        };
        let same = conn.fingerprint == fingerprint;
        if conn.progressed() {
            if !self.config.single_port {
                return false;
            }
            if same && !conn.is_silent(MOVED_ON, now) {
                return true;
            }
        } else if same {
            return true;
        }
        let event = conn.superseded();
        self.end(token, &event);
        false
    }

    fn complain(&mut self, now: Duration) {
        if self
            .complained
            .is_none_or(|then| now.saturating_sub(then) >= COMPLAIN_EVERY)
        {
            self.complained = Some(now);
            tracing::warn!(
                transfers = self.config.max_transfers,
                "TFTP requests are dropped: as many transfers as allowed are under way"
            );
        }
    }

    fn opened(&mut self, opened: Opened, now: Duration) {
        let Opened { job, result } = opened;
        // A later request from the same port, for something else, has replaced this one.
        let waiting = self.by_route.get(&job.route).copied();
        let current =
            waiting.is_some_and(|w| w.token.is_none() && w.fingerprint == job.fingerprint);
        if !current {
            let message = "the client made another request from the same port".to_owned();
            let event = Event::Aborted {
                code: None,
                message,
                bytes: 0,
            };
            self.observer.event(&job.transfer, &event);
            return;
        }
        let (content, size) = match result {
            Ok(opened) => opened,
            Err(error) => {
                self.by_route.remove(&job.route);
                self.not_opened(&job, error);
                return;
            }
        };
        let link = Link::new(&job.route).and_then(|link| {
            let mtu = link.mtu()?;
            Ok((link, mtu))
        });
        match link {
            Ok(link) => {
                let most = self.config.max_windowsize;
                let (conn, started, ended) = Conn::start(job, link, content, size, most, now);
                self.started(conn, &started, ended);
            }
            Err(error) => {
                self.by_route.remove(&job.route);
                let reason = format!("making a socket for the transfer: {error}");
                self.observer
                    .event(&job.transfer, &Event::Failed { reason, bytes: 0 });
            }
        }
    }

    fn started(&mut self, conn: Conn, started: &Event, ended: Option<Event>) {
        self.observer.event(&conn.transfer, started);
        let (route, fingerprint) = (conn.route.clone(), conn.fingerprint);
        let token = self.conns.insert(conn);
        self.by_route.insert(
            route,
            Waiting {
                fingerprint,
                token: Some(token),
            },
        );
        let ended = ended.or_else(|| {
            let conn = self.conns.get(token)?;
            let socket = conn.socket()?;
            let data = epoll::EventData::new_u64(token);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let errno = epoll::add(&self.epoll, socket, data, flags).err()?;
            Some(conn.failed(format!("watching the socket of the transfer: {errno}")))
        });
        self.after(token, ended);
    }

    fn not_opened(&self, job: &Job, error: OpenError) {
        let (code, message, event) = match error {
            OpenError::Later => {
                self.observer.event(&job.transfer, &Event::Postponed);
                return;
            }
            OpenError::NotFound => (
                ErrorCode::FILE_NOT_FOUND,
                "there is no such file".to_owned(),
                Event::NotFound,
            ),
            OpenError::Denied(reason) => (
                ErrorCode::ACCESS_VIOLATION,
                reason.clone(),
                Event::Refused { reason },
            ),
            OpenError::Failed(reason) => (
                ErrorCode::NOT_DEFINED,
                "the server cannot read the file".to_owned(),
                Event::Failed { reason, bytes: 0 },
            ),
        };
        conn::refuse(&job.route, code, &message);
        self.observer.event(&job.transfer, &event);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
