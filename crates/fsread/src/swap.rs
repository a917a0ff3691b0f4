//! Linux swap space: only its header is worth carrying.
//!
//! `union swap_header` in the kernel's `include/linux/swap.h`; the marks of hibernation are those that
//! the kernel and its user-space helpers put in the place of the ordinary one.

use crate::ReadAt;
use crate::bytes::{has, u32_at};
use crate::usage::{Unusable, Usage};

/// Bytes of the pages that a system can have.
const PAGES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// A mark ends where the first page does.
const MARK: usize = 10;
/// The header of today, and the one before Linux 2.2.
const PLAIN: [&[u8]; 2] = [b"SWAPSPACE2", b"SWAP-SPACE"];
/// A system lies here asleep.
const ASLEEP: [&[u8]; 5] = [
    b"S1SUSPEND",
    b"S2SUSPEND",
    b"ULSUSPEND",
    b"LINHIB0001",
    &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c],
];

/// The size of the pages of the swap space that begins with `head`, and whether a system sleeps in it;
/// `None` where it is no swap space.
pub(crate) fn mark(head: &[u8]) -> Option<(usize, bool)> {
    PAGES.into_iter().find_map(|page| {
        let at = page - MARK;
        let any = |marks: &[&[u8]]| marks.iter().any(|mark| has(head, at, mark));
        (any(&PLAIN) || any(&ASLEEP)).then(|| (page, any(&ASLEEP)))
    })
}

/// The first page: the header with UUID, label and bad pages.
///
/// # Errors
/// Where it cannot be read, or says that it is longer than its partition.
pub(crate) fn used(volume: &dyn ReadAt) -> Result<Usage, Unusable> {
    let mut head = vec![0; volume.size().min(64 << 10) as usize];
    volume.read_at(0, &mut head)?;
    let Some((page, asleep)) = mark(&head) else {
        return Err(Unusable::Damaged("it has no mark of swap space".into()));
    };
    let head = &head[..page];
    if has(head, page - MARK, PLAIN[0]) {
        let (version, last) = (u32_at(head, 1024), u32_at(head, 1028));
        // It is written in the byte order of its machine.
        let last = match (version, version.swap_bytes()) {
            (1, _) => last,
            (_, 1) => last.swap_bytes(),
            _ => {
                return Err(Unusable::Damaged(format!(
                    "the version {version:#x} of its swap header is not known"
                )));
            }
        };
        if (u64::from(last) + 1) * page as u64 > volume.size() {
            return Err(Unusable::Damaged(format!(
                "its swap header counts {} pages of {page} bytes, and the partition has {} bytes",
                u64::from(last) + 1,
                volume.size()
            )));
        }
    }
    Ok(Usage {
        used: std::iter::once(0..page as u64).collect(),
        clean: match asleep {
            false => Ok(()),
            true => Err("a hibernated system lies in it".into()),
        },
    })
}
