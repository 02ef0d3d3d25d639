//! What all threads of this crate have in common: their death is reported, since nobody is to wait for what they would have done,
//! and those that compute give way to those that take in and answer.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Hears why a thread cannot go on. Clones are the same.
#[derive(Clone)]
pub struct OnDeath(Arc<dyn Fn(String) + Send + Sync>);

impl OnDeath {
    /// Calls this.
    pub fn new(report: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Something cannot go on.
    pub fn report(&self, reason: String) {
        (self.0)(reason);
    }
}

impl std::fmt::Debug for OnDeath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDeath")
    }
}

/// Runs the body of a thread. A panic is reported with the name of what died; then it is `None`.
pub fn guarded<R>(on_death: &OnDeath, what: &str, body: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Some(result),
        Err(panic) => {
            on_death.report(format!("{what} panicked: {}", panic_message(&*panic)));
            None
        }
    }
}

/// What a panic said.
#[must_use]
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message").to_owned()
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lowers the calling thread's priority by `nice` steps (0 to 19). While nobody else wants the core, it changes nothing.
///
/// For threads that use a core for tens of milliseconds at a time: whoever takes in a call, or answers one, needs it for microseconds.
pub fn give_way(nice: u8) {
    if nice == 0 {
        return;
    }
    // SAFETY: `setpriority` only takes integers; 0 stands for the calling thread, since Linux keeps priorities by thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice.min(19))) };
    if result != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread's priority could not be lowered");
    }
}
