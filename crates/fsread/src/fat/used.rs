//! Which bytes of a FAT volume are in use.

use super::geometry::{Geometry, Kind, NotFat};
use super::table::{Link, Table};
use crate::ReadAt;
use crate::usage::{Gather, Unusable, Usage};

/// Bytes of a table that are read at once.
const PIECE: u64 = 256 << 10;

/// Everything before the first cluster (boot sectors with `FSInfo` and their copies, all copies of the
/// table, the root folder of FAT12 and FAT16), and every cluster that the table does not call free or
/// bad. What follows the last cluster is in use by nobody.
///
/// The number of free clusters in `FSInfo` is only a hint (section 5), so it is not compared.
///
/// # Errors
/// Where the volume cannot be read, or contradicts itself.
pub(crate) fn used(volume: &dyn ReadAt) -> Result<Usage, Unusable> {
    let geometry = Geometry::read(volume).map_err(|error| match error {
        NotFat::Io(error) => Unusable::Io(error),
        NotFat::Says(_) => Unusable::Damaged(error.to_string()),
    })?;
    if geometry.table_filled() > geometry.table_length {
        return Err(damaged(format!(
            "its file allocation table has {} bytes, too few for {} clusters",
            geometry.table_length, geometry.clusters
        )));
    }
    copies_agree(volume, &geometry)?;
    let mut table = Table::new(volume, &geometry, PIECE);
    check_first_entry(&geometry, table.raw(0)?)?;
    let clean = clean(&geometry, table.raw(1)?);
    if geometry.kind == Kind::Fat32 {
        let root = geometry.root_cluster;
        let is_used = geometry.has(root) && matches!(table.link(root)?, Link::Next(_) | Link::End);
        if !is_used {
            return Err(damaged(format!(
                "its root folder is in cluster {root}, which is not in use"
            )));
        }
    }
    let mut used = Gather::new();
    used.add(0..geometry.data);
    // Clusters 2 to 2 + clusters - 1: below 2^28.
    for cluster in 2..geometry.clusters + 2 {
        match table.link(cluster)? {
            Link::Free | Link::Bad => {}
            Link::Next(_) | Link::End => used.add(geometry.bytes_of(cluster)),
            Link::Wrong(value) => {
                return Err(damaged(format!(
                    "its file allocation table has the impossible value {value:#x} for cluster \
                     {cluster}"
                )));
            }
        }
    }
    Ok(Usage {
        used: used.finish(),
        clean,
    })
}

fn damaged(what: String) -> Unusable {
    Unusable::Damaged(format!("the FAT volume is damaged: {what}"))
}

/// The first entry repeats the kind of medium, and all its other bits are set (section 4.1).
fn check_first_entry(geometry: &Geometry, first: u32) -> Result<(), Unusable> {
    let ones = match geometry.kind {
        Kind::Fat12 => 0xf00,
        Kind::Fat16 => 0xff00,
        Kind::Fat32 => 0x0fff_ff00,
    };
    let wanted = ones | u32::from(geometry.media);
    if first == wanted {
        return Ok(());
    }
    Err(damaged(format!(
        "its file allocation table begins with {first:#x} and not with {wanted:#x}"
    )))
}

/// The flags of the second entry (section 4.1) and those of the boot sector.
fn clean(geometry: &Geometry, second: u32) -> Result<(), String> {
    let (closed, no_errors) = match geometry.kind {
        // FAT12 has no room for them.
        Kind::Fat12 => (true, true),
        Kind::Fat16 => (second & 0x8000 != 0, second & 0x4000 != 0),
        Kind::Fat32 => (second & 0x0800_0000 != 0, second & 0x0400_0000 != 0),
    };
    if !closed || geometry.state & 1 != 0 {
        return Err("it was not unmounted: its dirty flag is set".into());
    }
    if !no_errors || geometry.state & 2 != 0 {
        return Err("its flag for errors of the disk is set: it wants to be checked".into());
    }
    Ok(())
}

/// Where all tables are kept up, they are equal, but for the first two entries: not every system
/// writes its flags into each.
fn copies_agree(volume: &dyn ReadAt, geometry: &Geometry) -> Result<(), Unusable> {
    if geometry.active.is_some() {
        return Ok(());
    }
    let first = match geometry.kind {
        Kind::Fat12 => 3,
        Kind::Fat16 => 4,
        Kind::Fat32 => 8,
    };
    let (mut one, mut other) = (vec![], vec![]);
    for copy in 1..geometry.tables {
        let mut at = first;
        while at < geometry.table_filled() {
            let length = PIECE.min(geometry.table_filled() - at);
            one.resize(length as usize, 0);
            other.resize(length as usize, 0);
            volume.read_at(geometry.table + at, &mut one)?;
            let copy_start = geometry.table + copy * geometry.table_length;
            volume.read_at(copy_start + at, &mut other)?;
            if one != other {
                return Err(damaged(format!(
                    "copies 1 and {} of its file allocation table differ",
                    copy + 1
                )));
            }
            at += length;
        }
    }
    Ok(())
}
