//! What of a disk an image must carry.

use crate::content::{Content, Reading};
use crate::probe::{Probe, probe};
use crate::table::{Slot, layout};
use crate::usage::{Gather, Unusable};
use crate::{Ranges, ReadAt, Window, ext, fat, ntfs, swap};
use std::fmt;
use std::io;
use std::ops::Range;

/// What was found on a disk, and what of it an image must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its partition table.
    pub table: Table,
    /// Its partitions by where they begin; one that has the number 0 and is the whole disk where
    /// there is no table.
    pub parts: Vec<Part>,
    /// The bytes of the disk that an image must carry. Every other byte may read as anything after a
    /// restore; an image says zero.
    pub used: Ranges,
    /// What the operator should know: damage that was found, space that is left out. Sentences
    /// without a full stop.
    pub notes: Vec<String>,
}

impl Survey {
    /// The partitions that are refused: there is something only for [`Unclean::Refuse`].
    pub fn refused(&self) -> impl Iterator<Item = &Part> {
        self.parts
            .iter()
            .filter(|part| matches!(part.reading, Reading::Refused { .. }))
    }
}

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// GUID partition table.
    Gpt,
    /// Master boot record, with logical partitions or without.
    Mbr,
    /// No table that is known.
    None,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpt => "GPT",
            Self::Mbr => "MBR",
            Self::None => "no table",
        })
    }
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number as Linux counts: the slot of a GPT or MBR, from 5 for logical partitions; 0 for a
    /// disk without a table.
    pub number: u32,
    /// Where it begins, in bytes from the beginning of the disk.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its name in a GPT, where it has one.
    pub name: Option<String>,
    /// What it holds.
    pub content: Content,
    /// How it is read.
    pub reading: Reading,
    /// How many of its bytes an image must carry.
    pub used: u64,
}

/// What to do with a filesystem that is not clean: not unmounted, its journal not replayed,
/// hibernated. What it counts as used may be wrong until its system has run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unclean {
    /// Carry every byte of it.
    #[default]
    Whole,
    /// Carry none of it, and say so: [`Reading::Refused`].
    Refuse,
}

/// How to look at a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SurveyOptions {
    /// What to do with filesystems that are not clean.
    pub unclean: Unclean,
    /// Carry every byte of the disk, whatever is on it.
    pub whole_disk: bool,
}

/// Why a disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The disk has no bytes.
    #[error("there is nothing to read: its size is 0 bytes")]
    NoBytes,
    /// No disk has sectors like that.
    #[error("a sector of {0} bytes is not possible: give a power of two from 512 to 65536")]
    SectorSize(u32),
    /// The disk cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: String,
        /// What reading gave.
        #[source]
        source: io::Error,
    },
}

/// Space without a partition that is carried nevertheless, in bytes: loaders and the metadata of what
/// lies under a filesystem like to be there.
const SMALL_GAP: u64 = 16 << 20;
/// How much of the end of a partition behind its filesystem is carried in any case, in bytes.
const LAST: u64 = 1 << 20;

/// Finds out what of a disk an image must carry. `sector_size` is the size of its logical sectors in
/// bytes.
///
/// # Errors
/// Where the disk cannot be read. Damage is no error: what it concerns is carried whole.
pub fn survey(
    disk: &dyn ReadAt,
    sector_size: u32,
    options: &SurveyOptions,
) -> Result<Survey, SurveyError> {
    if !sector_size.is_power_of_two() || !(512..=65536).contains(&sector_size) {
        return Err(SurveyError::SectorSize(sector_size));
    }
    let size = disk.size();
    if size == 0 {
        return Err(SurveyError::NoBytes);
    }
    let bare = probe(disk)?;
    let mut layout = layout(disk, u64::from(sector_size), bare.is_bare_volume())?;
    if layout.table == Table::None && layout.doubt.is_none() {
        return survey_partition(disk, options);
    }
    if layout.doubt.is_none() && layout.slots.is_empty() {
        layout.doubt = Some(format!("its {} has no partition", layout.table));
    }
    if layout.doubt.is_none() && bare.found() {
        layout.doubt = Some(format!(
            "beside its {} the disk itself has the mark of {}",
            layout.table,
            list(&bare.marks)
        ));
    }
    if let Some(why) = &layout.doubt {
        layout
            .notes
            .push(format!("every byte of the disk is carried: {why}"));
    }
    if layout.slots.is_empty() {
        layout.slots.push(Slot::whole_disk(size));
    }
    layout.slots.sort_by_key(|slot| (slot.start, slot.number));
    doubt_overlaps(&mut layout.slots);

    let mut survey = Survey {
        table: layout.table,
        parts: Vec::new(),
        used: Ranges::new(),
        notes: layout.notes,
    };
    let everything = options.whole_disk || layout.doubt.is_some();
    let mut used = Gather::new();
    // Behind the last byte that was dealt with, and who that belongs to.
    let mut at = 0;
    let mut before = None;
    for slot in layout.slots {
        let gap = at..slot.start.max(at);
        // A loader before the first partition can have any length.
        if !everything {
            survey.gap(&mut used, gap, before, Some(slot.number));
        }
        let window = Window::new(disk, slot.start, slot.size);
        let doubt = layout.doubt.clone().or(slot.doubt);
        let (part, ranges) = survey.part(&window, slot.number, doubt, options)?;
        for range in ranges.as_slice() {
            let range = slot.start + range.start..slot.start + range.end;
            used.add(range.start.max(at)..range.end);
        }
        survey.parts.push(Part {
            start: slot.start,
            name: slot.name,
            ..part
        });
        at = at.max(slot.start + slot.size);
        before = Some(slot.number);
    }
    if everything {
        survey.used = std::iter::once(0..size).collect();
    } else {
        survey.gap(&mut used, at..size, before, None);
        survey.used = used.finish();
        for area in layout.areas.as_slice() {
            survey.used.insert(area.clone());
        }
    }
    if let [disk] = survey.parts.as_mut_slice()
        && disk.number == 0
    {
        disk.content = bare.content;
    }
    survey.count();
    Ok(survey)
}

/// Finds out what of one partition, or of a disk that is known to have no table, an image must
/// carry. All places are counted from the beginning of `source`.
///
/// # Errors
/// Where it cannot be read. Damage is no error: what it concerns is carried whole.
pub fn survey_partition(
    source: &dyn ReadAt,
    options: &SurveyOptions,
) -> Result<Survey, SurveyError> {
    if source.size() == 0 {
        return Err(SurveyError::NoBytes);
    }
    let mut survey = Survey {
        table: Table::None,
        parts: Vec::new(),
        used: Ranges::new(),
        notes: Vec::new(),
    };
    let (part, used) = survey.part(source, 0, None, options)?;
    survey.parts.push(part);
    survey.used = used;
    survey.count();
    Ok(survey)
}

impl Survey {
    /// Adds the gap behind partition `before` to `used`, where it is small or the first one.
    fn gap(
        &mut self,
        used: &mut Gather,
        gap: Range<u64>,
        before: Option<u32>,
        behind: Option<u32>,
    ) {
        let length = gap.end.saturating_sub(gap.start);
        let Some(before) = before.filter(|_| length > SMALL_GAP) else {
            used.add(gap);
            return;
        };
        let place = match behind {
            Some(behind) => format!("between partition {before} and partition {behind}"),
            None => format!("behind partition {before}"),
        };
        self.notes.push(format!(
            "{} {place} belong to no partition and are left out",
            Bytes(length)
        ));
    }

    /// Finds out what of one partition is carried: in bytes of `source`.
    fn part(
        &mut self,
        source: &dyn ReadAt,
        number: u32,
        doubt: Option<String>,
        options: &SurveyOptions,
    ) -> Result<(Part, Ranges), SurveyError> {
        let size = source.size();
        // What overlaps others or ends elsewhere is not looked into.
        let probe = match doubt {
            None => probe(source)?,
            Some(_) => Probe::unknown(),
        };
        let part = |reading| Part {
            number,
            start: 0,
            size,
            name: None,
            content: probe.content,
            reading,
            used: 0,
        };
        let whole = |why: String| {
            let all = std::iter::once(0..size).collect();
            Ok((part(Reading::Whole { why }), all))
        };
        if options.whole_disk {
            return whole("every byte was asked for".into());
        }
        if let Some(why) = doubt {
            return whole(why);
        }
        let (usage, reading) = match probe.content {
            Content::Ext { .. } => (ext::used(source), Reading::UsedBlocks),
            Content::Fat { .. } => (fat::used(source), Reading::UsedBlocks),
            Content::Ntfs => (ntfs::used(source), Reading::UsedBlocks),
            Content::Swap => (swap::used(source), Reading::HeaderOnly),
            Content::Several => {
                return whole(format!(
                    "it has the marks of {} at once",
                    list(&probe.marks)
                ));
            }
            Content::Unknown => return whole("what it holds is not known".into()),
            Content::Empty => {
                return whole("its beginning is zero, which says nothing of the rest".into());
            }
            content => return whole(format!("used blocks of {content} are not read")),
        };
        let usage = match usage {
            Ok(usage) => usage,
            Err(Unusable::Damaged(why)) => return whole(why),
            // The partition was there when it was probed: something points beyond its end.
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return whole(format!("{} points beyond its end", probe.content));
            }
            Err(Unusable::Io(source)) => {
                return Err(SurveyError::Read {
                    what: match number {
                        0 => format!("the {} of the disk", probe.content),
                        _ => format!("the {} of partition {number}", probe.content),
                    },
                    source,
                });
            }
        };
        if let Err(why) = usage.clean {
            return match options.unclean {
                Unclean::Whole => whole(why),
                Unclean::Refuse => Ok((part(Reading::Refused { why }), Ranges::new())),
            };
        }
        let mut used = usage.used;
        if let Some(end) = probe.end.filter(|_| reading == Reading::UsedBlocks) {
            let rest = size - end;
            let from = if rest <= SMALL_GAP { end } else { size - LAST };
            used.insert(from..size);
            if rest > SMALL_GAP {
                let place = match number {
                    0 => "of the disk".to_owned(),
                    _ => format!("of partition {number}"),
                };
                self.notes.push(format!(
                    "{} {place} lie behind its {} and are left out, but for the last {}",
                    Bytes(rest),
                    probe.content,
                    Bytes(LAST)
                ));
            }
        }
        Ok((part(reading), used))
    }

    /// Counts what is carried of each partition.
    fn count(&mut self) {
        for part in &mut self.parts {
            let bytes = self.used.within(part.start..part.start + part.size);
            part.used = bytes.map(|range| range.end - range.start).sum();
        }
    }
}

/// Partitions that share bytes: neither's content can be relied on. They are sorted by their start.
fn doubt_overlaps(slots: &mut [Slot]) {
    let mut furthest: Option<usize> = None;
    for index in 0..slots.len() {
        let Some(other) = furthest else {
            furthest = Some(index);
            continue;
        };
        let end = |slot: &Slot| slot.start + slot.size;
        let (here, there) = (slots[index].number, slots[other].number);
        if slots[index].start < end(&slots[other]) {
            for (slot, with) in [(index, there), (other, here)] {
                slots[slot]
                    .doubt
                    .get_or_insert_with(|| format!("it overlaps partition {with}"));
            }
        }
        if end(&slots[index]) > end(&slots[other]) {
            furthest = Some(index);
        }
    }
}

/// Reads `length` bytes; `None` where the source ends before.
pub(crate) fn read(
    source: &dyn ReadAt,
    what: &str,
    offset: u64,
    length: usize,
) -> Result<Option<Vec<u8>>, SurveyError> {
    let end = offset.checked_add(length as u64);
    if end.is_none_or(|end| end > source.size()) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    source
        .read_at(offset, &mut bytes)
        .map_err(|source| SurveyError::Read {
            what: format!("{what} ({length} bytes from byte {offset})"),
            source,
        })?;
    Ok(Some(bytes))
}

/// `ext4 and swap`.
fn list(contents: &[Content]) -> String {
    let names: Vec<String> = contents.iter().map(Content::to_string).collect();
    names.join(" and ")
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}
