//! Carries TCP connections from one network namespace into another, over a Unix socket.
//!
//! It needs no right in either of them, so it works alike for root and for everybody else.

use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Most connections at a time. A browser opens a handful.
const MOST: usize = 64;

/// Forwards every connection to `listener` to the Unix socket `socket`, on threads of its own, as
/// long as the program lives. One that is made while nobody listens there is closed.
///
/// # Errors
///
/// When a thread cannot be started.
pub(super) fn from_tcp(listener: TcpListener, socket: &Path) -> Result<()> {
    let socket = socket.to_owned();
    let accept = move || listener.accept().map(|(stream, _)| stream);
    start(accept, move || UnixStream::connect(&socket))
}

/// Forwards every connection to the Unix socket `socket`, which it makes, to `address` in the
/// network namespace of the thread that calls it, on threads of its own.
///
/// # Errors
///
/// When the socket cannot be made or a thread cannot be started.
pub(super) fn from_unix(socket: &Path, address: SocketAddr) -> Result<()> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot make the socket {}", socket.display()))?;
    let accept = move || listener.accept().map(|(stream, _)| stream);
    // Threads inherit the namespace of the one that starts them.
    start(accept, move || TcpStream::connect(address))
}

fn start<A: Stream, B: Stream>(
    accept: impl Fn() -> io::Result<A> + Send + 'static,
    connect: impl Fn() -> io::Result<B> + Send + Sync + 'static,
) -> Result<()> {
    let connect = Arc::new(connect);
    // As many clones as there are connections, and two.
    let work = move || {
        while let Ok(from) = accept() {
            if Arc::strong_count(&connect) > MOST {
                continue;
            }
            let connect = Arc::clone(&connect);
            // Without a thread, as without a peer, the connection is closed: the browser shows it.
            let _ = thread::Builder::new()
                .name("forward".into())
                .spawn(move || {
                    if let Ok(to) = connect() {
                        let _ = join(from, to);
                    }
                    drop(connect);
                });
        }
    };
    thread::Builder::new()
        .name("forward".into())
        .spawn(work)
        .context("cannot start a thread")?;
    Ok(())
}

/// Copies both ways until both sides have ended.
fn join(from: impl Stream, to: impl Stream) -> io::Result<()> {
    let (back_from, back_to) = (to.another()?, from.another()?);
    let back = thread::Builder::new()
        .name("forward".into())
        .spawn(|| pour(back_from, back_to))?;
    pour(from, to);
    // A panic there has nobody else to tell.
    let _ = back.join();
    Ok(())
}

/// Copies until `from` ends, and passes the end on.
fn pour(mut from: impl Stream, mut to: impl Stream) {
    if io::copy(&mut from, &mut to).is_err() {
        // One direction has failed: nothing more can come of the other.
        let _ = from.end(Shutdown::Both);
        let _ = to.end(Shutdown::Both);
    }
    let _ = to.end(Shutdown::Write);
}

/// A connection of either kind.
trait Stream: Read + Write + Send + Sized + 'static {
    fn another(&self) -> io::Result<Self>;
    fn end(&self, how: Shutdown) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}

impl Stream for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        self.shutdown(how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (server, server_address) = listener();
        let (front, front_address) = listener();
        from_unix(&socket, server_address).unwrap();
        from_tcp(front, &socket).unwrap();
        for _ in 0..2 * MOST {
            let mut client = TcpStream::connect(front_address).unwrap();
            client.write_all(b"question").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (mut peer, _) = server.accept().unwrap();
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            assert_eq!(text, "question");
            peer.write_all(b"answer").unwrap();
            drop(peer);
            text.clear();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "answer");
        }
    }

    #[test]
    fn without_a_server_a_connection_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (front, address) = listener();
        from_tcp(front, &dir.path().join("nobody")).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        // Closed, or reset: either way it does not hang.
        assert!(!matches!(client.read(&mut [0]), Ok(1..)));
    }
}
