//! The connection to an NBD server, up to where the kernel takes it over.

use super::packet::{self, Export, GREETING_LEN, Going, NegotiationError, REPLY_LEN};
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

/// How long making a connection, and each answer of the server, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// When an idle connection is asked whether the server is still there, how often, and how many times:
/// a server that lost its power is noticed after 25 s, also by a machine that reads and writes nothing.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;

/// Replies to one option; a server sends a handful.
const MAX_REPLIES: u32 = 64;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NbdError {
    #[error("cannot connect to the NBD server {server}")]
    Connect {
        server: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    #[error("the NBD server {server} did not go on answering")]
    Talk {
        server: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    #[error("the NBD server {server}")]
    Negotiate {
        server: SocketAddrV4,
        #[source]
        source: NegotiationError,
    },
}

/// Connects and negotiates the export of that name. The socket is then as the kernel wants it: blocking,
/// without time limits.
///
/// # Errors
/// [`NbdError`].
pub(crate) fn connect(server: SocketAddrV4, export: &str) -> Result<(TcpStream, Export), NbdError> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(server), PATIENCE)
        .map_err(|source| NbdError::Connect { server, source })?;
    let talk = |source| NbdError::Talk { server, source };
    let found = negotiate(&stream, export)
        .map_err(talk)?
        .map_err(|source| NbdError::Negotiate { server, source })?;
    prepare(&stream).map_err(talk)?;
    Ok((stream, found))
}

fn negotiate(mut stream: &TcpStream, export: &str) -> io::Result<Result<Export, NegotiationError>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut greeting = [0; GREETING_LEN];
    stream.read_exact(&mut greeting)?;
    let flags = match packet::greet(&greeting) {
        Ok(flags) => flags,
        Err(error) => return Ok(Err(error)),
    };
    stream.write_all(&[&flags[..], &packet::go(export)].concat())?;
    let mut going = Going::default();
    for _ in 0..MAX_REPLIES {
        let mut header = [0; REPLY_LEN];
        stream.read_exact(&mut header)?;
        let (kind, len) = match packet::reply(&header) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(error)),
        };
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data)?;
        match going.take(kind, &data) {
            Ok(None) => {}
            Ok(Some(export)) => return Ok(Ok(export)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err(NegotiationError::Nonsense("replies without an end")))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // The kernel's reader would take a time limit for the end of the connection.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that says `bytes` and then hangs up.
    fn server(bytes: Vec<u8>) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            unreachable!("an IPv4 listener")
        };
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&bytes).unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    }

    fn texts(error: NbdError) -> String {
        crate::log::chain(&error)
    }

    #[test]
    fn a_server_is_spoken_to_until_it_agrees() {
        let mut said = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        said.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c");
        said.extend_from_slice(b"\0\0\0\0\0\0\0\x10\0\0\0\x0d");
        said.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0");
        let (stream, export) = connect(server(said), "x").unwrap();
        assert_eq!((export.size, export.flags), (1 << 20, 13));
        assert_eq!(stream.read_timeout().unwrap(), None);
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let text =
            texts(connect(server(b"HTTP/1.1 400 Bad Request\r\n".to_vec()), "x").unwrap_err());
        assert!(text.contains("another service on that port"), "{text}");
        let text = texts(connect(server(b"NBDMAGICIHAVEOPT\0\x03".to_vec()), "x").unwrap_err());
        assert!(text.contains("did not go on answering"), "{text}");
        // A port that the kernel gives to nobody unasked, of an address that nobody else uses.
        let closed = "127.86.0.1:1".parse().unwrap();
        let text = texts(connect(closed, "x").unwrap_err());
        assert!(
            text.contains("cannot connect to the NBD server 127.86.0.1"),
            "{text}"
        );
    }
}
