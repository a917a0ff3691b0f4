//! Reads chunks of a disk: what is in use, and zero in place of the rest.

use super::error::CaptureError;
use super::reading::Scope;
use crate::disk::{ALIGN, AlignedBuf};
use crate::stop::Stop;
use bugler_fsread::ReadAt;
use bugler_protocol::manifest::{CHUNK_SIZE, ChunkHash};
use std::io;
use std::ops::Range;

/// A hole between used bytes that is read over rather than around, in bytes.
const GAP: u64 = 128 << 10;

const CHUNK: u64 = CHUNK_SIZE as u64;

/// A chunk in memory.
pub(crate) struct Held {
    pub(crate) index: u32,
    pub(crate) len: usize,
    pub(crate) hash: ChunkHash,
    pub(crate) buffer: AlignedBuf,
}

impl Held {
    /// Room for the chunk at `index`.
    pub(crate) fn new(index: u32, buffer: Option<AlignedBuf>) -> Self {
        Self {
            index,
            len: 0,
            hash: ChunkHash([0; 32]),
            buffer: buffer.unwrap_or_else(|| AlignedBuf::new(CHUNK_SIZE as usize)),
        }
    }

    /// The bytes that were read.
    pub(crate) fn content(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

/// The disk, and what of it is taken.
pub(crate) struct Reader<'a> {
    pub(crate) disk: &'a (dyn ReadAt + Sync),
    /// The disk, for people.
    pub(crate) name: &'a str,
    /// In bytes.
    pub(crate) sector_size: u32,
    pub(crate) scope: &'a Scope,
    pub(crate) halt: &'a Stop,
}

impl Reader<'_> {
    /// Reads one chunk: what is not used is zero, whatever is on the disk. Gives the number of used
    /// bytes.
    pub(crate) fn read_chunk(&self, held: &mut Held) -> Result<u64, CaptureError> {
        let start = u64::from(held.index) * CHUNK;
        let end = (start + CHUNK).min(self.scope.size);
        held.len = usize::try_from(end - start).unwrap_or(0);
        let content = held.buffer.get_mut(..held.len).unwrap_or_default();
        let place =
            |range: &Range<u64>| (range.start - start) as usize..(range.end - start) as usize;
        for piece in pieces(self.scope.used.within(start..end), start, end) {
            let memory = content.get_mut(place(&piece)).unwrap_or_default();
            let offset = self.scope.start + piece.start;
            if let Err(error) = self.disk.read_at(offset, memory) {
                return Err(self.bad_sector(offset, memory.len(), error));
            }
        }
        let (mut zero_from, mut used) = (start, 0);
        for range in self
            .scope
            .used
            .within(start..end)
            .chain(std::iter::once(end..end))
        {
            let gap = zero_from..range.start;
            content.get_mut(place(&gap)).unwrap_or_default().fill(0);
            used += range.end - range.start;
            zero_from = range.end;
        }
        Ok(used)
    }

    /// Finds the first sector in a piece that could not be read.
    fn bad_sector(&self, offset: u64, len: usize, error: io::Error) -> CaptureError {
        let sector = u64::from(self.sector_size);
        let from = offset - offset % sector;
        let end = offset + len as u64;
        let mut buffer = AlignedBuf::new(self.sector_size as usize);
        let found = (from..end)
            .step_by(self.sector_size as usize)
            .take_while(|_| !self.halt.is_set())
            .find_map(|at| {
                let error = self.disk.read_at(at, &mut buffer).err()?;
                Some((at, error))
            });
        // Where each sector can be read by itself, the piece that failed is named.
        let (offset, source) = found.unwrap_or((from, error));
        CaptureError::Read {
            disk: self.name.into(),
            lba: offset / sector,
            offset,
            sector_size: self.sector_size,
            source,
        }
    }
}

/// What to read of the chunk `start..end` so that everything in `used` comes: whole pages, for
/// O_DIRECT, and over small holes.
fn pieces(
    used: impl Iterator<Item = Range<u64>>,
    start: u64,
    end: u64,
) -> impl Iterator<Item = Range<u64>> {
    let page = ALIGN as u64;
    let mut list: Vec<Range<u64>> = Vec::new();
    for range in used {
        // A chunk begins at a page, so that this stays in it.
        let from = (range.start - range.start % page).max(start);
        let to = range.end.next_multiple_of(page).min(end);
        match list.last_mut() {
            Some(last) if from <= last.end + GAP => last.end = to,
            _ => list.push(from..to),
        }
    }
    list.into_iter()
}

#[cfg(test)]
// Lists of ranges, some of them of one.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::disk::is_zero;
    use bugler_fsread::Ranges;
    use proptest::prelude::*;

    proptest! {
        /// Everything used is read, in order, in whole pages, and nothing outside of the chunk.
        #[test]
        fn what_is_read_covers_what_is_used(
            list in proptest::collection::vec((0u64..CHUNK, 1u64..300_000), 0..12),
            end in 1u64..=CHUNK,
        ) {
            let start = 7 * CHUNK;
            let end = start + end;
            let used: Ranges = list.iter()
                .map(|(at, len)| (start + at).min(end)..(start + at + len).min(end))
                .collect();
            let read: Vec<_> = pieces(used.within(start..end), start, end).collect();
            let covered: Ranges = read.iter().cloned().collect();
            for range in used.as_slice() {
                prop_assert!(covered.covers(range.clone()));
            }
            for piece in &read {
                prop_assert!(start <= piece.start && piece.start < piece.end && piece.end <= end);
                prop_assert!(piece.start.is_multiple_of(ALIGN as u64));
                prop_assert!(piece.end.is_multiple_of(ALIGN as u64) || piece.end == end);
            }
            prop_assert!(read.windows(2).all(|two| two[0].end + GAP < two[1].start));
        }
    }

    /// A disk whose bytes are 0x11, and of which one sector cannot be read.
    struct Failing(u64);

    impl ReadAt for Failing {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            if (offset..offset + buf.len() as u64).contains(&self.0) {
                return Err(io::Error::from_raw_os_error(5));
            }
            buf.fill(0x11);
            Ok(())
        }

        fn size(&self) -> u64 {
            u64::MAX
        }
    }

    fn read(bad: u64, start: u64, used: &[Range<u64>]) -> Result<(Held, u64), CaptureError> {
        let scope = Scope {
            start,
            size: 2 * CHUNK - 512,
            used: used.iter().cloned().collect(),
            lines: Vec::new(),
        };
        let reader = Reader {
            disk: &Failing(bad),
            name: "/dev/sda",
            sector_size: 512,
            scope: &scope,
            halt: &Stop::new(),
        };
        let mut held = Held::new(1, None);
        held.buffer.fill(0xff);
        let used = reader.read_chunk(&mut held)?;
        Ok((held, used))
    }

    #[test]
    fn what_is_not_used_is_zero_whatever_is_there() {
        let used = [CHUNK + 700..CHUNK + 900, CHUNK + 5000..CHUNK + 5001];
        let (held, bytes) = read(0, 4096, &used).unwrap();
        assert_eq!((bytes, held.content().len()), (201, CHUNK as usize - 512));
        for (at, byte) in held.content().iter().enumerate() {
            let is_used = (700..900).contains(&at) || at == 5000;
            assert_eq!(*byte, if is_used { 0x11 } else { 0 }, "byte {at}");
        }
        let (held, bytes) = read(0, 4096, &[0..CHUNK]).unwrap();
        assert!(bytes == 0 && is_zero(held.content()));
    }

    #[test]
    fn a_sector_that_cannot_be_read_is_named_and_nothing_is_guessed() {
        // In the partition from byte 1536 on: the sector is counted from the disk's beginning.
        let bad = 1536 + CHUNK + 300 * 512 + 17;
        let error = read(bad, 1536, &[0..2 * CHUNK]).err().unwrap();
        let CaptureError::Read { lba, offset, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!((*lba, *offset), (bad / 512, bad / 512 * 512));
        assert!(
            error
                .to_string()
                .contains("cannot read sector 2351 of /dev/sda"),
            "{error}"
        );
        // One that is not used is not read.
        assert!(read(bad, 1536, &[0..CHUNK + 4096]).is_ok());
    }
}
