//! What all threads of this crate have in common: their death is reported, since nobody is to wait for what they would have done,
//! and those that compute give way to those that take in and answer.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{Builder, JoinHandle},
};

use parking_lot::Mutex;

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

/// Runs that are being computed on the same cores, by whichever variants. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct CoreUse(Arc<AtomicUsize>);

/// A run that is being computed, until it is dropped.
#[derive(Debug)]
pub struct CoresUsed(CoreUse);

impl CoreUse {
    /// The one of this process, whose runs share all of its cores.
    #[must_use]
    pub fn of_this_process() -> Self {
        static PROCESS: LazyLock<CoreUse> = LazyLock::new(CoreUse::default);
        PROCESS.clone()
    }

    /// A run begins.
    pub fn begin(&self) -> CoresUsed {
        self.0.fetch_add(1, Ordering::Relaxed);
        CoresUsed(self.clone())
    }

    /// Whether nothing is being computed.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for CoresUsed {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread's work.
type Body = Box<dyn FnOnce() + Send>;
type Order = (Builder, Body, mpsc::Sender<io::Result<JoinHandle<()>>>);

/// Starts threads, and is none that has given way itself: a thread begins with the priority of the one that starts it, and only
/// the system's owner may raise it.
static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (orders, ordered) = mpsc::channel::<Order>();
    // Without it, nobody gets a thread, and says so.
    let _ = Builder::new().name("starter".to_owned()).spawn(move || {
        for (builder, body, answer) in ordered {
            let _ = answer.send(builder.spawn(body));
        }
    });
    Mutex::new(orders)
});

/// Makes the calling thread's priority the one with which [`start_ordinary`] starts threads, unless somebody came first.
pub fn be_ordinary() {
    LazyLock::force(&STARTER);
}

/// Starts a thread whose priority is lowered by `nice` from what is ordinary here, not from the calling thread's.
///
/// # Errors
/// If the system refuses a thread.
pub fn start_ordinary(name: &str, nice: u8, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let (answer, answered) = mpsc::channel();
    let body: Body = Box::new(move || {
        give_way(nice);
        body();
    });
    let gone = || io::Error::other("the thread that starts others could not be started");
    STARTER.lock().send((Builder::new().name(name.to_owned()), body, answer)).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
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

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: it only takes integers; 0 stands for the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn a_thread_does_not_inherit_how_far_another_gave_way() {
        be_ordinary();
        let (own, found) = (nice(), mpsc::channel());
        let aside = std::thread::spawn(move || {
            give_way(19);
            start_ordinary("ordinary", 0, move || found.0.send(nice()).unwrap()).unwrap().join().unwrap();
            nice()
        });
        assert_eq!(aside.join().unwrap(), 19);
        assert_eq!(found.1.recv().unwrap(), own);
    }

    #[test]
    fn cores_are_free_when_every_run_has_ended() {
        let cores = CoreUse::default();
        let (one, other) = (cores.begin(), cores.clone().begin());
        drop(one);
        assert!(!cores.is_none());
        drop(other);
        assert!(cores.is_none());
    }
}
