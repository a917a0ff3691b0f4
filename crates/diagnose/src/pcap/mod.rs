//! Capture files: libpcap's format (pcap-savefile(5)) and pcapng (the IETF draft
//! `draft-ietf-opsawg-pcapng`).
//!
//! Reading is bounded: one record at a time, none longer than [`MOST_RECORD`]. A file that ends in
//! the middle of a record, as one does whose capture was killed, is read as far as it goes.

mod write;

pub use write::Writer;

use bugler_model::Timestamp;
use std::io::{self, Read};

/// Longest record or block that is read, in bytes.
pub const MOST_RECORD: usize = 1 << 20;

/// Most interfaces of one pcapng section.
const MOST_INTERFACES: usize = 4096;

/// What stands before the IP packet, by its number in the registry of link types
/// (draft-ietf-opsawg-pcaplinktype).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet (1).
    Ethernet,
    /// Linux "cooked" capture of the device `any` (113).
    Cooked,
    /// The same, version 2 (276).
    Cooked2,
    /// No link header: IPv4 or IPv6 (12, 14, 101, 228).
    Raw,
    /// BSD loopback (0, 108).
    Loopback,
    /// One that is not read.
    Other(u32),
}

impl Link {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Ethernet,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            12 | 14 | 101 | 228 => Self::Raw,
            0 | 108 => Self::Loopback,
            other => Self::Other(other),
        }
    }
}

/// One captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was seen.
    pub at: Timestamp,
    /// What `bytes` begin with.
    pub link: Link,
    /// The frame, or its beginning.
    pub bytes: Vec<u8>,
}

/// Why a file is not a capture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("the capture cannot be read")]
    Read(#[from] io::Error),
    /// It begins like nothing that is known.
    #[error(
        "this is no capture file: it begins with {0:02x?}. Record one with `bugler \
         capture-packets`, or with `tcpdump -i IF -s 0 -w FILE`"
    )]
    Format([u8; 4]),
    /// Empty, or cut off in its header.
    #[error("this is no capture file: it ends after {0} bytes")]
    Short(usize),
    /// A length that cannot be.
    #[error("the capture is damaged: the record at byte {at} is said to be {length} bytes long")]
    Length {
        /// Where it begins.
        at: u64,
        /// What it says.
        length: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Link,
    /// Ticks of its clock in a second.
    ticks: u64,
    /// Seconds to add to its times.
    offset: i64,
}

enum Format {
    Classic {
        big: bool,
        nanos: bool,
        link: Link,
    },
    Ng {
        big: bool,
        interfaces: Vec<Interface>,
    },
}

/// Reads the records of a capture one after the other.
pub struct Reader<R> {
    from: R,
    at: u64,
    format: Format,
}

fn u16_of(big: bool, bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = *bytes.get(at..)?.first_chunk()?;
    Some(if big {
        u16::from_be_bytes(bytes)
    } else {
        u16::from_le_bytes(bytes)
    })
}

fn u32_of(big: bool, bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = *bytes.get(at..)?.first_chunk()?;
    Some(if big {
        u32::from_be_bytes(bytes)
    } else {
        u32::from_le_bytes(bytes)
    })
}

/// Reads until the buffer is full or the file ends; returns how much there was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

const SECTION: u32 = 0x0a0d_0d0a;
const SECTION_MAGIC: u32 = 0x1a2b_3c4d;

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// Where it is not a capture.
    pub fn new(mut from: R) -> Result<Self, Error> {
        let mut magic = [0; 4];
        let filled = fill(&mut from, &mut magic)?;
        if filled < 4 {
            return Err(Error::Short(filled));
        }
        let format = match u32::from_be_bytes(magic) {
            0xa1b2_c3d4 => (true, false),
            0xa1b2_3c4d => (true, true),
            0xd4c3_b2a1 => (false, false),
            0x4d3c_b2a1 => (false, true),
            SECTION => {
                let mut reader = Self {
                    from,
                    at: 4,
                    format: Format::Ng {
                        big: false,
                        interfaces: vec![],
                    },
                };
                return match reader.section()? {
                    true => Ok(reader),
                    false => Err(Error::Short(4)),
                };
            }
            _ => return Err(Error::Format(magic)),
        };
        let mut rest = [0; 20];
        let filled = fill(&mut from, &mut rest)?;
        let (big, nanos) = format;
        let Some(link) = u32_of(big, &rest, 16).filter(|_| filled == rest.len()) else {
            return Err(Error::Short(4 + filled));
        };
        // The upper bits tell of a frame check sequence.
        let link = Link::from_number(link & 0x0fff_ffff);
        Ok(Self {
            from,
            at: 24,
            format: Format::Classic { big, nanos, link },
        })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// Where it cannot be read, or says a length that cannot be.
    #[allow(clippy::should_implement_trait)] // It fails, and is asked again until `None`.
    pub fn next(&mut self) -> Result<Option<Record>, Error> {
        match self.format {
            Format::Classic { big, nanos, link } => self.classic(big, nanos, link),
            Format::Ng { .. } => self.blocks(),
        }
    }

    /// Exactly so many bytes; `None` where the file ends before.
    fn exactly(&mut self, length: usize) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = vec![0; length];
        let filled = fill(&mut self.from, &mut bytes)?;
        self.at += filled as u64;
        Ok((filled == length).then_some(bytes))
    }

    fn classic(&mut self, big: bool, nanos: bool, link: Link) -> Result<Option<Record>, Error> {
        let at = self.at;
        let Some(header) = self.exactly(16)? else {
            return Ok(None);
        };
        let word = |at| u32_of(big, &header, at).unwrap_or_default();
        let (seconds, fraction, kept) = (word(0), word(4), word(8));
        if kept as usize > MOST_RECORD {
            return Err(Error::Length {
                at,
                length: kept.into(),
            });
        }
        let Some(bytes) = self.exactly(kept as usize)? else {
            return Ok(None);
        };
        let millis = fraction / if nanos { 1_000_000 } else { 1000 };
        let at = Timestamp(i64::from(seconds) * 1000 + i64::from(millis));
        Ok(Some(Record { at, link, bytes }))
    }

    /// The rest of a section header block, whose type was read. `false`: the file ends.
    fn section(&mut self) -> Result<bool, Error> {
        let at = self.at;
        let Some(head) = self.exactly(8)? else {
            return Ok(false);
        };
        let big = match (u32_of(true, &head, 4), u32_of(false, &head, 4)) {
            (Some(SECTION_MAGIC), _) => true,
            (_, Some(SECTION_MAGIC)) => false,
            _ => return Err(Error::Format([head[4], head[5], head[6], head[7]])),
        };
        let length = u32_of(big, &head, 0).unwrap_or_default();
        let wrong = Error::Length {
            at,
            length: length.into(),
        };
        let rest = match (length as usize).checked_sub(12) {
            Some(rest) if (16..=MOST_RECORD).contains(&rest) && length.is_multiple_of(4) => rest,
            _ => return Err(wrong),
        };
        self.format = Format::Ng {
            big,
            interfaces: vec![],
        };
        Ok(self.exactly(rest)?.is_some())
    }

    fn blocks(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let at = self.at;
            let Format::Ng { big, .. } = self.format else {
                return Ok(None);
            };
            let Some(kind) = self.exactly(4)? else {
                return Ok(None);
            };
            let kind = u32_of(big, &kind, 0).unwrap_or_default();
            // It reads the same in either byte order.
            if kind == SECTION {
                if !self.section()? {
                    return Ok(None);
                }
                continue;
            }
            let Some(length) = self.exactly(4)? else {
                return Ok(None);
            };
            let length = u32_of(big, &length, 0).unwrap_or_default();
            let rest = match (length as usize).checked_sub(8) {
                Some(rest) if (4..=MOST_RECORD).contains(&rest) && length.is_multiple_of(4) => rest,
                _ => {
                    return Err(Error::Length {
                        at,
                        length: length.into(),
                    });
                }
            };
            let Some(mut body) = self.exactly(rest)? else {
                return Ok(None);
            };
            // The length stands at the end once more.
            body.truncate(rest - 4);
            let Format::Ng { interfaces, .. } = &mut self.format else {
                return Ok(None);
            };
            match kind {
                1 if interfaces.len() < MOST_INTERFACES => interfaces.push(interface(big, &body)),
                6 => {
                    if let Some(record) = enhanced(big, &body, interfaces) {
                        return Ok(Some(record));
                    }
                }
                // A simple packet has no time: there is nothing to put on a timeline.
                _ => {}
            }
        }
    }
}

/// An interface description block (section 4.2).
fn interface(big: bool, body: &[u8]) -> Interface {
    let mut found = Interface {
        link: Link::from_number(u16_of(big, body, 0).unwrap_or(u16::MAX).into()),
        ticks: 1_000_000,
        offset: 0,
    };
    let mut options = body.get(8..).unwrap_or_default();
    while let (Some(code), Some(length)) = (u16_of(big, options, 0), u16_of(big, options, 2)) {
        let length = usize::from(length);
        let Some(value) = options.get(4..4 + length) else {
            break;
        };
        match (code, value) {
            (0, _) => break,
            // if_tsresol: a power of 10, or of 2 where the highest bit is set.
            (9, [power]) => {
                let base: u64 = if power & 0x80 == 0 { 10 } else { 2 };
                found.ticks = base
                    .checked_pow(u32::from(power & 0x7f))
                    .unwrap_or(1_000_000)
                    .max(1);
            }
            // if_tsoffset
            (14, value) => {
                if let Some(bytes) = value.first_chunk::<8>() {
                    found.offset = if big {
                        i64::from_be_bytes(*bytes)
                    } else {
                        i64::from_le_bytes(*bytes)
                    };
                }
            }
            _ => {}
        }
        options = options
            .get(4 + length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

/// An enhanced packet block (section 4.3); `None` where it is not whole.
fn enhanced(big: bool, body: &[u8], interfaces: &[Interface]) -> Option<Record> {
    let word = |at| u32_of(big, body, at);
    let interface = interfaces.get(word(0)? as usize)?;
    let ticks = u64::from(word(4)?) << 32 | u64::from(word(8)?);
    let kept = word(12)? as usize;
    let bytes = body.get(20..)?.get(..kept)?.to_vec();
    let millis = u128::from(ticks) * 1000 / u128::from(interface.ticks);
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Some(Record {
        at: Timestamp(millis.saturating_add(interface.offset.saturating_mul(1000))),
        link: interface.link,
        bytes,
    })
}

/// A file in libpcap's format with these Ethernet frames, for tests: time in milliseconds, bytes.
#[cfg(test)]
pub(crate) fn classic(frames: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(65_535_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for (millis, frame) in frames {
        let length = frame.len() as u32;
        for word in [
            (millis / 1000) as u32,
            (millis % 1000 * 1000) as u32,
            length,
            length,
        ] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Result<Vec<Record>, Error> {
        let mut reader = Reader::new(bytes)?;
        let mut records = vec![];
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn libpcaps_format_is_read_in_either_byte_order_and_resolution() {
        let little = classic(&[(1500, vec![1, 2, 3]), (2750, vec![4])]);
        let records = all(&little).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].at, Timestamp(1500));
        assert_eq!(
            (records[1].at, &records[1].bytes),
            (Timestamp(2750), &vec![4])
        );
        // Nanoseconds, big-endian.
        let mut big = vec![0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4];
        big.extend([0; 8]);
        for word in [65_535_u32, 113, 7, 250_000_000, 2, 2] {
            big.extend(word.to_be_bytes());
        }
        big.extend([9, 9]);
        let records = all(&big).unwrap();
        assert_eq!(
            records,
            [Record {
                at: Timestamp(7250),
                link: Link::Cooked,
                bytes: vec![9, 9]
            }]
        );
    }

    #[test]
    fn what_is_written_as_pcapng_is_read_back() {
        let names = ["eth0".to_owned(), "eth1".to_owned()];
        let mut writer = Writer::new(vec![], &names, 65_535).unwrap();
        writer
            .frame(1, 1_800_000_000_123_456, b"abcde", 900)
            .unwrap();
        writer.lost(0, 1_800_000_000_200_000, 3).unwrap();
        let bytes = std::mem::take(writer.get_mut());
        assert_eq!(
            all(&bytes).unwrap(),
            [Record {
                at: Timestamp(1_800_000_000_123),
                link: Link::Ethernet,
                bytes: b"abcde".to_vec()
            }]
        );
        // One that was killed is read as far as it goes.
        for end in 0..bytes.len() {
            let _ = all(&bytes[..end]);
        }
    }

    #[test]
    fn what_is_no_capture_is_said_with_what_to_do() {
        let error = Reader::new(&b"GIF89a"[..]).err().unwrap().to_string();
        assert!(error.contains("tcpdump"), "{error}");
        assert!(matches!(Reader::new(&b"\xa1"[..]), Err(Error::Short(1))));
        let mut file = classic(&[]);
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert!(matches!(all(&file), Err(Error::Length { at: 24, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            head in 0..6usize, bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut file = [
                &b"\xa1\xb2\xc3\xd4"[..], b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"",
                b"\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x1c\x00\x00\x00",
                b"\x0a\x0d\x0d\x0a\x00\x00\x00\x1c\x1a\x2b\x3c\x4d",
            ][head].to_vec();
            file.extend(bytes);
            let _ = all(&file);
        }

        #[test]
        fn any_records_come_back(frames in proptest::collection::vec(
            (0i64..4_000_000_000_000, proptest::collection::vec(any::<u8>(), 0..80)), 0..8)
        ) {
            let records = all(&classic(&frames)).unwrap();
            prop_assert_eq!(records.len(), frames.len());
            for (record, (at, bytes)) in records.iter().zip(&frames) {
                prop_assert_eq!(record.at, Timestamp(*at));
                prop_assert_eq!(&record.bytes, bytes);
            }
        }
    }
}
