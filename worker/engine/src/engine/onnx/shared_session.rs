//! One ONNX Runtime session that several threads run at once.
//!
//! `ort` takes `&mut self` to run a session, because some providers have had allocators and statistics that are not
//! thread-safe. A session for each thread would hold the weights once for each: on the CPU, that is more than what the
//! cores' shared cache can hold; on a device, memory that batches could have.

use std::{
    ffi::CStr,
    ptr::{self, NonNull},
};

use ort::{
    AsPointer,
    session::{RunOptions, Session},
    value::DynValue,
};

/// A session on the CPU's provider, CUDA's, or TensorRT's.
#[derive(Debug)]
pub(super) struct SharedSession(Session);

/// A value, as ONNX Runtime knows it.
pub(super) type Value<'a> = &'a dyn AsPointer<Sys = ort::sys::OrtValue>;

impl SharedSession {
    /// Shares a session of one of the providers that this module knows.
    pub(super) const fn new(session: Session) -> Self {
        Self(session)
    }

    /// What must not be run: names, allocators.
    pub(super) const fn session(&self) -> &Session {
        &self.0
    }

    /// Runs the graph, and returns one output, on the CPU. May be called from several threads at once.
    pub(super) fn run(&self, inputs: [(&CStr, Value<'_>); 2], output: &CStr) -> ort::Result<DynValue> {
        let result = self.call(inputs, output, ptr::null_mut(), None)?;
        let result = NonNull::new(result).ok_or_else(|| ort::Error::new("ONNX Runtime returned no output"))?;
        // SAFETY: a run that succeeded has set the pointer to a value that is ours now, made with the session's allocator.
        Ok(unsafe { DynValue::from_ptr(result, Some(self.0.allocator())) })
    }

    /// Runs the graph, and writes one output into a tensor, which must have the right shape. May be called from several
    /// threads at once, with different tensors.
    pub(super) fn run_into(
        &self,
        inputs: [(&CStr, Value<'_>); 2],
        output: &CStr,
        into: Value<'_>,
        options: Option<&RunOptions>,
    ) -> ort::Result<()> {
        self.call(inputs, output, into.ptr().cast_mut(), options).map(|_| ())
    }

    fn call(
        &self,
        inputs: [(&CStr, Value<'_>); 2],
        output: &CStr,
        mut result: *mut ort::sys::OrtValue,
        options: Option<&RunOptions>,
    ) -> ort::Result<*mut ort::sys::OrtValue> {
        let names = inputs.map(|(name, _)| name.as_ptr());
        let values = inputs.map(|(_, value)| value.ptr());
        let output_name = [output.as_ptr()];
        let session = self.0.inner();
        // SAFETY: ONNX Runtime documents `OrtSession::Run` as safe to call on one session from several threads; a provider for
        // which that does not hold says so to ONNX Runtime, which then takes a lock. On the CPU, kernels keep no state; CUDA's
        // have a stream for each run; TensorRT's provider locks each engine; the arenas have locks. All pointers outlive the
        // call, the two arrays of each pair have the lengths that are passed, and `Run` changes nothing behind the session's
        // pointer that anybody else here reads.
        let status = unsafe {
            (ort::api().Run)(
                session.ptr().cast_mut(),
                options.map_or(ptr::null(), AsPointer::ptr),
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_name.as_ptr(),
                output_name.len(),
                &raw mut result,
            )
        };
        // SAFETY: the status comes from the call above, and is used once.
        unsafe { ort::Error::result_from_status(status) }?;
        Ok(result)
    }
}
