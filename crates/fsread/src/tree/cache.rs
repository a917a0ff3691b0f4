//! What was read last, as neighbours are mostly read next: inodes, entries of a table.

use crate::ReadAt;
use std::cell::RefCell;
use std::io;

/// Bytes that are read at once.
const PIECE: u64 = 32 << 10;
/// How many pieces are kept.
const PIECES: usize = 16;

/// A source, and pieces of it.
pub(super) struct Cached<'a> {
    source: &'a dyn ReadAt,
    kept: RefCell<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Where a piece begins, and its bytes.
    pieces: Vec<(u64, Vec<u8>)>,
    /// Which one is given up next.
    next: usize,
}

impl<'a> Cached<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            kept: RefCell::default(),
        }
    }
}

impl ReadAt for Cached<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let begin = offset - offset % PIECE;
        let length = PIECE.min(self.source.size().saturating_sub(begin));
        let end = offset.checked_add(buf.len() as u64);
        // Files are read in large parts, and once.
        if end.is_none_or(|end| end > begin + length) {
            return self.source.read_at(offset, buf);
        }
        let mut kept = self.kept.borrow_mut();
        let known = kept.pieces.iter().position(|piece| piece.0 == begin);
        let index = match known {
            Some(index) => index,
            None => {
                let mut bytes = vec![0; length as usize];
                self.source.read_at(begin, &mut bytes)?;
                let index = kept.next;
                kept.next = (index + 1) % PIECES;
                if index == kept.pieces.len() {
                    kept.pieces.push((begin, bytes));
                } else {
                    kept.pieces[index] = (begin, bytes);
                }
                index
            }
        };
        kept.pieces[index].1.read_at(offset - begin, buf)
    }

    fn size(&self) -> u64 {
        self.source.size()
    }
}
