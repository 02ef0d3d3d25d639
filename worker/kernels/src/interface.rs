//! ONNX Runtime's C interface for operators, as far as it is needed: what a run gives to a kernel, and attributes of a node.

use std::{
    ffi::{CStr, CString, c_void},
    ptr, slice,
};

use ort_sys::{OrtApi, OrtErrorCode, OrtKernelContext, OrtKernelInfo, OrtStatusPtr};

use super::{
    cuda::Stream,
    error::KernelError,
    partition::{self, Lane},
};

/// An error as ONNX Runtime takes it.
pub(crate) fn status(api: &OrtApi, error: &KernelError) -> OrtStatusPtr {
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    // SAFETY: the text ends with a zero, and is copied.
    unsafe { (api.CreateStatus)(OrtErrorCode::ORT_FAIL, text.as_ptr()) }
}

/// What ONNX Runtime answered, which is freed.
///
/// # Safety
/// `status` comes from this interface.
pub(crate) unsafe fn check(api: &OrtApi, status: OrtStatusPtr) -> Result<(), KernelError> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status has a text that ends with a zero and lives as long as it does.
    let said = unsafe { CStr::from_ptr((api.GetErrorMessage)(status.0)) }.to_string_lossy().into_owned();
    // SAFETY: it is there, and nobody else has it.
    unsafe { (api.ReleaseStatus)(status.0) };
    Err(KernelError::Runtime(said))
}

/// A node of a graph, while its kernel is made.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    pub(crate) api: &'a OrtApi,
    pub(crate) info: *const OrtKernelInfo,
}

impl Node<'_> {
    /// A whole number that the node has to have, at least 0.
    pub(crate) fn number(&self, name: &CStr) -> Result<usize, KernelError> {
        let mut value = 0;
        // SAFETY: the node is there, the name ends with a zero, and one number is written.
        unsafe { check(self.api, (self.api.KernelInfoGetAttribute_int64)(self.info, name.as_ptr(), &raw mut value)) }?;
        usize::try_from(value).map_err(|_| KernelError::Graph(format!("{name:?} is {value}, and has to be 0 or more")))
    }

    /// A number that the node has to have.
    pub(crate) fn float(&self, name: &CStr) -> Result<f32, KernelError> {
        let mut value = 0.0;
        // SAFETY: as above.
        unsafe { check(self.api, (self.api.KernelInfoGetAttribute_float)(self.info, name.as_ptr(), &raw mut value)) }?;
        Ok(value)
    }
}

/// One run of a kernel.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) api: &'a OrtApi,
    pub(crate) context: *mut OrtKernelContext,
}

/// What goes into a kernel. Its type and where it lies are as the operator says.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) data: *const c_void,
    pub(crate) shape: Vec<usize>,
}

impl Tensor {
    /// The shape, which has so many dimensions.
    pub(crate) fn dimensions<const N: usize>(&self, what: &str) -> Result<[usize; N], KernelError> {
        <[usize; N]>::try_from(self.shape.as_slice()).map_err(|_| {
            KernelError::Graph(format!("{what} has the shape {:?}, and has to have {N} dimensions", self.shape))
        })
    }

    /// Its numbers.
    ///
    /// # Safety
    /// It is int64, and lies on the host.
    pub(crate) unsafe fn on_host(&self) -> &[i64] {
        let length = self.shape.iter().product();
        if length == 0 {
            return &[];
        }
        // SAFETY: as the caller promises; there are as many as the shape says.
        unsafe { slice::from_raw_parts(self.data.cast(), length) }
    }
}

impl Run<'_> {
    pub(crate) fn input(&self, index: usize) -> Result<Tensor, KernelError> {
        let (mut value, mut info, mut data, mut count) = (ptr::null(), ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: the context is that of this run. It writes one pointer, which is there as long as the run.
        unsafe { check(self.api, (self.api.KernelContext_GetInput)(self.context, index, &raw mut value)) }?;
        if value.is_null() {
            return Err(KernelError::Graph(format!("input {index} is missing")));
        }
        // SAFETY: the value is a tensor, and one pointer is written. What it is for does not change it.
        unsafe { check(self.api, (self.api.GetTensorMutableData)(value.cast_mut(), &raw mut data)) }?;
        // SAFETY: as above; what is written has to be freed.
        unsafe { check(self.api, (self.api.GetTensorTypeAndShape)(value, &raw mut info)) }?;
        let mut dimensions = || {
            // SAFETY: the information is there, and one number is written.
            unsafe { check(self.api, (self.api.GetDimensionsCount)(info, &raw mut count)) }?;
            let mut shape = vec![0; count];
            // SAFETY: there is room for as many as were counted.
            unsafe { check(self.api, (self.api.GetDimensions)(info, shape.as_mut_ptr(), count)) }?;
            Ok(shape)
        };
        let shape: Result<Vec<i64>, KernelError> = dimensions();
        // SAFETY: it is not used any more.
        unsafe { (self.api.ReleaseTensorTypeAndShapeInfo)(info) };
        let shape = shape?.into_iter().map(|size| usize::try_from(size).unwrap_or(0)).collect();
        Ok(Tensor { data: data.cast_const(), shape })
    }

    /// Memory for what comes out, of this shape.
    pub(crate) fn output<const N: usize>(&self, index: usize, shape: [usize; N]) -> Result<*mut c_void, KernelError> {
        let shape = shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the context is that of this run. It writes one pointer, which is there as long as the run.
        unsafe {
            check(self.api, (self.api.KernelContext_GetOutput)(self.context, index, shape.as_ptr(), N, &raw mut value))
        }?;
        if value.is_null() {
            return Err(KernelError::Graph(format!("output {index} is missing")));
        }
        // SAFETY: the value is a tensor, and one pointer is written.
        unsafe { check(self.api, (self.api.GetTensorMutableData)(value, &raw mut data)) }?;
        Ok(data)
    }

    /// Where kernels are to be launched.
    pub(crate) fn lane(&self) -> Result<Lane, KernelError> {
        self.stream().map(partition::lane)
    }

    /// ONNX Runtime's stream of this run: it copies what goes in and out in its order.
    pub(crate) fn stream(&self) -> Result<Stream, KernelError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the context is that of this run, and one pointer is written.
        unsafe { check(self.api, (self.api.KernelContext_GetGPUComputeStream)(self.context, &raw mut stream)) }?;
        Ok(Stream(stream))
    }
}
