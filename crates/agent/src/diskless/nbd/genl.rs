//! Generic netlink (`linux/genetlink.h`): requests to a part of the kernel that has a name.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use std::io;
use std::time::{Duration, Instant};

const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLMSG_ERROR: u16 = 2;
const HEADER_LEN: usize = 16;
const GENL_HEADER_LEN: usize = 4;
/// The family that knows the numbers of the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Bits of an attribute's type that are not its number.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

/// How long the kernel may take. A driver reads no disk before it answers.
const ANSWER: Duration = Duration::from_secs(20);

/// Attributes of a message, as they are built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// A text with the zero byte that ends it.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// nlattr: length with this header, type, value, padding to four bytes.
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = 4 + value.len() as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// The value of the first attribute of that number.
    pub(crate) fn get(&self, kind: u16) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        while let Some(header) = rest.first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let found = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
            let value = rest.get(4..length)?;
            if found == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// A request: command, version of the family, attributes.
fn encode(family: u16, command: u8, version: u8, seq: u32, attributes: &Attributes) -> Vec<u8> {
    let length = HEADER_LEN + GENL_HEADER_LEN + attributes.0.len();
    let mut message = (length as u32).to_ne_bytes().to_vec();
    message.extend_from_slice(&family.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&seq.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(&[command, version, 0, 0]);
    message.extend_from_slice(&attributes.0);
    message
}

/// What has come of the answer to a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    attributes: Attributes,
    end: Option<Result<(), Errno>>,
}

impl Answer {
    /// Looks through a datagram of the kernel.
    fn take(&mut self, mut bytes: &[u8], family: u16, seq: u32) {
        while let Some(header) = bytes.first_chunk::<HEADER_LEN>() {
            let word = |at: usize| {
                let word = header.get(at..).and_then(<[u8]>::first_chunk);
                word.map_or(0, |word| u32::from_ne_bytes(*word))
            };
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let length = word(0) as usize;
            let Some(payload) = bytes.get(HEADER_LEN..length) else {
                return;
            };
            if word(8) == seq && kind == NLMSG_ERROR {
                let code = payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
                self.end = Some(match code.and_then(i32::checked_neg) {
                    Some(0) => Ok(()),
                    Some(known @ 1..=4095) => Err(Errno::from_raw_os_error(known)),
                    _ => Err(Errno::PROTO),
                });
            } else if word(8) == seq && kind == family {
                let attributes = payload.get(GENL_HEADER_LEN..).unwrap_or(&[]);
                self.attributes = Attributes(attributes.to_vec());
            }
            let Some(rest) = bytes.get(length.next_multiple_of(4)..) else {
                return;
            };
            bytes = rest;
        }
    }
}

/// A part of the kernel that is spoken to.
pub(crate) struct Family {
    socket: OwnedFd,
    number: u16,
    version: u8,
}

impl Family {
    /// Finds the family of that name.
    ///
    /// # Errors
    /// What the kernel answers: `ENOENT` where the module with it is not loaded.
    pub(crate) fn open(name: &str, version: u8) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(GENERIC),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let control = Self {
            socket,
            number: GENL_ID_CTRL,
            version: 1,
        };
        let asked = Attributes::default().text(CTRL_ATTR_FAMILY_NAME, name);
        let answer = control.ask(CTRL_CMD_GETFAMILY, &asked)?;
        let number = answer
            .get(CTRL_ATTR_FAMILY_ID)
            .and_then(<[u8]>::first_chunk);
        let number = number.ok_or_else(|| io::Error::from(Errno::PROTO))?;
        Ok(Self {
            number: u16::from_ne_bytes(*number),
            version,
            ..control
        })
    }

    /// Sends a request and returns the attributes of the answer; none where there is only a yes.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(crate) fn ask(&self, command: u8, attributes: &Attributes) -> io::Result<Attributes> {
        let seq = 1;
        let message = encode(self.number, command, self.version, seq, attributes);
        send(&self.socket, &message, SendFlags::empty())?;
        let end = Instant::now() + ANSWER;
        let mut answer = Answer::default();
        let mut buffer = vec![0; 8192];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let time = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&time)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let (len, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            answer.take(buffer.get(..len).unwrap_or(&[]), self.number, seq);
            if let Some(end) = answer.end {
                end?;
                return Ok(answer.attributes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let inner = Attributes::default().u32(1, 7);
        let outer = Attributes::default()
            .u64(2, 9)
            .nested(7, &inner)
            .text(2, "nbd");
        let bytes = encode(0x1c, 1, 1, 5, &outer);
        assert_eq!(bytes.len(), 16 + 4 + 12 + 12 + 8);
        assert_eq!(bytes[..4], 52u32.to_ne_bytes());
        assert_eq!(bytes[4..8], [0x1c, 0, 5, 0]);
        assert_eq!(bytes[16..20], [1, 1, 0, 0]);
        assert_eq!(bytes[20..24], [12, 0, 2, 0]);
        assert_eq!(bytes[32..40], [12, 0, 7, 0x80, 8, 0, 1, 0]);
        assert_eq!(bytes[44..], [8, 0, 2, 0, b'n', b'b', b'd', 0]);
        assert_eq!(outer.get(7), Some(&inner.0[..]));
        assert_eq!(outer.get(2), Some(&9u64.to_ne_bytes()[..]));
        assert_eq!(outer.get(3), None);
    }

    #[test]
    fn an_answer_is_put_together() {
        let told = encode(0x1c, 1, 1, 5, &Attributes::default().u32(1, 3));
        let mut refused = 36u32.to_ne_bytes().to_vec();
        refused.extend_from_slice(&[2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        refused.extend_from_slice(&(-16i32).to_ne_bytes());
        refused.resize(36, 0);
        let mut answer = Answer::default();
        answer.take(&told, 0x1c, 6);
        assert_eq!(answer, Answer::default(), "to another request");
        answer.take(&[told, refused].concat(), 0x1c, 5);
        assert_eq!(answer.attributes.get(1), Some(&3u32.to_ne_bytes()[..]));
        assert_eq!(answer.end, Some(Err(Errno::BUSY)));
    }

    #[test]
    fn the_kernel_knows_families_by_name() {
        let found = Family::open("nlctrl", 2).unwrap();
        assert_eq!(found.number, GENL_ID_CTRL);
        let error = Family::open("no-such-family", 1).err().unwrap();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), family: u16, seq: u32, kind: u16,
        ) {
            let mut answer = Answer::default();
            answer.take(&bytes, family, seq);
            let _ = Attributes(bytes).get(kind);
        }
    }
}
