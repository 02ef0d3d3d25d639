//! How many batches run at the same time, over all engines of a variant: while one version takes the place of another, both
//! have work, and the cores are there only once. Runs side by side beyond that would each take longer, and what is learnt
//! from their times would be wrong.

use parking_lot::{Condvar, Mutex};

/// Room for a number of runs. Online calls come first.
#[derive(Debug)]
pub struct RunLimit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    most: usize,
    running: usize,
    /// Online runs that wait.
    online: usize,
}

/// Room for one run, until it is dropped.
#[derive(Debug)]
pub struct RunPermit<'a>(&'a RunLimit);

impl RunLimit {
    /// Room for so many runs.
    #[must_use]
    pub const fn new(runs: usize) -> Self {
        Self { state: Mutex::new(State { most: runs, running: 0, online: 0 }), changed: Condvar::new() }
    }

    /// Waits for room for a run.
    pub fn take(&self, online: bool) -> RunPermit<'_> {
        let mut state = self.state.lock();
        state.online += usize::from(online);
        while state.running >= state.most || (!online && state.online > 0) {
            self.changed.wait(&mut state);
        }
        state.online -= usize::from(online);
        state.running += 1;
        if online && state.running < state.most {
            // Others may have waited for this one to go first.
            self.changed.notify_all();
        }
        RunPermit(self)
    }

    /// From now on, room for so many runs.
    pub fn resize(&self, runs: usize) {
        self.state.lock().most = runs;
        self.changed.notify_all();
    }
}

impl Drop for RunPermit<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        // Which of those who wait may go depends on what they have.
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;

    #[test]
    fn no_more_than_there_is_room_for() {
        let (limit, running) = (RunLimit::new(2), AtomicUsize::new(0));
        thread::scope(|scope| {
            for n in 0..8 {
                let (limit, running) = (&limit, &running);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let _permit = limit.take(n % 2 == 0);
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                        thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn online_calls_come_first() {
        let limit = Arc::new(RunLimit::new(1));
        let (order, went) = mpsc::channel();
        let first = limit.take(false);
        let start = |online| {
            let (limit, order) = (Arc::clone(&limit), order.clone());
            thread::spawn(move || {
                let _permit = limit.take(online);
                order.send(online).unwrap();
            })
        };
        let bulk = start(false);
        let call = start(true);
        // The call waits; the other may not even have come yet.
        while limit.state.lock().online == 0 {
            thread::yield_now();
        }
        drop(first);
        assert!(went.recv().unwrap());
        assert!(!went.recv().unwrap());
        bulk.join().unwrap();
        call.join().unwrap();
    }
}
