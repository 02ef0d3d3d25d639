//! What an engine leaves behind.

use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
};

use super::capture_lock;

/// Whether a device of this process is lost. The process is about to end then.
static DEVICE_LOST: AtomicBool = AtomicBool::new(false);

/// From now on nothing is freed.
pub(super) fn device_lost() {
    DEVICE_LOST.store(true, Ordering::Relaxed);
}

/// Frees an engine. Not if a device is lost: nothing can be freed on it, and where ONNX Runtime fails to, it ends the process at once,
/// with jobs still to be given back.
pub(super) fn free<E>(engine: E) {
    if DEVICE_LOST.load(Ordering::Relaxed) {
        return mem::forget(engine);
    }
    {
        let _freeing = capture_lock::run();
        drop(engine);
    }
    give_back();
}

/// Gives freed memory back to the system. The allocator keeps what was freed in the middle of its arenas, and a version's
/// weights are the largest thing that is ever freed.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` takes a number and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_is_freed_when_a_device_is_lost() {
        let engine = Arc::new(());
        device_lost();
        free(Arc::clone(&engine));
        assert_eq!(Arc::strong_count(&engine), 2);
    }
}
