//! Streams that go before others on a device.

use std::ffi::c_void;

use crate::{
    cuda::{Driver, Stream},
    error::KernelError,
};

/// A stream whose kernels a device starts before those of other streams. What is being computed is not interrupted, but between two of its blocks
/// these have their turn.
#[derive(Debug)]
pub struct UrgentStream {
    device: u32,
    address: usize,
}

impl UrgentStream {
    /// A stream on a device, by CUDA's number, in the context that ONNX Runtime has there.
    ///
    /// # Errors
    /// If the driver is not there, or makes none.
    pub fn new(device: u32) -> Result<Self, KernelError> {
        let driver = Driver::get()?;
        let stream = driver.with_device(device, || driver.urgent_stream())?;
        Ok(Self { device, address: stream.0 as usize })
    }

    /// Where it is, as ONNX Runtime's options want it. A session that has it must be gone before this is.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.address
    }
}

impl Drop for UrgentStream {
    fn drop(&mut self) {
        let Ok(driver) = Driver::get() else { return };
        let stream = Stream(self.address as *mut c_void);
        // SAFETY: it was made by `new`, and whoever uses it keeps this.
        // Of a device that is lost there is nothing to be given back.
        let _ = driver.with_device(self.device, || unsafe { driver.end_stream(stream) });
    }
}
