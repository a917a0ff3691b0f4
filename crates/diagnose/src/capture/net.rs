//! The sockets of a capture.

use super::Filter;
use crate::pcap::Writer;
use crate::unsafe_system;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::name_to_index;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Socket, Type};
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest frame that is kept whole, in bytes: as long as IPv4 can make one.
const SNAP: usize = 65_535;

/// What the kernel may keep for a reader that is slow, for each interface.
const KERNEL_BUFFER: usize = 8 << 20;

/// How much is gathered before it is handed on.
const CHUNK: usize = 64 << 10;

/// How often it is looked whether to stop, and what was gathered is handed on.
const IDLE: Duration = Duration::from_millis(200);

/// Why nothing can be captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of this name.
    #[error("there is no network interface {interface} to capture on")]
    NoInterface {
        /// Which.
        interface: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error(
        "could not capture on {interface}: it needs the capability CAP_NET_RAW, which root has"
    )]
    Open {
        /// Which interface.
        interface: String,
        /// What came back.
        #[source]
        source: io::Error,
    },
    /// There is nothing to capture on.
    #[error("the server serves no interface, so there is nothing to capture on")]
    Nowhere,
}

/// A capture that has begun: the kernel keeps frames from now on.
#[derive(Debug)]
pub struct Capture {
    sockets: Vec<Socket>,
    names: Vec<String>,
    filter: Filter,
}

impl Capture {
    /// Begins to capture on these interfaces.
    ///
    /// # Errors
    /// Where an interface is missing, or the kernel refuses.
    pub fn open(interfaces: &[String], filter: Filter) -> Result<Self, Error> {
        if interfaces.is_empty() {
            return Err(Error::Nowhere);
        }
        let program = filter.program();
        let mut sockets = vec![];
        for interface in interfaces {
            let refused = |source| Error::Open {
                interface: interface.clone(),
                source,
            };
            // With protocol 0 it receives nothing until the filter is there and it is bound.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).map_err(refused)?;
            let index = name_to_index(&socket, interface).map_err(|error| Error::NoInterface {
                interface: interface.clone(),
                source: error.into(),
            })?;
            let prepare = || {
                socket.set_nonblocking(true)?;
                // Less is given where the system allows less.
                let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
                socket.attach_filter(&program)?;
                socket.bind(&unsafe_system::everything_on(index))
            };
            prepare().map_err(refused)?;
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            names: interfaces.to_vec(),
            filter,
        })
    }

    /// Hands pieces of a pcapng file to `take` as they come, until `take` says that nobody wants
    /// more (`false`), `stop` says so, or `duration` is over. Blocks; needs a thread of its own.
    ///
    /// # Errors
    /// Where the interfaces fail, as they do when they are removed.
    pub fn run(
        mut self,
        duration: Option<Duration>,
        stop: impl Fn() -> bool,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let end = duration.map(|duration| Instant::now() + duration);
        let mut writer = Writer::new(Vec::with_capacity(CHUNK), &self.names, SNAP as u32)?;
        let mut buffer = vec![0; SNAP];
        // The head goes out at once: it shows that the capture has begun.
        let mut flush = true;
        loop {
            if (flush || writer.get_mut().len() >= CHUNK) && !writer.get_mut().is_empty() {
                let piece = std::mem::replace(writer.get_mut(), Vec::with_capacity(CHUNK));
                if !take(piece) {
                    return Ok(());
                }
            }
            if stop() || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if self.wait(end)? == 0 {
                flush = true;
                continue;
            }
            let mut idle = true;
            for index in 0..self.sockets.len() {
                idle &= !self.drain(index, &mut buffer, &mut writer)?;
            }
            flush = idle;
        }
        for (index, socket) in self.sockets.iter().enumerate() {
            if let Ok(frames @ 1..) = unsafe_system::lost(socket) {
                writer.lost(index as u32, now_micros(), frames.into())?;
            }
        }
        let rest = std::mem::take(writer.get_mut());
        if !rest.is_empty() {
            take(rest);
        }
        Ok(())
    }

    fn wait(&self, end: Option<Instant>) -> io::Result<usize> {
        let left = end.map_or(IDLE, |end| {
            end.saturating_duration_since(Instant::now()).min(IDLE)
        });
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds: Vec<PollFd<'_>> = self
            .sockets
            .iter()
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => Ok(ready),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what waits on one socket, but not for ever; returns whether something was wanted.
    fn drain(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        writer: &mut Writer<Vec<u8>>,
    ) -> io::Result<bool> {
        const FRAMES_PER_ROUND: usize = 64;
        let mut wanted = false;
        for _ in 0..FRAMES_PER_ROUND {
            let Some(socket) = self.sockets.get(index) else {
                break;
            };
            // With TRUNC the length is the frame's own, however much of it fits.
            let (kept, length) = match recv(socket, &mut *buffer, RecvFlags::TRUNC) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            };
            let frame = buffer.get(..kept).unwrap_or_default();
            if self.filter.wants(frame) {
                wanted = true;
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                writer.frame(index as u32, now_micros(), frame, length)?;
            }
            if self.filter.has_learned() {
                let program = self.filter.program();
                for socket in &self.sockets {
                    socket.attach_filter(&program)?;
                }
            }
        }
        Ok(wanted)
    }
}

fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
