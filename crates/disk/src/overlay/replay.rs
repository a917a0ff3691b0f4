//! Reading an overlay file: headers, pages, and what the journal adds to them. Changes nothing.

use super::{
    commit::Journal,
    error::OverlayError,
    format::{
        BLOCK, BadHeader, Entry, GROUP_LEN, GROUPS_START, Header, JOURNAL_LEN, JOURNAL_START, Page,
        ReadPage, State, blocks, checksum, decode_page, decode_tx, decode_tx_head, file_len,
        groups, page_place, place, tx_len,
    },
    storage::Storage,
    table::{BlockMap, Table},
};
use std::{collections::BTreeMap, io, path::Path};

/// Most blocks that a journal can speak of. An honest one is far below.
const MAX_SPOKEN_OF: u64 = 1 << 24;

/// What was found in a file.
pub(super) struct Loaded {
    pub(super) journal: Journal,
    /// What a crash left: blocks of a flush that was cut off, as they were before it.
    pub(super) torn: u64,
    /// One of the two copies of the header was not as the other one.
    pub(super) mend_header: bool,
}

/// Why a file cannot be read.
pub(super) enum Failure {
    Io(&'static str, io::Error),
    NotAnOverlay,
    Version(u32),
    Damaged(String),
}

impl Failure {
    pub(super) fn at(self, path: &Path) -> OverlayError {
        let path = path.to_path_buf();
        match self {
            Self::Io(action, source) => OverlayError::Io {
                action,
                path,
                source,
            },
            Self::NotAnOverlay => OverlayError::NotAnOverlay(path),
            Self::Version(version) => OverlayError::Version { path, version },
            Self::Damaged(what) => OverlayError::Damaged { path, what },
        }
    }
}

fn read(storage: &dyn Storage, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    match storage.read_at(offset, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Failure::Damaged("it ends in the middle".to_owned()))
        }
        Err(error) => Err(Failure::Io("read", error)),
    }
}

/// Reads the header, and says whether one of its copies needs to be written again.
pub(super) fn read_header(storage: &dyn Storage) -> Result<(Header, bool), Failure> {
    let length = storage
        .length()
        .map_err(|error| Failure::Io("measure", error))?;
    if length < GROUPS_START {
        let start = read(storage, 0, usize::try_from(length.min(8)).unwrap_or(0))?;
        return Err(match Header::decode(&start) {
            Err(BadHeader::Magic) => Failure::NotAnOverlay,
            _ => Failure::Damaged(format!("it is only {length} bytes long")),
        });
    }
    let first = Header::decode(&read(storage, 0, BLOCK)?);
    let second = Header::decode(&read(storage, BLOCK as u64, BLOCK)?);
    let (header, mend) = match (first, second) {
        (Ok(first), Ok(second)) => {
            let mend = first != second;
            let later = second.generation > first.generation;
            (if later { second } else { first }, mend)
        }
        (Ok(header), Err(_)) | (Err(_), Ok(header)) => (header, true),
        (Err(BadHeader::Version(version)), _) | (_, Err(BadHeader::Version(version))) => {
            return Err(Failure::Version(version));
        }
        (Err(BadHeader::Magic), Err(BadHeader::Magic)) => return Err(Failure::NotAnOverlay),
        (Err(_), Err(_)) => {
            return Err(Failure::Damaged(
                "both copies of its header have a wrong checksum".to_owned(),
            ));
        }
    };
    let needed = file_len(header.disk_size);
    if length < needed {
        return Err(Failure::Damaged(format!(
            "it is {length} bytes long where its header asks for {needed}: it was cut short"
        )));
    }
    Ok((header, mend))
}

/// Reads everything.
pub(super) fn load(storage: &dyn Storage) -> Result<Loaded, Failure> {
    let (header, mend_header) = read_header(storage)?;
    let mut journal = Journal {
        durable: Table::new(header.disk_size),
        used: 0,
        sequence: 0,
        changed: BTreeMap::new(),
        pages: BTreeMap::new(),
        highest: header.generation,
        since_reclaim: 0,
        header,
    };
    load_pages(storage, &mut journal)?;
    let torn = replay(storage, &mut journal)?;
    Ok(Loaded {
        journal,
        torn,
        mend_header,
    })
}

fn load_pages(storage: &dyn Storage, journal: &mut Journal) -> Result<(), Failure> {
    let header = journal.header.clone();
    let end = file_len(header.disk_size);
    let mut group = 0;
    let mut sum: u64 = 0;
    while group < groups(header.disk_size) {
        let start = page_place(group, 0);
        let data = storage
            .next_data(start, end)
            .map_err(|error| Failure::Io("search", error))?;
        let found = data.saturating_sub(GROUPS_START) / GROUP_LEN;
        if found > group {
            group = found;
            continue;
        }
        let both = read(storage, start, 2 * BLOCK)?;
        let mut current: Option<(u8, Page)> = None;
        for (copy, bytes) in (0..).zip(both.chunks(BLOCK)) {
            // One that is torn was being written by a checkpoint that did not come to its end. Or
            // it is damaged: then the sum is wrong.
            let ReadPage::Good(page) = decode_page(bytes, &header.id, group) else {
                continue;
            };
            journal.highest = journal.highest.max(page.generation);
            let newer = current
                .as_ref()
                .is_none_or(|(_, old)| page.generation > old.generation);
            if page.generation <= header.generation && newer {
                current = Some((copy, page));
            }
        }
        if let Some((copy, page)) = current {
            sum = sum.wrapping_add(page.sum);
            journal.durable.load(group, &page.states);
            journal.pages.insert(group, (copy, page.sum));
        }
        group += 1;
    }
    if journal.highest >= u64::MAX / 2 {
        return Err(Failure::Damaged(
            "a page has an impossible generation".to_owned(),
        ));
    }
    if sum == header.table_sum {
        Ok(())
    } else {
        Err(Failure::Damaged(
            "a page of its block states is not as its header says".to_owned(),
        ))
    }
}

/// Applies the journal, and counts blocks of which the last transaction was cut off.
fn replay(storage: &dyn Storage, journal: &mut Journal) -> Result<u64, Failure> {
    // It is 1 MiB long.
    let bytes = read(storage, JOURNAL_START, JOURNAL_LEN as usize)?;
    let transactions = transactions(&bytes, journal)?;
    let disk_blocks = blocks(journal.header.disk_size);
    // What the places of blocks must hold, by the transactions that are known to be complete.
    let mut sums = BlockMap::default();
    let mut spoken_of = 0;
    let mut torn = 0;
    for (number, entries) in transactions.iter().enumerate() {
        let last = number + 1 == transactions.len();
        for entry in entries {
            spoken_of += entry.run;
            let fits = entry
                .block
                .checked_add(entry.run)
                .is_some_and(|end| end <= disk_blocks)
                && entry.state != State::Absent
                && (entry.run == 1 || entry.state == State::Zero);
            if !fits || spoken_of > MAX_SPOKEN_OF {
                let what = format!("its journal speaks of the impossible block {}", entry.block);
                return Err(Failure::Damaged(what));
            }
            if entry.state == State::Zero {
                if !sums.is_empty() {
                    for block in entry.block..entry.block + entry.run {
                        sums.remove(&block);
                    }
                }
            } else if !last {
                sums.insert(entry.block, entry.sum);
            } else if holds(storage, entry.block, entry.state, entry.sum)? {
                sums.remove(&entry.block);
            } else {
                torn += 1;
                continue;
            }
            journal.note(entry);
        }
    }
    for (block, sum) in sums {
        if !holds(storage, block, journal.durable.get(block), sum)? {
            return Err(Failure::Damaged(format!(
                "block {block} is not what was written to it (at byte {} of the disk)",
                block * BLOCK as u64
            )));
        }
    }
    Ok(torn)
}

/// The transactions of the header's generation, in order.
fn transactions(bytes: &[u8], journal: &mut Journal) -> Result<Vec<Vec<Entry>>, Failure> {
    let header = &journal.header;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((head, entries)) = bytes.get(at..).and_then(|rest| decode_tx(rest, &header.id))
        && head.generation == header.generation
        && head.sequence == found.len() as u64
    {
        found.push(entries);
        at += tx_len(head.count) as usize;
    }
    let mut behind = at + BLOCK;
    while let Some(rest) = bytes.get(behind..)
        && !rest.is_empty()
    {
        let later = decode_tx_head(rest, &header.id).is_some_and(|head| {
            head.generation == header.generation && head.sequence > found.len() as u64
        });
        if later && decode_tx(rest, &header.id).is_some() {
            return Err(Failure::Damaged(format!(
                "transaction {} of its journal has a wrong checksum, and others follow it",
                found.len()
            )));
        }
        behind += BLOCK;
    }
    journal.used = at as u64;
    journal.sequence = found.len() as u64;
    Ok(found)
}

fn holds(storage: &dyn Storage, block: u64, state: State, sum: u64) -> Result<bool, Failure> {
    Ok(checksum(&read(storage, place(block, state), BLOCK)?) == sum)
}
