//! The operators as ONNX Runtime sees them: names and types, and what it calls.

mod attention;
mod embed;
mod linear;
mod norm;
mod pool;

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
};

use ort_sys::{
    ONNXTensorElementDataType as Type, OrtApi, OrtCustomOp, OrtCustomOpDomain,
    OrtCustomOpInputOutputCharacteristic as Presence, OrtKernelContext, OrtKernelInfo, OrtMemType, OrtStatusPtr,
};

use super::{
    DOMAIN, Shape,
    cuda::Driver,
    device::Device,
    error::KernelError,
    interface::{self, Node, Run},
    kernels::Kernels,
    partition,
};

const F16: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
const F32: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
const E4M3: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN;
const I32: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
const I64: Type = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

/// What runs a node. Several runs of a session use it at once.
trait Kernel: Send + Sync {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError>;
}

/// An operator.
struct Operator {
    name: &'static CStr,
    inputs: &'static [Type],
    /// The input that is wanted on the host.
    on_host: Option<usize>,
    outputs: &'static [Type],
    make: fn(Node<'_>) -> Result<Box<dyn Kernel>, KernelError>,
}

const fn operator(
    name: &'static CStr,
    inputs: &'static [Type],
    outputs: &'static [Type],
    make: fn(Node<'_>) -> Result<Box<dyn Kernel>, KernelError>,
) -> Operator {
    Operator { name, inputs, on_host: None, outputs, make }
}

/// All of them; what they take is in the documentation of the crate.
static OPERATORS: [Operator; 10] = [
    Operator {
        on_host: Some(embed::MASK),
        ..operator(c"Embed", &[I64, I64, F16, F16, F16, F16], &[F16, I32, I32], embed::plain)
    },
    Operator {
        on_host: Some(embed::MASK),
        ..operator(c"EmbedQuantize", &[I64, I64, F16, F16, F16, F16], &[F16, I32, I32, E4M3], embed::quantizing)
    },
    operator(c"AddNorm", &[F16, F16, F16, F16], &[F16], norm::plain),
    operator(c"AddNormQuantize", &[F16, F16, F16, F16], &[F16, E4M3], norm::quantizing),
    operator(c"Attend", &[F16, I32], &[F16], attention::plain),
    operator(c"AttendQuantize", &[F16, I32], &[E4M3], attention::quantizing),
    operator(c"Linear", &[F16, F16, F16], &[F16], linear::plain),
    operator(c"LinearFromQuantized", &[E4M3, E4M3, F16], &[F16], linear::from_quantized),
    operator(c"LinearQuantized", &[E4M3, E4M3, F16, F32], &[E4M3], linear::quantized),
    operator(c"Pool", &[F16, I32], &[F32], pool::make),
];

/// What is common to nodes that launch kernels of ours: for which shape, and in which precision.
#[derive(Debug, Clone, Copy)]
struct Launch {
    heads: usize,
    /// What quantized states are multiplied with. `None` if there are none.
    scale: Option<f32>,
}

impl Launch {
    fn of(node: Node<'_>, quantizing: bool) -> Result<Self, KernelError> {
        let scale = if quantizing { Some(node.float(c"scale")?) } else { None };
        Ok(Self { heads: node.number(c"heads")?, scale })
    }

    /// The kernels for states of so many components.
    fn kernels(&self, hidden: usize) -> Result<std::sync::Arc<Kernels>, KernelError> {
        Device::here()?.kernels(Shape { hidden, heads: self.heads }.check()?, self.scale.is_some())
    }
}

/// An operator in the form that ONNX Runtime takes.
#[repr(C)]
struct Entry {
    /// The first, since ONNX Runtime knows nothing but this, and gives back its address.
    interface: OrtCustomOp,
    operator: &'static Operator,
}

/// A node's kernel, with what it is called through.
struct Instance {
    api: &'static OrtApi,
    kernel: Box<dyn Kernel>,
}

/// The operators' domain, which is never freed: sessions may use it as long as the process lives.
#[derive(Clone, Copy)]
pub(crate) struct Domain(*mut OrtCustomOpDomain);

// SAFETY: it is changed no more once it is made.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    pub(crate) fn new(api: &OrtApi) -> Result<Self, KernelError> {
        let name = std::ffi::CString::new(DOMAIN).unwrap_or_default();
        let mut domain = ptr::null_mut();
        // SAFETY: the name ends with a zero, and one pointer is written.
        unsafe { interface::check(api, (api.CreateCustomOpDomain)(name.as_ptr(), &raw mut domain)) }?;
        for operator in &OPERATORS {
            let entry = Box::leak(Box::new(Entry { interface: interface_of(), operator }));
            // SAFETY: the entry begins with what is wanted, and is never freed.
            unsafe { interface::check(api, (api.CustomOpDomain_Add)(domain, ptr::from_ref(entry).cast())) }?;
        }
        Ok(Self(domain))
    }

    pub(crate) fn pointer(self) -> *mut OrtCustomOpDomain {
        self.0
    }
}

const fn interface_of() -> OrtCustomOp {
    OrtCustomOp {
        version: ort_sys::ORT_API_VERSION,
        CreateKernel: None,
        GetName: Some(name),
        GetExecutionProviderType: Some(provider),
        GetInputType: Some(input_type),
        GetInputTypeCount: Some(inputs),
        GetOutputType: Some(output_type),
        GetOutputTypeCount: Some(outputs),
        KernelCompute: None,
        KernelDestroy: Some(destroy),
        GetInputCharacteristic: Some(required),
        GetOutputCharacteristic: Some(required),
        GetInputMemoryType: Some(memory),
        GetVariadicInputMinArity: None,
        GetVariadicInputHomogeneity: None,
        GetVariadicOutputMinArity: None,
        GetVariadicOutputHomogeneity: None,
        CreateKernelV2: Some(create),
        KernelComputeV2: Some(compute),
        InferOutputShapeFn: None,
        GetStartVersion: Some(first_version),
        GetEndVersion: Some(last_version),
        GetMayInplace: None,
        ReleaseMayInplace: None,
        GetAliasMap: None,
        ReleaseAliasMap: None,
    }
}

/// # Safety
/// `op` is the beginning of an [`Entry`], as ONNX Runtime got it.
unsafe fn entry(op: *const OrtCustomOp) -> &'static Operator {
    // SAFETY: as the caller promises; entries are never freed.
    unsafe { &*op.cast::<Entry>() }.operator
}

unsafe extern "system" fn name(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: ONNX Runtime calls it with what it got.
    unsafe { entry(op) }.name.as_ptr()
}

unsafe extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    c"CUDAExecutionProvider".as_ptr()
}

unsafe extern "system" fn input_type(op: *const OrtCustomOp, index: usize) -> Type {
    // SAFETY: as above, with an index below the number that it was told.
    unsafe { entry(op) }.inputs[index]
}

unsafe extern "system" fn inputs(op: *const OrtCustomOp) -> usize {
    // SAFETY: as above.
    unsafe { entry(op) }.inputs.len()
}

unsafe extern "system" fn output_type(op: *const OrtCustomOp, index: usize) -> Type {
    // SAFETY: as above.
    unsafe { entry(op) }.outputs[index]
}

unsafe extern "system" fn outputs(op: *const OrtCustomOp) -> usize {
    // SAFETY: as above.
    unsafe { entry(op) }.outputs.len()
}

unsafe extern "system" fn required(_: *const OrtCustomOp, _: usize) -> Presence {
    Presence::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn memory(op: *const OrtCustomOp, index: usize) -> OrtMemType {
    // SAFETY: as above.
    let wanted = unsafe { entry(op) }.on_host == Some(index);
    if wanted { OrtMemType::OrtMemTypeCPUInput } else { OrtMemType::OrtMemTypeDefault }
}

unsafe extern "system" fn first_version(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn last_version(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    api: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime calls it with its own interface, which is there as long as the library.
    let api: &'static OrtApi = unsafe { &*api };
    // SAFETY: as above.
    let operator = unsafe { entry(op) };
    match (operator.make)(Node { api, info }) {
        Ok(made) => {
            // SAFETY: it is where ONNX Runtime wants the kernel.
            unsafe { *kernel = Box::into_raw(Box::new(Instance { api, kernel: made })).cast() };
            OrtStatusPtr::default()
        }
        Err(error) => interface::status(api, &error),
    }
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: it is what `create` has given. Runs at the same time only read it.
    let instance = unsafe { &*kernel.cast::<Instance>() };
    let run = Run { api: instance.api, context };
    let done = instance.kernel.run(run).inspect_err(|_| {
        // What has been launched still uses memory that is now given back in the order of ONNX Runtime's stream. Where that fails too, the device is lost.
        let _ = Driver::get().and_then(|driver| partition::end(driver, run.stream()?));
    });
    done.map_or_else(|error| interface::status(instance.api, &error), |()| OrtStatusPtr::default())
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: it is what `create` has given, and nobody has it any more.
    drop(unsafe { Box::from_raw(kernel.cast::<Instance>()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_quantizes_yields_e4m3_and_has_a_name_that_says_so() {
        for operator in &OPERATORS {
            let name = operator.name.to_str().unwrap();
            let quantizes = name.ends_with("Quantize") || name == "LinearQuantized";
            assert_eq!(operator.outputs.contains(&E4M3), quantizes, "{name}");
            assert!(operator.on_host.is_none_or(|index| operator.inputs[index] == I64), "{name}");
        }
        let mut names: Vec<_> = OPERATORS.iter().map(|operator| operator.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPERATORS.len());
    }
}
