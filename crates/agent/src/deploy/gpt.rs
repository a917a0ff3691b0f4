//! The GUID partition table (UEFI specification 2.10, section 5.3), as far as a disk of another size
//! than the image needs it: the backup at the end of the image belongs at the end of the disk, and
//! both headers and the protective MBR say how large the disk is.

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

    /// Where the last partition ends, in bytes; 0 where there is none. `entries` are the bytes of the
    /// partition array.
    ///
    /// # Errors
    /// [`GptError::Entries`].
    pub(crate) fn last_partition_end(&self, entries: &[u8]) -> Result<u64, GptError> {
        if crc32(entries) != get_u32(&self.header, 88) {
            return Err(GptError::Entries);
        }
        let last = match last_partition_lba(entries, &self.header) {
            0 => 0,
            last => last.saturating_add(1),
        };
        Ok(last.saturating_mul(self.sector_size as u64))
    }

    /// Length of an entry of the partition array, in bytes.
    pub(crate) fn entry_len(&self) -> usize {
        (get_u32(&self.header, 84) as usize).max(1)
    }

    /// The GUID of the disk, as it is written.
    pub(crate) fn guid(&self) -> [u8; 16] {
        let field = self.header.get(56..).and_then(<[u8]>::first_chunk::<16>);
        field.copied().unwrap_or_default()
    }

    /// The same table with another array of partitions of the same length, and another GUID of the
    /// disk. It is written by what [`fit`](Self::fit) gives, and the array.
    pub(crate) fn with(&self, entries: &[u8], guid: [u8; 16]) -> Self {
        let mut changed = self.clone();
        put(&mut changed.header, 56, &guid);
        put(&mut changed.header, 88, &crc32(entries).to_le_bytes());
        let length = get_u32(&changed.header, 12) as usize;
        let crc = header_crc(&changed.header, length);
        put(&mut changed.header, 16, &crc.to_le_bytes());
        changed
    }

    /// Where the backup ends, in bytes.
    pub(crate) fn backup_end(&self) -> u64 {
        let end = self.backup_lba.saturating_add(1);
        end.saturating_mul(self.sector_size as u64)
    }

    /// Whether the table's backup is in the last sector of a disk of `disk_size` bytes.
    pub(crate) fn fills(&self, disk_size: u64) -> bool {
        (disk_size / self.sector_size as u64).checked_sub(1) == Some(self.backup_lba)
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
        if self.fills(disk_size) && crc32(entries) == get_u32(&self.header, 88) {
            return Ok(None);
        }
        self.fit(mbr, entries, disk_size).map(Some)
    }

    /// What a disk of `disk_size` bytes with this table has in its first two sectors and at its end.
    ///
    /// # Errors
    /// [`GptError`]: [`GptError::NoRoom`] where the backup would lie on a partition.
    pub(crate) fn fit(
        &self,
        mbr: &[u8],
        entries: &[u8],
        disk_size: u64,
    ) -> Result<Moved, GptError> {
        let length = get_u32(&self.header, 12) as usize;
        let sector = self.sector_size as u64;
        if crc32(entries) != get_u32(&self.header, 88) {
            return Err(GptError::Entries);
        }
        let last = (disk_size / sector)
            .checked_sub(1)
            .ok_or(GptError::NoRoom)?;
        let array_sectors = (entries.len() as u64).div_ceil(sector);
        let backup_array = last.checked_sub(array_sectors).ok_or(GptError::NoRoom)?;
        let last_usable = backup_array.checked_sub(1).ok_or(GptError::NoRoom)?;
        // Nothing is taken away from a partition, nor from the first table.
        if last_usable < last_partition_lba(entries, &self.header)
            || backup_array.saturating_mul(sector) < self.entries.end
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
        Ok(Moved {
            backup: (backup_array * sector, array),
            primary: mbr,
        })
    }
}

/// Why an MBR does not say where the last partition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MbrError {
    /// There is no table that makes sense, or no partition in it.
    #[error(
        "it has no partition table, so that what is on it fills its disk and cannot be cut off"
    )]
    None,
    /// The MBR says that there is a GPT, and there is none.
    #[error("its MBR says that there is a GPT, and there is none")]
    Protective,
}

/// Where the last partition of an MBR ends, in sectors: the number of the first one behind it.
/// Logical partitions lie inside of an extended one, which counts.
pub(crate) fn last_mbr_sector(mbr: &[u8]) -> Result<u64, MbrError> {
    if mbr.get(510..512) != Some(&[0x55, 0xaa]) {
        return Err(MbrError::None);
    }
    let mut last = 0;
    for at in MBR_RECORDS {
        let record = mbr.get(at..at + 16).unwrap_or(&[]);
        let (status, kind) = (record.first(), record.get(4).copied().unwrap_or(0));
        let (start, length) = (get_u32(record, 8), get_u32(record, 12));
        match kind {
            0 => continue,
            PROTECTIVE => return Err(MbrError::Protective),
            // The boot sector of a filesystem has the same signature, and code in this place.
            _ if !matches!(status, Some(0 | 0x80)) || start == 0 || length == 0 => {
                return Err(MbrError::None);
            }
            _ => last = last.max(u64::from(start) + u64::from(length)),
        }
    }
    if last == 0 {
        return Err(MbrError::None);
    }
    Ok(last)
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
