//! Grows a FAT filesystem that nobody has mounted (Microsoft's "FAT: General Overview of On-Disk
//! Format" 1.03).
//!
//! More clusters need larger tables, and the clusters lie right behind the tables: all of them move up.
//! Their numbers stay, so that nothing that names a cluster has to change. They are moved from the last
//! one down, and the boot sector is written at the end. An interrupted move leaves no filesystem: a
//! deploy that was interrupted writes the image again.

use super::PersonalizeError;
use crate::disk::{AlignedBuf, DiskError, Target};
use crate::stop::Stop;
use std::ops::Range;

/// How much is moved by one read and one write, in bytes.
const STEP: u64 = 1 << 20;

/// Largest table that is held in memory, in bytes: that of 2 TiB in clusters of 128 KiB.
const MAX_TABLE: u64 = 64 << 20;

/// What became of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grown {
    /// How many clusters it had.
    pub(super) before: u64,
    /// How many it has.
    pub(super) after: u64,
    /// It cannot have more.
    pub(super) at_limit: bool,
}

/// What lies where, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    bits: u64,
    /// Bytes of a sector, and sectors of a cluster.
    sector: u64,
    per_cluster: u64,
    reserved: u64,
    tables: u64,
    table: u64,
    root: u64,
    total: u64,
}

impl Layout {
    fn read(boot: &[u8], bits: u8) -> Option<Self> {
        let u16_at = |at: usize| {
            let field = boot.get(at..).and_then(<[u8]>::first_chunk::<2>);
            field.copied().map_or(0, u16::from_le_bytes)
        };
        let (sector, per_cluster) = (u64::from(u16_at(11)), u64::from(*boot.get(13)?));
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return None;
        }
        if !per_cluster.is_power_of_two() || ![12, 16, 32].contains(&bits) {
            return None;
        }
        let layout = Self {
            bits: bits.into(),
            sector,
            per_cluster,
            reserved: u16_at(14).into(),
            tables: u64::from(*boot.get(16)?),
            table: match u16_at(22) {
                0 => u32_at(boot, 36).into(),
                sectors => sectors.into(),
            },
            root: (u64::from(u16_at(17)) * 32).div_ceil(sector),
            total: match u16_at(19) {
                0 => u32_at(boot, 32).into(),
                sectors => sectors.into(),
            },
        };
        let is_whole = layout.reserved > 0
            && layout.tables > 0
            && layout.table > 0
            && layout.total > layout.data()
            && layout.clusters() > 0
            && layout.table * sector >= layout.filled();
        is_whole.then_some(layout)
    }

    /// Where the first cluster begins.
    fn data(&self) -> u64 {
        self.behind_tables() + self.root
    }

    fn behind_tables(&self) -> u64 {
        self.reserved + self.tables * self.table
    }

    fn clusters(&self) -> u64 {
        self.total.saturating_sub(self.data()) / self.per_cluster
    }

    /// Bytes of a table that its entries fill.
    fn filled(&self) -> u64 {
        ((self.clusters() + 2) * self.bits).div_ceil(8)
    }

    /// The most clusters that a filesystem of this kind has (section 3.5).
    fn limit(&self) -> u64 {
        match self.bits {
            12 => 4084,
            16 => 65_524,
            _ => 0x0fff_fff4,
        }
    }

    /// The same filesystem in `size` bytes; `None` where it does not become larger.
    fn grown(&self, size: u64) -> Option<Self> {
        let total = (size / self.sector).min(u32::MAX.into());
        let mut new = Self { total, ..*self };
        // Whole clusters are added before the data, so that they stay as aligned as they were.
        let step = self.per_cluster.div_ceil(self.tables.min(2)).max(1);
        let step = if (step * self.tables).is_multiple_of(self.per_cluster) {
            step
        } else {
            self.per_cluster
        };
        loop {
            if new.clusters() > self.limit() {
                new.total = new.data() + self.limit() * self.per_cluster;
            }
            let needed = new.filled().div_ceil(self.sector);
            if needed <= new.table {
                break;
            }
            new.table = self.table + (needed - self.table).next_multiple_of(step);
            new.total = total;
            if new.data() >= total {
                return None;
            }
        }
        (new.clusters() > self.clusters()).then_some(new)
    }

    /// Byte ranges, from the beginning of the filesystem, of what lies behind the tables and is in use,
    /// upwards.
    fn used(&self, table: &[u8]) -> Vec<Range<u64>> {
        let mut used: Vec<Range<u64>> = Vec::new();
        let mut add = |range: Range<u64>| match used.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => used.push(range),
        };
        add(self.behind_tables() * self.sector..self.data() * self.sector);
        for n in 0..self.clusters() {
            if entry(table, n + 2, self.bits) != 0 {
                let start = (self.data() + n * self.per_cluster) * self.sector;
                add(start..start + self.per_cluster * self.sector);
            }
        }
        used
    }
}

/// An entry of a table.
fn entry(table: &[u8], number: u64, bits: u64) -> u32 {
    let byte = |at: u64| -> u32 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        table.get(at).copied().unwrap_or(0).into()
    };
    match bits {
        12 => {
            let at = number + number / 2;
            let pair = byte(at) | byte(at + 1) << 8;
            if number.is_multiple_of(2) {
                pair & 0xfff
            } else {
                pair >> 4
            }
        }
        16 => byte(number * 2) | byte(number * 2 + 1) << 8,
        _ => {
            let at = number * 4;
            let word = byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16 | byte(at + 3) << 24;
            word & 0x0fff_ffff
        }
    }
}

/// Grows the filesystem at byte `start` of a disk to `size` bytes, or as far as its kind can. `bits` is
/// its kind: 12, 16 or 32. Says why, where it is left as it is.
///
/// # Errors
/// Where the disk refuses, or the task ends meanwhile: then there is no filesystem any more.
pub(super) fn grow(
    target: &Target,
    start: u64,
    size: u64,
    bits: u8,
    halt: &Stop,
) -> Result<Result<Grown, String>, PersonalizeError> {
    let boot = read(target, start, 512)?;
    let Some(old) = Layout::read(&boot, bits) else {
        return Ok(Err("its boot sector contradicts itself".into()));
    };
    let Some(new) = old.grown(size) else {
        let why = if old.clusters() >= old.limit() {
            format!("it has as many clusters as a FAT{bits} can have")
        } else {
            "there is not enough room behind it".into()
        };
        return Ok(Err(why));
    };
    if old.table * old.sector > MAX_TABLE {
        return Ok(Err(format!("its table is larger than {MAX_TABLE} bytes")));
    }
    // The table that counts, where they are not kept the same (`BPB_ExtFlags`).
    let flags = boot.get(40).copied().unwrap_or(0);
    let active = match bits {
        32 if flags & 0x80 != 0 => u64::from(flags & 0x0f),
        _ => 0,
    };
    let table_at = start + (old.reserved + active * old.table) * old.sector;
    let mut table = read(target, table_at, old.table * old.sector)?.to_vec();
    trim(&mut table, &old);

    let up = (new.behind_tables() - old.behind_tables()) * old.sector;
    if up > 0 {
        let mut buffer = AlignedBuf::new(STEP as usize);
        for range in old.used(&table).into_iter().rev() {
            let mut end = range.end;
            while end > range.start {
                if halt.is_set() {
                    return Err(PersonalizeError::Halted);
                }
                let from = end.saturating_sub(STEP).max(range.start);
                let piece = &mut buffer[..(end - from) as usize];
                target.read_at(piece, start + from)?;
                target.write_at(piece, start + from + up)?;
                end = from;
            }
        }
        target.sync()?;
    }
    let mut used = 0;
    for n in 0..old.clusters() {
        used += u64::from(entry(&table, n + 2, old.bits) != 0);
    }
    write_tables(target, start, &table, &new)?;
    target.sync()?;
    write_boot(target, start, &boot, &new, new.clusters() - used)?;
    target.sync()?;
    Ok(Ok(Grown {
        before: old.clusters(),
        after: new.clusters(),
        at_limit: new.clusters() == new.limit(),
    }))
}

/// Takes away what lies in a table behind its last entry.
fn trim(table: &mut [u8], layout: &Layout) {
    let filled = usize::try_from(layout.filled()).unwrap_or(usize::MAX);
    if let Some(rest) = table.get_mut(filled..) {
        rest.fill(0);
    }
    // The last byte of a FAT12 with an odd number of entries has half of another.
    if layout.bits == 12
        && !layout.clusters().is_multiple_of(2)
        && let Some(last) = filled.checked_sub(1).and_then(|at| table.get_mut(at))
    {
        *last &= 0x0f;
    }
}

fn write_tables(target: &Target, start: u64, table: &[u8], new: &Layout) -> Result<(), DiskError> {
    let len = new.table * new.sector;
    for n in 0..new.tables {
        let at = start + (new.reserved + n * new.table) * new.sector;
        write(target, at, table)?;
        target.zero(at + table.len() as u64, at + len)?;
    }
    Ok(())
}

/// Writes the boot sector, its copy, and how many clusters are free.
fn write_boot(
    target: &Target,
    start: u64,
    boot: &[u8],
    new: &Layout,
    free: u64,
) -> Result<(), DiskError> {
    let number = |at: usize| u64::from(u32_at(boot, at) & 0xffff);
    let mut copies = vec![0];
    let mut infos = Vec::new();
    if new.bits == 32 {
        let (info, copy) = (number(48), number(50));
        let is_inside = |sector: u64| (1..new.reserved).contains(&sector);
        infos.extend(Some(info).filter(|&info| is_inside(info)));
        if is_inside(copy) {
            copies.push(copy);
            infos.extend(Some(copy + info).filter(|&info| is_inside(info)));
        }
    }
    for sector in infos {
        let at = start + sector * new.sector;
        let mut info = read(target, at, new.sector)?;
        if info.starts_with(b"RRaA") && info.get(484..488) == Some(b"rrAa") {
            let free = u32::try_from(free).unwrap_or(u32::MAX);
            put(&mut info, 488, &free.to_le_bytes());
            target.write_at(&info, at)?;
        }
    }
    // The copy first: the boot sector itself is what makes all of this count.
    for sector in copies.into_iter().rev() {
        let at = start + sector * new.sector;
        let mut bytes = read(target, at, new.sector)?;
        if bytes.get(510..512) == Some(&[0x55, 0xaa]) {
            set_size(&mut bytes, new);
            target.write_at(&bytes, at)?;
        }
    }
    Ok(())
}

fn set_size(boot: &mut [u8], new: &Layout) {
    let total = u32::try_from(new.total).unwrap_or(u32::MAX);
    match u16::try_from(new.total) {
        Ok(total) if new.bits != 32 => {
            put(boot, 19, &total.to_le_bytes());
            put(boot, 32, &[0; 4]);
        }
        _ => {
            put(boot, 19, &[0; 2]);
            put(boot, 32, &total.to_le_bytes());
        }
    }
    if new.bits == 32 {
        let table = u32::try_from(new.table).unwrap_or(u32::MAX);
        put(boot, 36, &table.to_le_bytes());
    } else {
        let table = u16::try_from(new.table).unwrap_or(u16::MAX);
        put(boot, 22, &table.to_le_bytes());
    }
}

fn read(target: &Target, at: u64, len: u64) -> Result<AlignedBuf, DiskError> {
    let mut bytes = AlignedBuf::new(usize::try_from(len).unwrap_or(0));
    target.read_at(&mut bytes, at)?;
    Ok(bytes)
}

fn write(target: &Target, at: u64, content: &[u8]) -> Result<(), DiskError> {
    let mut bytes = AlignedBuf::new(content.len());
    bytes.copy_from_slice(content);
    target.write_at(&bytes, at)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    field.copied().map_or(0, u32::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Plans the growth of whatever `bytes` hold as a boot sector and a table. For fuzzing: it must not
/// panic on anything.
pub fn fuzz(bytes: &[u8], bits: u8, size: u64) {
    let Some(old) = Layout::read(bytes, bits) else {
        return;
    };
    if let Some(new) = old.grown(size) {
        assert!(new.clusters() > old.clusters() && new.clusters() <= new.limit());
        assert!(new.total * new.sector <= size);
        assert!(new.table * new.sector >= new.filled());
        assert!(new.data() >= old.data());
    }
    if old.clusters() < 1 << 16 {
        let mut table = bytes.to_vec();
        trim(&mut table, &old);
        let used = old.used(&table);
        assert!(used.is_sorted_by(|a, b| a.end < b.start));
    }
}

#[cfg(test)]
mod tests;
