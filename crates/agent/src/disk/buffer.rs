//! Memory that O_DIRECT accepts.

use super::huge;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Alignment in bytes: no disk asks for more than its page of 4,096.
pub(crate) const ALIGN: usize = 4096;

/// A buffer of at most this many bytes, and of more than half of it, is part of a huge page. It is
/// the length of a chunk: 1 MiB.
const PIECE: usize = 1 << 20;

/// Pieces of huge pages that nobody uses. They are kept until the process ends: there are as many as
/// were ever in use at once.
static FREE: Mutex<Vec<&'static mut [u8]>> = Mutex::new(Vec::new());

/// A zeroed buffer whose first byte is aligned to [`ALIGN`].
///
/// One of a chunk's length lies in a huge page where the kernel has one: a disk's driver gets one
/// address for the whole of it then, where it would get 256, each of a page. That is more than many a
/// controller takes with one command, and costs more than moving the bytes.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    /// A plain vector, somewhat longer than asked for, of which the aligned part is used: no unsafe
    /// code for a few kilobytes.
    Plain { memory: Vec<u8>, start: usize },
    /// A part of a huge page.
    Piece(&'static mut [u8]),
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    pub(crate) fn new(len: usize) -> Self {
        if (PIECE / 2 + 1..=PIECE).contains(&len)
            && let Some(piece) = take_piece()
        {
            let memory = Memory::Piece(piece);
            return Self { memory, len };
        }
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        let memory = Memory::Plain { memory, start };
        Self { memory, len }
    }
}

/// A zeroed piece of a huge page.
fn take_piece() -> Option<&'static mut [u8]> {
    // Not under the lock: another thread may want one meanwhile.
    if let Some(piece) = { free().pop() } {
        piece.fill(0);
        return Some(piece);
    }
    let mut pieces = huge::page().chunks_exact_mut(PIECE);
    let first = pieces.next();
    free().extend(pieces);
    first
}

fn free() -> MutexGuard<'static, Vec<&'static mut [u8]>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Memory::Piece(piece) = &mut self.memory {
            free().push(std::mem::take(piece));
        }
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Plain { memory, start } => &memory[*start..*start + self.len],
            Memory::Piece(piece) => &piece[..self.len],
        }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Plain { memory, start } => &mut memory[*start..*start + self.len],
            Memory::Piece(piece) => &mut piece[..self.len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_zero_and_of_the_right_length() {
        for len in [0, 1, 512, PIECE / 2, PIECE / 2 + 1, PIECE, PIECE + 1] {
            // The second one may have the memory of the first.
            for _ in 0..2 {
                let mut buffer = AlignedBuf::new(len);
                assert_eq!(buffer.as_ptr().addr() % ALIGN, 0);
                assert_eq!(buffer.len(), len);
                assert!(buffer.iter().all(|&byte| byte == 0), "{len}");
                buffer.fill(7);
            }
        }
    }

    #[test]
    fn pieces_are_used_again_and_never_twice_at_once() {
        let mut buffers: Vec<AlignedBuf> = (0..9).map(|_| AlignedBuf::new(PIECE)).collect();
        for (n, buffer) in (0u8..).zip(&mut buffers) {
            assert!(matches!(buffer.memory, Memory::Piece(_)));
            buffer.fill(n);
        }
        for (n, buffer) in (0u8..).zip(&buffers) {
            assert!(buffer.iter().all(|&byte| byte == n), "buffer {n}");
        }
    }
}
