//! Changes of an MBR, and of the extended boot records of logical partitions (UEFI specification 2.10,
//! section 5.2; Linux's `block/partitions/msdos.c`).

use super::PersonalizeError;
use crate::disk::{AlignedBuf, DiskError, Target};
use std::ops::Deref;

/// Where the four records are; an extended boot record uses the first two.
const RECORDS: [usize; 4] = [446, 462, 478, 494];

/// The types of an extended partition: by CHS, by LBA, Linux's.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Most extended boot records that are followed.
const MAX_CHAIN: usize = 256;

/// A change of one record: the sector it is in, where in it, and its new length in sectors.
type Change = (u64, usize, u32);

/// Makes the partition that begins at sector `first` end at the end of the disk, or after 2^32 sectors of
/// it: an MBR cannot say more. Gives how many sectors it has then; `None` where it has them already.
/// Sectors have `sector` bytes.
///
/// # Errors
/// Where the disk refuses, or the table does not have that partition.
pub(super) fn grow(
    target: &Target,
    sector: u64,
    first: u64,
) -> Result<Option<u64>, PersonalizeError> {
    let end = (target.size() / sector).min(1 << 32);
    let mut read = |at: u64| read(target, sector, at);
    let (length, changes) =
        plan(&mut read, first, end)?.map_err(|why| PersonalizeError::Table {
            disk: target.path().into(),
            why: why.into(),
        })?;
    if changes.is_empty() {
        return Ok(None);
    }
    // From the outside in: what is inside never reaches beyond what is around it.
    for (at, record, length) in changes {
        let mut bytes = read(at)?;
        if let Some(field) = bytes.get_mut(record + 12..record + 16) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        // The end in cylinders, heads and sectors: beyond what can be said.
        if let Some(field) = bytes.get_mut(record + 5..record + 8) {
            field.copy_from_slice(&[0xfe, 0xff, 0xff]);
        }
        target.write_at(&bytes, at * sector)?;
        target.sync()?;
    }
    Ok(Some(length))
}

fn read(target: &Target, sector: u64, at: u64) -> Result<AlignedBuf, DiskError> {
    let mut bytes = AlignedBuf::new(sector as usize);
    target.read_at(&mut bytes, at.saturating_mul(sector))?;
    Ok(bytes)
}

type Plan = Result<(u64, Vec<Change>), &'static str>;

/// What has to change; the new length of the partition with it.
fn plan<B: Deref<Target = [u8]>>(
    read: &mut impl FnMut(u64) -> Result<B, DiskError>,
    first: u64,
    end: u64,
) -> Result<Plan, DiskError> {
    let start = read(0)?;
    let start = &*start;
    let length = end.saturating_sub(first);
    // Nothing is made smaller.
    let change = |changes: &mut Vec<Change>, record: Record, at: u64, start: u64| {
        let wanted = u32::try_from(end.saturating_sub(start)).unwrap_or(u32::MAX);
        if wanted > record.length {
            changes.push((at, record.place, wanted));
        }
    };
    let mut changes = Vec::new();
    let mut extended = None;
    for place in RECORDS {
        let Some(record) = Record::read(start, place) else {
            continue;
        };
        let begins = u64::from(record.first);
        if EXTENDED.contains(&record.kind) {
            let ends = begins + u64::from(record.length);
            if (begins..ends).contains(&first) {
                extended = Some(record);
            }
        } else if begins == first {
            change(&mut changes, record, 0, first);
            return Ok(Ok((length, changes)));
        }
    }
    let Some(extended) = extended else {
        return Ok(Err("its MBR has no such partition"));
    };
    let base = u64::from(extended.first);
    change(&mut changes, extended, 0, base);
    let mut at = base;
    for _ in 0..MAX_CHAIN {
        let sector = read(at)?;
        let logical = Record::read(&sector, RECORDS[0]);
        let link = Record::read(&sector, RECORDS[1]);
        if let Some(logical) = logical
            && at + u64::from(logical.first) == first
        {
            change(&mut changes, logical, at, first);
            return Ok(Ok((length, changes)));
        }
        match link.filter(|link| EXTENDED.contains(&link.kind)) {
            Some(link) => {
                let next = base + u64::from(link.first);
                if next >= end {
                    break;
                }
                // Only the link to the partition that grows.
                let record = read(next)?;
                let leads = Record::read(&record, RECORDS[0])
                    .is_some_and(|logical| next + u64::from(logical.first) == first);
                if leads {
                    change(&mut changes, link, at, next);
                }
                at = next;
            }
            None => break,
        }
    }
    Ok(Err("its logical partitions do not lead to the last one"))
}

/// A record that is in use.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Where it is in its sector.
    place: usize,
    kind: u8,
    first: u32,
    length: u32,
}

impl Record {
    fn read(sector: &[u8], place: usize) -> Option<Self> {
        if sector.get(510..512) != Some(&[0x55, 0xaa]) {
            return None;
        }
        let record = sector.get(place..place + 16)?;
        let number = |at: usize| {
            let field = record.get(at..).and_then(<[u8]>::first_chunk::<4>);
            field.copied().map_or(0, u32::from_le_bytes)
        };
        let kind = *record.get(4)?;
        (kind != 0 && number(12) != 0).then(|| Self {
            place,
            kind,
            first: number(8),
            length: number(12),
        })
    }
}
