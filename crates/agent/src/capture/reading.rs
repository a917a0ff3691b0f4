//! What of a disk is taken, and how that is told.

use super::error::CaptureError;
use bugler_fsread::{Content, Part, Ranges, ReadAt, Reading, Survey, SurveyOptions, Unclean};
use bugler_model::Capture;
use bugler_protocol::agent::Capturing;

/// Most lines of [`Capturing::reading`], and their longest, in characters.
const MAX_LINES: usize = 200;
const MAX_LINE: usize = 500;

const MIB: u64 = 1 << 20;

/// The part of a disk that becomes an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Where it begins on the disk, in bytes.
    pub(crate) start: u64,
    /// Its size in bytes: a multiple of the disk's sector.
    pub(crate) size: u64,
    /// What of it is carried, counted from `start`.
    pub(crate) used: Ranges,
    /// How each partition is read, for people.
    pub(crate) lines: Vec<String>,
}

impl Scope {
    /// Looks at the disk and finds what `task` asks for.
    ///
    /// # Errors
    /// [`CaptureError`], before anything is sent.
    pub(crate) fn find(
        disk: &dyn ReadAt,
        name: &str,
        sector_size: u32,
        task: &Capture,
    ) -> Result<Self, CaptureError> {
        let options = SurveyOptions {
            unclean: match task.unclean {
                bugler_model::Unclean::Whole => Unclean::Whole,
                bugler_model::Unclean::Refuse => Unclean::Refuse,
            },
            whole_disk: task.whole,
        };
        let survey = bugler_fsread::survey(disk, sector_size, &options).map_err(|source| {
            let disk = name.into();
            CaptureError::Survey { disk, source }
        })?;
        let sector = u64::from(sector_size);
        let whole = |size: u64| size - size % sector;
        let Some(number) = task.partition else {
            refuse(name, &survey.parts)?;
            return Ok(Self {
                start: 0,
                size: whole(disk.size()),
                lines: lines(&survey),
                used: clip(&survey.used, 0, whole(disk.size())),
            });
        };
        let Some(part) = survey.parts.iter().find(|part| part.number == number) else {
            return Err(CaptureError::NoPartition {
                disk: name.into(),
                number,
                parts: numbers(&survey.parts),
            });
        };
        let part = std::slice::from_ref(part);
        refuse(name, part)?;
        let [Part { start, size, .. }] = part else {
            return Err(CaptureError::NoPartition {
                disk: name.into(),
                number,
                parts: numbers(&survey.parts),
            });
        };
        Ok(Self {
            start: *start,
            size: whole(*size),
            used: clip(&survey.used, *start, whole(*size)),
            // What is noted of the disk is no part of this.
            lines: part.iter().map(describe).collect(),
        })
    }

    /// The lines as a [`Capturing`] carries them.
    pub(crate) fn capturing(&self, disk: String) -> Capturing {
        let mut reading: Vec<String> = self.lines.iter().map(|line| cut(line)).collect();
        if reading.len() > MAX_LINES {
            let left_out = reading.len() - (MAX_LINES - 1);
            reading.truncate(MAX_LINES - 1);
            reading.push(format!("and {left_out} lines more"));
        }
        Capturing {
            disk,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            reading,
        }
    }
}

/// The bytes of `used` in the `size` bytes from `start`, counted from there.
fn clip(used: &Ranges, start: u64, size: u64) -> Ranges {
    let end = start.saturating_add(size);
    used.within(start..end)
        .map(|range| range.start - start..range.end - start)
        .collect()
}

fn refuse(disk: &str, parts: &[Part]) -> Result<(), CaptureError> {
    let refused: Vec<String> = parts
        .iter()
        .filter(|part| matches!(part.reading, Reading::Refused { .. }))
        .map(describe)
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(CaptureError::Unclean {
        disk: disk.into(),
        why: refused.join("; "),
    })
}

fn numbers(parts: &[Part]) -> String {
    let numbers: Vec<String> = parts
        .iter()
        .filter(|part| part.number > 0)
        .map(|part| {
            format!(
                "{} ({}, {} MiB)",
                part.number,
                part.content,
                part.size / MIB
            )
        })
        .collect();
    if numbers.is_empty() {
        "no partitions".into()
    } else {
        numbers.join(", ")
    }
}

fn lines(survey: &Survey) -> Vec<String> {
    let notes = survey.notes.iter().map(|note| format!("note: {note}"));
    survey.parts.iter().map(describe).chain(notes).collect()
}

/// `partition 2: ext4, 512 of 2048 MiB used, by its block bitmap`.
fn describe(part: &Part) -> String {
    let name = part.name.as_deref().filter(|name| !name.is_empty());
    let name = name.map_or(String::new(), |name| format!(" ({name})"));
    let place = match part.number {
        0 => "the disk, which has no partition table".into(),
        number => format!("partition {number}{name}"),
    };
    let (content, size) = (part.content, part.size / MIB);
    match &part.reading {
        Reading::UsedBlocks => {
            let by = match content {
                Content::Ext { .. } => "by its block bitmap",
                Content::Fat { .. } => "by its file allocation table",
                Content::Ntfs => "by its $Bitmap",
                _ => "by its own account",
            };
            let used = part.used.div_ceil(MIB);
            format!("{place}: {content}, {used} of {size} MiB used, {by}")
        }
        Reading::HeaderOnly => format!("{place}: {content}, {size} MiB, its header only"),
        Reading::Whole { why } => format!("{place}: {content}, all of its {size} MiB: {why}"),
        Reading::Refused { why } => format!("{place}: {content}, {size} MiB, refused: {why}"),
    }
}

fn cut(line: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    line.chars().take(MAX_LINE).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, content: Content, reading: Reading) -> Part {
        Part {
            number,
            start: MIB,
            size: 2048 * MIB,
            name: None,
            content,
            reading,
            used: 511 * MIB + 1,
        }
    }

    #[test]
    fn how_a_partition_is_read_is_said_in_a_line() {
        let whole = Reading::Whole {
            why: "its journal was not replayed".into(),
        };
        let cases = [
            (
                part(2, Content::Ext { version: 4 }, Reading::UsedBlocks),
                "partition 2: ext4, 512 of 2048 MiB used, by its block bitmap",
            ),
            (
                part(1, Content::Fat { bits: 32 }, Reading::UsedBlocks),
                "partition 1: FAT32, 512 of 2048 MiB used, by its file allocation table",
            ),
            (
                part(3, Content::Swap, Reading::HeaderOnly),
                "partition 3: swap, 2048 MiB, its header only",
            ),
            (
                part(0, Content::Ext { version: 3 }, whole),
                "the disk, which has no partition table: ext3, all of its 2048 MiB: its journal was \
                 not replayed",
            ),
        ];
        for (part, text) in cases {
            assert_eq!(describe(&part), text);
        }
        let named = Part {
            name: Some("root".into()),
            ..part(5, Content::Ntfs, Reading::UsedBlocks)
        };
        assert_eq!(
            describe(&named),
            "partition 5 (root): NTFS, 512 of 2048 MiB used, by its $Bitmap"
        );
    }

    #[test]
    fn what_is_told_has_its_bounds() {
        let scope = Scope {
            start: 0,
            size: 0,
            used: Ranges::new(),
            lines: (0..300)
                .map(|n| format!("{n}\n{}", "x".repeat(600)))
                .collect(),
        };
        let told = scope.capturing("sda".into()).reading;
        assert_eq!(told.len(), MAX_LINES);
        assert!(
            told.iter()
                .all(|line| line.len() <= MAX_LINE && !line.contains('\n'))
        );
        assert_eq!(told.last().unwrap(), "and 101 lines more");
    }

    #[test]
    fn a_part_of_a_disk_is_counted_from_its_beginning() {
        let used: Ranges = [5..10, 20..30, 90..100].into_iter().collect();
        assert_eq!(clip(&used, 8, 20).as_slice(), [0..2, 12..20]);
        assert_eq!(clip(&used, 0, 100), used);
    }
}
