//! Puts an execution provider into a session's options, and says why one cannot be used.

use std::path::Path;

use embed_kernels::{KernelError, UrgentStream};
use ort::{
    AsPointer,
    environment::Environment,
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider},
    session::{Session, builder::SessionBuilder},
};

use super::{
    super::{error::EngineError, library},
    attention,
    options::{Options, flag},
    rtx,
};
use crate::settings::{EngineConfig, Provider};

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// By what.
    pub provider: Provider,
    /// On which device, by CUDA's number. 0 on the CPU.
    pub device: u32,
}

/// The options of the provider `cuda`.
#[must_use]
pub fn cuda_options(config: &EngineConfig, device: u32) -> Options {
    let mut options = vec![
        ("device_id", device.to_string()),
        // The other strategy doubles with every extension, and keeps what it does not need.
        ("arena_extend_strategy", "kSameAsRequested".to_owned()),
        ("use_tf32", flag(config.cuda.tf32)),
    ];
    if !config.cuda.cudnn_attention {
        options.push(("sdpa_kernel", attention::KERNELS.to_string()));
    }
    options.extend(config.device.memory_limit.map(|limit| ("gpu_mem_limit", limit.as_u64().to_string())));
    options
}

/// A stream on a device that goes before all others there, and what the provider `cuda` is told so that a session uses it.
///
/// # Errors
/// If the driver makes none.
pub fn urgent_stream(device: u32) -> Result<(UrgentStream, Options), EngineError> {
    let stream = UrgentStream::new(device).map_err(|error| unusable(&error))?;
    let address = stream.address().to_string();
    Ok((stream, vec![("has_user_compute_stream", flag(true)), ("user_compute_stream", address)]))
}

/// Puts a provider into a session's options. `more` is what it is told beside what the configuration says for all of its sessions: for
/// TensorRT, what is particular to the graph.
///
/// # Errors
/// Why it cannot be used, for a person: what ONNX Runtime says, or why its library cannot be loaded.
pub fn register(
    mut builder: SessionBuilder,
    environment: &Environment,
    config: &EngineConfig,
    place: Place,
    more: &Options,
) -> Result<SessionBuilder, String> {
    let library = library::loaded().unwrap_or_default();
    match place.provider {
        Provider::Cpu => {}
        Provider::Openvino => return Err("it is no provider of ONNX Runtime".to_owned()),
        Provider::Cuda => {
            let options = [cuda_options(config, place.device), more.clone()].concat();
            let provider = with(ep::CUDA::default(), options);
            attach(&provider, &mut builder)
                .map_err(|said| explain("libonnxruntime_providers_cuda.so", &library, said))?;
        }
        Provider::Tensorrt => {
            let provider = with(ep::TensorRT::default(), more.clone());
            attach(&provider, &mut builder)
                .map_err(|said| explain("libonnxruntime_providers_tensorrt.so", &library, said))?;
            // What TensorRT does not take goes to the next.
            let cuda = with(ep::CUDA::default(), cuda_options(config, place.device));
            if let Err(said) = attach(&cuda, &mut builder) {
                tracing::warn!(
                    said,
                    "beside TensorRT, the CUDA provider cannot be used; what TensorRT leaves goes to the CPU"
                );
            }
        }
        Provider::TensorrtRtx => builder = rtx::register(builder, environment, config, place.device, &library)?,
    }
    Ok(builder)
}

/// Makes the worker's own operators known to a session of the provider `cuda`, whose graph `onnx_file` has looked at.
///
/// # Errors
/// If ONNX Runtime does not take them.
pub fn with_own_operators(builder: SessionBuilder) -> Result<SessionBuilder, EngineError> {
    // SAFETY: the interface is that of the library that the process uses, and the options are the builder's. `onnx_file` refuses graphs in which these
    // operators read where anything but the graph's `Embed` says.
    let registered = unsafe { embed_kernels::register(ort::api(), builder.ptr().cast_mut()) };
    registered.map_err(|error| unusable(&error))?;
    Ok(builder)
}

/// Why the provider `cuda` cannot be used with what is ours.
fn unusable(error: &KernelError) -> EngineError {
    EngineError::Provider { provider: Provider::Cuda.as_str(), reason: error.to_string() }
}

/// Whether a provider can be used at all, without loading a graph.
///
/// # Errors
/// As [`register`].
pub fn probe(environment: &Environment, config: &EngineConfig, place: Place) -> Result<(), String> {
    let builder = Session::builder(environment).map_err(|e| e.to_string())?;
    register(builder, environment, config, place, &Vec::new()).map(|_| ())
}

fn with<P: ArbitrarilyConfigurableExecutionProvider>(provider: P, options: Options) -> P {
    options.into_iter().fold(provider, |provider, (key, value)| provider.with_arbitrary_config(key, value))
}

fn attach<P: ExecutionProvider>(provider: &P, builder: &mut SessionBuilder) -> Result<(), String> {
    if !P::is_available().map_err(|e| e.to_string())? {
        return Err(format!("this ONNX Runtime was built without {}", P::NAME));
    }
    // It may have line breaks.
    provider.register(builder).map_err(|e| e.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Adds to what ONNX Runtime said why the provider's library cannot be loaded: often it only says that it cannot.
fn explain(file: &str, library: &Path, said: String) -> String {
    let path = library.with_file_name(file);
    if !path.is_file() {
        return format!("{said} ({file} is not beside {}: `pip install onnxruntime-gpu` has it)", library.display());
    }
    // SAFETY: loading runs the library's initialisers; it is the one that ONNX Runtime has just tried to load itself.
    match unsafe { libloading::Library::new(&path) } {
        Ok(_) => said,
        Err(error) if said.contains(&error.to_string()) => said,
        Err(error) => format!("{said} ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cuda_provider_is_told_what_is_configured() {
        let mut config = EngineConfig::default();
        let options = |config: &EngineConfig| cuda_options(config, 3);
        let expected = [
            ("device_id", "3"),
            ("arena_extend_strategy", "kSameAsRequested"),
            ("use_tf32", "0"),
            ("sdpa_kernel", "55"),
        ]
        .map(|(k, v)| (k, v.to_owned()));
        assert_eq!(options(&config), expected);
        config.device.memory_limit = Some(bytesize::ByteSize::gib(2));
        config.cuda.tf32 = true;
        config.cuda.cudnn_attention = true;
        assert!(options(&config).contains(&("gpu_mem_limit", "2147483648".to_owned())));
        assert!(options(&config).contains(&("use_tf32", "1".to_owned())));
        assert!(options(&config).iter().all(|(key, _)| *key != "sdpa_kernel"));
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let said = explain("libnothing.so", Path::new("/nowhere/libonnxruntime.so"), "failed".to_owned());
        assert!(said.contains("libnothing.so is not beside /nowhere/libonnxruntime.so"), "{said}");
    }
}
