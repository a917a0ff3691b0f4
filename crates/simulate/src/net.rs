//! Plays clients against a server: their sockets and clocks.
//!
//! ```text
//!  relay agent (one UDP socket, port 67) <----> the server's port 67
//!      |  by MAC address
//!      +--> client 1: Client (sans-IO) ---> TFTP, HTTP from its own address or the relay's
//!      +--> client 2
//!      ...
//! ```
//!
//! Everything goes to the one server that was named, or where its answers point.

use crate::error::Error;
use crate::kind::{Kind, mac_of};
use crate::machine::{Client, End, Output, Place, Step};
use crate::report::{Report, Tally};
use crate::script;
use bugler_dhcp::{MessageType, Packet};
use bugler_model::MacAddr;
use bugler_tftp::client::{Download, Settings, Step as TftpStep};
use bugler_tftp::packet::Options as TftpOptions;
use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

/// From which address clients fetch files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FetchFrom {
    /// From the relay agent's. A server on the same link sees that the machine behind it is not the
    /// client, and may refuse it its script.
    #[default]
    Relay,
    /// Each from the address that it was given. The server must have a route for these addresses
    /// to this host, as it has for any network behind a router, and this host must take them for
    /// its own (`ip route add local NETWORK dev lo`).
    Leased,
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub server: Ipv4Addr,
    /// The address of this host to which the server answers, as to a relay agent (RFC 2131 section
    /// 4.1). Its port 67 must be free.
    pub relay: Ipv4Addr,
    /// What the clients are: they take turns in this list.
    pub kinds: Vec<Kind>,
    /// How many.
    pub clients: u32,
    /// Number of the first client: with another one, others are played.
    pub first: u32,
    /// All of them are switched on within this time, evenly.
    pub within: Duration,
    /// When a client that is not done counts as failed, after it was switched on.
    pub patience: Duration,
    /// Where they fetch from.
    pub fetch_from: FetchFrom,
}

/// Longest piece of a file that is taken at once.
const PIECE: usize = 256 << 10;
/// Most bytes of a head of an HTTP answer.
const MOST_HEAD: usize = 16 << 10;

/// Plays the clients until each has come to its end. Blocks; uses one thread.
///
/// # Errors
/// Where the options cannot be meant, or a socket cannot be had. A client that fails is in the
/// report.
pub fn run(options: &Options) -> Result<Report, Error> {
    if options.kinds.is_empty() || options.clients == 0 {
        return Err(Error::Options(
            "there is nobody to simulate: say how many clients, and of which kinds".to_owned(),
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Socket { source })?;
    runtime.block_on(play(options))
}

async fn play(options: &Options) -> Result<Report, Error> {
    let relay = Arc::new(open_relay(options).await?);
    let begun = Instant::now();
    let mut routes = HashMap::new();
    let mut clients = JoinSet::new();
    for index in 0..options.clients {
        let number = options.first.wrapping_add(index);
        let kind = kind_of(options, index);
        let (sender, receiver) = mpsc::unbounded_channel();
        routes.insert(mac_of(number), sender);
        let start = options
            .within
            .mul_f64(f64::from(index) / f64::from(options.clients));
        let player = Player {
            options: options.clone(),
            relay: relay.clone(),
            packets: receiver,
            begun,
            start,
            tally: Tally::new(kind),
            client: Client::new(kind, number),
        };
        clients.spawn(player.play());
    }
    let reader = tokio::spawn(distribute(relay, routes));
    let mut report = Report::default();
    while let Some(ended) = clients.join_next().await {
        match ended {
            Ok(tally) => report.add(&tally),
            Err(error) => report.add(&Tally::broken(&error.to_string())),
        }
    }
    reader.abort();
    report.finish(begun.elapsed());
    Ok(report)
}

fn kind_of(options: &Options, index: u32) -> Kind {
    let place = index as usize % options.kinds.len().max(1);
    options.kinds.get(place).copied().unwrap_or(Kind::Plain)
}

async fn open_relay(options: &Options) -> Result<UdpSocket, Error> {
    let relay = SocketAddrV4::new(options.relay, 67);
    let server = SocketAddrV4::new(options.server, 67);
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        socket.bind(&relay.into())?;
        socket.connect(&server.into())?;
        UdpSocket::from_std(socket.into())
    };
    open().map_err(|source| Error::Relay {
        relay,
        server,
        source,
    })
}

/// Hands every answer to its client.
async fn distribute(
    relay: Arc<UdpSocket>,
    routes: HashMap<MacAddr, mpsc::UnboundedSender<Packet>>,
) {
    let mut buffer = vec![0; 9216];
    loop {
        // An error is one that the kernel kept from an earlier message, such as a port that was
        // closed: clients ask again.
        let Ok(length) = relay.recv(&mut buffer).await else {
            continue;
        };
        if let Some(Ok(packet)) = buffer.get(..length).map(Packet::decode)
            && let Some(route) = packet.mac().and_then(|mac| routes.get(&mac))
        {
            // A client that has ended needs no more.
            let _ = route.send(packet);
        }
    }
}

/// One client with its sockets.
struct Player {
    options: Options,
    relay: Arc<UdpSocket>,
    packets: mpsc::UnboundedReceiver<Packet>,
    begun: Instant,
    start: Duration,
    tally: Tally,
    client: Client,
}

impl Player {
    fn moment(&self, at: Duration) -> tokio::time::Instant {
        (self.begun + at).into()
    }

    async fn play(mut self) -> Tally {
        sleep_until(self.moment(self.start)).await;
        let end = self.moment(self.start + self.options.patience);
        let mut output = self.client.start(self.begun.elapsed());
        let mut since = self.begun.elapsed();
        loop {
            let step = self.client.step();
            output = match output {
                Output::Send(packet) => {
                    let discovers = packet.message_type() == Some(MessageType::Discover);
                    if discovers {
                        since = self.begun.elapsed();
                    }
                    let Ok(next) = timeout_at(end, self.ask(*packet)).await else {
                        return self.late();
                    };
                    if !matches!(next, Output::Send(_)) {
                        self.tally.step(step, self.begun.elapsed() - since);
                    }
                    next
                }
                Output::Fetch { step, place } => {
                    since = self.begun.elapsed();
                    let Ok(fetched) = timeout_at(end, self.fetch(step, &place)).await else {
                        return self.late();
                    };
                    self.tally.step(step, self.begun.elapsed() - since);
                    let (content, length) = match fetched {
                        Ok((content, length)) => (Ok(content), length),
                        Err(why) => (Err(why), 0),
                    };
                    self.tally.bytes += length;
                    let content = content.as_deref().map_err(Clone::clone);
                    self.client.fetched(content, self.begun.elapsed())
                }
                Output::End(end) => {
                    self.tally.repeated = self.client.repeated;
                    self.tally.end(end, self.begun.elapsed() - self.start);
                    return self.tally;
                }
            };
        }
    }

    /// The end of its patience.
    fn late(mut self) -> Tally {
        let text = format!(
            "{}: not done {:.0} s after it was switched on",
            self.client.step().name(),
            self.options.patience.as_secs_f64()
        );
        self.tally.repeated = self.client.repeated;
        self.tally
            .end(End::Failed(text), self.begun.elapsed() - self.start);
        self.tally
    }

    /// Sends a message, and waits for what comes of it.
    async fn ask(&mut self, mut packet: Packet) -> Output {
        packet.giaddr = self.options.relay;
        packet.hops = 1;
        // A message that cannot be sent is one that was lost.
        let _ = self.relay.send(&crate::kind::bytes_of(&packet)).await;
        loop {
            let deadline = self.moment(self.client.deadline().unwrap_or_default());
            tokio::select! {
                Some(answer) = self.packets.recv() => {
                    let now = self.begun.elapsed();
                    if let Some(next) = self.client.packet(&answer, now) {
                        return next;
                    }
                }
                () = sleep_until(deadline) => {
                    return self.client.expired(self.begun.elapsed());
                }
            }
        }
    }

    fn source(&self) -> Ipv4Addr {
        match self.options.fetch_from {
            FetchFrom::Relay => self.options.relay,
            FetchFrom::Leased => self.client.address().unwrap_or(self.options.relay),
        }
    }

    /// Fetches a file; its content where it is a script, and its length.
    async fn fetch(&self, step: Step, place: &Place) -> Result<(Vec<u8>, u64), String> {
        let keep = if step == Step::Script {
            script::LONGEST
        } else {
            0
        };
        match place {
            Place::Tftp { server, path } => tftp(self.source(), *server, path, keep)
                .await
                .map_err(|error| format!("tftp://{server}/{path}: {error}")),
            Place::Http { url } => http(self.source(), url, keep)
                .await
                .map_err(|error| format!("{url}: {error}")),
        }
    }
}

fn other(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Fetches by TFTP as iPXE and EDK2 do: blocks of 1,468 bytes, one at a time.
async fn tftp(
    source: Ipv4Addr,
    server: Ipv4Addr,
    path: &str,
    keep: usize,
) -> io::Result<(Vec<u8>, u64)> {
    let settings = Settings {
        options: TftpOptions {
            blksize: Some(1468),
            ..TftpOptions::default()
        },
        ..Settings::default()
    };
    let socket = UdpSocket::bind((source, 0)).await?;
    let begun = Instant::now();
    let mut download = Download::new(path, &settings, Duration::ZERO);
    let mut peer = SocketAddr::from((server, 69));
    let (mut buffer, mut reply) = (vec![0; 2048], Vec::new());
    let (mut content, mut length) = (Vec::new(), 0);
    socket.send_to(download.request(), peer).await?;
    loop {
        let deadline = begun + download.deadline();
        let received = timeout_at(deadline.into(), socket.recv_from(&mut buffer)).await;
        let Ok(received) = received else {
            if !download.expired(begun.elapsed(), &mut reply) {
                return Err(other("no answer"));
            }
            socket.send_to(&reply, peer).await?;
            continue;
        };
        let (size, from) = received?;
        if from.ip() != peer.ip() || (download.answered() && from != peer) {
            continue;
        }
        let bytes = buffer.get(..size).unwrap_or_default();
        let step = download.packet(bytes, begun.elapsed(), &mut reply);
        if download.answered() {
            peer = from;
        }
        match step {
            TftpStep::Data(data) | TftpStep::Last(data) => {
                length += data.len() as u64;
                let room = keep.saturating_sub(content.len());
                content.extend(data.iter().take(room));
            }
            TftpStep::Refused(code) => return Err(other(format!("refused: error {}", code.0))),
            TftpStep::Nothing | TftpStep::Broken => {}
        }
        if !reply.is_empty() {
            socket.send_to(&reply, peer).await?;
        }
        if download.done() {
            return Ok((content, length));
        }
        if matches!(step, TftpStep::Broken) {
            return Err(other("an answer that makes no sense"));
        }
    }
}

/// Host, port and path of an `http://` URL.
fn split_url(url: &str) -> Option<(SocketAddrV4, &str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (host, 80),
    };
    let path = if path.is_empty() { "/" } else { path };
    Some((SocketAddrV4::new(name.parse().ok()?, port), host, path))
}

/// Fetches by HTTP (RFC 9112), one request a connection. What is not kept is thrown away inside of
/// the kernel (MSG_TRUNC, tcp(7)), so that thousands of clients cost little.
async fn http(source: Ipv4Addr, url: &str, keep: usize) -> io::Result<(Vec<u8>, u64)> {
    let (server, host, path) =
        split_url(url).ok_or_else(|| other("not the URL of a server with a numeric address"))?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    let mut stream = socket.connect(server.into()).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: iPXE/simulated\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(1024);
    let (body_at, length) = loop {
        let mut part = [0; 1024];
        let count = receive(&stream, &mut part, RecvFlags::DONTWAIT).await?;
        if count == 0 || head.len() > MOST_HEAD {
            return Err(other("the connection ended within the head of the answer"));
        }
        head.extend(part.iter().take(count));
        if let Some(found) = read_head(&head)? {
            break found;
        }
    };
    let mut content: Vec<u8> = head.get(body_at..).unwrap_or_default().to_vec();
    let mut have = content.len() as u64;
    content.truncate(keep);
    let mut piece = vec![0; if keep > 0 { 4096 } else { 1 }];
    while have < length {
        let room = keep.saturating_sub(content.len());
        let count = if room > 0 {
            let count = receive(&stream, &mut piece, RecvFlags::DONTWAIT).await?;
            content.extend(piece.iter().take(count.min(room)));
            count
        } else {
            discard(&stream, length - have).await?
        };
        if count == 0 {
            return Err(other(format!("cut off after {have} bytes of {length}")));
        }
        have += count as u64;
    }
    Ok((content, length))
}

/// Where the body begins and how long it is, once the head is whole.
fn read_head(head: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default());
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        let shown: String = status
            .chars()
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        return Err(other(format!("the server said {shown:?}")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    });
    let length = length.ok_or_else(|| other("the answer has no Content-Length"))?;
    Ok(Some((end + 4, length)))
}

async fn receive(stream: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || {
            Ok(rustix::net::recv(stream, &mut *buffer, flags).map(|(count, _)| count)?)
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

/// Throws away up to this many bytes; returns how many.
async fn discard(stream: &TcpStream, most: u64) -> io::Result<usize> {
    // Nothing is written to it: the kernel only counts.
    let mut nowhere = vec![0; usize::try_from(most).unwrap_or(PIECE).min(PIECE)];
    receive(stream, &mut nowhere, RecvFlags::DONTWAIT | RecvFlags::TRUNC).await
}

/// Reads any bytes as the head of an answer, and as a URL.
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = read_head(bytes);
    let _ = split_url(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_and_heads_are_read() {
        let address = "10.0.0.1:8480".parse().unwrap();
        assert_eq!(
            split_url("http://10.0.0.1:8480/a/b"),
            Some((address, "10.0.0.1:8480", "/a/b"))
        );
        assert_eq!(split_url("http://10.0.0.1").unwrap().2, "/");
        assert_eq!(split_url("https://10.0.0.1/"), None);
        let head = b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 12\r\n\r\nbody";
        assert_eq!(read_head(head).unwrap(), Some((head.len() - 4, 12)));
        assert_eq!(read_head(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        let error = read_head(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err();
        assert!(error.to_string().contains("404 Not Found"));
    }

    proptest! {
        #[test]
        fn any_head_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_head(&bytes);
            let _ = read_head(&[b"HTTP/1.1 200 OK\r\n", &bytes[..], b"\r\n\r\n"].concat());
            let _ = split_url(&String::from_utf8_lossy(&bytes));
        }
    }
}
