//! What an engine leaves behind: its memory is freed, unless its device is lost.

use std::{
    mem,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::capture_lock;

/// Whether a device is lost. The process is about to end then, and nothing is freed any more: nothing can be freed on that device,
/// and where ONNX Runtime fails to, it ends the process at once, with jobs still to be given back. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct DeviceLoss(Arc<AtomicBool>);

impl DeviceLoss {
    /// The one of this process: all its devices share an address space, and the library that would abort.
    #[must_use]
    pub fn of_this_process() -> Self {
        static PROCESS: LazyLock<DeviceLoss> = LazyLock::new(DeviceLoss::default);
        PROCESS.clone()
    }

    /// From now on nothing is freed.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Frees an engine, if that is safe.
    pub(crate) fn free<E>(&self, engine: E) {
        if self.0.load(Ordering::Relaxed) {
            return mem::forget(engine);
        }
        {
            let _freeing = capture_lock::run();
            drop(engine);
        }
        give_back();
    }
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
    use super::*;

    #[test]
    fn nothing_is_freed_once_a_device_is_lost() {
        let (engine, loss) = (Arc::new(()), DeviceLoss::default());
        loss.free(Arc::clone(&engine));
        assert_eq!(Arc::strong_count(&engine), 1);
        loss.clone().note();
        loss.free(Arc::clone(&engine));
        assert_eq!(Arc::strong_count(&engine), 2);
    }
}
