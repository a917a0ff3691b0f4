//! The entries of a folder (sections 6 and 7).

use super::geometry::ENTRY;
use crate::bytes::{u16_at, u32_at};

/// Characters of a name in one entry of a long name.
const LONG_PART: usize = 13;
/// Most entries of one long name.
const LONG_PARTS: u8 = 20;

/// A file or folder in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderEntry {
    /// Its name: the long one where it has one.
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    /// Bytes of a file.
    pub(crate) size: u32,
    /// First cluster; 0 for none.
    pub(crate) cluster: u32,
    /// When it was last written: local time of nobody knows where, as seconds since 1970 as if it
    /// were UTC; `None` where there is no such day.
    pub(crate) modified: Option<i64>,
}

/// The entries in the bytes of a folder, without the label, the folder itself and its parent.
pub(crate) fn entries(bytes: &[u8]) -> Vec<FolderEntry> {
    let mut entries = vec![];
    let mut long = LongName::default();
    for raw in bytes.chunks_exact(ENTRY) {
        match raw[0] {
            0 => break,
            0xe5 => {
                long = LongName::default();
                continue;
            }
            _ => {}
        }
        let attributes = raw[11];
        if attributes & 0x3f == 0x0f {
            long.take(raw);
            continue;
        }
        let long = std::mem::take(&mut long);
        // The label of the volume, and the folder itself and its parent.
        if attributes & 0x08 != 0 || raw[0] == b'.' {
            continue;
        }
        let short: [u8; 11] = std::array::from_fn(|at| raw[at]);
        entries.push(FolderEntry {
            name: long
                .finish(&short)
                .unwrap_or_else(|| short_name(&short, raw[12])),
            is_folder: attributes & 0x10 != 0,
            size: u32_at(raw, 28),
            cluster: u32::from(u16_at(raw, 20)) << 16 | u32::from(u16_at(raw, 26)),
            modified: modified(u16_at(raw, 24), u16_at(raw, 22)),
        });
    }
    entries
}

/// Seconds since 1970 of a date and time (section 6.3).
fn modified(date: u16, time: u16) -> Option<i64> {
    let (year, month, day) = (
        1980 + i64::from(date >> 9),
        i64::from(date >> 5 & 15),
        i64::from(date & 31),
    );
    let (hour, minute, second) = (
        i64::from(time >> 11),
        i64::from(time >> 5 & 63),
        i64::from(time & 31) * 2,
    );
    if !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years begin in March here, so that the day of a leap year is their last one.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // 719468 days lie between March 1 of the year 0 and January 1 of 1970.
    Some((((days - 719_468) * 24 + hour) * 60 + minute) * 60 + second)
}

/// A name of more than 8 and 3 letters: entries in front of the file's own, last part first.
#[derive(Default)]
struct LongName {
    /// Parts that are there, the last one first.
    parts: Vec<[u16; LONG_PART]>,
    /// Number of the part that has to come next.
    expected: u8,
    checksum: u8,
}

impl LongName {
    fn take(&mut self, raw: &[u8]) {
        let number = raw[0] & 0x3f;
        if raw[0] & 0x40 != 0 {
            self.parts.clear();
            self.expected = if number <= LONG_PARTS { number } else { 0 };
            self.checksum = raw[13];
        }
        if number == 0 || number != self.expected || raw[13] != self.checksum {
            *self = Self::default();
            return;
        }
        const PLACES: [usize; LONG_PART] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        self.parts.push(PLACES.map(|at| u16_at(raw, at)));
        self.expected -= 1;
    }

    /// The name, where all its parts were there and belong to this short name.
    fn finish(self, short: &[u8; 11]) -> Option<String> {
        let sum = short
            .iter()
            .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.parts.is_empty() || self.expected != 0 || sum != self.checksum {
            return None;
        }
        let letters = self.parts.iter().rev().flatten().copied();
        let letters: Vec<u16> = letters
            .take_while(|letter| !matches!(letter, 0 | 0xffff))
            .collect();
        Some(String::from_utf16_lossy(&letters))
    }
}

/// `START4  ELF` is `start4.elf` where the flags of Windows NT say so, as Linux writes them.
fn short_name(raw: &[u8; 11], flags: u8) -> String {
    let text = |bytes: &[u8], lower: bool| {
        let text: String = bytes.iter().map(|byte| *byte as char).collect();
        let text = text.trim_end().to_owned();
        if lower {
            text.to_ascii_lowercase()
        } else {
            text
        }
    };
    let mut raw = *raw;
    if raw[0] == 0x05 {
        raw[0] = 0xe5;
    }
    let name = text(&raw[..8], flags & 0x08 != 0);
    let extension = text(&raw[8..], flags & 0x10 != 0);
    if extension.is_empty() {
        name
    } else {
        format!("{name}.{extension}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_since_1970() {
        // 2024-02-29 23:59:58, as `date -ud '2024-02-29 23:59:58' +%s` has it.
        let (date, time) = (44 << 9 | 2 << 5 | 29, 23 << 11 | 59 << 5 | 29);
        assert_eq!(modified(date, time), Some(1_709_251_198));
        assert_eq!(modified(1 << 5 | 1, 0), Some(315_532_800));
        assert_eq!(modified(0, 0), None);
        assert_eq!(modified(1 << 5 | 1, 30), None);
    }
}
