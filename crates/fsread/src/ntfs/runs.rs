//! Where the content of an attribute lies: runs of clusters, and reading them.

use super::boot::Boot;
use super::damaged;
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::usage::Unusable;

/// Clusters of a content that follow each other on the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first of them, counted in the content.
    pub(super) first: u64,
    /// How many; not zero.
    pub(super) count: u64,
    /// The cluster of the volume; `None` for a hole.
    pub(super) cluster: Option<u64>,
}

/// The content of an attribute.
#[derive(Clone, Debug)]
pub(super) enum Stream {
    /// It was in the record.
    Resident(Vec<u8>),
    /// It is in clusters.
    Runs {
        /// Without a gap, from 0 on.
        runs: Vec<Run>,
        /// Bytes.
        size: u64,
        /// How many of them were ever written.
        initialized: u64,
        /// Whether it is compressed, encrypted or sparse.
        flags: u16,
    },
}

/// Appends the runs of one part of an attribute, which is about the clusters `lowest..end` of its
/// content.
///
/// # Errors
/// Where they are no such runs, or lead out of a volume of `clusters`.
pub(super) fn decode(
    pairs: &[u8],
    (lowest, end): (u64, u64),
    clusters: u64,
    runs: &mut Vec<Run>,
) -> Result<(), &'static str> {
    let mut pairs = pairs;
    let (mut first, mut place) = (lowest, 0_i64);
    while let Some((&head, rest)) = pairs.split_first().filter(|(head, _)| **head != 0) {
        let (length_size, place_size) = (usize::from(head & 15), usize::from(head >> 4));
        let length = rest.get(..length_size).and_then(signed);
        let delta = rest
            .get(length_size..length_size + place_size)
            .and_then(signed);
        let (Some(length), Some(delta)) = (length, delta) else {
            return Err("a run does not fit");
        };
        let count = u64::try_from(length).unwrap_or(0);
        let behind = first.checked_add(count).filter(|behind| *behind <= end);
        let Some(behind) = behind.filter(|_| count > 0) else {
            return Err("a run has no possible length");
        };
        let cluster = if place_size == 0 {
            None
        } else {
            place = place.wrapping_add(delta);
            let cluster = u64::try_from(place).ok().filter(|cluster| {
                cluster
                    .checked_add(count)
                    .is_some_and(|behind| behind <= clusters)
            });
            Some(cluster.ok_or("a run leads out of the volume")?)
        };
        runs.push(Run {
            first,
            count,
            cluster,
        });
        first = behind;
        pairs = rest.get(length_size + place_size..).unwrap_or_default();
    }
    if first == end {
        Ok(())
    } else {
        Err("its runs end too early")
    }
}

/// A number of 0 to 8 bytes with a sign.
fn signed(bytes: &[u8]) -> Option<i64> {
    let fill = match bytes.last() {
        Some(last) if last & 0x80 != 0 => 0xff,
        _ => 0,
    };
    let mut all = [fill; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}

impl Stream {
    /// Bytes of it.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Resident(bytes) => bytes.len() as u64,
            Self::Runs { size, .. } => *size,
        }
    }

    /// Fills `buf` with its bytes from `offset`.
    ///
    /// # Errors
    /// Where it ends before, or the volume cannot be read.
    pub(super) fn read(
        &self,
        volume: &dyn ReadAt,
        boot: &Boot,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), Unusable> {
        let (runs, size, initialized) = match self {
            Self::Resident(bytes) => return bytes.read_at(offset, buf).map_err(|_| too_short()),
            Self::Runs {
                runs,
                size,
                initialized,
                ..
            } => (runs, *size, *initialized),
        };
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > size) {
            return Err(too_short());
        }
        let (mut at, mut buf) = (offset, buf);
        while !buf.is_empty() {
            let index = runs.partition_point(|run| run.first <= at / boot.cluster);
            let run = index.checked_sub(1).and_then(|index| runs.get(index));
            let run_end = run.map(|run| (run.first + run.count).saturating_mul(boot.cluster));
            let (Some(run), Some(run_end)) = (run, run_end.filter(|end| *end > at)) else {
                return Err(too_short());
            };
            let length = (run_end - at).min(buf.len() as u64) as usize;
            let (part, rest) = buf.split_at_mut(length);
            match run.cluster {
                Some(cluster) if at < initialized => {
                    let into_run = at - run.first * boot.cluster;
                    volume.read_at(cluster * boot.cluster + into_run, part)?;
                    let written = (initialized - at).min(length as u64) as usize;
                    part.get_mut(written..).unwrap_or_default().fill(0);
                }
                _ => part.fill(0),
            }
            at += length as u64;
            buf = rest;
        }
        Ok(())
    }
}

fn too_short() -> Unusable {
    damaged("an attribute of $MFT is too short")
}

/// An entry of an attribute list: where a part of an attribute is.
pub(super) struct ListEntry<'a> {
    pub(super) kind: u32,
    pub(super) name: &'a [u8],
    /// The first cluster of the content that the part is about.
    pub(super) lowest: u64,
    /// The record that has it, and its sequence number.
    pub(super) record: (u64, u16),
}

/// The entries of an attribute list.
///
/// # Errors
/// Where one does not fit.
pub(super) fn list_entries(list: &[u8]) -> Result<Vec<ListEntry<'_>>, &'static str> {
    let mut entries = vec![];
    let mut rest = list;
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 4));
        let entry = rest.get(..length).filter(|entry| entry.len() >= 26);
        let name = entry.and_then(|entry| match 2 * usize::from(entry[6]) {
            0 => Some([].as_slice()),
            size => entry.get(usize::from(entry[7])..)?.get(..size),
        });
        let (Some(entry), Some(name)) = (entry, name) else {
            return Err("its attribute list does not fit");
        };
        let reference = u64_at(entry, 16);
        entries.push(ListEntry {
            kind: u32_at(entry, 0),
            name,
            lowest: u64_at(entry, 8),
            record: (reference & 0xffff_ffff_ffff, (reference >> 48) as u16),
        });
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The fewest bytes that keep the sign.
    fn bytes_of(number: i64) -> Vec<u8> {
        let all = number.to_le_bytes();
        let mut length = 8;
        while length > 1 && signed(&all[..length - 1]) == Some(number) {
            length -= 1;
        }
        all[..length].to_vec()
    }

    proptest! {
        #[test]
        fn runs_are_read_as_they_were_written(
            parts in prop::collection::vec((1u64..5000, prop::option::of(0u64..1 << 31)), 0..30),
            lowest in 0u64..1 << 40,
        ) {
            let (mut pairs, mut runs, mut first, mut place) = (vec![], vec![], lowest, 0);
            for (count, cluster) in parts {
                let length = bytes_of(count as i64);
                let delta = cluster.map_or(vec![], |cluster| bytes_of(cluster as i64 - place));
                place = cluster.map_or(place, |cluster| cluster as i64);
                pairs.push(length.len() as u8 | (delta.len() as u8) << 4);
                pairs.extend(length);
                pairs.extend(delta);
                runs.push(Run { first, count, cluster });
                first += count;
            }
            pairs.push(0);
            let mut read = vec![];
            prop_assert_eq!(decode(&pairs, (lowest, first), u64::from(u32::MAX), &mut read), Ok(()));
            prop_assert_eq!(read, runs);
            prop_assert!(decode(&pairs, (lowest, first + 1), u64::MAX, &mut vec![]).is_err());
        }

        #[test]
        fn any_bytes_are_read_as_runs_or_refused(
            pairs in prop::collection::vec(any::<u8>(), 0..60),
            lowest: u64, end: u64, clusters: u64,
        ) {
            let mut runs = vec![];
            let _ = decode(&pairs, (lowest, end), clusters, &mut runs);
            prop_assert!(runs.len() <= pairs.len());
        }
    }
}
