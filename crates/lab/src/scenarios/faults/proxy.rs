//! A wire that flips bits: a proxy between agents and the server that changes single bits of what it
//! passes on.
//!
//! Only the bulk is touched, pieces of [`BULK`] bytes and more as they come from a socket: chunks, not
//! the small questions and answers around them.

use crate::net::Host;
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::SockRef;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// The least length of a piece that a bit is flipped in.
const BULK: usize = 16 << 10;

/// Which way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// From the server to agents.
    Down,
    /// From agents to the server.
    Up,
}

/// How many bits are still to be flipped, and how many were.
#[derive(Debug, Default)]
struct Flips {
    left: [AtomicU64; 2],
    done: AtomicU64,
}

impl Flips {
    /// Flips a bit in the middle of `piece` where one is due.
    fn pass(&self, way: Way, piece: &mut [u8]) {
        if piece.len() < BULK {
            return;
        }
        let left = &self.left[way as usize];
        let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if taken.is_ok() {
            let middle = piece.len() / 2;
            piece[middle] ^= 0x10;
            self.done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The proxy. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Proxy {
    listener: TcpListener,
    flips: Arc<Flips>,
}

impl Proxy {
    /// Listens at `at` on `host`, and passes everything on to `to`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(super) fn start(host: &Host, at: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = host
            .run(|| TcpListener::bind(at))?
            .with_context(|| format!("cannot listen at {at}"))?;
        let path = format!("/run/netns/{}", host.name());
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let flips = Arc::new(Flips::default());
        let (taking, shared) = (listener.try_clone()?, Arc::clone(&flips));
        thread::Builder::new()
            .name("flipping proxy".into())
            .spawn(move || {
                // Threads that it starts are born in the same namespace.
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|error| anyhow!("cannot enter a namespace: {error}"))?;
                while let Ok((agent, _)) = taking.accept() {
                    let server = TcpStream::connect(to)?;
                    let (up, down) = (agent.try_clone()?, server.try_clone()?);
                    let (of_up, of_down) = (Arc::clone(&shared), Arc::clone(&shared));
                    thread::spawn(move || carry(up, server, Way::Up, &of_up));
                    thread::spawn(move || carry(down, agent, Way::Down, &of_down));
                }
                anyhow::Ok(())
            })
            .context("cannot start a thread")?;
        Ok(Self { listener, flips })
    }

    /// Flips `count` bits from now on, one in each piece.
    pub(super) fn flip(&self, way: Way, count: u64) {
        self.flips.left[way as usize].store(count, Ordering::SeqCst);
    }

    /// How many bits were flipped since this was asked last.
    pub(super) fn flipped(&self) -> u64 {
        self.flips.done.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Wakes the thread that waits for connections; the connections end with their agents.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

/// Passes on what comes, until one side has ended.
fn carry(mut from: TcpStream, mut to: TcpStream, way: Way, flips: &Flips) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = &mut buffer[..count];
        flips.pass(way, piece);
        if to.write_all(piece).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
    let _ = to.shutdown(Shutdown::Write);
}
