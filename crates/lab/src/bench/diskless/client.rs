//! A machine that boots without a disk, as its server sees it: asks for its script, attaches the root that
//! it is told, reads and writes over NBD as a booting system does.

use crate::client::DEVICE_PORT;
use crate::net::{Host, INTERFACE};
use crate::process::output_of;
use anyhow::{Context, Result, bail, ensure};
use bugler_nbd::packet::{
    MAGIC, OPTION_MAGIC, REQUEST_LEN, REQUEST_MAGIC, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC,
    handshake, option,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Requests that a client has under way: what Linux's read-ahead and write-back have.
const DEPTH: usize = 4;
/// Length of a request: what Linux reads ahead.
pub(super) const REQUEST: usize = 128 << 10;
/// How long the server may take to make the initramfs.
const READY: Duration = Duration::from_secs(180);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(120);

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

/// Asks the server what `host` boots, until it has made that, and returns the name of the export that it
/// was told.
///
/// # Errors
/// When the server does not answer, or tells no root over NBD in time.
pub(super) fn script(host: &Host, server: Ipv4Addr) -> Result<String> {
    let mac = output_of(
        host.command("cat")
            .arg(format!("/sys/class/net/{INTERFACE}/address")),
    )?;
    let url = format!("http://{server}:{DEVICE_PORT}/boot/ipxe/{}", mac.trim());
    let end = Instant::now() + READY;
    loop {
        let script = output_of(host.command("curl").args(["-sSf", &url]))?;
        let root = script
            .split_whitespace()
            .find_map(|word| word.strip_prefix("bugler.root=nbd://"));
        if let Some((_, name)) = root.and_then(|root| root.split_once('/')) {
            return Ok(name.to_owned());
        }
        ensure!(
            Instant::now() < end,
            "the server tells {} no root over NBD:\n{script}",
            host.name()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A root that is attached.
pub(super) struct Client {
    stream: TcpStream,
    /// Bytes of the disk.
    pub(super) size: u64,
    next: u64,
}

/// A request that was sent.
struct Sent {
    handle: u64,
    /// Bytes that come with its reply.
    length: usize,
}

impl Client {
    /// Connects from `host`, and chooses the export with that name.
    ///
    /// # Errors
    /// When the server cannot be reached or is none.
    pub(super) fn attach(host: &Host, server: (Ipv4Addr, u16), name: &str) -> Result<Self> {
        let connected = host.run(|| TcpStream::connect(server))?;
        let mut stream = connected.context("cannot connect to the NBD server")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let expected = [MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
        ensure!(greeting[..16] == expected, "it is no NBD server");
        let mut hello = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES)
            .to_be_bytes()
            .to_vec();
        hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        hello.extend_from_slice(&option::EXPORT_NAME.to_be_bytes());
        hello.extend_from_slice(&u32::try_from(name.len())?.to_be_bytes());
        hello.extend_from_slice(name.as_bytes());
        stream.write_all(&hello)?;
        let mut export = [0; 10];
        stream
            .read_exact(&mut export)
            .context("the server has no such export for this machine")?;
        let size = export.first_chunk().copied().unwrap_or_default();
        Ok(Self {
            stream,
            size: u64::from_be_bytes(size),
            next: 0,
        })
    }

    fn send(&mut self, kind: u16, offset: u64, length: usize, data: &[u8]) -> Result<Sent> {
        let handle = self.next;
        self.next += 1;
        let mut request = Vec::with_capacity(REQUEST_LEN + data.len());
        request.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        request.extend_from_slice(&0_u16.to_be_bytes());
        request.extend_from_slice(&kind.to_be_bytes());
        request.extend_from_slice(&handle.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
        request.extend_from_slice(data);
        self.stream.write_all(&request)?;
        Ok(Sent {
            handle,
            length: if kind == READ { length } else { 0 },
        })
    }

    /// Takes the next reply, whichever request it is of; its data goes to where `place` says.
    fn receive(&mut self, sent: &mut Vec<(Sent, usize)>, into: &mut [u8]) -> Result<()> {
        let mut head = [0; SIMPLE_REPLY_LEN];
        self.stream
            .read_exact(&mut head)
            .context("the NBD server does not answer")?;
        let word = |at: usize| head.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let (magic, error) = (word(0).unwrap_or_default(), word(4).unwrap_or_default());
        ensure!(
            u32::from_be_bytes(magic) == SIMPLE_REPLY_MAGIC,
            "the NBD server answers with something else"
        );
        let error = u32::from_be_bytes(error);
        ensure!(error == 0, "the NBD server answers with the error {error}");
        let handle = head.last_chunk().copied().map(u64::from_be_bytes);
        let Some(at) = sent
            .iter()
            .position(|(sent, _)| Some(sent.handle) == handle)
        else {
            bail!("the NBD server answers what was not asked");
        };
        let (request, place) = sent.swap_remove(at);
        let into = into.get_mut(place..place + request.length);
        self.stream
            .read_exact(into.context("a reply that is too long")?)
            .context("the NBD server stopped in a reply")
    }

    /// Fills the buffer from this place of the disk.
    ///
    /// # Errors
    /// When the server does not answer, or says that it cannot.
    pub(super) fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut sent = Vec::new();
        for at in (0..into.len()).step_by(REQUEST) {
            let length = REQUEST.min(into.len() - at);
            if sent.len() == DEPTH {
                self.receive(&mut sent, into)?;
            }
            sent.push((self.send(READ, offset + at as u64, length, &[])?, at));
        }
        while !sent.is_empty() {
            self.receive(&mut sent, into)?;
        }
        Ok(())
    }

    /// Writes the data at this place of the disk, and has it made durable.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let mut sent = Vec::new();
        for (number, part) in data.chunks(REQUEST).enumerate() {
            if sent.len() == DEPTH {
                self.receive(&mut sent, &mut [])?;
            }
            let at = offset + (number * REQUEST) as u64;
            sent.push((self.send(WRITE, at, part.len(), part)?, 0));
        }
        while !sent.is_empty() {
            self.receive(&mut sent, &mut [])?;
        }
        sent.push((self.send(FLUSH, 0, 0, &[])?, 0));
        self.receive(&mut sent, &mut [])
    }
}
