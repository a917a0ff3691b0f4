//! The bytes of one connection, encrypted or not: one thread receives, any thread sends.

use rustls::{ServerConfig, ServerConnection};
use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Plaintext that is encrypted at once.
const TLS_PIECE: usize = 64 << 10;

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Held by who sends, so that what is sent stays together.
    sending: Mutex<()>,
    tls: OnceLock<Mutex<ServerConnection>>,
}

/// What is received and not decrypted yet. The receiving thread has it.
#[derive(Default)]
pub(crate) struct Incoming {
    raw: Vec<u8>,
    start: usize,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            sending: Mutex::new(()),
            tls: OnceLock::new(),
        }
    }

    /// From here on everything is encrypted.
    pub(crate) fn start_tls(&self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut session = ServerConnection::new(config).map_err(tls_error)?;
        session.set_buffer_limit(None);
        // It is done once: a second STARTTLS is refused.
        let _ = self.tls.set(Mutex::new(session));
        Ok(())
    }

    /// Ends it, also for those who are waiting in it.
    pub(crate) fn shutdown(&self) {
        // One that is closed already needs none.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Receives some bytes; 0 at the end.
    pub(crate) fn receive(&self, incoming: &mut Incoming, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.get() else {
            return retry(|| (&self.stream).read(buf));
        };
        loop {
            {
                let mut session = guard(tls);
                match session.reader().read(buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
                let mut left = incoming.raw.get(incoming.start..).unwrap_or_default();
                if !left.is_empty() {
                    let taken = session.read_tls(&mut left)?;
                    incoming.start += taken;
                    let processed = session.process_new_packets();
                    let answers = session.wants_write();
                    drop(session);
                    if answers {
                        // The handshake, or why it failed.
                        self.send_pending(tls)?;
                    }
                    processed.map_err(tls_error)?;
                    continue;
                }
            }
            incoming.raw.resize(TLS_PIECE, 0);
            incoming.start = 0;
            let received = retry(|| (&self.stream).read(&mut incoming.raw))?;
            incoming.raw.truncate(received);
            if received == 0 {
                return Ok(0);
            }
        }
    }

    fn send_pending(&self, tls: &Mutex<ServerConnection>) -> io::Result<()> {
        let _sending = guard(&self.sending);
        let mut bytes = Vec::new();
        let mut session = guard(tls);
        while session.wants_write() {
            session.write_tls(&mut bytes)?;
        }
        drop(session);
        (&self.stream).write_all(&bytes)
    }

    /// Sends two parts as one.
    pub(crate) fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        let _sending = guard(&self.sending);
        let Some(tls) = self.tls.get() else {
            return self.send_plain(head, data);
        };
        let mut bytes = Vec::with_capacity(TLS_PIECE + 1024);
        for piece in head.chunks(TLS_PIECE).chain(data.chunks(TLS_PIECE)) {
            let mut session = guard(tls);
            session.writer().write_all(piece)?;
            while session.wants_write() {
                session.write_tls(&mut bytes)?;
            }
            drop(session);
            if bytes.len() >= TLS_PIECE {
                (&self.stream).write_all(&bytes)?;
                bytes.clear();
            }
        }
        (&self.stream).write_all(&bytes)
    }

    fn send_plain(&self, mut head: &[u8], mut data: &[u8]) -> io::Result<()> {
        while !head.is_empty() {
            let slices = [IoSlice::new(head), IoSlice::new(data)];
            let sent = retry(|| (&self.stream).write_vectored(&slices))?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_head = sent.min(head.len());
            head = head.get(of_head..).unwrap_or_default();
            data = data.get(sent - of_head..).unwrap_or_default();
        }
        (&self.stream).write_all(data)
    }
}

/// Does it again after a signal.
fn retry(mut action: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match action() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
