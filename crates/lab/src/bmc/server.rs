//! The responder on a socket, and what the network does to datagrams.

use super::{Model, Responder};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a thread that waits for datagrams looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What may happen to a datagram, each in 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// It never arrives.
    pub loss: u16,
    /// It arrives twice.
    pub repeat: u16,
    /// It is overtaken by others: it comes later, by up to this.
    pub jitter: Duration,
}

/// Chance that can be repeated: what happens to each datagram follows from the seed (xorshift64).
#[derive(Debug, Clone)]
pub struct Network {
    faults: Faults,
    state: u64,
}

impl Network {
    /// A network with these faults.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }

    fn happens(&mut self, in_1000: u16) -> bool {
        self.draw() % 1000 < u64::from(in_1000)
    }

    /// After how long a datagram arrives: no time, one or two.
    pub fn carry(&mut self) -> Vec<Duration> {
        let copies = match self.happens(self.faults.loss) {
            true => 0,
            false => 1 + usize::from(self.happens(self.faults.repeat)),
        };
        let jitter = self.faults.jitter.as_micros() as u64;
        (0..copies)
            .map(|_| match jitter {
                0 => Duration::ZERO,
                most => Duration::from_micros(self.draw() % most),
            })
            .collect()
    }
}

/// A responder on a port of 127.0.0.1; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    responder: Arc<Mutex<Responder>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one behind a network.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(model: Model, network: Network) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let responder = Arc::new(Mutex::new(Responder::new(model, 7)));
        let ends = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&responder), Arc::clone(&ends));
        let thread = thread::spawn(move || serve(&socket, &shared, network, &end));
        Ok(Self {
            address,
            responder,
            ends,
            thread: Some(thread),
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The BMC itself.
    pub fn responder(&self) -> MutexGuard<'_, Responder> {
        self.responder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    socket: &UdpSocket,
    responder: &Mutex<Responder>,
    mut network: Network,
    ends: &AtomicBool,
) {
    let start = Instant::now();
    let mut buffer = [0; 2048];
    let mut arriving: Vec<(Duration, Vec<u8>)> = Vec::new();
    let mut leaving: Vec<(Duration, Vec<u8>)> = Vec::new();
    let mut peer = None;
    while !ends.load(Ordering::Relaxed) {
        let now = start.elapsed();
        let mut bmc = responder.lock().unwrap_or_else(PoisonError::into_inner);
        for bytes in due(&mut arriving, now) {
            bmc.receive(&bytes, now);
        }
        for bytes in bmc.poll(now) {
            let times = network.carry();
            leaving.extend(times.into_iter().map(|after| (now + after, bytes.clone())));
        }
        let next = bmc
            .deadline()
            .into_iter()
            .chain(arriving.iter().chain(&leaving).map(|(at, _)| *at))
            .min();
        drop(bmc);
        if let Some(peer) = peer {
            for bytes in due(&mut leaving, now) {
                let _ = socket.send_to(&bytes, peer);
            }
        }
        let wait = next.map_or(LOOK, |next| next.saturating_sub(now).min(LOOK));
        let _ = socket.set_read_timeout(Some(wait.max(Duration::from_micros(100))));
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            peer = Some(from);
            let now = start.elapsed();
            let times = network.carry();
            arriving.extend(
                times
                    .into_iter()
                    .map(|after| (now + after, buffer[..length].to_vec())),
            );
        }
    }
}

/// Takes what is due.
fn due(queue: &mut Vec<(Duration, Vec<u8>)>, now: Duration) -> Vec<Vec<u8>> {
    let mut due = Vec::new();
    queue.retain_mut(|(at, bytes)| {
        let is_due = *at <= now;
        if is_due {
            due.push(std::mem::take(bytes));
        }
        !is_due
    });
    due
}
