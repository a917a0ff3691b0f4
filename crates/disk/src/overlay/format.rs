//! The bytes of an overlay file, version 1. [The page on the format](super) has the whole picture.

use crate::BaseId;
use twox_hash::XxHash3_64;

/// Bytes in a block, the unit in which a disk is covered.
pub(crate) const BLOCK: usize = 4096;
/// Blocks in a group: 32 MiB of the disk.
pub(crate) const GROUP_BLOCKS: u64 = 8192;
/// Bytes of the disk in a group.
pub(crate) const GROUP_BYTES: u64 = GROUP_BLOCKS * BLOCK as u64;
/// Bytes of states in a page.
pub(crate) const STATE_BYTES: usize = GROUP_BLOCKS as usize / 4;
/// Where the journal begins, behind both headers.
pub(crate) const JOURNAL_START: u64 = 2 * BLOCK as u64;
/// Length of the journal in bytes.
pub(crate) const JOURNAL_LEN: u64 = 1 << 20;
/// Where the groups begin.
pub(crate) const GROUPS_START: u64 = JOURNAL_START + JOURNAL_LEN;
/// Length of a group in the file: two pages and two copies of its blocks.
pub(crate) const GROUP_LEN: u64 = 2 * BLOCK as u64 + 2 * GROUP_BYTES;
/// Largest disk, in bytes: 64 TiB, as for images.
pub(crate) const MAX_DISK: u64 = 64 << 40;
/// Most entries in a transaction: it is then half as long as the journal.
pub(crate) const MAX_ENTRIES: usize = 32_000;
/// Longest run of blocks that one entry can speak of.
pub(crate) const MAX_RUN: u64 = 1 << 22;

const HEADER_MAGIC: &[u8; 8] = b"BGLRLAYR";
const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"BGLP");
const TX_MAGIC: u32 = u32::from_le_bytes(*b"BGLT");
const VERSION: u32 = 1;
const TX_HEADER: usize = 48;
const PAGE_STATES: usize = 48;
const ENTRY: usize = 16;

/// Where a block's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum State {
    /// In the base.
    Absent = 0,
    /// Nowhere: it is zero.
    Zero = 1,
    /// In the first of its two places in this file.
    A = 2,
    /// In the second.
    B = 3,
}

impl State {
    pub(crate) fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Absent,
            1 => Self::Zero,
            2 => Self::A,
            _ => Self::B,
        }
    }

    /// Whether the block takes space in this file.
    pub(crate) fn is_present(self) -> bool {
        matches!(self, Self::A | Self::B)
    }

    /// The place for new content of a block that is durable as `self`.
    pub(crate) fn other_place(self) -> Self {
        if self == Self::A { Self::B } else { Self::A }
    }
}

/// Where a block's place is in the file, in bytes.
pub(crate) fn place(block: u64, state: State) -> u64 {
    let (group, within) = (block / GROUP_BLOCKS, block % GROUP_BLOCKS);
    let copy = if state == State::B { GROUP_BYTES } else { 0 };
    GROUPS_START + group * GROUP_LEN + 2 * BLOCK as u64 + copy + within * BLOCK as u64
}

/// Where one of a group's two pages is in the file, in bytes.
pub(crate) fn page_place(group: u64, copy: u8) -> u64 {
    GROUPS_START + group * GROUP_LEN + u64::from(copy & 1) * BLOCK as u64
}

/// How many groups a disk has.
pub(crate) fn groups(disk_size: u64) -> u64 {
    disk_size.div_ceil(GROUP_BYTES)
}

/// How many blocks a disk has; the last may be a part of one.
pub(crate) fn blocks(disk_size: u64) -> u64 {
    disk_size.div_ceil(BLOCK as u64)
}

/// Length of the file in bytes.
pub(crate) fn file_len(disk_size: u64) -> u64 {
    GROUPS_START + groups(disk_size) * GROUP_LEN
}

/// The checksum of all structures and of blocks: XXH3, 64 bits, no seed.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Reads a little-endian number; 0 where there are no bytes.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}

/// What the whole file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Raised by every checkpoint.
    pub(crate) generation: u64,
    /// Drawn when the file was made: structures of another file are not taken for this one's.
    pub(crate) id: [u8; 16],
    /// Size of the disk in bytes, a multiple of 512.
    pub(crate) disk_size: u64,
    /// Most bytes of blocks that the file may hold.
    pub(crate) quota: u64,
    /// Size of the base in bytes.
    pub(crate) base_size: u64,
    /// What the base is.
    pub(crate) base: BaseId,
    /// The checksums of all current pages, added up.
    pub(crate) table_sum: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// They do not begin like one.
    Magic,
    /// Of another version of the format.
    Version(u32),
    /// Not what was written, or with values that this program never writes.
    Damaged,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        put(&mut bytes, 0, HEADER_MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &(BLOCK as u32).to_le_bytes());
        put(&mut bytes, 16, &self.generation.to_le_bytes());
        put(&mut bytes, 24, &self.id);
        put(&mut bytes, 40, &self.disk_size.to_le_bytes());
        put(&mut bytes, 48, &self.quota.to_le_bytes());
        put(&mut bytes, 56, &self.base_size.to_le_bytes());
        put(&mut bytes, 64, &self.base.0);
        put(&mut bytes, 96, &self.table_sum.to_le_bytes());
        put(&mut bytes, 104, &JOURNAL_START.to_le_bytes());
        put(&mut bytes, 112, &JOURNAL_LEN.to_le_bytes());
        put(&mut bytes, 120, &GROUP_BLOCKS.to_le_bytes());
        let sum = checksum(bytes.get(..BLOCK - 8).unwrap_or_default());
        put(&mut bytes, BLOCK - 8, &sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        if !bytes.starts_with(HEADER_MAGIC) {
            return Err(BadHeader::Magic);
        }
        let body = bytes.get(..BLOCK - 8).ok_or(BadHeader::Damaged)?;
        if u64_at(bytes, BLOCK - 8) != checksum(body) {
            return Err(BadHeader::Damaged);
        }
        // Only behind the checksum: a damaged version is damage, not another version.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let header = Self {
            generation: u64_at(bytes, 16),
            id: array_at(bytes, 24).ok_or(BadHeader::Damaged)?,
            disk_size: u64_at(bytes, 40),
            quota: u64_at(bytes, 48),
            base_size: u64_at(bytes, 56),
            base: BaseId(array_at(bytes, 64).ok_or(BadHeader::Damaged)?),
            table_sum: u64_at(bytes, 96),
        };
        let as_written = u32_at(bytes, 12) as usize == BLOCK
            && u64_at(bytes, 104) == JOURNAL_START
            && u64_at(bytes, 112) == JOURNAL_LEN
            && u64_at(bytes, 120) == GROUP_BLOCKS
            && header.disk_size.is_multiple_of(512)
            && (512..=MAX_DISK).contains(&header.disk_size)
            && header.generation < u64::MAX / 2;
        if as_written {
            Ok(header)
        } else {
            Err(BadHeader::Damaged)
        }
    }
}

/// The states of a group's blocks, as they stand in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The checkpoint that wrote it.
    pub(crate) generation: u64,
    /// Four blocks a byte, the first in the lowest bits.
    pub(crate) states: Box<[u8; STATE_BYTES]>,
    /// The checksum that it is stored with.
    pub(crate) sum: u64,
}

/// What the bytes of a page are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadPage {
    /// Nothing was ever written there.
    Empty,
    /// Something that is no page of this file and group: torn, or damaged.
    Bad,
    /// A page.
    Good(Page),
}

/// The bytes of a page, and their checksum.
pub(crate) fn encode_page(
    id: &[u8; 16],
    group: u64,
    generation: u64,
    states: &[u8; STATE_BYTES],
) -> (Vec<u8>, u64) {
    let mut bytes = vec![0; BLOCK];
    put(&mut bytes, 0, &PAGE_MAGIC.to_le_bytes());
    put(&mut bytes, 8, &group.to_le_bytes());
    put(&mut bytes, 16, &generation.to_le_bytes());
    put(&mut bytes, 24, id);
    put(&mut bytes, PAGE_STATES, states);
    // Its own place counts as zero.
    let sum = checksum(&bytes);
    put(&mut bytes, 40, &sum.to_le_bytes());
    (bytes, sum)
}

pub(crate) fn decode_page(bytes: &[u8], id: &[u8; 16], group: u64) -> ReadPage {
    if bytes.iter().all(|&byte| byte == 0) {
        return ReadPage::Empty;
    }
    let sum = u64_at(bytes, 40);
    let mut plain = bytes.to_vec();
    put(&mut plain, 40, &[0; 8]);
    let states = bytes
        .get(PAGE_STATES..)
        .and_then(|rest| rest.first_chunk::<STATE_BYTES>());
    match states {
        Some(states)
            if u32_at(bytes, 0) == PAGE_MAGIC
                && u64_at(bytes, 8) == group
                && bytes.get(24..40) == Some(id.as_slice())
                && checksum(&plain) == sum =>
        {
            ReadPage::Good(Page {
                generation: u64_at(bytes, 16),
                states: Box::new(*states),
                sum,
            })
        }
        _ => ReadPage::Bad,
    }
}

/// What a transaction says of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first block.
    pub(crate) block: u64,
    /// How many, 1 to [`MAX_RUN`]; 1 where the state is `A` or `B`.
    pub(crate) run: u64,
    /// Where their content is now.
    pub(crate) state: State,
    /// Checksum of the block's content in `A` or `B`; 0 for the other states.
    pub(crate) sum: u64,
}

/// Bytes that a transaction takes in the journal: whole blocks.
pub(crate) fn tx_len(entries: usize) -> u64 {
    ((TX_HEADER + entries * ENTRY) as u64).next_multiple_of(BLOCK as u64)
}

/// The bytes of a transaction, whole blocks of them.
pub(crate) fn encode_tx(
    id: &[u8; 16],
    generation: u64,
    sequence: u64,
    entries: &[Entry],
) -> Vec<u8> {
    let length = TX_HEADER + entries.len() * ENTRY;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(BLOCK));
    bytes.extend_from_slice(&TX_MAGIC.to_le_bytes());
    // The number is below MAX_ENTRIES.
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(id);
    bytes.extend_from_slice(&[0; 8]);
    for entry in entries {
        let word = entry.block | (entry.run - 1) << 40 | (entry.state as u64) << 62;
        bytes.extend_from_slice(&word.to_le_bytes());
        bytes.extend_from_slice(&entry.sum.to_le_bytes());
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 40, &sum.to_le_bytes());
    bytes.resize(length.next_multiple_of(BLOCK), 0);
    bytes
}

/// What stands at the head of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TxHead {
    pub(crate) generation: u64,
    pub(crate) sequence: u64,
    /// How many entries it has, at most [`MAX_ENTRIES`].
    pub(crate) count: usize,
}

/// Reads the head of a transaction of this file, whose checksum is not looked at.
pub(crate) fn decode_tx_head(bytes: &[u8], id: &[u8; 16]) -> Option<TxHead> {
    let count = u32_at(bytes, 4) as usize;
    (u32_at(bytes, 0) == TX_MAGIC
        && bytes.get(24..40) == Some(id.as_slice())
        && count <= MAX_ENTRIES)
        .then(|| TxHead {
            generation: u64_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            count,
        })
}

/// Reads a whole transaction; `None` where it is torn, damaged or none.
pub(crate) fn decode_tx(bytes: &[u8], id: &[u8; 16]) -> Option<(TxHead, Vec<Entry>)> {
    let head = decode_tx_head(bytes, id)?;
    let mut plain = bytes.get(..TX_HEADER + head.count * ENTRY)?.to_vec();
    let sum = u64_at(&plain, 40);
    put(&mut plain, 40, &[0; 8]);
    if checksum(&plain) != sum {
        return None;
    }
    let entries = plain.get(TX_HEADER..)?.as_chunks::<ENTRY>().0.iter();
    let entries = entries
        .map(|entry| {
            let word = u64_at(entry, 0);
            Entry {
                block: word & ((1 << 40) - 1),
                run: (word >> 40 & (MAX_RUN - 1)) + 1,
                state: State::from_bits((word >> 62) as u8),
                sum: u64_at(entry, 8),
            }
        })
        .collect();
    Some((head, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: [u8; 16] = [7; 16];

    fn header() -> Header {
        Header {
            generation: 5,
            id: ID,
            disk_size: 40 << 20,
            quota: 1 << 20,
            base_size: 32 << 20,
            base: BaseId([9; 32]),
            table_sum: 77,
        }
    }

    /// Frozen: overlay files outlive the program that made them.
    #[test]
    fn the_bytes_stay_as_they_are() {
        let header = checksum(&header().encode());
        let (page, sum) = encode_page(&ID, 3, 5, &[0xe4; STATE_BYTES]);
        let entry = Entry {
            block: 9,
            run: 1,
            state: State::B,
            sum: 1,
        };
        let tx = checksum(&encode_tx(&ID, 5, 0, &[entry]));
        assert_eq!(header, 10_400_891_013_662_990_495);
        assert_eq!(
            (checksum(&page), sum),
            (10_008_252_964_889_148_589, 8_068_423_173_107_603_425)
        );
        assert_eq!(tx, 8_720_262_709_257_767_276);
        assert_eq!(
            place(8193, State::B),
            GROUPS_START + GROUP_LEN + 8192 + GROUP_BYTES + 4096
        );
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_damage_is_seen() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for at in 0..BLOCK {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
        assert_eq!(Header::decode(&[]), Err(BadHeader::Magic));
    }

    proptest! {
        #[test]
        fn a_transaction_is_read_as_it_was_written(
            entries in prop::collection::vec(
                (0..1u64 << 40, 1..=MAX_RUN, 0..4u8, any::<u64>()), 0..300
            ),
            generation: u64,
            sequence: u64,
            flip: prop::sample::Index,
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(block, run, state, sum)| Entry { block, run, state: State::from_bits(state), sum })
                .collect();
            let mut bytes = encode_tx(&ID, generation, sequence, &entries);
            prop_assert_eq!(bytes.len() as u64, tx_len(entries.len()));
            let head = TxHead { generation, sequence, count: entries.len() };
            let length = TX_HEADER + ENTRY * entries.len();
            prop_assert_eq!(decode_tx(&bytes, &ID), Some((head, entries)));
            prop_assert_eq!(decode_tx(&bytes, &[8; 16]), None);
            let at = flip.index(length);
            bytes[at] ^= 0x10;
            prop_assert_eq!(decode_tx(&bytes, &ID), None);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Header::decode(&bytes);
            let _ = decode_tx(&bytes, &ID);
            let _ = decode_page(&bytes, &ID, 0);
        }
    }
}
