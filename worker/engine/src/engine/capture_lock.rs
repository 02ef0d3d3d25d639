//! Keeps recordings of CUDA graphs alone on the devices.
//!
//! ONNX Runtime records with `cudaStreamCaptureModeGlobal`: meanwhile, no thread of the process may allocate memory of a device or
//! wait for it, or both the recording and what the other thread does fail. So runs and loads share a lock that recordings have alone.
//! There are two, because loading can take minutes, and a recording that waited for one load would stop all runs behind it: it waits
//! for loads first, and only then for the runs that are under way. One recording takes a few milliseconds.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static LOADS: RwLock<()> = RwLock::new(());
static RUNS: RwLock<()> = RwLock::new(());

/// For making sessions. Must not be asked for by who has it.
pub fn load() -> RwLockReadGuard<'static, ()> {
    LOADS.read()
}

/// For a run, and for what allocates or frees memory of a device. Must not be asked for by who has it.
pub(super) fn run() -> RwLockReadGuard<'static, ()> {
    RUNS.read()
}

/// For recording: nobody else uses a device.
pub(super) fn alone() -> (RwLockWriteGuard<'static, ()>, RwLockWriteGuard<'static, ()>) {
    let loads = LOADS.write();
    (loads, RUNS.write())
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn a_recording_waits_for_loads_without_stopping_runs() {
        let loading = load();
        let (recorded, done) = mpsc::channel();
        let recording = thread::spawn(move || {
            let _alone = alone();
            recorded.send(()).unwrap();
        });
        // It may wait already, or not yet: runs go on either way.
        for _ in 0..100 {
            drop(run());
            thread::yield_now();
        }
        assert!(done.try_recv().is_err());
        drop(loading);
        done.recv().unwrap();
        recording.join().unwrap();
    }
}
