//! Memory that a version has left behind.

/// Gives freed memory back to the system. The allocator keeps what was freed in the middle of its arenas, and a version's
/// weights are the largest thing that is ever freed.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
