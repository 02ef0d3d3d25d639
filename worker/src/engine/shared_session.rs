//! One ONNX Runtime session that several threads run at once.
//!
//! `ort` takes `&mut self` to run a session, because providers other than the CPU's have had allocators and statistics that
//! are not thread-safe. A session for each thread would hold the weights once for each, which is more memory, and more
//! than what the cores' shared cache can hold: with one set of weights, a core finds there what the other has just
//! read.

use std::{
    ffi::CStr,
    ptr::{self, NonNull},
};

use ort::{
    AsPointer,
    session::Session,
    value::{DynValue, TensorRef},
};

/// A session on the CPU provider, and on no other.
#[derive(Debug)]
pub(super) struct SharedSession(Session);

impl SharedSession {
    /// Shares a session whose only provider is the CPU's.
    pub(super) const fn on_cpu(session: Session) -> Self {
        Self(session)
    }

    /// Runs the graph on two tensors of `i64`, and returns one output. May be called from several threads at once.
    pub(super) fn run(&self, inputs: [(&CStr, &TensorRef<'_, i64>); 2], output: &CStr) -> ort::Result<DynValue> {
        let names = inputs.map(|(name, _)| name.as_ptr());
        let values = inputs.map(|(_, tensor)| tensor.ptr());
        let output_name = [output.as_ptr()];
        let mut result = ptr::null_mut();
        let session = self.0.inner();
        // SAFETY: ONNX Runtime documents `OrtSession::Run` as safe to call on one session from several threads, and it is so
        // for the CPU provider, which is the only one here: kernels keep no state, and the arena has a lock. All pointers
        // outlive the call, the two arrays of each pair have the lengths that are passed, and `Run` changes nothing behind
        // the session's pointer that anybody else here reads.
        let status = unsafe {
            (ort::api().Run)(
                session.ptr().cast_mut(),
                ptr::null(),
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
        let result = NonNull::new(result).ok_or_else(|| ort::Error::new("ONNX Runtime returned no output"))?;
        // SAFETY: a run that succeeded has set the pointer to a value that is ours now, made with the session's allocator.
        Ok(unsafe { DynValue::from_ptr(result, Some(self.0.allocator())) })
    }
}
