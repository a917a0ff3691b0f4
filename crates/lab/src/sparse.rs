//! Files with holes: disk images are mostly nothing.

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes that are looked at together: a block of nothing but zeros counts as a hole.
pub const BLOCK: usize = 64 << 10;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Whether `bytes` are all zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // A comparison of slices is one call of memcmp, quick in unoptimised builds as well.
    bytes
        .chunks(BLOCK)
        .all(|chunk| Some(chunk) == ZEROS.get(..chunk.len()))
}

/// The ranges of `file`, up to `length`, that the file system has data for, in order.
///
/// # Errors
///
/// When the file system cannot be asked.
pub fn data_ranges(file: &File, length: u64) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // lseek(2): there is no data after this place.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).context("cannot look for data in a sparse file"),
        };
        let end = seek(file, SeekFrom::Hole(begin)).context("cannot look for holes in a file")?;
        if end <= begin {
            bail!("the file system says that data at {begin} ends at {end}");
        }
        ranges.push(begin.min(length)..end.min(length));
        at = end;
    }
    Ok(ranges)
}

/// Copies what is not zero of `from` (of `length` bytes) to `to`, at `offset` there. Where `from` is
/// zero, `to` is left as it is.
///
/// # Errors
///
/// When reading or writing fails.
pub fn copy(from: &File, length: u64, to: &File, offset: u64) -> Result<()> {
    let mut buffer = vec![0; BLOCK];
    for range in data_ranges(from, length)? {
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(BLOCK).min(BLOCK);
            let block = buffer.get_mut(..count).unwrap_or_default();
            from.read_exact_at(block, at)
                .with_context(|| format!("cannot read at {at}"))?;
            if !is_zero(block) {
                to.write_all_at(block, offset + at)
                    .with_context(|| format!("cannot write at {}", offset + at))?;
            }
            at += count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_data_and_leaves_holes() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(10 << 20).unwrap();
        from.write_all_at(b"begin", 0).unwrap();
        from.write_all_at(&[7; 100_000], 5 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        to.set_len(12 << 20).unwrap();
        copy(&from, 10 << 20, &to, 1 << 20).unwrap();
        let mut all = vec![1; 12 << 20];
        to.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all[1 << 20..(1 << 20) + 5], b"begin");
        assert_eq!(&all[6 << 20..(6 << 20) + 100_000], &[7; 100_000]);
        assert_eq!(all.iter().filter(|&&byte| byte != 0).count(), 100_005);
        let data: u64 = data_ranges(&to, 12 << 20)
            .unwrap()
            .iter()
            .map(|r| r.end - r.start)
            .sum();
        assert!(data < 1 << 20, "{data} bytes are data");
    }

    #[test]
    fn zeros_are_told_from_data() {
        let mut bytes = vec![0; BLOCK + 100];
        assert!(is_zero(&bytes));
        bytes[BLOCK + 99] = 1;
        assert!(!is_zero(&bytes));
    }
}
