//! A TFTP client: [`Download`] is one transfer without sockets and without a clock, [`fetch`] runs
//! one, [`swarm::run`] runs many at once from one thread.
//!
//! It is what Bugler's own tests and load generator use. Like the clients in boot ROMs it waits a
//! fixed time, a second by custom, before it sends anything again: what it measures is how well a
//! server hides a loss from it.

pub mod swarm;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use crate::packet::{DEFAULT_BLKSIZE, ErrorCode, Mode, Options, Packet, Request};

/// What to ask for, and how patient to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The transfer mode.
    pub mode: Mode,
    /// The options to ask for.
    pub options: Options,
    /// How long to wait for the server before the last packet is sent again.
    pub timeout: Duration,
    /// How many times in a row to do so before giving up.
    pub retries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Octet,
            options: Options::default(),
            timeout: Duration::from_secs(1),
            retries: 10,
        }
    }
}

/// What the server has brought, or why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing new.
    Nothing,
    /// The next bytes of the file.
    Data(&'a [u8]),
    /// The last bytes of the file, maybe none. The ACK is still to be sent.
    Last(&'a [u8]),
    /// The server has sent an ERROR.
    Refused(ErrorCode),
    /// The server has answered with something that this client did not ask for; tell it so with the
    /// reply, and stop.
    Broken,
}

/// One transfer from the client's side: packets and time in, replies out.
#[derive(Debug, Clone)]
pub struct Download {
    request: Vec<u8>,
    asked: Options,
    /// What the server has acknowledged; the defaults of RFC 1350 where it sent no OACK.
    agreed: Options,
    /// Blocks received in order.
    received: u64,
    /// The last block acknowledged.
    acked: u64,
    /// A gap was reported, and no block has come in order since.
    gap_reported: bool,
    answered: bool,
    done: bool,
    timeout: Duration,
    retries: u32,
    tries: u32,
    deadline: Duration,
}

impl Download {
    /// Prepares a transfer of `path`. Send [`request`](Self::request) to the server first.
    pub fn new(path: &str, settings: &Settings, now: Duration) -> Self {
        let request = Request {
            filename: path.as_bytes(),
            mode: settings.mode,
            options: settings.options,
        };
        Self {
            request: Packet::ReadRequest(request).to_bytes(),
            asked: settings.options,
            agreed: Options::default(),
            received: 0,
            acked: 0,
            gap_reported: false,
            answered: false,
            done: false,
            timeout: settings.timeout,
            retries: settings.retries,
            tries: 0,
            deadline: now.saturating_add(settings.timeout),
        }
    }

    /// The read request.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Bytes a block, as agreed.
    pub fn blksize(&self) -> u16 {
        self.agreed.blksize.unwrap_or(DEFAULT_BLKSIZE)
    }

    /// Blocks before an ACK, as agreed.
    pub fn windowsize(&self) -> u16 {
        self.agreed.windowsize.unwrap_or(1)
    }

    /// The size of the file, where it was asked for and the server has said it.
    pub fn tsize(&self) -> Option<u64> {
        self.agreed.tsize
    }

    /// Whether the server has answered at all: from then on, packets go to the port it answered from.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Whether everything has arrived.
    pub fn done(&self) -> bool {
        self.done
    }

    /// When [`expired`](Self::expired) is due.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Takes a packet of the server. A reply, if there is to be one, is written to `reply`, which is
    /// emptied first.
    pub fn packet<'a>(&mut self, bytes: &'a [u8], now: Duration, reply: &mut Vec<u8>) -> Step<'a> {
        reply.clear();
        match Packet::decode(bytes) {
            Ok(Packet::Data { block, data }) => self.data(block, data, now, reply),
            Ok(Packet::OptionAck(options)) => self.option_ack(&options, now, reply),
            Ok(Packet::Error { code, .. }) => {
                self.answered = true;
                Step::Refused(code)
            }
            Ok(_) | Err(_) => Step::Nothing,
        }
    }

    /// Takes the passing of the deadline: writes what is to be sent again to `reply`. Gives false
    /// when the server has been silent for too long.
    pub fn expired(&mut self, now: Duration, reply: &mut Vec<u8>) -> bool {
        reply.clear();
        self.deadline = now.saturating_add(self.timeout);
        self.tries += 1;
        if self.answered {
            self.acknowledge(reply);
        } else {
            reply.extend_from_slice(&self.request);
        }
        self.tries <= self.retries
    }

    fn option_ack(
        &mut self,
        options: &Options,
        now: Duration,
        reply: &mut Vec<u8>,
    ) -> Step<'static> {
        if self.received > 0 {
            return Step::Nothing;
        }
        let uncalled = |asked: bool, got: bool| got && !asked;
        if uncalled(self.asked.blksize.is_some(), options.blksize.is_some())
            || uncalled(
                self.asked.windowsize.is_some(),
                options.windowsize.is_some(),
            )
            || options.blksize > self.asked.blksize
            || options.windowsize > self.asked.windowsize
        {
            let message = b"the options were not asked for";
            Packet::Error {
                code: ErrorCode::OPTION_REFUSED,
                message,
            }
            .encode(reply);
            self.answered = true;
            return Step::Broken;
        }
        self.agreed = *options;
        self.progress(now);
        self.acknowledge(reply);
        Step::Nothing
    }

    fn data<'a>(
        &mut self,
        block: u16,
        data: &'a [u8],
        now: Duration,
        reply: &mut Vec<u8>,
    ) -> Step<'a> {
        // How far the block lies from the last one, in either direction.
        let step = block.wrapping_sub(self.received as u16) as i16;
        if self.done || step == 0 {
            // The last block again: the server has not heard its ACK. Within a window that was not
            // acknowledged yet, the block after it is on its way, and an ACK would only make the
            // server begin once more.
            if self.answered && step == 0 && self.received == self.acked {
                self.acknowledge(reply);
            }
            return Step::Nothing;
        }
        if step < 0 {
            return Step::Nothing;
        }
        if step > 1 {
            // RFC 7440 section 4: the last block received in order says where to go on.
            if !self.gap_reported {
                self.gap_reported = true;
                self.acknowledge(reply);
            }
            return Step::Nothing;
        }
        self.received += 1;
        self.gap_reported = false;
        self.progress(now);
        self.done = data.len() < usize::from(self.blksize());
        if self.done || self.received - self.acked >= u64::from(self.windowsize()) {
            self.acknowledge(reply);
        }
        if self.done {
            Step::Last(data)
        } else {
            Step::Data(data)
        }
    }

    fn progress(&mut self, now: Duration) {
        self.answered = true;
        self.tries = 0;
        self.deadline = now.saturating_add(self.timeout);
    }

    fn acknowledge(&mut self, reply: &mut Vec<u8>) {
        self.acked = self.received;
        Packet::Ack {
            block: self.received as u16,
        }
        .encode(reply);
    }
}

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server sent an ERROR.
    #[error("the TFTP server {server} refused {path}: error {code}")]
    Refused {
        /// The server.
        server: SocketAddrV4,
        /// What was asked for.
        path: String,
        /// Its code.
        code: ErrorCode,
    },
    /// The server answered with options that were not asked for.
    #[error("the TFTP server {server} answered the request for {path} with options not asked for")]
    Broken {
        /// The server.
        server: SocketAddrV4,
        /// What was asked for.
        path: String,
    },
    /// The server fell silent.
    #[error(
        "the TFTP server {server} fell silent while {path} was fetched: is it running, and does a firewall let UDP pass?"
    )]
    Silent {
        /// The server.
        server: SocketAddrV4,
        /// What was asked for.
        path: String,
    },
    /// The file is larger than the caller wants to hold.
    #[error("{path} on the TFTP server {server} is larger than {limit} bytes")]
    TooLarge {
        /// The server.
        server: SocketAddrV4,
        /// What was asked for.
        path: String,
        /// The caller's limit.
        limit: usize,
    },
    /// A socket failed.
    #[error("fetching {path} from the TFTP server {server}")]
    Socket {
        /// The server.
        server: SocketAddrV4,
        /// What was asked for.
        path: String,
        /// What came back.
        source: io::Error,
    },
}

/// Fetches one file of at most `limit` bytes, and waits for it.
///
/// # Errors
/// [`FetchError`] says what came back.
pub fn fetch(
    server: SocketAddrV4,
    path: &str,
    settings: &Settings,
    limit: usize,
) -> Result<Vec<u8>, FetchError> {
    let asked = || path.to_owned();
    let socket_failed = |source| FetchError::Socket {
        server,
        path: asked(),
        source,
    };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(socket_failed)?;
    let epoch = Instant::now();
    let mut download = Download::new(path, settings, Duration::ZERO);
    let mut peer = server;
    let mut content = Vec::new();
    let (mut buffer, mut reply) = (vec![0; 65_536], Vec::new());
    socket
        .send_to(download.request(), server)
        .map_err(socket_failed)?;
    loop {
        let left = download.deadline().saturating_sub(epoch.elapsed());
        if left.is_zero() {
            if !download.expired(epoch.elapsed(), &mut reply) {
                return Err(FetchError::Silent {
                    server,
                    path: asked(),
                });
            }
            socket.send_to(&reply, peer).map_err(socket_failed)?;
            continue;
        }
        socket.set_read_timeout(Some(left)).map_err(socket_failed)?;
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(error) => return Err(socket_failed(error)),
        };
        let std::net::SocketAddr::V4(from) = from else {
            continue;
        };
        // RFC 1350 section 4: the first answer decides the server's port; later packets from any
        // other are not ours.
        if from.ip() != server.ip() || (download.answered() && from != peer) {
            continue;
        }
        let step = download.packet(&buffer[..len], epoch.elapsed(), &mut reply);
        if download.answered() {
            peer = from;
        }
        if !reply.is_empty() {
            socket.send_to(&reply, peer).map_err(socket_failed)?;
        }
        match step {
            Step::Nothing => {}
            Step::Data(data) | Step::Last(data) => {
                if content.len() + data.len() > limit {
                    let code = ErrorCode::DISK_FULL;
                    let error = Packet::Error {
                        code,
                        message: b"too large",
                    }
                    .to_bytes();
                    socket.send_to(&error, peer).map_err(socket_failed)?;
                    return Err(FetchError::TooLarge {
                        server,
                        path: asked(),
                        limit,
                    });
                }
                content.extend_from_slice(data);
                if matches!(step, Step::Last(_)) {
                    return Ok(content);
                }
            }
            Step::Refused(code) => {
                return Err(FetchError::Refused {
                    server,
                    path: asked(),
                    code,
                });
            }
            Step::Broken => {
                return Err(FetchError::Broken {
                    server,
                    path: asked(),
                });
            }
        }
    }
}
