//! The GUID partition table (UEFI specification 2.10, section 5.3), its backup, and hybrid MBRs.

use super::mbr::Record;
use super::{Layout, is_nested, slot};
use crate::ReadAt;
use crate::bytes::{has, u32_at, u64_at};
use crate::checksum::crc32;
use crate::survey::{SurveyError, Table, read};
use std::ops::Range;

/// First bytes of a header.
const SIGNATURE: &[u8] = b"EFI PART";
/// Bytes of a header that have a meaning.
const HEADER: usize = 92;
/// Where the checksum of the header is, which counts as zero in it.
const HEADER_CRC: Range<usize> = 16..20;
/// Most bytes of an array of partitions: 64 times the usual one.
const MAX_ARRAY: u64 = 1 << 20;
/// Least bytes of an entry.
const MIN_ENTRY: u32 = 128;

/// Types of partitions that others are cut out of, as they stand in an entry: data of a dynamic disk
/// of Windows, and of its storage spaces.
const NESTED: [([u8; 16], &str); 2] = [
    (
        [
            0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a,
            0x69, 0xad,
        ],
        "a dynamic disk of Windows",
    ),
    (
        [
            0x8f, 0xaf, 0x5c, 0xe7, 0x80, 0xf6, 0xee, 0x4c, 0xaf, 0xa3, 0xb0, 0x01, 0xe5, 0x6e,
            0xfc, 0x2d,
        ],
        "storage spaces of Windows",
    ),
];

/// One copy of the table that fits its checksums.
struct Copy {
    /// Sector of this header.
    at: u64,
    /// Sector of the other one.
    other: u64,
    /// The array, and the sector where it begins.
    array: Vec<u8>,
    array_at: u64,
    /// Bytes of an entry.
    entry: usize,
    /// First and last sector that a partition may have.
    usable: (u64, u64),
}

/// Whether a header begins in sector 1, whole or not.
pub(super) fn is_there(disk: &dyn ReadAt, sector: u64) -> Result<bool, SurveyError> {
    Ok(read(disk, "the GPT header", sector, SIGNATURE.len())?
        .is_some_and(|bytes| bytes == SIGNATURE))
}

/// Reads the copy whose header is in sector `at`: or what is wrong with it.
fn copy(
    disk: &dyn ReadAt,
    sector: u64,
    at: u64,
) -> Result<Result<Copy, &'static str>, SurveyError> {
    let length = usize::try_from(sector).unwrap_or(usize::MAX);
    let place = at.saturating_mul(sector);
    let Some(mut header) = read(disk, "a GPT header", place, length)? else {
        return Ok(Err("the disk has no room for it"));
    };
    if !has(&header, 0, SIGNATURE) {
        return Ok(Err("its header has no signature"));
    }
    let header_length = usize::try_from(u32_at(&header, 12)).unwrap_or(usize::MAX);
    if !(HEADER..=length).contains(&header_length) {
        return Ok(Err("its header has no possible length"));
    }
    let sum = u32_at(&header, HEADER_CRC.start);
    header[HEADER_CRC].fill(0);
    if crc32(&header[..header_length]) != sum {
        return Ok(Err("its header does not fit its checksum"));
    }
    if u64_at(&header, 24) != at {
        return Ok(Err("its header gives another place for itself"));
    }
    let (count, entry) = (u32_at(&header, 80), u32_at(&header, 84));
    let bytes = u64::from(count) * u64::from(entry);
    if entry < MIN_ENTRY || !entry.is_power_of_two() || bytes == 0 || bytes > MAX_ARRAY {
        return Ok(Err("its array of partitions has no possible length"));
    }
    let array_at = u64_at(&header, 72);
    let place = array_at.checked_mul(sector).filter(|_| array_at > 0);
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let array = match place {
        Some(place) => read(disk, "the array of partitions of the GPT", place, length)?,
        None => None,
    };
    let Some(array) = array else {
        return Ok(Err("its array of partitions is not on the disk"));
    };
    if crc32(&array) != u32_at(&header, 88) {
        return Ok(Err("its array of partitions does not fit its checksum"));
    }
    Ok(Ok(Copy {
        at,
        other: u64_at(&header, 32),
        array,
        array_at,
        entry: usize::try_from(entry).unwrap_or(usize::MAX),
        usable: (u64_at(&header, 40), u64_at(&header, 48)),
    }))
}

/// The name of an entry: UTF-16, up to the first zero.
fn name(entry: &[u8]) -> Option<String> {
    let units = entry.get(56..128)?.chunks_exact(2);
    let units = units
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|&unit| unit != 0);
    let text: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        // It is shown in terminals and logs.
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    (!text.is_empty()).then_some(text)
}

/// Reads the table of a disk whose MBR has a protective record.
pub(super) fn layout(
    disk: &dyn ReadAt,
    sector: u64,
    records: &[Record],
) -> Result<Layout, SurveyError> {
    let size = disk.size();
    let last = (size / sector).saturating_sub(1);
    let mut layout = Layout::new(Table::Gpt);
    let table = match copy(disk, sector, 1)? {
        Ok(table) => {
            if let Err(why) = copy(disk, sector, table.other)? {
                layout.notes.push(format!(
                    "the backup of the GPT is damaged ({why}); it is carried as it is"
                ));
            } else if table.other != last {
                layout.notes.push(format!(
                    "the backup of the GPT is in sector {}, not in the last one ({last})",
                    table.other
                ));
            }
            table
        }
        Err(why) => match copy(disk, sector, last)? {
            Ok(table) => {
                layout.notes.push(format!(
                    "the GPT is damaged ({why}); its backup at the end of the disk was read"
                ));
                table
            }
            Err(backup) => {
                let other_sector = [512, 4096]
                    .into_iter()
                    .filter(|&other| other != sector)
                    .find(|&other| matches!(is_there(disk, other), Ok(true)));
                return Ok(Layout::doubtful(
                    Table::Gpt,
                    &match other_sector {
                        Some(other) => format!(
                            "its GPT is made for sectors of {other} bytes, and the disk has \
                             sectors of {sector} bytes"
                        ),
                        None => format!(
                            "its GPT is damaged ({why}), and so is the backup at the end of the \
                             disk ({backup})"
                        ),
                    },
                ));
            }
        },
    };

    // Both copies, wherever they are: also one that is damaged, at its usual place.
    let array = (table.array.len() as u64).next_multiple_of(sector);
    let mut area = |from: u64, length: u64| {
        let from = from.min(size);
        layout
            .areas
            .insert(from..from.saturating_add(length).min(size));
    };
    area(0, sector.saturating_mul(2).saturating_add(array));
    area(
        size.saturating_sub(array.saturating_add(sector)),
        array.saturating_add(sector),
    );
    for header in [table.at, table.other] {
        let at = header.saturating_mul(sector);
        area(at, sector);
        if header > 1 {
            area(at.saturating_sub(array), array);
        }
    }
    area(table.array_at.saturating_mul(sector), array);
    if let Ok(other) = copy(disk, sector, table.other)? {
        area(other.array_at.saturating_mul(sector), array);
    }

    for (index, entry) in table.array.chunks_exact(table.entry).enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        if entry[..16].iter().all(|&byte| byte == 0) {
            continue;
        }
        let (first, end) = (u64_at(entry, 32), u64_at(entry, 40));
        let sectors = (first, end.saturating_sub(first).saturating_add(1));
        match slot(number, sectors, sector, size).filter(|_| first <= end) {
            Some(mut slot) => {
                slot.name = name(entry);
                if first < table.usable.0 || end > table.usable.1 {
                    slot.doubt.get_or_insert_with(|| {
                        "it lies outside of what the GPT leaves to partitions".to_owned()
                    });
                }
                if let Some((_, what)) = NESTED.iter().find(|nested| entry[..16] == nested.0) {
                    slot.doubt.get_or_insert_with(|| is_nested(what));
                }
                layout.slots.push(slot);
            }
            None => layout.notes.push(format!(
                "partition {number} (sectors {first} to {end}) is not on the disk and is left out"
            )),
        }
    }

    // A hybrid MBR names partitions for systems that know no GPT. Mostly the same ones.
    for record in records.iter().filter(|record| !record.is_protective()) {
        let Some(part) = slot(record.number, record.sectors(), sector, size) else {
            continue;
        };
        let known = layout
            .slots
            .iter()
            .any(|slot| slot.start == part.start && slot.size == part.size);
        if !known {
            layout.notes.push(format!(
                "the MBR beside the GPT has a partition of its own (record {}, {} bytes from byte \
                 {}), which is copied whole",
                record.number, part.size, part.start
            ));
            layout.areas.insert(part.start..part.start + part.size);
        }
    }
    Ok(layout)
}
