//! The last partition of a disk, and its filesystem, grow to the end of the disk.

use super::table::Table;
use super::{PersonalizeError, Place, fat, kernel_name, mbr};
use crate::blkdev;
use crate::deploy::reread_partitions;
use crate::disk::{Access, Target};
use crate::mounted::Purpose;
use bugler_fsread::{Content, Part, Reading, SurveyOptions, survey};
use rustix::fs::fstatvfs;

/// Grows them.
pub(super) fn run(place: Place<'_>) -> Result<(), PersonalizeError> {
    let log = place.log;
    let target = Target::open(place.disk, Access::Write)?;
    let found =
        survey(&target, place.sector_size, &SurveyOptions::default()).map_err(|source| {
            PersonalizeError::Survey {
                disk: place.disk.into(),
                source,
            }
        })?;
    let Some(last) = found.parts.last() else {
        log.line("nothing grows: the disk has no partition");
        return Ok(());
    };
    let mut part = last.clone();
    let name = place.name(&part);
    // It has its own account at its end, and would not be found again.
    if matches!(part.content, Content::MdRaid | Content::FirmwareRaid) {
        log.line(format!(
            "{name} does not grow: it is a member of a RAID, which can have its header at its end"
        ));
        return Ok(());
    }
    let before = part.size;
    match found.table {
        bugler_fsread::Table::Gpt => grow_gpt(place, &target, &mut part)?,
        bugler_fsread::Table::Mbr => {
            let sector = u64::from(place.sector_size);
            if let Some(length) = mbr::grow(&target, sector, part.start / sector)? {
                part.size = length * sector;
            }
        }
        bugler_fsread::Table::None => part.size = target.size(),
    }
    if part.size > before {
        log.line(format!(
            "{name} has grown from {before} to {} bytes",
            part.size
        ));
    } else {
        log.line(format!("{name} reaches to the end of the disk already"));
    }
    let is_block = target.is_block();
    drop(target);
    if is_block && part.number > 0 {
        reread_partitions(place.disk, log);
    }
    place.check_halt()?;
    match part.content {
        Content::Ext { .. } => grow_ext(place, &part),
        Content::Fat { bits } => grow_fat(place, &part, bits),
        content => {
            log.line(format!("what is in {name} is left as it is: {content}"));
            Ok(())
        }
    }
}

fn grow_gpt(place: Place<'_>, target: &Target, part: &mut Part) -> Result<(), PersonalizeError> {
    let table = Table::read(place, target)?;
    let sector = u64::from(place.sector_size);
    let first = part.start / sector;
    let used = table.used();
    let Some(&at) = used.iter().find(|&&at| table.first(at) == first) else {
        return Err(PersonalizeError::Table {
            disk: place.disk.into(),
            why: format!("its GPT has no partition at sector {first}"),
        });
    };
    if table.last_usable <= table.last(at) {
        return Ok(());
    }
    let mut entries = table.entries.clone();
    if let Some(field) = entries.get_mut(at + 40..at + 48) {
        field.copy_from_slice(&table.last_usable.to_le_bytes());
    }
    table.write(place, target, &entries, table.guid())?;
    part.size = (table.last_usable + 1 - first) * sector;
    Ok(())
}

/// The kernel grows it while it is mounted: with the journal, and checks of its own.
fn grow_ext(place: Place<'_>, part: &Part) -> Result<(), PersonalizeError> {
    let (name, kind) = (place.name(part), part.content.to_string());
    let cannot = |action| {
        let (kind, part) = (kind.clone(), name.clone());
        move |source| PersonalizeError::Filesystem {
            action,
            kind,
            part,
            source,
        }
    };
    let driver = kernel_name(part.content).unwrap_or("ext4");
    let mounted = place
        .mount(part, driver, &[], Purpose::Write)
        .map_err(cannot("mount"))?;
    let measure = || fstatvfs(mounted.root()).map_err(std::io::Error::from);
    let before = measure().map_err(cannot("measure"))?;
    let blocks = part.size / before.f_bsize.max(1);
    blkdev::resize_ext4(mounted.root(), blocks).map_err(|error| PersonalizeError::CannotGrow {
        part: name.clone(),
        kind: kind.clone(),
        why: format!("the kernel refuses {blocks} blocks: {error}"),
    })?;
    mounted.sync().map_err(cannot("flush"))?;
    let after = measure().map_err(cannot("measure"))?;
    place.log.line(format!(
        "the {kind} filesystem of {name} has grown: it has room for {} bytes, and had for {}",
        after.f_blocks * after.f_bsize,
        before.f_blocks * before.f_bsize,
    ));
    Ok(())
}

fn grow_fat(place: Place<'_>, part: &Part, bits: u8) -> Result<(), PersonalizeError> {
    let name = place.name(part);
    // Only where the reader of used blocks believes the table is it believed here.
    if let Reading::Whole { why } | Reading::Refused { why } = &part.reading {
        return Err(PersonalizeError::CannotGrow {
            part: name,
            kind: part.content.to_string(),
            why: why.clone(),
        });
    }
    let target = Target::open(place.disk, Access::Write)?;
    let grown = fat::grow(&target, part.start, part.size, bits, place.halt)?;
    let kind = part.content;
    place.log.line(match grown {
        Ok(grown) => format!(
            "the {kind} filesystem of {name} has grown from {} to {} clusters{}",
            grown.before,
            grown.after,
            if grown.at_limit {
                ", which is as many as its kind can have"
            } else {
                ""
            }
        ),
        Err(why) => format!("the {kind} filesystem of {name} is left as it is: {why}"),
    });
    Ok(())
}
