//! TFTP packets: bytes to types and back.
//!
//! RFC 1350 (the protocol), RFC 2347 (options), RFC 2348 (`blksize`), RFC 2349 (`tsize`,
//! `timeout`), RFC 7440 (`windowsize`).
//!
//! Decoding is tolerant, because boot ROMs are what they are: names of modes and options in any
//! case, a last string without its NUL, an option without a value, options given twice (the first
//! counts), unknown options and values out of range (left out, as RFC 2347 asks). Encoding is
//! strict. Nothing here panics, whatever the bytes.

#[cfg(test)]
mod tests;

use std::fmt;

/// Bytes before the data of a DATA packet: opcode and block number (RFC 1350 section 5).
pub const DATA_HEADER: usize = 4;
/// Smallest `blksize` (RFC 2348).
pub const MIN_BLKSIZE: u16 = 8;
/// Largest `blksize` (RFC 2348).
pub const MAX_BLKSIZE: u16 = 65464;
/// The block size where none was agreed (RFC 1350).
pub const DEFAULT_BLKSIZE: u16 = 512;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// How the content is to be sent (RFC 1350 section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Text with CR LF line ends (RFC 764): a line feed is sent as CR LF, a carriage return as
    /// CR NUL.
    Netascii,
}

impl Mode {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Octet => "octet",
            Self::Netascii => "netascii",
        }
    }
}

/// The options of a request or of an OACK that are known and in range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// `blksize`: bytes of data a block, 8 to 65464 (RFC 2348). A larger wish is read as 65464: the
    /// server may always answer with less.
    pub blksize: Option<u16>,
    /// `tsize`: the size of the file in bytes; 0 in a read request (RFC 2349).
    pub tsize: Option<u64>,
    /// `timeout`: seconds before a retransmission, 1 to 255 (RFC 2349).
    pub timeout: Option<u8>,
    /// `windowsize`: blocks sent before an ACK, 1 to 65535 (RFC 7440).
    pub windowsize: Option<u16>,
}

impl Options {
    /// No option at all: then a server answers with DATA, not with OACK.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one option; an unknown name, a value that is no number or one out of range changes
    /// nothing, and the first of several counts.
    fn take(&mut self, name: &[u8], value: &[u8]) {
        let Some(number) = decimal(value) else {
            return;
        };
        if name.eq_ignore_ascii_case(b"blksize") {
            if self.blksize.is_none() && number >= u64::from(MIN_BLKSIZE) {
                self.blksize = Some(u16::try_from(number).unwrap_or(u16::MAX).min(MAX_BLKSIZE));
            }
        } else if name.eq_ignore_ascii_case(b"tsize") {
            self.tsize = self.tsize.or(Some(number));
        } else if name.eq_ignore_ascii_case(b"timeout") {
            self.timeout = self
                .timeout
                .or(u8::try_from(number).ok().filter(|s| *s > 0));
        } else if name.eq_ignore_ascii_case(b"windowsize") {
            self.windowsize = self
                .windowsize
                .or(u16::try_from(number).ok().filter(|w| *w > 0));
        }
    }

    fn read(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some((name, rest)) = string(bytes) {
            let Some((value, rest)) = string(rest) else {
                break;
            };
            options.take(name, value);
            bytes = rest;
        }
        options
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut one = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                out.extend_from_slice(name.as_bytes());
                out.push(0);
                out.extend_from_slice(value.to_string().as_bytes());
                out.push(0);
            }
        };
        one("blksize", self.blksize.map(u64::from));
        one("tsize", self.tsize);
        one("timeout", self.timeout.map(u64::from));
        one("windowsize", self.windowsize.map(u64::from));
    }
}

/// A code of an ERROR packet (RFC 1350 section 5, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// Not defined, see the message. Boot ROMs send it to end a transfer that they only started to
    /// learn the size of a file.
    pub const NOT_DEFINED: Self = Self(0);
    /// File not found.
    pub const FILE_NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS_VIOLATION: Self = Self(2);
    /// Disk full or allocation exceeded.
    pub const DISK_FULL: Self = Self(3);
    /// Illegal operation.
    pub const ILLEGAL_OPERATION: Self = Self(4);
    /// Unknown transfer identifier, that is: port.
    pub const UNKNOWN_TID: Self = Self(5);
    /// File already exists.
    pub const FILE_EXISTS: Self = Self(6);
    /// No such user.
    pub const NO_SUCH_USER: Self = Self(7);
    /// The answer to the options was refused (RFC 2347).
    pub const OPTION_REFUSED: Self = Self(8);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NOT_DEFINED => "not defined",
            Self::FILE_NOT_FOUND => "file not found",
            Self::ACCESS_VIOLATION => "access violation",
            Self::DISK_FULL => "disk full",
            Self::ILLEGAL_OPERATION => "illegal operation",
            Self::UNKNOWN_TID => "unknown transfer identifier",
            Self::FILE_EXISTS => "file already exists",
            Self::NO_SUCH_USER => "no such user",
            Self::OPTION_REFUSED => "options refused",
            Self(code) => return write!(f, "{code}"),
        };
        write!(f, "{} ({name})", self.0)
    }
}

/// A read or write request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The file name, as it was sent.
    pub filename: &'a [u8],
    /// The transfer mode.
    pub mode: Mode,
    /// What the client asks for.
    pub options: Options,
}

/// A packet, with its variable parts borrowed from the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A request to read (opcode 1).
    ReadRequest(Request<'a>),
    /// A request to write (opcode 2).
    WriteRequest(Request<'a>),
    /// One block (opcode 3).
    Data {
        /// The block number modulo 65536; the first block is 1.
        block: u16,
        /// The data; shorter than `blksize` in the last block.
        data: &'a [u8],
    },
    /// An acknowledgement (opcode 4).
    Ack {
        /// The number of the last block received in order; 0 acknowledges an OACK.
        block: u16,
    },
    /// An error, which ends the transfer (opcode 5).
    Error {
        /// What kind.
        code: ErrorCode,
        /// What it says, for people.
        message: &'a [u8],
    },
    /// The options that the server accepts (opcode 6).
    OptionAck(Options),
}

/// Why bytes are no TFTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the opcode needs.
    #[error("the packet is too short: {0} bytes")]
    Short(usize),
    /// An opcode outside of 1 to 6.
    #[error("unknown TFTP opcode {0}")]
    Opcode(u16),
    /// A request that ends before its file name or its mode, or names no file.
    #[error("the request has no file name or no mode")]
    Incomplete,
    /// A mode that is neither `octet` nor `netascii`.
    #[error("the request asks for a transfer mode other than octet and netascii")]
    Mode,
}

impl<'a> Packet<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`DecodeError`] says why the bytes are no packet.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::Short(bytes.len());
        let (opcode, rest) = number(bytes).ok_or(short)?;
        match opcode {
            RRQ => Ok(Self::ReadRequest(request(rest)?)),
            WRQ => Ok(Self::WriteRequest(request(rest)?)),
            DATA => {
                let (block, data) = number(rest).ok_or(short)?;
                Ok(Self::Data { block, data })
            }
            ACK => {
                let (block, _) = number(rest).ok_or(short)?;
                Ok(Self::Ack { block })
            }
            ERROR => {
                let (code, message) = number(rest).ok_or(short)?;
                let message = string(message).map_or(&[][..], |(message, _)| message);
                Ok(Self::Error {
                    code: ErrorCode(code),
                    message,
                })
            }
            OACK => Ok(Self::OptionAck(Options::read(rest))),
            other => Err(DecodeError::Opcode(other)),
        }
    }

    /// Writes the packet to the end of `out`. A NUL inside of a file name or a message ends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ReadRequest(request) => encode_request(RRQ, request, out),
            Self::WriteRequest(request) => encode_request(WRQ, request, out),
            Self::Data { block, data } => {
                out.extend_from_slice(&data_header(*block));
                out.extend_from_slice(data);
            }
            Self::Ack { block } => {
                out.extend_from_slice(&ACK.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Error { code, message } => {
                out.extend_from_slice(&ERROR.to_be_bytes());
                out.extend_from_slice(&code.0.to_be_bytes());
                encode_string(message, out);
            }
            Self::OptionAck(options) => {
                out.extend_from_slice(&OACK.to_be_bytes());
                options.write(out);
            }
        }
    }

    /// The packet as bytes of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode(&mut out);
        out
    }
}

/// The first four bytes of a DATA packet.
pub fn data_header(block: u16) -> [u8; DATA_HEADER] {
    let [a, b] = DATA.to_be_bytes();
    let [c, d] = block.to_be_bytes();
    [a, b, c, d]
}

fn encode_request(opcode: u16, request: &Request<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&opcode.to_be_bytes());
    encode_string(request.filename, out);
    encode_string(request.mode.as_str().as_bytes(), out);
    request.options.write(out);
}

fn encode_string(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.iter().take_while(|byte| **byte != 0));
    out.push(0);
}

fn request(bytes: &[u8]) -> Result<Request<'_>, DecodeError> {
    let (filename, rest) = string(bytes).ok_or(DecodeError::Incomplete)?;
    let (mode, rest) = string(rest).ok_or(DecodeError::Incomplete)?;
    if filename.is_empty() {
        return Err(DecodeError::Incomplete);
    }
    let mode = if mode.eq_ignore_ascii_case(b"octet") {
        Mode::Octet
    } else if mode.eq_ignore_ascii_case(b"netascii") {
        Mode::Netascii
    } else {
        return Err(DecodeError::Mode);
    };
    Ok(Request {
        filename,
        mode,
        options: Options::read(rest),
    })
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// The string up to the first NUL, or to the end where a sender left the last NUL out, and what
/// follows it. None where nothing is left.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.is_empty() {
        return None;
    }
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next()?;
    Some((text, parts.next().unwrap_or(&[])))
}

/// A decimal number; spaces around it are allowed, anything else is not. A number too large for 64
/// bits is read as the largest.
fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit.wrapping_sub(b'0')))
    }))
}
