//! Bytes of the protocol, as in the NBD project's `doc/proto.md`. Everything is big-endian.

/// `NBDMAGIC`: how a server begins.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: how every option begins.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// How a reply to an option begins.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// How a request begins.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// How a simple reply begins.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// How a chunk of a structured reply begins.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Length of the head of an option in bytes.
pub const OPTION_HEAD: usize = 16;
/// Length of a request in bytes, without the data of a write.
pub const REQUEST_LEN: usize = 28;
/// Length of a simple reply in bytes, without data.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length of the head of a structured reply in bytes.
pub const CHUNK_HEAD: usize = 20;
/// Longest text that the protocol lets through, in bytes ("Strings").
pub const MAX_NAME: usize = 4096;
/// Most data of an option that is read, in bytes: a name, and some hundreds of queries.
pub const MAX_OPTION_DATA: usize = 16 << 10;

/// What server and client can do, before options.
pub mod handshake {
    /// Options are answered, and unknown ones do not end the connection.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No zeros behind the answer to `NBD_OPT_EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 2;
}

/// Options.
pub mod option {
    /// Choose an export, the old way: no refusal is possible.
    pub const EXPORT_NAME: u32 = 1;
    /// End.
    pub const ABORT: u32 = 2;
    /// Which exports are there.
    pub const LIST: u32 = 3;
    /// Encrypt.
    pub const STARTTLS: u32 = 5;
    /// Tell about an export.
    pub const INFO: u32 = 6;
    /// Choose an export.
    pub const GO: u32 = 7;
    /// Replies in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which contexts are there.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of replies to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A context.
    pub const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    /// Not known here.
    pub const UNSUPPORTED: u32 = ERROR | 1;
    /// Not allowed.
    pub const POLICY: u32 = ERROR | 2;
    /// Not well-formed, or not now.
    pub const INVALID: u32 = ERROR | 3;
    /// Encrypt first.
    pub const TLS_REQUIRED: u32 = ERROR | 5;
    /// No such export.
    pub const UNKNOWN: u32 = ERROR | 6;
    /// The server is going.
    pub const SHUTDOWN: u32 = ERROR | 7;
    /// Longer than is read.
    pub const TOO_BIG: u32 = ERROR | 9;
}

/// What `NBD_REP_INFO` tells.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Its canonical name.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Sizes of requests.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what can be asked of an export.
pub mod flags {
    /// There are flags.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `NBD_CMD_FLUSH`.
    pub const FLUSH: u16 = 1 << 2;
    /// Forced unit access.
    pub const FUA: u16 = 1 << 3;
    /// `NBD_CMD_TRIM`.
    pub const TRIM: u16 = 1 << 5;
    /// `NBD_CMD_WRITE_ZEROES`.
    pub const WRITE_ZEROES: u16 = 1 << 6;
    /// "Do not fragment" for structured reads.
    pub const DF: u16 = 1 << 7;
    /// A flush on one connection is for all.
    pub const MULTI_CONN: u16 = 1 << 8;
    /// `NBD_CMD_CACHE`.
    pub const CACHE: u16 = 1 << 10;
    /// Zeros only if that is faster than writing.
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// Flags of requests.
pub mod command_flags {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Zeros that take space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than be slow.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Error values of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted.
    Perm = 1,
    /// Input or output failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// Not well-formed.
    Inval = 22,
    /// Nothing is left to write to.
    NoSpace = 28,
    /// Too long.
    Overflow = 75,
    /// Not supported.
    NotSup = 95,
    /// The server is going.
    Shutdown = 108,
}

/// Types of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read.
    Read,
    /// Write; data follows.
    Write,
    /// End. No reply.
    Disconnect,
    /// Make durable what was acknowledged.
    Flush,
    /// Forget content.
    Trim,
    /// Read into the cache.
    Cache,
    /// Write zeros.
    WriteZeroes,
    /// Tell what is allocated.
    BlockStatus,
    /// One that is not known here.
    Other(u16),
}

impl Command {
    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Other(number) => number,
        }
    }
}

/// A request, without the data of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// [`command_flags`].
    pub flags: u16,
    /// What is asked.
    pub command: Command,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes; of a write, as many follow.
    pub length: u32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl Request {
    /// Reads the first [`REQUEST_LEN`] bytes; `None` where they are no request.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if u32::from_be_bytes(array(bytes, 0)?) != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: u16::from_be_bytes(array(bytes, 4)?),
            command: Command::from_number(u16::from_be_bytes(array(bytes, 6)?)),
            cookie: u64::from_be_bytes(array(bytes, 8)?),
            offset: u64::from_be_bytes(array(bytes, 16)?),
            length: u32::from_be_bytes(array(bytes, 24)?),
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST_LEN);
        out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.number().to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out
    }
}

/// The head of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHead {
    /// Which: see [`option`].
    pub option: u32,
    /// Length of its data in bytes.
    pub length: u32,
}

impl OptionHead {
    /// Reads the first [`OPTION_HEAD`] bytes; `None` where they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if u64::from_be_bytes(array(bytes, 0)?) != OPTION_MAGIC {
            return None;
        }
        Some(Self {
            option: u32::from_be_bytes(array(bytes, 8)?),
            length: u32::from_be_bytes(array(bytes, 12)?),
        })
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoData {
    /// Name of the export.
    pub name: String,
    /// What the client wants to know of it: see [`info`].
    pub wanted: Vec<u16>,
}

impl GoData {
    /// Reads it; `None` where the lengths do not fit or the name is no text.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let (name, rest) = text(data)?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let (wanted, left) = rest.as_chunks::<2>();
        let fits = left.is_empty() && wanted.len() == usize::from(u16::from_be_bytes(*count));
        fits.then(|| Self {
            name,
            wanted: wanted.iter().map(|two| u16::from_be_bytes(*two)).collect(),
        })
    }
}

/// The data of `NBD_OPT_SET_META_CONTEXT` and `NBD_OPT_LIST_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaData {
    /// Name of the export.
    pub name: String,
    /// Names of contexts, or parts of them.
    pub queries: Vec<String>,
}

impl MetaData {
    /// Reads it; `None` where the lengths do not fit or something is no text.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let (name, rest) = text(data)?;
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let mut queries = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (query, behind) = text(rest)?;
            queries.push(query);
            rest = behind;
        }
        rest.is_empty().then_some(Self { name, queries })
    }
}

/// A text behind its length.
fn text(data: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length > MAX_NAME {
        return None;
    }
    let (text, rest) = rest.split_at_checked(length)?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// Writes what a server says first.
pub fn put_greeting(out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
}

/// Writes a reply to an option.
pub fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    // Replies are as long as a name at most.
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Writes a simple reply; data of a read follows.
pub fn put_simple_reply(out: &mut Vec<u8>, cookie: u64, error: Option<Errno>) {
    out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.map_or(0, |error| error as u32).to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
}

/// Types of chunks of structured replies.
mod chunk {
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const ERROR: u16 = (1 << 15) | 1;
}

fn put_chunk(out: &mut Vec<u8>, kind: u16, cookie: u64, length: u32) {
    out.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    // Each reply here is one chunk, and so the last one (NBD_REPLY_FLAG_DONE).
    out.extend_from_slice(&1u16.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// Writes a structured reply that says only that it is done.
pub fn put_done(out: &mut Vec<u8>, cookie: u64) {
    put_chunk(out, chunk::NONE, cookie, 0);
}

/// Writes the head of a structured reply to a read; `length` bytes of data follow.
pub fn put_data_head(out: &mut Vec<u8>, cookie: u64, offset: u64, length: u32) {
    put_chunk(out, chunk::OFFSET_DATA, cookie, length.saturating_add(8));
    out.extend_from_slice(&offset.to_be_bytes());
}

/// Writes a structured reply that says what failed.
pub fn put_error(out: &mut Vec<u8>, cookie: u64, error: Errno, message: &str) {
    let message = message
        .get(..message.floor_char_boundary(1000))
        .unwrap_or_default();
    put_chunk(out, chunk::ERROR, cookie, message.len() as u32 + 6);
    out.extend_from_slice(&(error as u32).to_be_bytes());
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message.as_bytes());
}

/// Writes the reply to a question for the status of blocks: lengths with `NBD_STATE_HOLE` (1) and
/// `NBD_STATE_ZERO` (2).
pub fn put_block_status(out: &mut Vec<u8>, cookie: u64, context: u32, extents: &[(u32, u32)]) {
    // There are at most some thousands.
    put_chunk(
        out,
        chunk::BLOCK_STATUS,
        cookie,
        4 + 8 * extents.len() as u32,
    );
    out.extend_from_slice(&context.to_be_bytes());
    for (length, state) in extents {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&state.to_be_bytes());
    }
}
