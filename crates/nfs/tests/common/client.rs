//! A small client of NFS, which waits for each answer.

use bugler_nfs::packet::{Call, How, Place, read_attributes};
use bugler_nfs::rpc::{self, RpcCall, decode_reply};
use bugler_nfs::xdr::{Reader, Writer};
use bugler_nfs::{Attributes, Credential, SetAttributes, Stability};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub struct Client {
    address: SocketAddr,
    stream: TcpStream,
    xid: u32,
    pub who: Credential,
    /// Calls that were sent for the first time.
    pub calls: Arc<AtomicU64>,
}

/// A file handle.
pub type Handle = Vec<u8>;
/// How a call ends: the number of its status where it does not go well.
pub type Done<T> = Result<T, u32>;

#[derive(Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub id: u64,
    pub cookie: u64,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address)?, address)
    }

    /// From another address of this computer.
    pub fn connect_from(from: [u8; 4], address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&address.into())?;
        Self::new(socket.into(), address)
    }

    fn new(stream: TcpStream, address: SocketAddr) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            address,
            stream,
            xid: std::process::id() << 12,
            who: Credential::root(),
            calls: Arc::default(),
        })
    }

    pub fn send(&mut self, record: &[u8]) -> io::Result<()> {
        let mark = 1 << 31 | record.len() as u32;
        let bytes = [&mark.to_be_bytes()[..], record].concat();
        self.stream.write_all(&bytes)
    }

    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark)?;
        let length = u32::from_be_bytes(mark) & 0x7fff_ffff;
        let mut message = vec![0; length as usize];
        self.stream.read_exact(&mut message)?;
        Ok(message)
    }

    /// The message of a call; the number of the next one is another.
    pub fn message(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        self.xid = self.xid.wrapping_add(1);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let call = RpcCall {
            xid: self.xid,
            program,
            version,
            procedure,
            credential: self.who.clone(),
            arguments: args,
        };
        call.encode()
    }

    /// What follows the beginning of the answer; or how the call ended for all programs alike.
    pub fn ask(&mut self, message: &[u8]) -> io::Result<Result<Vec<u8>, u32>> {
        self.send(message)?;
        let answer = self.receive()?;
        let (xid, body) = decode_reply(&answer).unwrap();
        assert_eq!(xid, self.xid);
        Ok(body.map(<[u8]>::to_vec))
    }

    pub fn program(
        &mut self,
        program: u32,
        version: u32,
        procedure: u32,
        args: &[u8],
    ) -> Done<Vec<u8>> {
        let message = self.message(program, version, procedure, args);
        self.ask(&message).unwrap()
    }

    pub fn mount(&mut self, path: &str) -> Done<Handle> {
        let mut args = Writer::new();
        args.opaque(path.as_bytes());
        let answer = self.program(rpc::MOUNT, 3, 1, &args.into_bytes()).unwrap();
        let mut reader = Reader::new(&answer);
        match reader.u32("status").unwrap() {
            0 => Ok(reader.opaque("handle", 64).unwrap().to_vec()),
            status => Err(status),
        }
    }

    pub fn nfs_message(&mut self, call: &Call<'_>) -> Vec<u8> {
        let (procedure, args) = call.encode();
        self.message(rpc::NFS, 3, procedure, &args)
    }

    /// What follows the status.
    pub fn call(&mut self, call: &Call<'_>) -> io::Result<Done<Vec<u8>>> {
        let message = self.nfs_message(call);
        let answer = self.ask(&message)?.unwrap();
        Ok(split(&answer))
    }

    /// As a client that is sure that its server comes back: sends the same call until it is answered.
    pub fn insist(&mut self, call: &Call<'_>) -> Done<Vec<u8>> {
        let message = self.nfs_message(call);
        loop {
            match self.ask(&message) {
                Ok(answer) => return split(&answer.unwrap()),
                Err(_) => loop {
                    if let Ok(stream) = TcpStream::connect(self.address) {
                        stream
                            .set_read_timeout(Some(Duration::from_secs(120)))
                            .unwrap();
                        self.stream = stream;
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                },
            }
        }
    }

    pub fn attributes(&mut self, file: &[u8]) -> Done<Attributes> {
        let answer = self.insist(&Call::GetAttributes { file })?;
        Ok(read_attributes(&mut Reader::new(&answer)).unwrap())
    }

    pub fn lookup(&mut self, folder: &[u8], name: &[u8]) -> Done<Handle> {
        let answer = self.insist(&Call::Lookup(Place { folder, name }))?;
        Ok(Reader::new(&answer).opaque("handle", 64).unwrap().to_vec())
    }

    pub fn create(&mut self, folder: &[u8], name: &[u8], how: How) -> Done<Handle> {
        let answer = self.insist(&Call::Create(Place { folder, name }, how))?;
        Ok(made(&answer))
    }

    pub fn make_folder(&mut self, folder: &[u8], name: &[u8]) -> Done<Handle> {
        let set = SetAttributes::default();
        let answer = self.insist(&Call::MakeFolder(Place { folder, name }, set))?;
        Ok(made(&answer))
    }

    pub fn remove(&mut self, folder: &[u8], name: &[u8]) -> Done<()> {
        let place = Place { folder, name };
        self.insist(&Call::Remove(place)).map(drop)
    }

    pub fn rename(&mut self, from: (&[u8], &[u8]), to: (&[u8], &[u8])) -> Done<()> {
        let [from, to] = [from, to].map(|(folder, name)| Place { folder, name });
        self.insist(&Call::Rename { from, to }).map(drop)
    }

    /// The write verifier.
    pub fn write(
        &mut self,
        file: &[u8],
        offset: u64,
        data: &[u8],
        how: Stability,
    ) -> Done<[u8; 8]> {
        let answer = self.insist(&Call::Write {
            file,
            offset,
            stability: how,
            data,
        })?;
        Ok(*answer.last_chunk().unwrap())
    }

    pub fn commit(&mut self, file: &[u8]) -> Done<[u8; 8]> {
        let (offset, count) = (0, 0);
        let answer = self.insist(&Call::Commit {
            file,
            offset,
            count,
        })?;
        Ok(*answer.last_chunk().unwrap())
    }

    pub fn read(&mut self, file: &[u8], offset: u64, count: u32) -> Done<(Vec<u8>, bool)> {
        let answer = self.insist(&Call::Read {
            file,
            offset,
            count,
        })?;
        let mut reader = Reader::new(&answer);
        skip_attributes(&mut reader);
        reader.u32("count").unwrap();
        let end = reader.bool("end").unwrap();
        Ok((reader.opaque("data", 1 << 20).unwrap().to_vec(), end))
    }

    pub fn read_all(&mut self, file: &[u8]) -> Done<Vec<u8>> {
        let mut all = vec![];
        loop {
            let (bytes, end) = self.read(file, all.len() as u64, 1 << 18)?;
            all.extend(bytes);
            if end {
                return Ok(all);
            }
        }
    }

    /// One answer of READDIRPLUS, and whether it is the last.
    pub fn list(&mut self, folder: &[u8], cookie: u64, count: u32) -> Done<(Vec<Entry>, bool)> {
        let answer = self.insist(&Call::ReadFolderPlus {
            folder,
            cookie,
            names: count,
            count,
        })?;
        assert!(
            answer.len() + 4 <= count as usize,
            "no more than was asked for"
        );
        let mut reader = Reader::new(&answer);
        skip_attributes(&mut reader);
        reader.u64("verifier").unwrap();
        let mut entries = vec![];
        while reader.bool("follows").unwrap() {
            let id = reader.u64("id").unwrap();
            let name = reader.opaque("name", 255).unwrap().to_vec();
            let cookie = reader.u64("cookie").unwrap();
            skip_attributes(&mut reader);
            if reader.bool("handle").unwrap() {
                reader.opaque("handle", 64).unwrap();
            }
            entries.push(Entry { name, id, cookie });
        }
        Ok((entries, reader.bool("end").unwrap()))
    }
}

fn split(answer: &[u8]) -> Done<Vec<u8>> {
    let mut reader = Reader::new(answer);
    match reader.u32("status").unwrap() {
        0 => Ok(reader.rest().to_vec()),
        status => Err(status),
    }
}

fn made(answer: &[u8]) -> Handle {
    let mut reader = Reader::new(answer);
    assert!(reader.bool("handle").unwrap());
    reader.opaque("handle", 64).unwrap().to_vec()
}

fn skip_attributes(reader: &mut Reader<'_>) {
    if reader.bool("attributes").unwrap() {
        read_attributes(reader).unwrap();
    }
}
