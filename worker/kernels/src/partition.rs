//! Multiprocessors that are kept free for calls: while these come in, large runs of others are computed on the rest of the device.
//!
//! ONNX Runtime gives a session's stream to the operators, and copies in it what goes in and out. Between the first operator of such a run and its last
//! one, kernels are launched in another stream, which has only a part of the device (a green context of the driver's).

use std::{collections::HashMap, ffi::c_int, sync::LazyLock, time::Duration};

use parking_lot::{Mutex, RwLock};

use crate::{
    cuda::{Driver, Event, Part, Stream},
    error::KernelError,
    recent::{Last, now},
};

/// So long after a call others are expected.
const LATELY: Duration = Duration::from_secs(1);
/// Runs of fewer tokens are over soon, and fill no device.
pub(crate) const LARGE: usize = 1024;

/// Where the kernels of a run are launched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) stream: Stream,
    /// How many multiprocessors these kernels have. `None`: all of the device.
    pub(crate) multiprocessors: Option<c_int>,
}

/// A stream on a part of a device.
#[derive(Debug, Clone, Copy)]
struct Aside {
    stream: Stream,
    /// Where the run's first stream was when it left, and where this one is when it comes back.
    event: Event,
    part: &'static Partition,
}

/// A part of a device, as long as the process lives.
#[derive(Debug)]
pub(crate) struct Partition {
    part: Part,
    /// Multiprocessors that are not in it.
    pub(crate) left: u32,
    /// Streams in which no run is being launched. What was launched in them may go on: runs one after the other keep it as busy as runs side by side.
    idle: Mutex<Vec<(Stream, Event)>>,
}

/// By the address of the stream that ONNX Runtime uses for a run: where its kernels are launched instead.
static ASIDE: LazyLock<RwLock<HashMap<usize, Aside>>> = LazyLock::new(RwLock::default);

/// When calls came.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: Last,
    /// One soon after another.
    together: Last,
}

impl Calls {
    /// One has come now. One alone, such as a probe that comes every few seconds, is no reason to expect others.
    pub(crate) fn note(&self) {
        self.note_at(now());
    }

    /// Whether others are expected.
    pub(crate) fn are_expected(&self) -> bool {
        self.are_expected_at(now())
    }

    fn note_at(&self, now: Duration) {
        if self.last.note(now).is_some_and(|ago| ago < LATELY) {
            self.together.note(now);
        }
    }

    fn are_expected_at(&self, now: Duration) -> bool {
        self.together.is_within(LATELY, now)
    }
}

impl Partition {
    /// Leaves this share of the multiprocessors of this thread's device to calls, or a little more.
    pub(crate) fn without(driver: &Driver, share: f64) -> Result<Self, KernelError> {
        let (part, left) = driver.part_without(share)?;
        let (stream, event) = (driver.stream_on(part)?, driver.event()?);
        // A driver that cannot have one wait for the other says so here, and not in a run.
        let other = driver.urgent_stream()?;
        let tried = driver.follow(stream, other, event).and_then(|()| driver.follow(other, stream, event));
        // SAFETY: it was made here, and nobody else has it.
        unsafe { driver.end_stream(other) }?;
        tried.map(|()| Self { part, left, idle: Mutex::new(vec![(stream, event)]) })
    }

    fn take(&self, driver: &Driver) -> Result<(Stream, Event), KernelError> {
        if let Some(idle) = self.idle.lock().pop() {
            return Ok(idle);
        }
        Ok((driver.stream_on(self.part)?, driver.event()?))
    }

    /// The kernels of a run that begins in this stream are launched on this part from now on.
    fn begin(&'static self, driver: &Driver, from: Stream) -> Result<(), KernelError> {
        let (stream, event) = self.take(driver)?;
        if let Err(error) = driver.follow(stream, from, event) {
            self.idle.lock().push((stream, event));
            return Err(error);
        }
        ASIDE.write().insert(from.address(), Aside { stream, event, part: self });
        Ok(())
    }
}

/// A run of so many tokens begins in this stream, in which none is [left over](end). While calls are expected, it goes to a part of the device if it is large.
pub(crate) fn begin(
    driver: &Driver,
    (partition, calls): (Option<&'static Partition>, &Calls),
    tokens: usize,
    stream: Stream,
) -> Result<(), KernelError> {
    match partition {
        Some(partition) if tokens >= LARGE && calls.are_expected() => partition.begin(driver, stream),
        _ => Ok(()),
    }
}

/// All of a run is launched, or it has failed: what comes in its stream now waits until that is computed.
pub(crate) fn end(driver: &Driver, stream: Stream) -> Result<(), KernelError> {
    // Asked first: most runs are not there, and nobody else ends this one.
    if !ASIDE.read().contains_key(&stream.address()) {
        return Ok(());
    }
    let Some(aside) = ASIDE.write().remove(&stream.address()) else { return Ok(()) };
    driver.follow(stream, aside.stream, aside.event)?;
    aside.part.idle.lock().push((aside.stream, aside.event));
    Ok(())
}

/// Where kernels of the run that ONNX Runtime has in this stream are to be launched.
pub(crate) fn lane(stream: Stream) -> Lane {
    let aside = ASIDE.read().get(&stream.address()).copied();
    aside.map_or(Lane { stream, multiprocessors: None }, |aside| Lane {
        stream: aside.stream,
        multiprocessors: Some(aside.part.part.multiprocessors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_are_expected_for_a_while_after_two_that_came_together() {
        let calls = Calls::default();
        assert!(!calls.are_expected_at(Duration::ZERO), "there was none");
        calls.note_at(Duration::ZERO);
        assert!(!calls.are_expected_at(Duration::ZERO), "one alone");
        calls.note_at(SECOND / 2);
        assert!(calls.are_expected_at(SECOND / 2) && calls.are_expected_at(SECOND * 149 / 100));
        assert!(!calls.are_expected_at(SECOND * 3 / 2));
    }

    #[test]
    fn probes_make_nobody_expect_calls() {
        let calls = Calls::default();
        for n in 1..10 {
            calls.note_at(SECOND * 5 * n);
            assert!(!calls.are_expected_at(SECOND * 5 * n));
        }
        // Between calls they change nothing.
        calls.note_at(SECOND * 50);
        calls.note_at(SECOND * 50);
        assert!(calls.are_expected_at(SECOND * 50));
    }

    #[test]
    fn a_run_that_has_not_left_its_stream_is_launched_there() {
        let stream = Stream(std::ptr::dangling_mut::<u64>().cast());
        let lane = lane(stream);
        assert_eq!((lane.stream.address(), lane.multiprocessors), (stream.address(), None));
    }
}
