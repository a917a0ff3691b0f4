//! The boot sector: what lies where (section 3).

use crate::ReadAt;
use crate::bytes::{u16_at, u32_at};
use std::io;
use std::ops::Range;

/// Bytes of an entry in a folder.
pub(crate) const ENTRY: usize = 32;

/// Why a volume is not taken for FAT.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFat {
    /// It cannot be read.
    #[error("the volume cannot be read")]
    Io(#[from] io::Error),
    /// What is wrong with its boot sector.
    #[error("this is no FAT volume: {0}")]
    Says(&'static str),
}

/// How many bits an entry of the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

impl Kind {
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// What lies where; every place is in bytes of the volume, and inside of it.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) kind: Kind,
    /// Bytes a cluster.
    pub(crate) cluster: u64,
    /// How many there are, at least one and less than 2^28; numbers begin at 2.
    pub(crate) clusters: u32,
    /// Where the first file allocation table begins.
    pub(crate) table: u64,
    /// Bytes of one table.
    pub(crate) table_length: u64,
    /// How many copies there are.
    pub(crate) tables: u64,
    /// Which copy alone is kept up, where it is not all of them (FAT32's `BPB_ExtFlags`).
    pub(crate) active: Option<u64>,
    /// The root folder of FAT12 and FAT16; empty in FAT32.
    pub(crate) root: Range<u64>,
    /// First cluster of the root folder of FAT32.
    pub(crate) root_cluster: u32,
    /// Where cluster 2 begins.
    pub(crate) data: u64,
    /// `BPB_Media`, which the first entry of the table repeats.
    pub(crate) media: u8,
    /// The flags of the byte after `BS_DrvNum`: bit 0 is set while the volume is mounted for writing,
    /// bit 1 after an error of the disk.
    pub(crate) state: u8,
}

impl Geometry {
    /// Reads the boot sector of a volume.
    ///
    /// # Errors
    /// Where it is none of FAT, contradicts itself or the size of the volume, or cannot be read.
    pub(crate) fn read(volume: &dyn ReadAt) -> Result<Self, NotFat> {
        let mut sector = [0; 512];
        if volume.size() < 512 {
            return Err(NotFat::Says("it has no first sector"));
        }
        volume.read_at(0, &mut sector)?;
        Self::parse(&sector, volume.size()).map_err(NotFat::Says)
    }

    fn parse(sector: &[u8; 512], size: u64) -> Result<Self, &'static str> {
        if sector[510..] != [0x55, 0xaa] {
            return Err("the mark at the end of its first sector is missing");
        }
        let sector_size = u64::from(u16_at(sector, 11));
        if ![512, 1024, 2048, 4096].contains(&sector_size) {
            return Err("its sectors have no possible size");
        }
        let per_cluster = u64::from(sector[13]);
        if !per_cluster.is_power_of_two() {
            return Err("its clusters have no possible size");
        }
        let media = sector[21];
        if media != 0xf0 && media < 0xf8 {
            return Err("its kind of medium is unknown");
        }
        let reserved = u64::from(u16_at(sector, 14));
        let tables = u64::from(sector[16]);
        // Only FAT32 has the long field, and it alone has a zero here: as Linux, dosfstools and
        // Windows read it. The number of clusters would not tell a small FAT32 from a FAT16.
        let is_fat32 = u16_at(sector, 22) == 0;
        let table_sectors = match u16_at(sector, 22) {
            0 => u64::from(u32_at(sector, 36)),
            sectors => u64::from(sectors),
        };
        let sectors = match u16_at(sector, 19) {
            0 => u64::from(u32_at(sector, 32)),
            sectors => u64::from(sectors),
        };
        let root_length = u64::from(u16_at(sector, 17)) * ENTRY as u64;
        let root_sectors = root_length.div_ceil(sector_size);
        // None of these is more than 2^32 sectors of 2^12 bytes, 2^8 times: no sum overflows.
        let before_data = reserved + tables * table_sectors + root_sectors;
        if reserved == 0 || tables == 0 || table_sectors == 0 {
            return Err("it has no file allocation table");
        }
        if sectors <= before_data || sectors * sector_size > size {
            return Err("its size does not fit");
        }
        // Section 3.5.
        let clusters = (sectors - before_data) / per_cluster;
        let kind = match clusters {
            0 => return Err("it has no clusters"),
            1..0x0fff_fff5 if is_fat32 => Kind::Fat32,
            1..4085 => Kind::Fat12,
            4085..65525 => Kind::Fat16,
            _ => return Err("it has too many clusters"),
        };
        if is_fat32 != (root_length == 0) {
            return Err("its root folder does not fit its kind");
        }
        if is_fat32 && u16_at(sector, 42) != 0 {
            return Err("it is of a later version of FAT32");
        }
        let flags = if is_fat32 { u16_at(sector, 40) } else { 0 };
        let active = (flags & 0x80 != 0).then_some(u64::from(flags & 0x0f));
        if active.is_some_and(|active| active >= tables) {
            return Err("the file allocation table that counts is not there");
        }
        let data = before_data * sector_size;
        let root_start = data - root_sectors * sector_size;
        Ok(Self {
            kind,
            cluster: per_cluster * sector_size,
            // Less than 2^28.
            clusters: clusters as u32,
            table: reserved * sector_size,
            table_length: table_sectors * sector_size,
            tables,
            active,
            root: root_start..root_start + root_length,
            root_cluster: if is_fat32 { u32_at(sector, 44) } else { 0 },
            data,
            media,
            state: sector[if is_fat32 { 65 } else { 37 }],
        })
    }

    /// Whether a cluster of this number exists.
    pub(crate) fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.clusters
    }

    /// The bytes of a cluster that exists.
    pub(crate) fn bytes_of(&self, cluster: u32) -> Range<u64> {
        let start = self.data + u64::from(cluster.saturating_sub(2)) * self.cluster;
        start..start + self.cluster
    }

    /// The table that counts: the active one, or the first of several that are equal.
    pub(crate) fn table_start(&self) -> u64 {
        self.table + self.active.unwrap_or(0) * self.table_length
    }

    /// How many bytes of a table its entries fill.
    pub(crate) fn table_filled(&self) -> u64 {
        let bits = u64::from(self.kind.bits());
        ((u64::from(self.clusters) + 2) * bits).div_ceil(8)
    }
}
