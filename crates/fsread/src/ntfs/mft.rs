//! The master file table: records by their number, and the content of their attributes.

use super::boot::Boot;
use super::damaged;
use super::record::{ATTRIBUTE_LIST, Body, DATA, Record, is_named};
use super::runs::{Run, Stream, decode, list_entries};
use crate::ReadAt;
use crate::usage::Unusable;
use std::fmt;

/// Longest attribute list in bytes, as Windows has it.
const MAX_LIST: u64 = 256 << 10;
/// Most runs of one attribute that are kept: 8 MiB of memory.
const MAX_RUNS: usize = 1 << 18;

/// The master file table of a volume.
pub(super) struct Mft<'a> {
    pub(super) volume: &'a dyn ReadAt,
    pub(super) boot: &'a Boot,
    /// Its own content: as much of it as is known.
    table: Stream,
}

impl<'a> Mft<'a> {
    /// Finds all of the table.
    ///
    /// # Errors
    /// Where it is damaged, or cannot be read.
    pub(super) fn open(volume: &'a dyn ReadAt, boot: &'a Boot) -> Result<Self, Unusable> {
        // As long as nothing is known, it is the one record at its place.
        let clusters = (boot.record as u64).div_ceil(boot.cluster);
        let table = Stream::Runs {
            runs: vec![Run {
                first: 0,
                count: clusters,
                cluster: Some(boot.mft),
            }],
            size: boot.record as u64,
            initialized: boot.record as u64,
            flags: 0,
        };
        let mut mft = Self {
            volume,
            boot,
            table,
        };
        let own = mft.record(0)?;
        let mut table = None;
        mft.take_parts(&own, DATA, "", &mut table)?;
        mft.table = table.ok_or_else(|| damaged("$MFT has no content"))?;
        // Records that have further parts of it lie in parts that come before.
        for part in mft.further_parts(&own, DATA, "")? {
            let record = mft.continuation(&own, part)?;
            let mut table = Some(std::mem::replace(&mut mft.table, Stream::Resident(vec![])));
            mft.take_parts(&record, DATA, "", &mut table)?;
            mft.table = table.ok_or_else(|| damaged("$MFT has no content"))?;
        }
        match &mft.table {
            Stream::Runs { flags: 0, .. } => mft.check_length(&own, &mft.table)?,
            _ => return Err(damaged("$MFT has no plain content")),
        }
        Ok(mft)
    }

    /// Runs of the table itself.
    pub(super) fn runs(&self) -> &[Run] {
        match &self.table {
            Stream::Runs { runs, .. } => runs,
            Stream::Resident(_) => &[],
        }
    }

    /// The record of that number.
    ///
    /// # Errors
    /// Where there is none, it is damaged or not in use, or cannot be read.
    pub(super) fn record(&self, number: u64) -> Result<Record, Unusable> {
        let size = self.boot.record as u64;
        let inside = number
            .checked_add(1)
            .and_then(|end| end.checked_mul(size))
            .is_some_and(|end| end <= self.table.size());
        if !inside {
            return Err(damaged(format_args!("$MFT has no record {number}")));
        }
        let mut bytes = vec![0; self.boot.record];
        self.table
            .read(self.volume, self.boot, number * size, &mut bytes)?;
        let record = Record::parse(number, bytes)?;
        if record.is_in_use() {
            Ok(record)
        } else {
            Err(damaged(format_args!(
                "record {number} of $MFT is not in use"
            )))
        }
    }

    /// The content of an attribute of a record; `None` where it has none of this kind and name.
    ///
    /// # Errors
    /// Where it is damaged or cannot be read.
    pub(super) fn stream(
        &self,
        record: &Record,
        kind: u32,
        name: &str,
    ) -> Result<Option<Stream>, Unusable> {
        let mut stream = None;
        self.take_parts(record, kind, name, &mut stream)?;
        for part in self.further_parts(record, kind, name)? {
            let continuation = self.continuation(record, part)?;
            self.take_parts(&continuation, kind, name, &mut stream)?;
        }
        if let Some(stream) = &stream {
            self.check_length(record, stream)?;
        }
        Ok(stream)
    }

    /// Which other records have parts of an attribute, with their sequence numbers, in the order of
    /// the parts.
    fn further_parts(
        &self,
        record: &Record,
        kind: u32,
        name: &str,
    ) -> Result<Vec<(u64, u16)>, Unusable> {
        let attributes = record.attributes()?;
        let list = attributes
            .iter()
            .find(|attribute| attribute.is(ATTRIBUTE_LIST, ""));
        let Some(list) = list else {
            return Ok(vec![]);
        };
        let bytes = self.list(record, &list.body)?;
        let entries = list_entries(&bytes).map_err(|what| wrong(record, what))?;
        let mut parts: Vec<_> = entries
            .iter()
            .filter(|entry| entry.kind == kind && is_named(entry.name, name))
            .filter(|entry| entry.record.0 != record.number)
            .collect();
        parts.sort_by_key(|entry| entry.lowest);
        // A record may have several parts: it is read once.
        parts.dedup_by_key(|entry| entry.record.0);
        Ok(parts.iter().map(|entry| entry.record).collect())
    }

    /// A record that continues another one.
    fn continuation(
        &self,
        record: &Record,
        (number, sequence): (u64, u16),
    ) -> Result<Record, Unusable> {
        let found = self.record(number)?;
        if found.base() != record.number || found.sequence() != sequence {
            return Err(wrong(
                record,
                format_args!(
                    "its attribute list names record {number}, which does not belong to it"
                ),
            ));
        }
        Ok(found)
    }

    fn check_length(&self, record: &Record, stream: &Stream) -> Result<(), Unusable> {
        let Stream::Runs { runs, size, .. } = stream else {
            return Ok(());
        };
        let clusters = runs.last().map_or(0, |run| run.first + run.count);
        if clusters.saturating_mul(self.boot.cluster) < *size {
            return Err(wrong(record, "an attribute has fewer clusters than bytes"));
        }
        Ok(())
    }

    /// Adds the parts of an attribute that are in one record.
    fn take_parts(
        &self,
        record: &Record,
        kind: u32,
        name: &str,
        stream: &mut Option<Stream>,
    ) -> Result<(), Unusable> {
        let attributes = record.attributes()?;
        for attribute in attributes.iter().filter(|found| found.is(kind, name)) {
            match (&attribute.body, &mut *stream) {
                (Body::Resident(bytes), None) => *stream = Some(Stream::Resident(bytes.to_vec())),
                (
                    Body::Runs {
                        lowest: 0,
                        end,
                        pairs,
                        size,
                        initialized,
                    },
                    None,
                ) => {
                    let mut runs = vec![];
                    decode(pairs, (0, *end), self.boot.clusters, &mut runs)
                        .map_err(|what| wrong(record, what))?;
                    *stream = Some(Stream::Runs {
                        runs,
                        size: *size,
                        initialized: *initialized,
                        flags: attribute.flags,
                    });
                }
                (
                    Body::Runs {
                        lowest, end, pairs, ..
                    },
                    Some(Stream::Runs { runs, .. }),
                ) if *lowest == runs.last().map_or(0, |run| run.first + run.count) => {
                    decode(pairs, (*lowest, *end), self.boot.clusters, runs)
                        .map_err(|what| wrong(record, what))?;
                    if runs.len() > MAX_RUNS {
                        return Err(wrong(
                            record,
                            format_args!("an attribute is in more than {MAX_RUNS} pieces"),
                        ));
                    }
                }
                _ => {
                    return Err(wrong(
                        record,
                        "the parts of an attribute do not follow each other",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The bytes of an attribute list.
    fn list(&self, record: &Record, body: &Body<'_>) -> Result<Vec<u8>, Unusable> {
        let (lowest, end, pairs, size, initialized) = match *body {
            Body::Resident(bytes) => return Ok(bytes.to_vec()),
            Body::Runs {
                lowest,
                end,
                pairs,
                size,
                initialized,
            } => (lowest, end, pairs, size, initialized),
        };
        if size > MAX_LIST || lowest != 0 {
            return Err(wrong(record, "its attribute list does not fit"));
        }
        let mut runs = vec![];
        decode(pairs, (lowest, end), self.boot.clusters, &mut runs)
            .map_err(|what| wrong(record, what))?;
        let stream = Stream::Runs {
            runs,
            size,
            initialized,
            flags: 0,
        };
        let mut bytes = vec![0; size as usize];
        stream.read(self.volume, self.boot, 0, &mut bytes)?;
        Ok(bytes)
    }
}

fn wrong(record: &Record, what: impl fmt::Display) -> Unusable {
    damaged(format_args!("record {} of $MFT: {what}", record.number))
}
