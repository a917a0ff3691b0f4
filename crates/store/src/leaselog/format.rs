//! The bytes of lease files.
//!
//! ```text
//! file    = "BUGLEASE" version:u32 number:u32 frame* zeros
//! frame   = length:u32 sequence:u32 hash:16 bytes record*      (length: bytes of the records)
//! record  = address:u32 mac:6 state:u8 has:u8 expires:i64 id_length:u32 name_length:u32 id name
//! ```
//!
//! All numbers are little-endian. The hash is the first half of BLAKE3 over the file's number, the
//! frame's sequence in it, and the records: a frame that was written in part is none. A frame is
//! what one write put there, so either all of its leases are read or none.

use bugler_model::{Lease, LeaseState, MacAddr, Timestamp};
use std::net::Ipv4Addr;

/// Bytes before the first frame.
pub(super) const FILE_HEADER: usize = 16;
/// Bytes before a frame's records.
pub(super) const FRAME_HEADER: usize = 24;

const MAGIC: &[u8; 8] = b"BUGLEASE";
const VERSION: u32 = 1;

const HAS_ID: u8 = 1;
const HAS_NAME: u8 = 2;

/// The head of the file with this number.
pub(super) fn file_header(number: u32) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    let [magic @ .., _, _, _, _, _, _, _, _] = &mut header;
    magic.copy_from_slice(MAGIC);
    let [_, _, _, _, _, _, _, _, rest @ ..] = &mut header;
    let (version, place) = rest.split_at_mut(4);
    version.copy_from_slice(&VERSION.to_le_bytes());
    place.copy_from_slice(&number.to_le_bytes());
    header
}

/// Begins a frame in `bytes`; [`end_frame`] ends it.
pub(super) fn begin_frame(bytes: &mut Vec<u8>) -> usize {
    let start = bytes.len();
    bytes.extend([0; FRAME_HEADER]);
    start
}

/// Adds a record to the frame that was begun last.
pub(super) fn put(bytes: &mut Vec<u8>, lease: &Lease) {
    let id = lease.client_id.as_deref();
    let name = lease.hostname.as_deref().map(str::as_bytes);
    let length = |part: Option<&[u8]>| u32::try_from(part.map_or(0, <[u8]>::len)).unwrap_or(0);
    let state = match lease.state {
        LeaseState::Bound => 0,
        LeaseState::Released => 1,
        LeaseState::Declined => 2,
    };
    let mut has = 0;
    if id.is_some() {
        has |= HAS_ID;
    }
    if name.is_some() {
        has |= HAS_NAME;
    }
    bytes.extend(lease.address.to_bits().to_le_bytes());
    bytes.extend(lease.mac.0);
    bytes.extend([state, has]);
    bytes.extend(lease.expires.0.to_le_bytes());
    bytes.extend(length(id).to_le_bytes());
    bytes.extend(length(name).to_le_bytes());
    bytes.extend(id.unwrap_or_default());
    bytes.extend(name.unwrap_or_default());
}

/// Ends the frame that begins at `start`: frame `sequence` of the file with this number.
pub(super) fn end_frame(bytes: &mut [u8], start: usize, number: u32, sequence: u32) {
    let Some((header, records)) = bytes
        .get_mut(start..)
        .and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER>())
    else {
        return;
    };
    let hash = hash(number, sequence, records);
    let length = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let (place, rest) = header.split_at_mut(4);
    place.copy_from_slice(&length.to_le_bytes());
    let (place, rest) = rest.split_at_mut(4);
    place.copy_from_slice(&sequence.to_le_bytes());
    rest.copy_from_slice(&hash);
}

fn hash(number: u32, sequence: u32, records: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(records);
    let whole = hasher.finalize();
    whole.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The file's number.
    pub(super) number: u32,
    /// Its leases, in the order in which they were written.
    pub(super) leases: Vec<Lease>,
    /// Bytes up to the end of the last whole frame.
    pub(super) whole: usize,
    /// Whether more than zeros follow.
    pub(super) torn: bool,
}

/// Reads a file. `None`: it is none of these files, or of a later version.
pub(super) fn read(bytes: &[u8]) -> Option<Contents> {
    let header: &[u8; FILE_HEADER] = bytes.first_chunk()?;
    let (head, number) = header.split_last_chunk::<4>()?;
    let (magic, version) = head.split_last_chunk::<4>()?;
    if magic != MAGIC || u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let mut contents = Contents {
        number: u32::from_le_bytes(*number),
        whole: FILE_HEADER,
        ..Contents::default()
    };
    let mut sequence = 1;
    while let Some(rest) = bytes.get(contents.whole..)
        && let Some(length) = frame(rest, contents.number, sequence, &mut contents.leases)
    {
        contents.whole += length;
        sequence += 1;
    }
    let rest = bytes.get(contents.whole..).unwrap_or_default();
    contents.torn = rest.iter().any(|byte| *byte != 0);
    Some(contents)
}

/// Reads one frame; returns its length in bytes.
fn frame(bytes: &[u8], number: u32, sequence: u32, leases: &mut Vec<Lease>) -> Option<usize> {
    let mut header = bytes;
    let length = u32(&mut header)? as usize;
    let found = u32(&mut header)?;
    let (expected, rest) = header.split_first_chunk::<16>()?;
    let mut records = rest.get(..length)?;
    if length == 0 || found != sequence || *expected != hash(number, sequence, records) {
        return None;
    }
    let before = leases.len();
    while !records.is_empty() {
        let Some(lease) = record(&mut records) else {
            // A frame with a good hash that is not understood was not written by this program.
            leases.truncate(before);
            return None;
        };
        leases.push(lease);
    }
    Some(FRAME_HEADER + length)
}

fn u32(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*first))
}

fn part<'a>(bytes: &mut &'a [u8], length: u32) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(first)
}

fn record(bytes: &mut &[u8]) -> Option<Lease> {
    let address = Ipv4Addr::from_bits(u32(bytes)?);
    let (mac, rest) = bytes.split_first_chunk::<6>()?;
    let ([state, has], rest) = rest.split_first_chunk::<2>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let state = match state {
        0 => LeaseState::Bound,
        1 => LeaseState::Released,
        2 => LeaseState::Declined,
        _ => return None,
    };
    *bytes = rest;
    let (id, name) = (u32(bytes)?, u32(bytes)?);
    let (id, name) = (part(bytes, id)?, part(bytes, name)?);
    Some(Lease {
        address,
        mac: MacAddr(*mac),
        client_id: (has & HAS_ID != 0).then(|| id.to_vec()),
        hostname: (has & HAS_NAME != 0).then(|| String::from_utf8_lossy(name).into_owned()),
        state,
        expires: Timestamp(i64::from_le_bytes(*expires)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leases() -> impl Strategy<Value = Vec<Lease>> {
        let lease = (
            any::<u32>(),
            any::<[u8; 6]>(),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            proptest::option::of("[a-zé-]{0,20}"),
            prop_oneof![
                Just(LeaseState::Bound),
                Just(LeaseState::Released),
                Just(LeaseState::Declined)
            ],
            any::<i64>(),
        )
            .prop_map(
                |(address, mac, client_id, hostname, state, expires)| Lease {
                    address: Ipv4Addr::from_bits(address),
                    mac: MacAddr(mac),
                    client_id,
                    hostname,
                    state,
                    expires: Timestamp(expires),
                },
            );
        proptest::collection::vec(lease, 1..8)
    }

    fn file(number: u32, frames: &[Vec<Lease>]) -> Vec<u8> {
        let mut bytes = file_header(number).to_vec();
        for (sequence, frame) in (1..).zip(frames) {
            let start = begin_frame(&mut bytes);
            for lease in frame {
                put(&mut bytes, lease);
            }
            end_frame(&mut bytes, start, number, sequence);
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            number: u32,
            frames in proptest::collection::vec(leases(), 0..5),
            zeros in 0usize..100,
        ) {
            let mut bytes = file(number, &frames);
            let whole = bytes.len();
            bytes.extend(vec![0; zeros]);
            let contents = read(&bytes).unwrap();
            prop_assert_eq!(contents.leases, frames.concat());
            prop_assert_eq!((contents.number, contents.whole, contents.torn), (number, whole, false));
        }

        #[test]
        fn a_cut_or_changed_file_gives_whole_frames_alone(
            frames in proptest::collection::vec(leases(), 1..5),
            cut: prop::sample::Index,
            change: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let bytes = file(3, &frames);
            let whole: Vec<usize> =
                (0..=frames.len()).map(|n| frames[..n].concat().len()).collect();
            let cut = &bytes[..cut.index(bytes.len() + 1)];
            if let Some(contents) = read(cut) {
                prop_assert!(whole.contains(&contents.leases.len()));
            }
            let mut changed = bytes.clone();
            let at = change.index(bytes.len());
            changed[at] ^= 1 << bit;
            if let Some(contents) = read(&changed) {
                let all = frames.concat();
                prop_assert_eq!(&contents.leases[..], &all[..contents.leases.len()]);
                prop_assert!(contents.leases.len() < all.len() && contents.torn);
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let headed = [&file_header(1)[..], &bytes].concat();
            let _ = read(&headed);
            let mut frame = file_header(1).to_vec();
            let start = begin_frame(&mut frame);
            frame.extend(&bytes);
            end_frame(&mut frame, start, 1, 1);
            let _ = read(&frame);
        }
    }
}
