//! Which bytes of an NTFS volume are in use.

use super::boot::Boot;
use super::clean::clean;
use super::damaged;
use super::mft::Mft;
use super::record::{DATA, Record};
use super::runs::{Run, Stream};
use crate::usage::{Gather, Unusable, Usage};
use crate::{Ranges, ReadAt};
use std::ops::Range;

/// Records of the files that tell.
const BITMAP_FILE: u64 = 6;
const BAD_CLUSTERS: u64 = 8;
/// How many records are kept twice.
const MIRRORED: u64 = 4;
/// Bytes of `$Bitmap` that are read at once; 8 clusters each.
const PIECE: u64 = 256 << 10;

/// Every cluster that `$Bitmap` calls in use and that is not in `$BadClus`, the sectors after the last
/// whole cluster, the copy of the boot sector behind them, and the last sector of the volume, where
/// that copy is looked for as well.
///
/// # Errors
/// Where the volume cannot be read, or contradicts itself.
pub(crate) fn used(volume: &dyn ReadAt) -> Result<Usage, Unusable> {
    let boot = Boot::read(volume)?;
    let mft = Mft::open(volume, &boot)?;
    check_mirror(&mft)?;
    let clean = clean(&mft)?;
    let bad = bad_clusters(&mft)?;
    let (mut used, bitmap) = clusters_in_use(&mft, &bad)?;
    // What was read to get here is in use, or the bitmap is not the right one.
    let record = boot.record as u64;
    let mirror = boot.mirror * boot.cluster;
    let head = 0..boot.cluster.max(512);
    let own = [("boot sector", head), ("$MFTMirr", mirror..mirror + record)];
    let runs = |name, runs: &[Run]| {
        let ranges = runs.iter().filter_map(|run| bytes_of(run, &boot));
        ranges.map(|range| (name, range)).collect::<Vec<_>>()
    };
    let own = own.into_iter().chain(runs("$MFT", mft.runs()));
    let own = own.chain(runs("$Bitmap", &bitmap));
    for (name, range) in own {
        if !used.covers(range) {
            return Err(damaged(format_args!(
                "$Bitmap calls clusters of {name} free"
            )));
        }
    }
    let end = boot.clusters * boot.cluster;
    let behind = (boot.sectors + 1) * boot.sector;
    used.insert(end..behind.min(volume.size()));
    used.insert(volume.size().saturating_sub(boot.sector)..volume.size());
    Ok(Usage { used, clean })
}

/// The bytes of a run that is no hole.
fn bytes_of(run: &Run, boot: &Boot) -> Option<Range<u64>> {
    let cluster = run.cluster?;
    Some(cluster * boot.cluster..(cluster + run.count) * boot.cluster)
}

/// The first records of `$MFT` and their copies are equal on a volume that was closed.
fn check_mirror(mft: &Mft<'_>) -> Result<(), Unusable> {
    let size = mft.boot.record as u64;
    let place = mft.boot.mirror * mft.boot.cluster;
    for number in 0..MIRRORED {
        let mut bytes = vec![0; mft.boot.record];
        let at = place + number * size;
        mft.volume.read_at(at, &mut bytes)?;
        let copy = Record::parse(number, bytes);
        let record = mft.record(number)?;
        if copy.is_ok_and(|copy| copy.content() == record.content()) {
            continue;
        }
        return Err(damaged(format_args!(
            "record {number} of $MFT and its copy in $MFTMirr differ"
        )));
    }
    Ok(())
}

/// The bytes of clusters that the disk cannot keep.
fn bad_clusters(mft: &Mft<'_>) -> Result<Ranges, Unusable> {
    let record = mft.record(BAD_CLUSTERS)?;
    let Some(Stream::Runs { runs, .. }) = mft.stream(&record, DATA, "$Bad")? else {
        return Ok(Ranges::new());
    };
    let bytes = runs.iter().filter_map(|run| bytes_of(run, mft.boot));
    Ok(bytes.collect())
}

/// The bytes of the clusters that are in use and not bad, and where `$Bitmap` is.
fn clusters_in_use(mft: &Mft<'_>, bad: &Ranges) -> Result<(Ranges, Vec<Run>), Unusable> {
    let boot = mft.boot;
    let record = mft.record(BITMAP_FILE)?;
    let stream = mft.stream(&record, DATA, "")?;
    let stream = stream.ok_or_else(|| damaged("$Bitmap has no content"))?;
    let length = boot.clusters.div_ceil(8);
    let runs = match &stream {
        Stream::Resident(_) => vec![],
        Stream::Runs {
            runs,
            initialized,
            flags: 0,
            ..
        } if *initialized >= length && runs.iter().all(|run| run.cluster.is_some()) => runs.clone(),
        Stream::Runs { .. } => return Err(damaged("$Bitmap has no plain content")),
    };
    if stream.size() < length {
        return Err(damaged(format_args!(
            "$Bitmap has {} bytes, too few for {} clusters",
            stream.size(),
            boot.clusters
        )));
    }
    let mut used = Gather::new();
    let mut piece = vec![];
    let mut begun = None;
    for at in (0..length).step_by(PIECE as usize) {
        piece.resize(PIECE.min(length - at) as usize, 0);
        stream.read(mft.volume, boot, at, &mut piece)?;
        for (index, byte) in (at..).zip(&piece) {
            let (wanted, cluster) = (if begun.is_some() { 0xff } else { 0 }, index * 8);
            // Most bytes go on as the one before.
            if *byte == wanted {
                continue;
            }
            for cluster in cluster..(cluster + 8).min(boot.clusters) {
                let is_used = byte >> (cluster - index * 8) & 1 != 0;
                match begun {
                    None if is_used => begun = Some(cluster),
                    Some(start) if !is_used => {
                        add_without(&mut used, start * boot.cluster..cluster * boot.cluster, bad);
                        begun = None;
                    }
                    _ => {}
                }
            }
        }
    }
    if let Some(start) = begun {
        let end = boot.clusters * boot.cluster;
        add_without(&mut used, start * boot.cluster..end, bad);
    }
    Ok((used.finish(), runs))
}

/// Adds a range without the bytes in `bad`.
fn add_without(used: &mut Gather, range: Range<u64>, bad: &Ranges) {
    let mut start = range.start;
    for hole in bad.within(range.clone()) {
        used.add(start..hole.start);
        start = hole.end;
    }
    used.add(start..range.end);
}
