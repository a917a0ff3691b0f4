//! Many clients at once, from one thread: load.
//!
//! It is to cost less than the server that it measures: one epoll for all, the content is not copied
//! out of the kernel, and no packet is looked at beyond its header.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Download, Settings, Step};

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server.
    pub server: SocketAddrV4,
    /// The file that every client fetches.
    pub path: String,
    /// How many clients begin at once.
    pub clients: usize,
    /// What each asks for, and how patient it is.
    pub settings: Settings,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// From the first request to the last answer.
    pub duration: Duration,
    /// Bytes of content received, all clients together.
    pub bytes: u64,
    /// Clients that got the whole file.
    pub finished: usize,
    /// Clients that did not.
    pub failed: usize,
    /// How many times a client waited for its timeout in vain.
    pub timeouts: u64,
    /// The windowsize that the server agreed to; 1 when it does not know the option.
    pub windowsize: u16,
}

/// How often deadlines are looked at; clients wait for a second or so.
const TICK: Duration = Duration::from_millis(20);
/// Enough for any OACK or ERROR; of DATA only the header is read.
const HEAD: usize = 512;
/// A datagram cannot be longer.
const LONGEST: usize = 65_536;

struct Client {
    socket: OwnedFd,
    download: Download,
    connected: bool,
    over: bool,
}

/// Runs all clients to their end.
///
/// # Errors
/// Whatever making a socket or waiting for it brings. A transfer that fails is counted instead.
pub fn run(load: &Load) -> io::Result<Report> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::with_capacity(load.clients);
    for token in 0..load.clients as u64 {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        epoll::add(
            &epoll,
            &socket,
            epoll::EventData::new_u64(token),
            epoll::EventFlags::IN,
        )?;
        let download = Download::new(&load.path, &load.settings, Duration::ZERO);
        clients.push(Client {
            socket,
            download,
            connected: false,
            over: false,
        });
    }
    let mut swarm = Swarm {
        server: load.server,
        report: Report {
            windowsize: 1,
            ..Report::default()
        },
        buffer: vec![0; LONGEST],
        reply: Vec::new(),
    };
    let epoch = Instant::now();
    for client in &clients {
        rustix::net::sendto(
            &client.socket,
            client.download.request(),
            SendFlags::empty(),
            &load.server,
        )?;
    }
    let mut events = Vec::with_capacity(512);
    let mut checked = Duration::ZERO;
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: TICK.subsec_nanos().into(),
    };
    while swarm.report.finished + swarm.report.failed < clients.len() {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let now = epoch.elapsed();
        for event in &events {
            let index = event.data.u64() as usize;
            swarm.readable(&mut clients[index], now);
        }
        if now.saturating_sub(checked) >= TICK {
            checked = now;
            for client in &mut clients {
                swarm.expire(client, now);
            }
        }
    }
    swarm.report.duration = epoch.elapsed();
    Ok(swarm.report)
}

struct Swarm {
    server: SocketAddrV4,
    report: Report,
    buffer: Vec<u8>,
    reply: Vec<u8>,
}

impl Swarm {
    /// Takes what has arrived, up to the packet that asks for an answer: after it, nothing more
    /// comes before the answer is sent.
    fn readable(&mut self, client: &mut Client, now: Duration) {
        for _ in 0..client.download.windowsize() {
            let Some(len) = self.receive(client) else {
                return;
            };
            let packet = self.buffer.get(..len).unwrap_or_default();
            let step = client.download.packet(packet, now, &mut self.reply);
            if !self.reply.is_empty() {
                // Lost, if it cannot be sent.
                let _ = rustix::net::send(&client.socket, &self.reply, SendFlags::DONTWAIT);
            }
            match step {
                Step::Nothing => {}
                Step::Data(data) => self.report.bytes += data.len() as u64,
                Step::Last(data) => {
                    self.report.bytes += data.len() as u64;
                    self.report.windowsize = client.download.windowsize();
                    self.end(client, true);
                }
                Step::Refused(_) | Step::Broken => self.end(client, false),
            }
            if !self.reply.is_empty() || client.over {
                return;
            }
        }
    }

    fn receive(&mut self, client: &mut Client) -> Option<usize> {
        let head = self.buffer.get_mut(..HEAD)?;
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        if client.connected {
            return rustix::net::recv(&client.socket, head, flags)
                .ok()
                .map(|(_, len)| len);
        }
        let (_, len, from) = rustix::net::recvfrom(&client.socket, head, flags).ok()?;
        let from = SocketAddrV4::try_from(from?).ok()?;
        if from.ip() != self.server.ip() {
            return None;
        }
        rustix::net::connect(&client.socket, &from).ok()?;
        client.connected = true;
        Some(len)
    }

    fn expire(&mut self, client: &mut Client, now: Duration) {
        if client.over || now < client.download.deadline() {
            return;
        }
        self.report.timeouts += 1;
        if !client.download.expired(now, &mut self.reply) {
            self.end(client, false);
            return;
        }
        let _ = if client.connected {
            rustix::net::send(&client.socket, &self.reply, SendFlags::DONTWAIT)
        } else {
            rustix::net::sendto(
                &client.socket,
                &self.reply,
                SendFlags::DONTWAIT,
                &self.server,
            )
        };
    }

    fn end(&mut self, client: &mut Client, finished: bool) {
        client.over = true;
        if finished {
            self.report.finished += 1;
        } else {
            self.report.failed += 1;
        }
    }
}
