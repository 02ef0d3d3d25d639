//! Time that a run takes, as if nobody else wanted the core.

use std::time::{Duration, Instant};

/// Measures a run.
#[derive(Debug)]
pub(super) enum Stopwatch {
    /// The calling thread's time on a core: a run of one thread takes it, and no more if the thread is not pushed aside.
    Thread(Duration),
    /// Time on the clock, where other threads take part.
    Wall(Instant),
}

impl Stopwatch {
    /// Starts. `alone` if the calling thread does all the work itself.
    pub(super) fn start(alone: bool) -> Self {
        if alone { Self::Thread(thread_time()) } else { Self::Wall(Instant::now()) }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Self::Thread(start) => thread_time().saturating_sub(*start),
            Self::Wall(start) => start.elapsed(),
        }
    }
}

/// How long the calling thread has been on a core.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is one that every Linux has, and the pointer is to a local variable.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a clock");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_takes_no_time() {
        let (own, wall) = (Stopwatch::start(true), Stopwatch::start(false));
        std::thread::sleep(Duration::from_millis(20));
        assert!(own.elapsed() < wall.elapsed());
        assert!(wall.elapsed() >= Duration::from_millis(20));
    }
}
