//! Where OpenVINO is, and whether it can be used: it is not linked but opened when a version is first to run on it.

use std::{
    path::{Path, PathBuf},
    ptr,
};

use parking_lot::Mutex;

use super::{
    super::library::{self, Wanted},
    api::{Api, Core},
};
use crate::settings::EngineConfig;

/// How the library of the C interface is called, and where the package for Python keeps it.
const WANTED: Wanted = Wanted { stem: "libopenvino_c.so", package: "openvino/libs" };

/// Set by OpenVINO's own `setupvars.sh`.
const INSTALLED: &str = "INTEL_OPENVINO_DIR";

/// Elements of tensors have had other numbers before.
const MINIMUM: (u32, u32) = (2025, 1);

/// The library, ready to be used. There is one in a process, which lives as long as that.
#[derive(Debug)]
pub(super) struct Openvino {
    pub(super) api: Api,
    pub(super) core: *mut Core,
}

// SAFETY: OpenVINO documents its core as safe to use from several threads, and functions have no state.
unsafe impl Send for Openvino {}
// SAFETY: as above.
unsafe impl Sync for Openvino {}

/// Where the library is: as configured, where OpenVINO's own installation says, in the package that is beside ONNX Runtime's, or where ONNX Runtime is
/// looked for.
fn find(configured: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let installed = std::env::var_os(INSTALLED).filter(|path| !path.is_empty());
    let installed = installed.map(|path| Path::new(&path).join("runtime/lib/intel64"));
    // site-packages/onnxruntime/capi/libonnxruntime.so -> site-packages/openvino/libs
    let beside = library::loaded().and_then(|path| Some(path.ancestors().nth(3)?.join(WANTED.package)));
    let first = installed.into_iter().chain(beside).collect();
    library::look_for(&WANTED, first).map_err(|looked| {
        format!(
            "the OpenVINO library ({}) was not found; looked at {looked}. Install it (`pip install openvino`, in the virtual environment that has \
             ONNX Runtime), or set engine.openvino.library",
            WANTED.stem
        )
    })
}

/// Opens the library, once in a process.
pub(super) fn open(config: &EngineConfig) -> Result<&'static Openvino, String> {
    static OPENED: Mutex<Option<&'static Openvino>> = Mutex::new(None);
    let mut opened = OPENED.lock();
    if let Some(openvino) = *opened {
        return Ok(openvino);
    }
    let path = find(config.openvino.library.as_deref())?;
    let failed = |reason| format!("{}: {reason}", path.display());
    let api = Api::open(&path).map_err(failed)?;
    let version = api.build().map_err(failed)?;
    if !is_new_enough(&version) {
        let (major, minor) = MINIMUM;
        return Err(failed(format!(
            "this is OpenVINO {version}; {major}.{minor} or later is needed (`pip install --upgrade openvino`)"
        )));
    }
    let mut core = ptr::null_mut();
    // SAFETY: the pointer is to a local variable of the right type.
    api.check(unsafe { (api.core)(&raw mut core) }).map_err(failed)?;
    tracing::info!(library = %path.display(), version, "OpenVINO loaded");
    let openvino: &'static Openvino = Box::leak(Box::new(Openvino { api, core }));
    *opened = Some(openvino);
    Ok(openvino)
}

/// Whether OpenVINO can be used here.
///
/// # Errors
/// Why not, for a person.
pub fn probe(config: &EngineConfig) -> Result<(), String> {
    open(config).map(|_| ())
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) >= MINIMUM
}

/// Whether this processor computes products of BF16 numbers. Where it does not, OpenVINO would compute in FP32, or convert each number.
#[must_use]
pub fn computes_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OpenvinoConfig;

    #[test]
    fn versions_with_other_elements_are_told_apart() {
        for (version, enough) in [
            ("2026.4.1-22982-e213a147257-releases/2026/4", true),
            ("2025.1.0-18503-6fec06580ab", true),
            ("2025.0.0-17942-1f68be9f594", false),
            ("2024.6.0", false),
            ("custom_branch", false),
        ] {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn what_is_no_library_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = OpenvinoConfig { library: Some(file.path().to_owned()) };
        let said = open(&EngineConfig { openvino: config, ..EngineConfig::default() }).unwrap_err();
        assert!(said.contains(&file.path().display().to_string()) && said.contains("too short"), "{said}");
        assert_eq!(find(Some(Path::new("/x.so"))), Ok("/x.so".into()));
    }
}
