//! Whether a volume was closed properly: nothing is left in a journal, and no Windows sleeps on it.

use super::damaged;
use super::folder::{Found, MAX_INDEX, find_in_root};
use super::mft::Mft;
use super::record::{DATA, VOLUME_INFORMATION, fix_up};
use super::runs::Stream;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::usage::Unusable;

/// Records of the files that tell.
const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
/// Flags of the volume: it is to be checked; a check is under way.
const DIRTY: u16 = 0x0001;
const CHECKING: u16 = 0x4000;
/// Bytes of a restart page where none says otherwise, and the most that one has.
const PAGE: usize = 4096;
const MAX_PAGE: usize = 65536;

/// Whether it was closed properly; otherwise why it counts as dirty.
///
/// # Errors
/// Where the volume is damaged or cannot be read.
pub(super) fn clean(mft: &Mft<'_>) -> Result<Result<(), String>, Unusable> {
    // The one that says most to the operator comes first.
    for check in [hibernated, flags, journal] {
        if let Err(why) = check(mft)? {
            return Ok(Err(why));
        }
    }
    Ok(Ok(()))
}

/// A Windows that hibernates, or was shut down with fast startup, has its memory in a file; what it has
/// not written to the volume yet is in there.
fn hibernated(mft: &Mft<'_>) -> Result<Result<(), String>, Unusable> {
    let (number, sequence) = match find_in_root(mft, "hiberfil.sys")? {
        Found::Nothing => return Ok(Ok(())),
        Found::Record(number, sequence) => (number, sequence),
        Found::TooLarge => {
            return Ok(Err(format!(
                "its root folder has more than {} MiB, too many to look for hiberfil.sys",
                MAX_INDEX >> 20
            )));
        }
    };
    let record = mft.record(number)?;
    if record.sequence() != sequence {
        return Err(damaged("hiberfil.sys is not where its folder says"));
    }
    let stream = mft.stream(&record, DATA, "")?;
    let mut head = [0; 4];
    let Some(stream) = stream.filter(|stream| stream.size() >= 4) else {
        return Ok(Ok(()));
    };
    stream.read(mft.volume, mft.boot, 0, &mut head)?;
    Ok(match &head.map(|byte| byte.to_ascii_lowercase()) {
        // `wake`: it was started again since.
        [0, 0, 0, 0] | b"wake" => Ok(()),
        b"hibr" => Err(
            "a Windows hibernates on it, or was shut down with fast startup: shut it down with \
             `shutdown /s /f /t 0`"
                .into(),
        ),
        _ => Err(format!(
            "its hiberfil.sys begins with \"{}\": whether a Windows hibernates on it is not known",
            head.escape_ascii()
        )),
    })
}

fn flags(mft: &Mft<'_>) -> Result<Result<(), String>, Unusable> {
    let record = mft.record(VOLUME)?;
    let information = mft.stream(&record, VOLUME_INFORMATION, "")?;
    let Some(Stream::Resident(information)) = information.filter(|found| found.size() >= 12) else {
        return Err(damaged("$Volume has no flags"));
    };
    let flags = u16_at(&information, 10);
    Ok(if flags & CHECKING != 0 {
        Err("a check of it was begun and not ended (chkdsk)".into())
    } else if flags & DIRTY != 0 {
        Err("its dirty flag is set: it wants to be checked (chkdsk)".into())
    } else {
        Ok(())
    })
}

/// `$LogFile`: either never used, which is all ones, or the newer of its two restart pages says that
/// nobody has it open.
fn journal(mft: &Mft<'_>) -> Result<Result<(), String>, Unusable> {
    let record = mft.record(LOG_FILE)?;
    let stream = mft.stream(&record, DATA, "")?;
    let stream = stream.ok_or_else(|| damaged("$LogFile has no content"))?;
    let mut head = vec![0; PAGE];
    if stream.size() < 2 * PAGE as u64 {
        return Err(damaged("$LogFile is too short"));
    }
    stream.read(mft.volume, mft.boot, 0, &mut head)?;
    if head.iter().all(|byte| *byte == 0xff) {
        return Ok(Ok(()));
    }
    let said = u32_at(&head, 16) as usize;
    let is_page = matches!(head.first_chunk(), Some(b"RSTR" | b"CHKD"))
        && said.is_power_of_two()
        && (512..=MAX_PAGE).contains(&said);
    let size = if is_page { said } else { PAGE };
    let mut newest: Option<Restart> = None;
    for at in [0, size as u64] {
        if at + size as u64 > stream.size() {
            break;
        }
        let mut page = vec![0; size];
        stream.read(mft.volume, mft.boot, at, &mut page)?;
        let restart = Restart::parse(&mut page);
        if restart > newest {
            newest = restart;
        }
    }
    let Some(restart) = newest else {
        return Ok(Err("its journal ($LogFile) cannot be read".into()));
    };
    Ok(if restart.major >= 2 {
        // Windows leaves 1.1 behind where it closes the volume for others.
        Err(format!(
            "its journal ($LogFile) is of version {}.{}, as Windows leaves it at a fast startup, \
             or when the disk is pulled out",
            restart.major, restart.minor
        ))
    } else if restart.is_open {
        Err("its journal ($LogFile) was not closed: it was not unmounted".into())
    } else {
        Ok(())
    })
}

/// What a restart page says; the newer one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Restart {
    /// Grows with what is logged.
    sequence: u64,
    major: u16,
    minor: u16,
    is_open: bool,
}

impl Restart {
    fn parse(page: &mut [u8]) -> Option<Self> {
        fix_up(page, b"RSTR")
            .or_else(|_| fix_up(page, b"CHKD"))
            .ok()?;
        let at = usize::from(u16_at(page, 24));
        let area = page.get(at..).filter(|area| area.len() >= 48)?;
        let has_clients = u16_at(area, 12) != u16::MAX;
        let was_closed = u16_at(area, 14) & 2 != 0;
        Some(Self {
            sequence: u64_at(area, 0),
            major: u16_at(page, 28),
            minor: u16_at(page, 26),
            is_open: has_clients && !was_closed,
        })
    }
}
