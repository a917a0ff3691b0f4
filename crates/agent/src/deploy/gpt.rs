//! The GUID partition table (UEFI specification 2.10, section 5.3), as far as a disk that is
//! larger than the image needs it: the backup at the end of the image belongs at the end of the
//! disk, and both headers and the protective MBR say how large the disk is.

use std::ops::Range;

/// First bytes of a GPT header.
const SIGNATURE: &[u8; 8] = b"EFI PART";

/// Length of the header's fields that are defined, in bytes.
const HEADER_LEN: usize = 92;

/// Largest partition array that is believed, in bytes: 64 times the usual one.
pub(crate) const MAX_ENTRIES_LEN: u64 = 1 << 20;

/// The partition records of an MBR, and the record type of a protective one.
const MBR_RECORDS: [usize; 4] = [446, 462, 478, 494];
const PROTECTIVE: u8 = 0xee;

/// Why a partition table is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GptError {
    /// The header's fields contradict themselves or its checksum.
    #[error("its primary header is damaged ({0})")]
    Header(&'static str),
    /// The array of partitions does not fit its checksum.
    #[error("its partition array is damaged (checksum)")]
    Entries,
    /// The disk has no room for the backup behind the partitions.
    #[error("the disk has no room for the backup behind the last partition")]
    NoRoom,
}

/// A primary GPT header that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpt {
    sector_size: usize,
    /// The whole sector.
    header: Vec<u8>,
    /// Where the partition array is on the disk, in bytes.
    pub(crate) entries: Range<u64>,
    backup_lba: u64,
}

/// Bytes that are to be written, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The backup: array and header, at the end of the disk. Offset in bytes.
    pub(crate) backup: (u64, Vec<u8>),
    /// Sectors 0 and 1: protective MBR and primary header.
    pub(crate) primary: Vec<u8>,
}

impl Gpt {
    /// Reads the first two sectors of a disk; `None` where there is no GPT.
    ///
    /// # Errors
    /// [`GptError::Header`] when there is one that is not to be believed.
    pub(crate) fn read(start: &[u8], sector_size: u32) -> Result<Option<Self>, GptError> {
        let sector_size = sector_size as usize;
        let header = start.get(sector_size..2 * sector_size).unwrap_or(&[]);
        if header.len() < HEADER_LEN || !header.starts_with(SIGNATURE) {
            return Ok(None);
        }
        let bad = |what| Err(GptError::Header(what));
        let length = get_u32(header, 12) as usize;
        if !(HEADER_LEN..=sector_size).contains(&length) {
            return bad("length");
        }
        if header_crc(header, length) != get_u32(header, 16) {
            return bad("checksum");
        }
        if get_u64(header, 24) != 1 {
            return bad("place");
        }
        let (count, size) = (get_u32(header, 80), get_u32(header, 84));
        let entries_len = u64::from(count) * u64::from(size);
        // The specification allows sizes of 128 * 2^n.
        if size < 128 || !size.is_power_of_two() || count == 0 || entries_len > MAX_ENTRIES_LEN {
            return bad("partition array");
        }
        let start = get_u64(header, 72).checked_mul(sector_size as u64);
        let range = start.and_then(|start| Some(start..start.checked_add(entries_len)?));
        let Some(entries) = range.filter(|r| r.start >= 2 * sector_size as u64) else {
            return bad("place of the partition array");
        };
        Ok(Some(Self {
            sector_size,
            header: header.to_vec(),
            entries,
            backup_lba: get_u64(header, 32),
        }))
    }

    /// What to write so that the table fills a disk of `disk_size` bytes; `None` where its backup
    /// is at the end already. `mbr` is sector 0, `entries` the bytes of the partition array.
    ///
    /// # Errors
    /// [`GptError`]: the table is to be left as it is.
    pub(crate) fn fill(
        &self,
        mbr: &[u8],
        entries: &[u8],
        disk_size: u64,
    ) -> Result<Option<Moved>, GptError> {
        let length = get_u32(&self.header, 12) as usize;
        let sector = self.sector_size as u64;
        if crc32(entries) != get_u32(&self.header, 88) {
            return Err(GptError::Entries);
        }
        let last = (disk_size / sector)
            .checked_sub(1)
            .ok_or(GptError::NoRoom)?;
        if self.backup_lba == last {
            return Ok(None);
        }
        let array_sectors = (entries.len() as u64).div_ceil(sector);
        let backup_array = last.checked_sub(array_sectors).ok_or(GptError::NoRoom)?;
        let last_usable = backup_array.checked_sub(1).ok_or(GptError::NoRoom)?;
        // A partition that reaches into the new backup means that the disk is smaller than the
        // table says. Growing never takes room away.
        if last_usable < get_u64(&self.header, 48)
            || last_usable < last_partition_lba(entries, &self.header)
        {
            return Err(GptError::NoRoom);
        }

        let mut primary = self.header.clone();
        put(&mut primary, 32, &last.to_le_bytes());
        put(&mut primary, 48, &last_usable.to_le_bytes());
        let mut backup = primary.clone();
        put(&mut backup, 24, &last.to_le_bytes());
        put(&mut backup, 32, &1u64.to_le_bytes());
        put(&mut backup, 72, &backup_array.to_le_bytes());
        for header in [&mut primary, &mut backup] {
            let crc = header_crc(header, length);
            put(header, 16, &crc.to_le_bytes());
        }

        let mut mbr = mbr.to_vec();
        grow_protective_mbr(&mut mbr, self.backup_lba, last);
        mbr.extend_from_slice(&primary);
        let mut array = entries.to_vec();
        array.resize(usize::try_from(array_sectors * sector).unwrap_or(0), 0);
        array.extend_from_slice(&backup);
        Ok(Some(Moved {
            backup: (backup_array * sector, array),
            primary: mbr,
        }))
    }
}

/// Makes the protective record of an MBR reach to the end of the disk, where it reached to the
/// old end. In a hybrid MBR it covers less, and is left alone.
fn grow_protective_mbr(mbr: &mut [u8], old_last: u64, last: u64) {
    let clamp = |last: u64| u32::try_from(last).unwrap_or(u32::MAX);
    for at in MBR_RECORDS {
        let Some(record) = mbr.get(at..at + 16) else {
            continue;
        };
        let (start, length) = (get_u32(record, 8), get_u32(record, 12));
        let reaches = length == clamp(old_last) || length == u32::MAX;
        if record.get(4) == Some(&PROTECTIVE) && start == 1 && reaches {
            put(mbr, at + 12, &clamp(last).to_le_bytes());
        }
    }
}

/// The last sector that a partition uses; 0 where there is none.
fn last_partition_lba(entries: &[u8], header: &[u8]) -> u64 {
    let size = (get_u32(header, 84) as usize).max(1);
    let used = entries.chunks_exact(size).filter(|entry| {
        // The type GUID of an entry that is not used is zero.
        entry.iter().take(16).any(|&byte| byte != 0)
    });
    used.map(|entry| get_u64(entry, 40)).max().unwrap_or(0)
}

/// The checksum of a header, counted with its own field as zero.
fn header_crc(header: &[u8], length: usize) -> u32 {
    let mut bytes = header.get(..length).unwrap_or(&[]).to_vec();
    put(&mut bytes, 16, &[0; 4]);
    crc32(&bytes)
}

/// CRC-32 as in ISO 3309 and Ethernet: reflected, polynomial 0xedb88320. Bit by bit: it runs over
/// 16 KiB once in a deploy.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    field.copied().map_or(0, u32::from_le_bytes)
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    field.copied().map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Reads whatever `bytes` hold as the start and the partition array of a disk of `disk_size`
/// bytes and moves its backup. For fuzzing: it must not panic on anything.
pub fn fuzz(bytes: &[u8], sector_size: u32, disk_size: u64) {
    let sector_size = if sector_size.is_multiple_of(2) {
        512
    } else {
        4096
    };
    if let Ok(Some(gpt)) = Gpt::read(bytes, sector_size) {
        let len = usize::try_from(gpt.entries.end - gpt.entries.start).unwrap_or(0);
        let entries = bytes.get(2 * sector_size as usize..).unwrap_or(&[]);
        let entries = entries.get(..len).unwrap_or(entries);
        drop(gpt.fill(bytes, entries, disk_size));
    }
}

#[cfg(test)]
mod tests;
