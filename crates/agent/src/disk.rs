//! Disks as the agent reads and writes them: past the page cache, in aligned memory.

mod buffer;
mod huge;
mod target;

pub(crate) use buffer::{ALIGN, AlignedBuf};
pub use target::{Access, DiskError, Target};

/// Whether every byte is zero.
pub(crate) fn is_zero(content: &[u8]) -> bool {
    // Word by word: the byte loop of an unoptimised iterator is slower than the disk.
    let (words, rest) = content.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn zero_is_told_from_anything_else() {
        for len in [0, 1, 15, 16, 17, 512] {
            let mut content = vec![0; len];
            assert!(is_zero(&content));
            for at in 0..len {
                content[at] = 1;
                assert!(!is_zero(&content), "byte {at} of {len}");
                content[at] = 0;
            }
        }
    }
}
