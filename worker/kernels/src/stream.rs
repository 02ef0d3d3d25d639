//! Streams that go before others on a device.

use std::{
    collections::HashMap,
    ffi::c_void,
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;

use crate::{
    cuda::{Driver, Function, Stream},
    device::Device,
    error::KernelError,
    partition::LARGE,
    recent::{Last, now},
};

/// For so long a gate holds its stream up if nobody opens it, because a run has failed between its first and its last operator: longer than it takes to launch
/// the kernels of a large model.
const LONGEST: Duration = Duration::from_millis(4);
/// Large runs follow each other within this.
const LATELY: Duration = Duration::from_millis(100);

/// A stream whose kernels a device starts before those of other streams. What is being computed is not interrupted, but between two of its blocks
/// these have their turn.
///
/// A run of few tokens takes longer to be launched than to be computed, and between any two of its kernels those of others would fill the device. So while
/// there are others, the operators of this crate hold the stream up until all of a run has been launched.
#[derive(Debug)]
pub struct UrgentStream {
    device: u32,
    address: usize,
    gate: Arc<Gate>,
}

/// By the address of their stream.
static GATES: LazyLock<RwLock<HashMap<usize, Arc<Gate>>>> = LazyLock::new(RwLock::default);
/// When a large run on another stream began: its kernels hold a device for longer than it takes to launch one.
static LARGE_RUN: Last = Last::never();

/// What holds a stream up.
pub(crate) struct Gate {
    /// The last ticket that may pass. In memory of the host, which the device reads.
    opened: *mut u32,
    /// The last that was given out.
    ticket: AtomicU32,
    /// Where it is, unless our operators cannot be used there.
    device: Option<&'static Device>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

// SAFETY: what it points to is written and read as an atomic number, and is there as long as this is.
unsafe impl Send for Gate {}
// SAFETY: as above.
unsafe impl Sync for Gate {}

impl UrgentStream {
    /// A stream on a device, by CUDA's number, in the context that ONNX Runtime has there.
    ///
    /// # Errors
    /// If the driver is not there, or makes none.
    pub fn new(device: u32) -> Result<Self, KernelError> {
        let driver = Driver::get()?;
        let (stream, opened, here) =
            driver.with_device(device, || Ok((driver.urgent_stream()?, driver.host_number()?, Device::here().ok())))?;
        let gate = Gate { opened, ticket: AtomicU32::new(0), device: here };
        let (address, gate) = (stream.address(), Arc::new(gate));
        GATES.write().insert(address, Arc::clone(&gate));
        Ok(Self { device, address, gate })
    }

    /// Where it is, as ONNX Runtime's options want it. A session that has it must be gone before this is.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.address
    }

    /// A call is about to be computed in it, and others may be expected: see [`keep_free`](crate::keep_free).
    pub fn note_call(&self) {
        if let Some(device) = self.gate.device {
            device.calls.note();
        }
    }
}

impl Drop for UrgentStream {
    fn drop(&mut self) {
        GATES.write().remove(&self.address);
        let Ok(driver) = Driver::get() else { return };
        let stream = Stream(self.address as *mut c_void);
        // Of a device that is lost there is nothing to be given back.
        let _ = driver.with_device(self.device, || {
            // SAFETY: it was made by `new`, and whoever uses it keeps this.
            unsafe { driver.end_stream(stream) }?;
            // SAFETY: it was taken by `new`; the stream in which it was read has ended, and no run has the gate, since none has the stream.
            unsafe { driver.free_host_number(self.gate.opened) }
        });
    }
}

/// The gate of a stream, if it is an urgent one.
pub(crate) fn gate_of(stream: Stream) -> Option<Arc<Gate>> {
    GATES.read().get(&stream.address()).cloned()
}

/// A run of so many tokens begins on a stream that is none.
pub(crate) fn note_run(tokens: usize) {
    if tokens >= LARGE {
        LARGE_RUN.note(now());
    }
}

/// Whether there are other runs that a gate is worth it for.
fn has_company() -> bool {
    LARGE_RUN.is_within(LATELY, now())
}

impl Gate {
    /// What is launched in the stream from now on waits until [`Gate::open`], if there are other runs.
    pub(crate) fn close(&self, driver: &Driver, kernel: Function, stream: Stream) -> Result<(), KernelError> {
        // While large runs leave room, nothing has to be held up.
        if !has_company() || self.device.is_some_and(Device::has_room) {
            return Ok(());
        }
        let mut ticket = self.ticket.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut opened = self.opened;
        let mut nanoseconds = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        let arguments: [*mut c_void; 3] =
            [(&raw mut opened).cast(), (&raw mut ticket).cast(), (&raw mut nanoseconds).cast()];
        // SAFETY: these are the arguments of `gate`, and the number that it reads is there as long as the stream.
        unsafe { driver.launch(kernel, (1, 1), (1, 1), stream, arguments) }
    }

    /// All is launched.
    pub(crate) fn open(&self) {
        // SAFETY: it is there as long as the gate is, aligned, and nobody writes it otherwise.
        let opened = unsafe { AtomicU32::from_ptr(self.opened) };
        opened.store(self.ticket.load(Ordering::Relaxed), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_worth_it_after_a_large_run() {
        note_run(LARGE - 1);
        assert!(!has_company());
        note_run(LARGE);
        assert!(has_company());
    }

    #[test]
    fn what_was_launched_before_it_is_opened_passes() {
        let mut number = 0;
        let gate = Gate { opened: &raw mut number, ticket: AtomicU32::new(u32::MAX), device: None };
        // As the kernel compares them: numbers go round.
        let passes = |ticket: u32| {
            // SAFETY: the number is there, and nobody else uses it.
            let seen = unsafe { AtomicU32::from_ptr(gate.opened) }.load(Ordering::Acquire);
            seen.wrapping_sub(ticket).cast_signed() >= 0
        };
        let ticket = gate.ticket.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        assert_eq!(ticket, 0);
        gate.ticket.store(5, Ordering::Relaxed);
        assert!(!passes(5));
        gate.open();
        assert!(passes(5) && passes(4) && !passes(6));
    }
}
