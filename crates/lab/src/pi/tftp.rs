//! The boards' TFTP.
//!
//! They look whether a file is there with a request that they end by an ERROR as soon as they know its
//! size, and ask again to load it. Boards before the 5 give up when block numbers run out.

use super::Board;
use anyhow::{Context, Result, bail, ensure};
use bugler_tftp::packet::{ErrorCode, Mode, Options, Packet, Request};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

/// What ends a probe.
const EARLY_TERMINATE: &[u8] = b"Early terminate";
/// How long a board waits before it sends something again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it does so: together `TFTP_FILE_TIMEOUT` of 30 s.
const TRIES: u32 = 30;
/// The block size where none was agreed (RFC 1350).
const DEFAULT_BLKSIZE: u16 = 512;

/// The TFTP client of a board.
#[derive(Debug)]
pub struct Client {
    local: Ipv4Addr,
    server: SocketAddrV4,
    board: Board,
}

/// A transfer that the server has answered.
struct Transfer {
    socket: UdpSocket,
    /// Its options, where it answered with an OACK.
    agreed: Option<Options>,
    /// The first packet, where it answered with DATA.
    first: Vec<u8>,
}

impl Client {
    /// A client on `local` of a server at `server`.
    #[must_use]
    pub fn new(board: Board, local: Ipv4Addr, server: SocketAddrV4) -> Self {
        Self {
            local,
            server,
            board,
        }
    }

    /// Whether a file is there, and its size; ends with "Early terminate". `None`: it is not there.
    ///
    /// # Errors
    /// When the server does not answer, or not as a TFTP server.
    pub fn probe(&self, name: &str) -> Result<Option<u64>> {
        let Some(transfer) = self.open(name, self.options())? else {
            return Ok(None);
        };
        let end = Packet::Error {
            code: ErrorCode::NOT_DEFINED,
            message: EARLY_TERMINATE,
        };
        transfer
            .socket
            .send(&end.to_bytes())
            .context("cannot send over TFTP")?;
        let size = transfer.agreed.and_then(|options| options.tsize);
        let size = size.with_context(|| format!("the server did not say how long {name} is"))?;
        Ok(Some(size))
    }

    /// Loads a file. `None`: it is not there.
    ///
    /// # Errors
    /// When the server does not answer or fails, or the block numbers run out.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.load(name, self.options())
    }

    /// Loads a file as the ROM does: without options.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_plain(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.load(name, Options::default())
    }

    fn options(&self) -> Options {
        Options {
            tsize: Some(0),
            blksize: Some(self.board.blksize()),
            ..Options::default()
        }
    }

    /// Sends the request until there is an answer.
    fn open(&self, name: &str, options: Options) -> Result<Option<Transfer>> {
        let socket = UdpSocket::bind((self.local, 0)).context("cannot open a port for TFTP")?;
        socket
            .set_read_timeout(Some(AGAIN))
            .context("cannot set up a port")?;
        let request = Request {
            filename: name.as_bytes(),
            mode: Mode::Octet,
            options,
        };
        let request = Packet::ReadRequest(request).to_bytes();
        let mut buffer = vec![0; 65536];
        for _ in 0..TRIES {
            socket
                .send_to(&request, self.server)
                .context("cannot send over TFTP")?;
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            ensure!(
                from.ip() == *self.server.ip(),
                "{from} answers instead of {}",
                self.server
            );
            let bytes = &buffer[..length];
            let agreed = match Packet::decode(bytes) {
                Ok(Packet::Error {
                    code: ErrorCode::FILE_NOT_FOUND,
                    ..
                }) => return Ok(None),
                Ok(Packet::Error { code, message }) => bail!(
                    "the server refuses {name}: {code}, {}",
                    String::from_utf8_lossy(message)
                ),
                Ok(Packet::OptionAck(agreed)) => Some(agreed),
                Ok(Packet::Data { .. }) => None,
                other => bail!("the server answers a request for {name} with {other:?}"),
            };
            // What comes from another port from now on is not for this transfer.
            socket.connect(from).context("cannot send over TFTP")?;
            let first = bytes.to_vec();
            return Ok(Some(Transfer {
                socket,
                agreed,
                first,
            }));
        }
        bail!("{} does not answer a request for {name}", self.server)
    }

    fn load(&self, name: &str, options: Options) -> Result<Option<Vec<u8>>> {
        let Some(transfer) = self.open(name, options)? else {
            return Ok(None);
        };
        let Transfer {
            socket,
            agreed,
            first,
        } = transfer;
        let blksize = agreed
            .and_then(|options| options.blksize)
            .unwrap_or(DEFAULT_BLKSIZE);
        let ack = |block| Packet::Ack { block }.to_bytes();
        let mut file = Vec::new();
        let mut received: u32 = 0;
        let mut last_sent = ack(0);
        let mut buffer = vec![0; 65536];
        let mut packet = first;
        if agreed.is_some() {
            socket.send(&last_sent).context("cannot send over TFTP")?;
            packet.clear();
        }
        let mut tries = 0;
        loop {
            match Packet::decode(&packet) {
                Ok(Packet::Data { block, data }) if u32::from(block) == (received + 1) & 0xffff => {
                    received += 1;
                    tries = 0;
                    file.extend_from_slice(data);
                    last_sent = ack(block);
                    socket.send(&last_sent).context("cannot send over TFTP")?;
                    if data.len() < usize::from(blksize) {
                        return Ok(Some(file));
                    }
                    if received == 0xffff && !self.board.block_numbers_wrap() {
                        bail!(
                            "the {} hangs: {name} has more than 65535 blocks of {blksize} bytes",
                            self.board
                        );
                    }
                }
                Ok(Packet::Error { code, message }) => bail!(
                    "the server ends the transfer of {name}: {code}, {}",
                    String::from_utf8_lossy(message)
                ),
                _ => {}
            }
            packet.clear();
            match socket.recv(&mut buffer) {
                Ok(length) => packet.extend_from_slice(&buffer[..length]),
                Err(_) if tries < TRIES => {
                    tries += 1;
                    socket.send(&last_sent).context("cannot send over TFTP")?;
                }
                Err(_) => bail!("the transfer of {name} stops after {} bytes", file.len()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bugler_boot::pi::is_early_terminate;
    use bugler_tftp::{Config, DirSource, Event, Handle, Observer, Server, Transfer as Served};
    use std::sync::{Arc, Mutex, mpsc};

    /// Passes on how transfers end.
    struct Ends(Mutex<mpsc::Sender<Event>>);

    impl Observer for Ends {
        fn event(&self, _: &Served, event: &Event) {
            if !matches!(event, Event::Started { .. }) {
                let _ = self.0.lock().unwrap().send(event.clone());
            }
        }
    }

    struct Running {
        _dir: tempfile::TempDir,
        _handle: Handle,
        address: SocketAddrV4,
        ends: mpsc::Receiver<Event>,
    }

    fn server(files: &[(&str, Vec<u8>)]) -> Running {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let config = Config {
            listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()],
            ..Config::default()
        };
        let (sender, ends) = mpsc::channel();
        let source = Arc::new(DirSource::new(dir.path()).unwrap());
        let handle = Server::start(config, source, Arc::new(Ends(sender.into()))).unwrap();
        Running {
            address: handle.local_addrs()[0],
            _dir: dir,
            _handle: handle,
            ends,
        }
    }

    #[test]
    fn files_are_probed_and_loaded() {
        let content: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
        let even = vec![1; 2 * 1468];
        let running = server(&[
            ("start4.elf", content.clone()),
            ("empty", vec![]),
            ("even", even.clone()),
        ]);
        for board in Board::ALL {
            let client = Client::new(board, Ipv4Addr::LOCALHOST, running.address);
            assert_eq!(client.probe("start4.elf").unwrap(), Some(100_000));
            assert_eq!(
                client.get("start4.elf").unwrap().as_deref(),
                Some(&content[..])
            );
            assert_eq!(
                client.get_plain("start4.elf").unwrap().as_deref(),
                Some(&content[..])
            );
            assert_eq!(client.get("empty").unwrap(), Some(vec![]));
            assert_eq!(client.get("even").unwrap().as_deref(), Some(&even[..]));
            assert_eq!(client.probe("missing").unwrap(), None);
            assert_eq!(client.get_plain("missing").unwrap(), None);
        }
    }

    #[test]
    fn the_server_sees_the_end_of_a_probe_as_what_it_is() {
        let running = server(&[("config.txt", b"kernel=vmlinuz\n".to_vec())]);
        let client = Client::new(Board::Pi4, Ipv4Addr::LOCALHOST, running.address);
        assert_eq!(client.probe("config.txt").unwrap(), Some(15));
        let end = running.ends.recv_timeout(Duration::from_secs(60)).unwrap();
        let Event::Aborted {
            code: Some(code),
            message,
            bytes: 0,
        } = end
        else {
            panic!("{end:?}");
        };
        assert!(
            is_early_terminate(code.0, message.as_bytes()),
            "{code} {message}"
        );
    }

    #[test]
    fn a_board_before_the_5_hangs_where_block_numbers_run_out() {
        let size = 65535 * 512;
        let running = server(&[("large", vec![0; size])]);
        let client = |board| Client::new(board, Ipv4Addr::LOCALHOST, running.address);
        let error = client(Board::Pi4)
            .get_plain("large")
            .unwrap_err()
            .to_string();
        assert!(error.contains("more than 65535 blocks of 512"), "{error}");
        let file = client(Board::Pi5).get_plain("large").unwrap().unwrap();
        assert_eq!(file.len(), size);
        assert!(client(Board::Pi4).get("large").unwrap().is_some());
    }
}
