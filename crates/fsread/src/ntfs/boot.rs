//! The boot sector.

use super::damaged;
use crate::ReadAt;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::usage::Unusable;

/// Largest cluster, in bytes.
const MAX_CLUSTER: u64 = 2 << 20;

/// What lies where.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// Bytes a sector.
    pub(super) sector: u64,
    /// Sectors of the volume; a copy of the boot sector follows them.
    pub(super) sectors: u64,
    /// Bytes a cluster.
    pub(super) cluster: u64,
    /// Whole clusters, less than 2^32.
    pub(super) clusters: u64,
    /// First cluster of the master file table.
    pub(super) mft: u64,
    /// First cluster of the copy of its first records.
    pub(super) mirror: u64,
    /// Bytes of a record: a power of two from 512 to 65536.
    pub(super) record: usize,
}

impl Boot {
    /// Reads the boot sector of a volume.
    ///
    /// # Errors
    /// Where it is none of NTFS, contradicts itself or the size of the volume, or cannot be read.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, Unusable> {
        let mut sector = [0; 512];
        if volume.size() < 512 {
            return Err(Unusable::Damaged(
                "this is no NTFS volume: it has no first sector".into(),
            ));
        }
        volume.read_at(0, &mut sector)?;
        if sector[3..11] != *b"NTFS    " || sector[510..] != [0x55, 0xaa] {
            return Err(Unusable::Damaged(
                "this is no NTFS volume: its first sector does not say so".into(),
            ));
        }
        Self::parse(&sector, volume.size()).map_err(damaged)
    }

    fn parse(bytes: &[u8; 512], size: u64) -> Result<Self, &'static str> {
        let sector = u64::from(u16_at(bytes, 11));
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err("its sectors have no possible size");
        }
        // Reserved sectors, tables, root entries and sectors of FAT are all zero.
        let is_zero = u16_at(bytes, 14) == 0
            && bytes[16] == 0
            && u16_at(bytes, 17) == 0
            && u16_at(bytes, 19) == 0
            && u16_at(bytes, 22) == 0
            && u32_at(bytes, 32) == 0;
        if !is_zero {
            return Err("its boot sector has numbers that only FAT has");
        }
        // More than 128 sectors are written as the negative of their binary logarithm.
        let per_cluster = match bytes[13] {
            count @ 1..=128 if count.is_power_of_two() => u64::from(count),
            exponent @ 244.. => 1 << (256 - u64::from(exponent)),
            _ => return Err("its clusters have no possible size"),
        };
        let cluster = per_cluster * sector;
        if cluster > MAX_CLUSTER {
            return Err("its clusters have no possible size");
        }
        // Here, bytes are written as the negative of their binary logarithm.
        let record = match bytes[64] as i8 {
            clusters @ 1.. => cluster * clusters.unsigned_abs() as u64,
            exponent @ -16..=-9 => 1 << exponent.unsigned_abs(),
            _ => 0,
        };
        if !record.is_power_of_two() || !(512..=65536).contains(&record) {
            return Err("the records of its master file table have no possible size");
        }
        let sectors = u64_at(bytes, 40);
        let fits = sectors
            .checked_mul(sector)
            .is_some_and(|bytes| bytes <= size);
        let clusters = sectors / per_cluster;
        if !fits || clusters == 0 || clusters > u64::from(u32::MAX) {
            return Err("its size does not fit");
        }
        let (mft, mirror) = (u64_at(bytes, 48), u64_at(bytes, 56));
        if mft >= clusters || mirror >= clusters || mft == 0 || mirror == 0 {
            return Err("its master file table lies outside of it");
        }
        Ok(Self {
            sector,
            sectors,
            cluster,
            clusters,
            mft,
            mirror,
            // At most 65536.
            record: record as usize,
        })
    }
}
