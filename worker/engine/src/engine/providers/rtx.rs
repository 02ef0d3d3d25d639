//! TensorRT for RTX: a provider that comes as a plug-in of its own.

use std::path::{Path, PathBuf};

use ort::{environment::Environment, session::builder::SessionBuilder};
use parking_lot::Mutex;

use super::options::Options;
use crate::settings::EngineConfig;

/// What the plug-in is registered as.
const NAME: &str = "NvTensorRTRTXExecutionProvider";
/// Its file.
const FILE: &str = "libonnxruntime_providers_nv_tensorrt_rtx.so";

/// Where the plug-in is: as configured, beside the ONNX Runtime library, or in the package that is beside that one's.
fn find(configured: Option<&Path>, library: &Path) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let beside = library.with_file_name(FILE);
    // site-packages/onnxruntime/capi/libonnxruntime.so -> site-packages/onnxruntime_ep_nv_tensorrt_rtx/
    let packages = library.ancestors().nth(3).unwrap_or(library);
    let package = packages.join("onnxruntime_ep_nv_tensorrt_rtx").join(FILE);
    [&beside, &package].into_iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        format!(
            "the plug-in {FILE} was not found; looked at {} and {}. Install it (`pip install onnxruntime-ep-nv-tensorrt-rtx-cu13`), \
             or set engine.tensorrt_rtx.library",
            beside.display(),
            package.display()
        )
    })
}

/// Loads the plug-in, once in a process.
fn load(environment: &Environment, path: &Path) -> Result<(), String> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    let mut loaded = LOADED.lock();
    if !*loaded {
        environment.register_ep_library(NAME, path).map_err(|e| format!("{}: {e}", path.display()))?;
        *loaded = true;
    }
    Ok(())
}

/// Puts the provider into a session's options.
pub(super) fn register(
    builder: SessionBuilder,
    environment: &Environment,
    config: &EngineConfig,
    device: u32,
    library: &Path,
) -> Result<SessionBuilder, String> {
    load(environment, &find(config.tensorrt_rtx.library.as_deref(), library)?)?;
    let mut devices = environment.devices().filter(|one| one.ep().is_ok_and(|name| name == NAME));
    let Some(chosen) = devices.nth(device as usize) else {
        return Err(format!(
            "the plug-in finds no device {device} that it can run on (compute capability 8.6, 8.9, or 12.0 and later)"
        ));
    };
    let options: Vec<(String, String)> =
        options(config).into_iter().map(|(key, value)| (format!("{NAME}.{key}"), value)).collect();
    builder.with_devices([chosen], Some(&options)).map_err(|e| e.to_string())
}

/// The provider's options.
fn options(config: &EngineConfig) -> Options {
    let mut options = Vec::new();
    options.extend(config.tensorrt_rtx.workspace.map(|size| ("nv_max_workspace_size", size.as_u64().to_string())));
    let cache = config.tensorrt_rtx.cache_dir.as_ref();
    options.extend(cache.map(|path| ("nv_runtime_cache_path", path.display().to_string())));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_that_were_configured() {
        let mut config = EngineConfig::default();
        assert!(options(&config).is_empty());
        config.tensorrt_rtx.cache_dir = Some("/var/cache/rtx".into());
        config.tensorrt_rtx.workspace = Some(bytesize::ByteSize::mib(512));
        assert_eq!(
            options(&config),
            [("nv_max_workspace_size", "536870912".to_owned()), ("nv_runtime_cache_path", "/var/cache/rtx".to_owned())]
        );
    }

    #[test]
    fn the_places_that_were_looked_at_are_named() {
        let said = find(None, Path::new("/venv/site-packages/onnxruntime/capi/libonnxruntime.so")).unwrap_err();
        assert!(said.contains("/venv/site-packages/onnxruntime_ep_nv_tensorrt_rtx/libonnx"), "{said}");
        assert_eq!(find(Some(Path::new("/x.so")), Path::new("/y")), Ok("/x.so".into()));
    }
}
