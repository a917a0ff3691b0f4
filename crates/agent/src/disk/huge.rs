//! Huge pages: the one call to the kernel that asks for them.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

/// The length of a huge page in bytes, on x86 and on Arm with pages of 4 KiB. Where it is another, the
/// memory is ordinary, and nothing else changes.
pub(crate) const HUGE: usize = 2 << 20;

/// A zeroed region that begins at a multiple of [`HUGE`] and is that long: a huge page where the
/// kernel has one. It is never given back.
pub(crate) fn page() -> &'static mut [u8] {
    // Twice as much, of which the kernel backs only what is touched.
    let memory = vec![0; 2 * HUGE].leak();
    let start = memory.as_ptr().align_offset(HUGE).min(HUGE);
    let page = &mut memory[start..start + HUGE];
    // SAFETY: the range is mapped and ours alone, it begins and ends with a page, and MADV_HUGEPAGE
    // changes nothing of what it holds (madvise(2)).
    let advised = unsafe { madvise(page.as_mut_ptr().cast(), HUGE, Advice::LinuxHugepage) };
    // A kernel without huge pages says no. What is in the memory is the same.
    let _ = advised;
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_aligned_and_can_be_written() {
        let page = page();
        assert_eq!(page.len(), HUGE);
        assert_eq!(page.as_ptr().addr() % HUGE, 0);
        assert!(page.iter().all(|&byte| byte == 0));
        page.fill(1);
    }
}
