//! Changes of a GPT.

use super::{PersonalizeError, Place};
use crate::deploy::{DeployError, Gpt, GptError, read_table};
use crate::disk::{AlignedBuf, Target};

/// A GPT that was read, and fits its checksums.
pub(super) struct Table {
    gpt: Gpt,
    /// The first two sectors.
    start: AlignedBuf,
    /// The array of partitions.
    pub(super) entries: Vec<u8>,
    /// The last sector that a partition may use on this disk.
    pub(super) last_usable: u64,
    sector: u64,
}

impl Table {
    /// Reads the table of a disk.
    pub(super) fn read(place: Place<'_>, target: &Target) -> Result<Self, PersonalizeError> {
        let wrong = |why: String| PersonalizeError::Table {
            disk: place.disk.into(),
            why,
        };
        let sector = u64::from(place.sector_size);
        let found = read_table(target, place.sector_size).map_err(|error| match error {
            DeployError::Disk(error) => error.into(),
            error => wrong(error.to_string()),
        })?;
        let (start, entries) = found.ok_or_else(|| wrong("it has no GPT to be read".into()))?;
        let gpt = Gpt::read(&start, place.sector_size)
            .map_err(|error| wrong(error.to_string()))?
            .ok_or_else(|| wrong("it has no GPT".into()))?;
        let mbr = start.get(..place.sector_size as usize).unwrap_or(&[]);
        let moved = gpt
            .fit(mbr, &entries, target.size())
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            last_usable: (moved.backup.0 / sector).saturating_sub(1),
            gpt,
            start,
            entries,
            sector,
        })
    }

    /// The GUID of the disk, as it is written.
    pub(super) fn guid(&self) -> [u8; 16] {
        self.gpt.guid()
    }

    /// Where in the array the entries are that are in use.
    pub(super) fn used(&self) -> Vec<usize> {
        let len = self.gpt.entry_len();
        (0..self.entries.len() / len)
            .map(|n| n * len)
            .filter(|&at| {
                let kind = self.entries.get(at..at + 16).unwrap_or(&[]);
                kind.iter().any(|&byte| byte != 0)
            })
            .collect()
    }

    /// The first sector of an entry.
    pub(super) fn first(&self, at: usize) -> u64 {
        self.number(at + 32)
    }

    /// The last sector of an entry.
    pub(super) fn last(&self, at: usize) -> u64 {
        self.number(at + 40)
    }

    fn number(&self, at: usize) -> u64 {
        let field = self.entries.get(at..).and_then(<[u8]>::first_chunk::<8>);
        field.copied().map_or(0, u64::from_le_bytes)
    }

    /// Writes the table with another array and another GUID. The backup comes first and is durable
    /// before anything of the primary changes: at any time one of the two is whole.
    pub(super) fn write(
        &self,
        place: Place<'_>,
        target: &Target,
        entries: &[u8],
        guid: [u8; 16],
    ) -> Result<(), PersonalizeError> {
        let wrong = |error: GptError| PersonalizeError::Table {
            disk: place.disk.into(),
            why: error.to_string(),
        };
        let mbr = self.start.get(..self.sector as usize).unwrap_or(&[]);
        let changed = self.gpt.with(entries, guid);
        let moved = changed.fit(mbr, entries, target.size()).map_err(wrong)?;
        write(target, moved.backup.0, &moved.backup.1)?;
        target.sync()?;
        // The array shares its last sector with nothing, but its length need not be whole sectors.
        let mut array = AlignedBuf::new(entries.len().next_multiple_of(self.sector as usize));
        target.read_at(&mut array, changed.entries.start)?;
        if let Some(place) = array.get_mut(..entries.len()) {
            place.copy_from_slice(entries);
        }
        target.write_at(&array, changed.entries.start)?;
        write(target, 0, &moved.primary)?;
        target.sync()?;
        let held = Self::read(place, target)?;
        if held.entries != entries || held.guid() != guid {
            let why = "it does not hold what was written; the disk is failing".into();
            let disk = place.disk.into();
            return Err(PersonalizeError::Table { disk, why });
        }
        Ok(())
    }
}

fn write(target: &Target, offset: u64, bytes: &[u8]) -> Result<(), PersonalizeError> {
    let mut buffer = AlignedBuf::new(bytes.len());
    buffer.copy_from_slice(bytes);
    Ok(target.write_at(&buffer, offset)?)
}
