//! TCP: connections, records (RFC 5531, section 11), and which export a call is for.
//!
//! ```text
//! accept --> connection: reader --record--> MOUNT, port mapper: answered here
//!              (one task)         |
//!                                 +--NFS--> Export (a thread) --answer--> writer (one task)
//! ```
//!
//! What clients can make the server hold is limited: a budget of bytes for all calls that are being
//! read, answered or written, an eighth of it for each address, a number of calls for each connection,
//! and a number of connections. A connection on which nothing moves while something should is closed.

use crate::export::{Export, without_export};
use crate::handle::{ExportId, export_of};
use crate::kinds::Status;
use crate::mount::{self, MountCall, MountStatus};
use crate::packet::{self, Call, MAX_TRANSFER};
use crate::rpc::{self, Accepted, RpcCall};
use crate::xdr::Writer;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most bytes of a call: a write, and what stands around it.
const MAX_RECORD: usize = MAX_TRANSFER as usize + 4096;
/// Calls of one connection that are answered at the same time.
const CALLS: usize = 64;
/// Bytes that one permit of the budget stands for.
const UNIT: usize = 1024;
/// How many addresses share the budget, when each takes what it may.
const SHARES: usize = 8;
/// How long the rest of a record, or the sending of an answer, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Exports that a connection remembers.
const REMEMBERED: usize = 8;

/// Which exports there are, and who may see them. What is asked may take time: it is asked on threads
/// where that is allowed.
pub trait Exports: Send + Sync + 'static {
    /// The export that the machine at `peer` means by `path`. One that [is
    /// stopped](Export::is_stopped) is of no use.
    ///
    /// # Errors
    /// [`MountStatus`]: there is none, or it belongs to another machine.
    fn open(&self, peer: SocketAddr, path: &[u8]) -> Result<Arc<Export>, MountStatus>;

    /// The export with this number, for a machine that has a handle of one of its files; after a
    /// restart of the server, without a call of [`open`](Self::open) before.
    ///
    /// # Errors
    /// [`Status::Stale`]: there is none, or it belongs to another machine; [`Status::Later`]: it cannot
    /// be served at the moment, and the client is to ask again.
    fn find(&self, peer: SocketAddr, export: ExportId) -> Result<Arc<Export>, Status>;
}

/// How a server serves.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Whether clients must call from a port below 1024, as the Linux kernel does: so that ordinary
    /// users of a device cannot call past its kernel in the name of root.
    pub low_ports_only: bool,
    /// Most bytes for calls that are being answered, of all clients together.
    pub budget: usize,
    /// Most connections.
    pub connections: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            low_ports_only: true,
            budget: 64 << 20,
            connections: 1024,
        }
    }
}

/// What all connections share.
struct Shared {
    exports: Arc<dyn Exports>,
    budget: Arc<Semaphore>,
    /// What an address may take of the budget, and those that have connections.
    share: usize,
    shares: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    port: u16,
}

impl Shared {
    /// What is left of the share of an address.
    fn share_of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share));
        shares.insert(address, Arc::downgrade(&share));
        share
    }
}

/// What a call holds while it is read, answered and written.
struct Held {
    /// Of the budget, and of the share of its address: in units.
    bytes: [OwnedSemaphorePermit; 2],
    _call: OwnedSemaphorePermit,
}

impl Held {
    /// Gives back all but so many units.
    fn shrink(&mut self, units: u32) {
        for permit in &mut self.bytes {
            let more = permit.num_permits().saturating_sub(units as usize);
            drop(permit.split(more));
        }
    }
}

/// Serves NFS, MOUNT and the port mapper to all who connect, for as long as it is polled. When it is
/// dropped, connections are closed; exports stay as they are.
///
/// # Errors
/// Where the listener has no address.
pub async fn serve(
    listener: TcpListener,
    exports: Arc<dyn Exports>,
    options: ServeOptions,
) -> io::Result<()> {
    // One call of each address must always fit.
    let budget = options.budget.max(SHARES * 2 * MAX_RECORD) / UNIT;
    let shared = Arc::new(Shared {
        exports,
        budget: Arc::new(Semaphore::new(budget)),
        share: budget / SHARES,
        shares: Mutex::default(),
        port: listener.local_addr()?.port(),
    });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection for NFS cannot be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if connections.len() >= options.connections {
            tracing::warn!(%peer, limit = options.connections, "too many connections for NFS");
            continue;
        }
        if options.low_ports_only && peer.port() >= 1024 {
            tracing::warn!(
                %peer,
                "a client of NFS is refused: it calls from a port above 1023 (mount option noresvport?)"
            );
            continue;
        }
        let shared = shared.clone();
        connections.spawn(async move {
            if let Err(error) = connection(stream, peer, &shared).await {
                tracing::debug!(%peer, %error, "a connection of NFS has ended");
            }
        });
    }
}

/// An answer on its way out, and what of the budget it holds.
struct Outgoing {
    message: Vec<u8>,
    _held: Held,
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A machine whose power was cut says nothing any more.
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(PATIENCE)
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
    let (reader, writer) = stream.into_split();
    let (answers, outgoing) = mpsc::unbounded_channel();
    let read = Connection {
        reader,
        peer,
        shared: shared.clone(),
        answers,
        exports: Remembered::default(),
    };
    // The writer goes on until the last answer is out; an error of either one ends both.
    tokio::try_join!(read.run(), write(writer, outgoing))?;
    Ok(())
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) -> io::Result<()> {
    while let Some(answer) = outgoing.recv().await {
        let mark = 1 << 31 | answer.message.len() as u32;
        let mut bytes = mark.to_be_bytes().to_vec();
        bytes.extend_from_slice(&answer.message);
        timeout(PATIENCE, writer.write_all(&bytes)).await??;
    }
    Ok(())
}

/// The exports that a connection has called.
#[derive(Default)]
struct Remembered(HashMap<ExportId, Arc<Export>>);

impl Remembered {
    fn get(&mut self, id: ExportId) -> Option<Arc<Export>> {
        match self.0.get(&id) {
            Some(export) if !export.is_stopped() => Some(export.clone()),
            _ => {
                self.forget(id);
                None
            }
        }
    }

    fn add(&mut self, export: &Arc<Export>) {
        if self.0.len() >= REMEMBERED {
            self.clear();
        }
        if self.0.insert(export.id(), export.clone()).is_none() {
            export.count_connection(true);
        }
    }

    fn forget(&mut self, id: ExportId) {
        if let Some(export) = self.0.remove(&id) {
            export.count_connection(false);
        }
    }

    fn clear(&mut self) {
        for (_, export) in self.0.drain() {
            export.count_connection(false);
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.clear();
    }
}

struct Connection {
    reader: OwnedReadHalf,
    peer: SocketAddr,
    shared: Arc<Shared>,
    answers: mpsc::UnboundedSender<Outgoing>,
    exports: Remembered,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        let calls = Arc::new(Semaphore::new(CALLS));
        let share = self.shared.share_of(self.peer.ip());
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        while let Some(mark) = self.mark().await? {
            let call = calls.clone().acquire_owned().await;
            // The share first: what waits for it must not hold any of the budget.
            let share = share.clone().acquire_many_owned(MOST_UNITS).await;
            let budget = self.shared.budget.clone();
            let budget = budget.acquire_many_owned(MOST_UNITS).await;
            let held = Held {
                bytes: [budget.map_err(closed)?, share.map_err(closed)?],
                _call: call.map_err(closed)?,
            };
            let message = timeout(PATIENCE, self.record(mark)).await??;
            self.answer(message, held).await?;
        }
        Ok(())
    }

    /// The mark in front of a record; `None` at the end of the connection.
    async fn mark(&mut self) -> io::Result<Option<Mark>> {
        let mut bytes = [0; 4];
        match self.reader.read_exact(&mut bytes).await {
            Ok(_) => Mark::new(bytes, 0).map(Some),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The rest of a record: usually one fragment.
    async fn record(&mut self, mut mark: Mark) -> io::Result<Vec<u8>> {
        let mut message = vec![];
        loop {
            let begin = message.len();
            message.resize(begin + mark.length, 0);
            let rest = message.get_mut(begin..).unwrap_or_default();
            self.reader.read_exact(rest).await?;
            if mark.is_last {
                return Ok(message);
            }
            let mut bytes = [0; 4];
            self.reader.read_exact(&mut bytes).await?;
            mark = Mark::new(bytes, message.len())?;
        }
    }

    async fn answer(&mut self, message: Vec<u8>, mut held: Held) -> io::Result<()> {
        held.shrink(units(&message));
        let answers = self.answers.clone();
        let send = move |message: Vec<u8>| {
            // Where the writer is gone, so is the client.
            let _ = answers.send(Outgoing {
                message,
                _held: held,
            });
        };
        let call = match RpcCall::decode(&message) {
            Ok(call) => call,
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "a call is refused");
                let refusal = rpc::refusal(&error);
                let refusal = refusal.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
                send(refusal);
                return Ok(());
            }
        };
        let xid = call.xid;
        let accepted = match (call.program, call.version) {
            (rpc::NFS, 3) if call.procedure == 0 => Accepted::Success,
            (rpc::NFS, 3) => match packet::first_handle(call.arguments).map(export_of) {
                Err(_) => Accepted::Garbage,
                Ok(None) => {
                    send(without_export(&message, Status::BadHandle));
                    return Ok(());
                }
                Ok(Some(id)) => return self.nfs(id, message, Box::new(send)).await,
            },
            (rpc::MOUNT, 3) => {
                let answer = self.mount(&call).await;
                send(answer);
                return Ok(());
            }
            (rpc::PORTMAP, 2) => {
                let mut out = rpc::reply(xid, Accepted::Success);
                let port = self.shared.port;
                match mount::port_mapper(call.procedure, call.arguments, port, &mut out) {
                    Ok(Some(())) => {
                        send(out.into_bytes());
                        return Ok(());
                    }
                    Ok(None) => Accepted::NoProcedure,
                    Err(_) => Accepted::Garbage,
                }
            }
            (rpc::NFS | rpc::MOUNT, _) => Accepted::NoVersion { low: 3, high: 3 },
            (rpc::PORTMAP, _) => Accepted::NoVersion { low: 2, high: 2 },
            _ => Accepted::NoProgram,
        };
        send(rpc::reply(xid, accepted).into_bytes());
        Ok(())
    }

    async fn nfs(
        &mut self,
        id: ExportId,
        mut message: Vec<u8>,
        mut reply: Box<dyn FnOnce(Vec<u8>) + Send>,
    ) -> io::Result<()> {
        // One that is stopped between the question and the call is asked for once more.
        for _ in 0..2 {
            let export = match self.exports.get(id) {
                Some(export) => export,
                None => match self.find(id).await {
                    Ok(export) => export,
                    Err(status) => {
                        reply(without_export(&message, status));
                        return Ok(());
                    }
                },
            };
            match export.call(message, reply) {
                Ok(()) => return Ok(()),
                Err(back) => (message, reply) = back,
            }
            self.exports.forget(id);
        }
        reply(without_export(&message, Status::Later));
        Ok(())
    }

    async fn find(&mut self, id: ExportId) -> Result<Arc<Export>, Status> {
        let (exports, peer) = (self.shared.exports.clone(), self.peer);
        let found = tokio::task::spawn_blocking(move || exports.find(peer, id)).await;
        let export = found.unwrap_or(Err(Status::Later)).inspect_err(|error| {
            tracing::warn!(%peer, %error, "a client of NFS has a file of an export that it may not see");
        })?;
        self.exports.add(&export);
        Ok(export)
    }

    async fn mount(&mut self, call: &RpcCall<'_>) -> Vec<u8> {
        let mut out = rpc::reply(call.xid, Accepted::Success);
        match MountCall::decode(call.procedure, call.arguments) {
            Ok(Some(MountCall::Mount(path))) => {
                let (exports, peer) = (self.shared.exports.clone(), self.peer);
                let asked = path.to_vec();
                let opened = tokio::task::spawn_blocking(move || exports.open(peer, &asked)).await;
                let opened = opened.unwrap_or(Err(MountStatus::Fault));
                let path = String::from_utf8_lossy(path);
                match &opened {
                    Ok(_) => tracing::info!(%peer, %path, "an export is mounted"),
                    Err(status) => {
                        tracing::warn!(%peer, %path, ?status, "an export is refused");
                    }
                }
                let root = opened.map(|export| export.root());
                mount::mounted(
                    &mut out,
                    root.as_ref().map(|root| &root[..]).map_err(|it| *it),
                );
            }
            Ok(Some(MountCall::Dump | MountCall::Exports)) => empty_list(&mut out),
            Ok(Some(MountCall::Null | MountCall::Unmount(_) | MountCall::UnmountAll)) => {}
            Ok(None) => return rpc::reply(call.xid, Accepted::NoProcedure).into_bytes(),
            Err(_) => return rpc::reply(call.xid, Accepted::Garbage).into_bytes(),
        }
        out.into_bytes()
    }
}

/// What stands in front of a fragment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    length: usize,
    is_last: bool,
}

impl Mark {
    /// `before`: how long the record is already.
    fn new(bytes: [u8; 4], before: usize) -> io::Result<Self> {
        let mark = u32::from_be_bytes(bytes);
        let length = (mark & 0x7fff_ffff) as usize;
        let is_last = mark >> 31 == 1;
        // Fragments without content would go on for ever.
        let is_empty = length == 0 && !is_last;
        match before + length > MAX_RECORD || is_empty {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a record of more than {MAX_RECORD} bytes, or an empty fragment"),
            )),
            false => Ok(Self { length, is_last }),
        }
    }
}

fn empty_list(out: &mut Writer) {
    out.bool(false);
}

/// What any call can take of the budget: the longest with a short answer, or the other way around.
const MOST_UNITS: u32 = ((MAX_RECORD + SHORT) / UNIT) as u32 + 1;
/// Bytes that all short answers fit into, and what is kept beside them.
const SHORT: usize = 8192;

/// What a call takes of the budget: itself and the longest answer that it can get.
fn units(message: &[u8]) -> u32 {
    let answer = match RpcCall::decode(message) {
        Ok(call) if (call.program, call.version) == (rpc::NFS, 3) => {
            match Call::decode(call.procedure, call.arguments) {
                Ok(Some(Call::Read { count, .. })) => count.min(MAX_TRANSFER),
                Ok(Some(Call::ReadFolder { count, .. } | Call::ReadFolderPlus { count, .. })) => {
                    count.min(MAX_TRANSFER)
                }
                _ => 0,
            }
        }
        _ => 0,
    };
    let bytes = message.len() + answer as usize + SHORT;
    (bytes.div_ceil(UNIT) as u32).min(MOST_UNITS)
}
