//! Engine threads give way: they use a core for tens of milliseconds at a time, and whoever takes in a call, or answers
//! one, needs it for microseconds.

/// Lowers the calling thread's priority by `nice` steps (0 to 19). While nobody else wants the core, it changes nothing.
pub fn give_way(nice: u8) {
    if nice == 0 {
        return;
    }
    // SAFETY: `setpriority` only takes integers; 0 stands for the calling thread, since Linux keeps priorities by thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice.min(19))) };
    if result != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "the engine's priority could not be lowered");
    }
}
