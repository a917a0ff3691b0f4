//! Memory that O_DIRECT accepts.

/// Alignment in bytes: no disk asks for more than its page of 4,096.
pub(crate) const ALIGN: usize = 4096;

/// A zeroed buffer whose first byte is aligned to [`ALIGN`].
///
/// It is a plain vector, somewhat longer than asked for, of which the aligned part is used: no
/// unsafe code for a few kilobytes.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, start, len }
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_of_the_right_length() {
        for len in [0, 1, 512, 1 << 20] {
            let mut buffer = AlignedBuf::new(len);
            assert_eq!(buffer.as_ptr().addr() % ALIGN, 0);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
        }
    }
}
