//! A graph, compiled for this processor, and what runs it.

use std::{
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
    sync::{Arc, Weak},
};

use embed_schemas::{ModelMetadata, Precision};

use super::{
    super::{
        error::EngineError,
        interface::{Input, Vectors},
        onnx_file,
    },
    api::{Compiled, F32, I64, Model, Port, Request, Shape, Tensor},
    library::{Openvino, computes_bf16, open},
};
use crate::settings::{EngineConfig, Provider};

const DEVICE: &CStr = c"CPU";
const PRECISION: &CStr = c"INFERENCE_PRECISION_HINT";

const IDS: &CStr = c"input_ids";
const MASK: &CStr = c"attention_mask";
const OUTPUT: &CStr = c"embedding";

/// A graph that is compiled for one precision and for so many runs at the same time, each on a thread of OpenVINO's own. Clones share it, with its
/// weights.
#[derive(Debug, Clone)]
pub struct OpenvinoModel(Arc<CompiledGraph>);

#[derive(Debug)]
struct CompiledGraph {
    openvino: &'static Openvino,
    compiled: NonNull<Compiled>,
    dimension: usize,
}

// SAFETY: OpenVINO documents a compiled model as safe to use from several threads.
unsafe impl Send for CompiledGraph {}
// SAFETY: as above.
unsafe impl Sync for CompiledGraph {}

impl Drop for CompiledGraph {
    fn drop(&mut self) {
        // SAFETY: it is ours, and requests hold what they need of it themselves.
        unsafe { (self.openvino.api.free_compiled)(self.compiled.as_ptr()) };
    }
}

/// A model that is loaded as long as somebody else uses it.
#[derive(Debug)]
pub struct WeakOpenvinoModel(Weak<CompiledGraph>);

impl WeakOpenvinoModel {
    /// The model, if it is still loaded.
    #[must_use]
    pub fn upgrade(&self) -> Option<OpenvinoModel> {
        self.0.upgrade().map(OpenvinoModel)
    }
}

/// What is to be freed at the end of a scope.
struct Freed<T> {
    what: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Drop for Freed<T> {
    fn drop(&mut self) {
        // SAFETY: it came from the library, belongs to this, and `free` is the function for its type.
        unsafe { (self.free)(self.what.as_ptr()) };
    }
}

impl<T> Freed<T> {
    fn new(what: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, String> {
        Ok(Self { what: NonNull::new(what).ok_or("OpenVINO gave nothing")?, free })
    }
}

impl OpenvinoModel {
    /// Compiles a graph from its bytes, which have been verified, and looked at for what leads to other files. Threads for `runs` at the same time get the
    /// priority of the calling one.
    ///
    /// # Errors
    /// If OpenVINO is not there or refuses the graph, the processor does not compute in this precision, or the graph does not have the inputs and the output of
    /// an embedding graph.
    pub fn compile(
        graph: &[u8],
        metadata: &ModelMetadata,
        precision: Precision,
        config: &EngineConfig,
        runs: usize,
    ) -> Result<Self, EngineError> {
        onnx_file::check(graph, metadata)?;
        let unusable = |reason| EngineError::Provider { provider: Provider::Openvino.as_str(), reason };
        let openvino = open(config).map_err(unusable)?;
        if precision == Precision::Bf16 && !computes_bf16() {
            return Err(unusable(
                "this processor does not compute in BF16 (it has no AVX512_BF16); take the precision `fp32` or `int8`"
                    .to_owned(),
            ));
        }
        let hint = if precision == Precision::Bf16 { c"bf16" } else { c"f32" };
        let threads = |count: usize| CString::new(count.to_string()).expect("a number has no zero byte");
        let compiled = compile(openvino, graph, hint, &threads(runs), &threads(runs * config.threads_per_runner));
        let compiled = compiled.map_err(EngineError::Openvino)?;
        let model = Self(Arc::new(CompiledGraph { openvino, compiled, dimension: metadata.dimension as usize }));
        model.check_ports()?;
        let computes = model.property(PRECISION).map_err(EngineError::Openvino)?;
        if computes.as_bytes() != hint.to_bytes() {
            return Err(unusable(format!("it would compute in {computes} instead of {precision}")));
        }
        Ok(model)
    }

    /// The same model, without keeping it loaded.
    #[must_use]
    pub fn downgrade(&self) -> WeakOpenvinoModel {
        WeakOpenvinoModel(Arc::downgrade(&self.0))
    }

    /// Numbers of a vector.
    pub(super) fn dimension(&self) -> usize {
        self.0.dimension
    }

    fn check_ports(&self) -> Result<(), EngineError> {
        let CompiledGraph { openvino, compiled, .. } = &*self.0;
        let has = |find: unsafe extern "C" fn(*const Compiled, *const c_char, *mut *mut Port) -> i32, name: &CStr| {
            let mut port = ptr::null_mut();
            // SAFETY: the compiled graph lives, and the pointers are to a text and a local variable.
            let status = unsafe { find(compiled.as_ptr(), name.as_ptr(), &raw mut port) };
            openvino.api.check(status).and_then(|()| Freed::new(port, openvino.api.free_port)).is_ok()
        };
        for name in [IDS, MASK] {
            if !has(openvino.api.input, name) {
                return Err(EngineError::Graph(format!("it has no input {name:?}")));
            }
        }
        if has(openvino.api.output, OUTPUT) {
            Ok(())
        } else {
            Err(EngineError::Graph(format!("it has no output {OUTPUT:?}")))
        }
    }

    fn property(&self, name: &CStr) -> Result<String, String> {
        let CompiledGraph { openvino: Openvino { api, .. }, compiled, .. } = &*self.0;
        let mut value = ptr::null_mut();
        // SAFETY: the compiled graph lives, and the pointers are to a text and a local variable.
        api.check(unsafe { (api.compiled_property)(compiled.as_ptr(), name.as_ptr(), &raw mut value) })?;
        // SAFETY: the call that succeeded has given a text that is ours.
        Ok(unsafe { api.text(value) })
    }

    /// Memory for runs of one thread.
    pub(super) fn request(&self) -> Result<InferRequest, EngineError> {
        let CompiledGraph { openvino: Openvino { api, .. }, compiled, .. } = &*self.0;
        let mut request = ptr::null_mut();
        // SAFETY: the compiled graph lives, and the pointer is to a local variable.
        let made = api.check(unsafe { (api.request)(compiled.as_ptr(), &raw mut request) });
        let request = made.and_then(|()| Freed::new(request, api.free_request)).map_err(EngineError::Openvino)?;
        Ok(InferRequest { request, model: self.clone() })
    }
}

fn compile(
    Openvino { api, core }: &Openvino,
    graph: &[u8],
    precision: &CStr,
    streams: &CStr,
    threads: &CStr,
) -> Result<NonNull<Compiled>, String> {
    let mut model = ptr::null_mut::<Model>();
    // SAFETY: the bytes are as many as is said, there are no weights beside them, and the pointer is to a local variable.
    api.check(unsafe { (api.read_model)(*core, graph.as_ptr().cast(), graph.len(), ptr::null(), &raw mut model) })?;
    let model = Freed::new(model, api.free_model)?;
    let properties = [
        (c"NUM_STREAMS", streams),
        (c"INFERENCE_NUM_THREADS", threads),
        (PRECISION, precision),
        // The scheduler knows better what else the cores do.
        (c"ENABLE_CPU_PINNING", c"NO"),
    ];
    let [p, q, r, s] = properties.map(|(name, value)| (name.as_ptr(), value.as_ptr()));
    let mut compiled = ptr::null_mut();
    // SAFETY: the pointers are to what lives until the call is over, and behind the fixed arguments there are as many texts as is said.
    let status = unsafe {
        let (model, device, count) = (model.what.as_ptr(), DEVICE.as_ptr(), 2 * properties.len());
        (api.compile)(*core, model, device, count, &raw mut compiled, p.0, p.1, q.0, q.1, r.0, r.1, s.0, s.1)
    };
    api.check(status)?;
    NonNull::new(compiled).ok_or_else(|| "OpenVINO gave nothing".to_owned())
}

/// Memory for runs of one thread.
pub(super) struct InferRequest {
    request: Freed<Request>,
    model: OpenvinoModel,
}

// SAFETY: a request belongs to whoever has it, and may be used from any thread, one after the other.
unsafe impl Send for InferRequest {}

impl std::fmt::Debug for InferRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InferRequest").field("model", &self.model).finish_non_exhaustive()
    }
}

impl InferRequest {
    pub(super) const fn model(&self) -> &OpenvinoModel {
        &self.model
    }

    /// Runs the graph.
    pub(super) fn run(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let (api, request) = (&self.model.0.openvino.api, self.request.what.as_ptr());
        // Until the run is over.
        let _inputs = [(IDS, &input.ids), (MASK, &input.mask)]
            .map(|(name, numbers)| self.put(name, numbers, [input.rows, input.width]))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(EngineError::Openvino)?;
        // SAFETY: the request is ours, and its inputs are there.
        api.check(unsafe { (api.infer)(request) }).map_err(EngineError::Openvino)?;
        self.vectors(input.rows * self.model.dimension())
    }

    /// Tells the request where an input is: it is read there.
    fn put(&self, name: &CStr, numbers: &[i64], [rows, width]: [usize; 2]) -> Result<Freed<Tensor>, String> {
        assert_eq!(numbers.len(), rows * width, "a number for each token");
        let (api, mut tensor) = (&self.model.0.openvino.api, ptr::null_mut());
        let mut dims = [rows, width].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let shape = Shape { rank: 2, dims: dims.as_mut_ptr() };
        // SAFETY: there are as many numbers as the shape says; inputs are only read, and before the next run they are other ones.
        api.check(unsafe { (api.wrap)(I64, shape, numbers.as_ptr().cast_mut().cast(), &raw mut tensor) })?;
        let tensor = Freed::new(tensor, api.free_tensor)?;
        // SAFETY: request and tensor are ours.
        api.check(unsafe { (api.set_tensor)(self.request.what.as_ptr(), name.as_ptr(), tensor.what.as_ptr()) })?;
        Ok(tensor)
    }

    /// Copies the vectors of the last run out.
    fn vectors(&self, expected: usize) -> Result<Vectors, EngineError> {
        let (api, mut tensor) = (&self.model.0.openvino.api, ptr::null_mut());
        let checked = |status| api.check(status).map_err(EngineError::Openvino);
        // SAFETY: the request is ours, and the pointer is to a local variable.
        checked(unsafe { (api.get_tensor)(self.request.what.as_ptr(), OUTPUT.as_ptr(), &raw mut tensor) })?;
        let tensor = Freed::new(tensor, api.free_tensor).map_err(EngineError::Openvino)?;
        let (mut kind, mut found, mut data) = (0, 0, ptr::null_mut());
        // SAFETY: the tensor is ours, and the pointers are to local variables.
        checked(unsafe { (api.element_type)(tensor.what.as_ptr(), &raw mut kind) })?;
        // SAFETY: as above.
        checked(unsafe { (api.size)(tensor.what.as_ptr(), &raw mut found) })?;
        if kind != F32 {
            return Err(EngineError::Graph(format!(
                "its output {OUTPUT:?} has elements of type {kind}, not 32-bit floating point"
            )));
        }
        if found != expected {
            return Err(EngineError::Output { found, expected });
        }
        // SAFETY: as above.
        checked(unsafe { (api.data)(tensor.what.as_ptr(), &raw mut data) })?;
        // SAFETY: the tensor has so many numbers of this type, and nothing runs that would change them.
        Ok(unsafe { std::slice::from_raw_parts(data.cast::<f32>(), found) }.into())
    }
}
