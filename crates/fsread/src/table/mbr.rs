//! The master boot record, and the chain of extended boot records that holds logical partitions.
//!
//! There is no standard; UEFI specification 2.10, section 5.2 describes the record, and Linux's
//! `block/partitions/msdos.c` is what counts the logical partitions.

use super::{Layout, is_nested, slot};
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at};
use crate::survey::{SurveyError, Table, read};
use std::collections::HashSet;

/// Where the four records are.
const RECORDS: [usize; 4] = [446, 462, 478, 494];
/// The type of the record that keeps others off a GPT.
const PROTECTIVE: u8 = 0xee;
/// The types of an extended partition: by CHS, by LBA, Linux's.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Partitions with a table of their own inside, which is not read: what is at their beginning need
/// not be all.
const NESTED: [(u8, &str); 7] = [
    (0x42, "a dynamic disk of Windows"),
    (0x81, "a table of Minix"),
    (0xa5, "a BSD disklabel"),
    (0xa6, "a BSD disklabel"),
    (0xa8, "a table of Darwin"),
    (0xa9, "a BSD disklabel"),
    (0xbf, "a label of Solaris"),
];
/// Most extended boot records that are followed: Linux takes fewer partitions of a disk.
const MAX_CHAIN: usize = 256;

/// A record that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// 1 to 4.
    pub(super) number: u32,
    kind: u8,
    /// First sector.
    pub(super) first: u64,
    count: u64,
}

impl Record {
    pub(super) fn is_protective(&self) -> bool {
        self.kind == PROTECTIVE
    }

    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind)
    }

    /// First sector, and how many there are.
    pub(super) fn sectors(&self) -> (u64, u64) {
        (self.first, self.count)
    }
}

/// The records of a boot record that are in use, and whether each of the four could be a record.
fn used_records(bytes: &[u8]) -> (Vec<Record>, bool) {
    let mut possible = true;
    let mut used = Vec::new();
    for (number, at) in (1..).zip(RECORDS) {
        let Some(record) = bytes.get(at..at + 16) else {
            continue;
        };
        possible &= record[0] & 0x7f == 0;
        let (kind, count) = (record[4], u64::from(u32_at(record, 12)));
        if kind != 0 && count != 0 {
            used.push(Record {
                number,
                kind,
                first: u64::from(u32_at(record, 8)),
                count,
            });
        }
    }
    (used, possible)
}

/// The records of an MBR: `None` where `first` cannot be one, or has none.
pub(super) fn records(first: &[u8], sector: u64, size: u64) -> Option<Vec<Record>> {
    let (used, possible) = used_records(first);
    let on_disk = used
        .iter()
        .any(|record| record.first.saturating_mul(sector) < size);
    (possible && on_disk).then_some(used)
}

/// Reads the table that these records are.
pub(super) fn layout(
    disk: &dyn ReadAt,
    sector: u64,
    records: &[Record],
) -> Result<Layout, SurveyError> {
    let size = disk.size();
    let mut layout = Layout::new(Table::Mbr);
    layout.areas.insert(0..sector.min(size));
    for record in records.iter().filter(|record| !record.is_extended()) {
        push(
            &mut layout,
            record.number,
            record.sectors(),
            record.kind,
            (sector, size),
        );
    }
    let mut number = 5;
    for record in records.iter().filter(|record| record.is_extended()) {
        if let Err(why) = chain(disk, sector, *record, &mut number, &mut layout)? {
            let start = record.first.saturating_mul(sector).min(size);
            let end = start
                .saturating_add(record.count.saturating_mul(sector))
                .min(size);
            layout.areas.insert(start..end);
            layout.notes.push(format!(
                "the logical partitions of partition {} cannot be relied on ({why}): it is copied \
                 whole",
                record.number
            ));
        }
    }
    Ok(layout)
}

/// Adds a partition of a disk with sectors and a size of so many bytes.
fn push(
    layout: &mut Layout,
    number: u32,
    sectors: (u64, u64),
    kind: u8,
    (sector, size): (u64, u64),
) {
    match slot(number, sectors, sector, size) {
        Some(mut slot) => {
            if let Some((_, what)) = NESTED.iter().find(|nested| nested.0 == kind) {
                slot.doubt.get_or_insert_with(|| is_nested(what));
            }
            layout.slots.push(slot);
        }
        None => layout.notes.push(format!(
            "partition {number} ({} sectors from sector {}) is not on the disk and is left out",
            sectors.1, sectors.0
        )),
    }
}

/// Follows the chain of an extended partition: the logical partitions that were found are added; or
/// what is wrong with the chain.
fn chain(
    disk: &dyn ReadAt,
    sector: u64,
    extended: Record,
    number: &mut u32,
    layout: &mut Layout,
) -> Result<Result<(), String>, SurveyError> {
    let size = disk.size();
    let end = extended.first.saturating_add(extended.count);
    let mut seen = HashSet::new();
    let mut at = extended.first;
    loop {
        if !seen.insert(at) {
            return Ok(Err(format!("sector {at} comes twice in the chain")));
        }
        if seen.len() > MAX_CHAIN {
            return Ok(Err(format!("the chain has more than {MAX_CHAIN} links")));
        }
        let place = at.saturating_mul(sector);
        let what = format!("the extended boot record in sector {at}");
        let Some(bytes) = read(disk, &what, place, 512)? else {
            return Ok(Err(format!("sector {at} is not on the disk")));
        };
        let (records, possible) = used_records(&bytes);
        if u16_at(&bytes, 510) != 0xaa55 || !possible {
            return Ok(Err(format!("sector {at} has no boot record")));
        }
        layout
            .areas
            .insert(place..place.saturating_add(sector).min(size));

        // A partition counts from its own boot record, a link from the first one.
        for record in records.iter().filter(|record| !record.is_extended()) {
            let first = at.saturating_add(record.first);
            if first.saturating_add(record.count) > end {
                return Ok(Err(format!(
                    "the logical partition in sector {first} goes beyond it"
                )));
            }
            let sectors = (first, record.count);
            push(layout, *number, sectors, record.kind, (sector, size));
            *number = number.saturating_add(1);
        }
        let Some(link) = records.iter().find(|record| record.is_extended()) else {
            return Ok(Ok(()));
        };
        at = extended.first.saturating_add(link.first);
        if at >= end {
            return Ok(Err(format!("the chain goes on in sector {at}, beyond it")));
        }
    }
}
