//! How the allocator shares memory out: the one call that sets it.
#![allow(unsafe_code)]

/// In how many arenas at most glibc keeps what was freed. By itself it makes one for each thread that
/// asks while the others are busy, up to eight for each processor, and what one thread has freed is of
/// no use to those of another arena: a server whose blocking threads come and go keeps tens of
/// megabytes that nobody uses. Small pieces come from each thread's own cache, without an arena.
#[cfg(target_env = "gnu")]
const ARENAS: std::ffi::c_int = 2;

/// Bounds them. To be called before there are threads. Other C libraries have no arenas.
pub(crate) fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers and touches none of our memory; nothing else runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
