//! Partition tables: which parts a disk has, and where the tables themselves are.

mod gpt;
mod mbr;

use crate::bytes::u16_at;
use crate::survey::{SurveyError, Table, read};
use crate::{Ranges, ReadAt};

/// What a table says.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Which kind of table.
    pub(crate) table: Table,
    /// The partitions that hold something, in the order of the table.
    pub(crate) slots: Vec<Slot>,
    /// Where the table is: bytes of the disk that are carried in any case.
    pub(crate) areas: Ranges,
    /// What the operator should know.
    pub(crate) notes: Vec<String>,
    /// Why the table cannot be relied on: then every byte of the disk is carried.
    pub(crate) doubt: Option<String>,
}

/// A partition as its table gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// As Linux counts.
    pub(crate) number: u32,
    /// In bytes from the beginning of the disk.
    pub(crate) start: u64,
    /// In bytes; what lies beyond the end of the disk is cut off.
    pub(crate) size: u64,
    /// A GPT's name.
    pub(crate) name: Option<String>,
    /// Why its content cannot be relied on.
    pub(crate) doubt: Option<String>,
}

impl Slot {
    /// The disk as if it were a partition.
    pub(crate) fn whole_disk(size: u64) -> Self {
        Self {
            number: 0,
            start: 0,
            size,
            name: None,
            doubt: None,
        }
    }
}

impl Layout {
    fn new(table: Table) -> Self {
        Self {
            table,
            slots: Vec::new(),
            areas: Ranges::new(),
            notes: Vec::new(),
            doubt: None,
        }
    }

    /// No table, and why that is not the whole truth.
    fn doubtful(table: Table, why: &str) -> Self {
        Self {
            doubt: Some(why.to_owned()),
            ..Self::new(table)
        }
    }
}

/// Makes a slot of a partition that the table puts at these sectors, cut off at the end of the disk.
/// `None` where none of it is on the disk.
fn slot(number: u32, sectors: (u64, u64), sector: u64, size: u64) -> Option<Slot> {
    let start = sectors.0.checked_mul(sector).filter(|&at| at < size)?;
    let wanted = sectors.1.saturating_mul(sector);
    let length = wanted.min(size - start);
    Some(Slot {
        number,
        start,
        size: length,
        name: None,
        doubt: (length < wanted).then(|| "it ends beyond the end of the disk".to_owned()),
    })
}

/// Why a partition that has a table of its own is doubted.
fn is_nested(what: &str) -> String {
    format!("it is cut up further, by {what}")
}

/// Reads the table of a disk with sectors of `sector` bytes. `bare` tells whether a FAT or NTFS
/// volume begins at byte 0: its boot sector looks much like an MBR.
///
/// # Errors
/// Where the disk cannot be read.
pub(crate) fn layout(disk: &dyn ReadAt, sector: u64, bare: bool) -> Result<Layout, SurveyError> {
    let Some(first) = read(disk, "the first sector of the disk", 0, 512)? else {
        return Ok(Layout::new(Table::None));
    };
    let signed = u16_at(&first, 510) == 0xaa55;
    let records = mbr::records(&first, sector, disk.size()).filter(|_| signed);
    let Some(records) = records else {
        // Without a protective MBR no system follows a GPT. A filesystem was made over one, or the
        // first sector is damaged: that cannot be told.
        if gpt::is_there(disk, sector)? {
            return Ok(Layout::doubtful(
                Table::None,
                "there is a GPT, but no protective MBR before it",
            ));
        }
        return Ok(Layout::new(Table::None));
    };
    if records.iter().any(mbr::Record::is_protective) {
        return gpt::layout(disk, sector, &records);
    }
    if bare {
        // Tools that make a FAT volume over a whole disk can put a record of it into its boot sector.
        if records.iter().all(|record| record.first == 0) {
            return Ok(Layout::new(Table::None));
        }
        return Ok(Layout::doubtful(
            Table::None,
            "its first sector is the boot sector of a FAT or NTFS volume and an MBR at once",
        ));
    }
    let mut layout = mbr::layout(disk, sector, &records)?;
    if gpt::is_there(disk, sector)? {
        layout.notes.push(
            "there is a GPT from earlier too, which no system follows: the MBR does not protect it"
                .to_owned(),
        );
    }
    Ok(layout)
}
