//! Where the ONNX Runtime library is: it is not linked but opened when the worker starts.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ort::environment::Environment;

/// Names the library directly. `ort` knows the same variable.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

const STEM: &str = "libonnxruntime.so";

/// The library could not be found or loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LibraryError {
    /// It is in none of the places.
    #[error(
        "the ONNX Runtime library ({STEM}) was not found. Looked at: {looked}. \
         Install it (`pip install onnxruntime`, or `onnxruntime-gpu` for devices, in a virtual environment, or the system's package), or set {LIBRARY_VARIABLE}"
    )]
    NotFound {
        /// All places, in order.
        looked: String,
    },
    /// It is there, but cannot be used.
    #[error("{path}: cannot be loaded as the ONNX Runtime library: {reason}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
}

/// Finds the library. In this order: the configuration, `ORT_DYLIB_PATH`, beside this executable (and in `../lib`), in a
/// Python virtual environment (`$VIRTUAL_ENV`, or `.venv` in the current folder, the executable's, or a parent of either),
/// in the system's library folders.
///
/// # Errors
/// [`LibraryError::NotFound`], naming all places.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, LibraryError> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    if let Some(path) = env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let mut folders = Vec::new();
    let executable = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    if let Some(folder) = &executable {
        folders.push(folder.clone());
        folders.push(folder.join("../lib"));
    }
    let mut environments: Vec<PathBuf> = env::var_os("VIRTUAL_ENV").map(PathBuf::from).into_iter().collect();
    for start in env::current_dir().ok().iter().chain(&executable) {
        environments.extend(start.ancestors().map(|folder| folder.join(".venv")));
    }
    folders.extend(environments.iter().filter(|folder| folder.is_dir()).flat_map(|folder| in_environment(folder)));
    folders.extend(
        ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    folders.iter().find_map(|folder| in_folder(folder)).ok_or_else(|| LibraryError::NotFound {
        looked: folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// `lib/python3.*/site-packages/onnxruntime/capi`, which is where the wheel keeps the library.
fn in_environment(environment: &Path) -> Vec<PathBuf> {
    let Ok(entries) = environment.join("lib").read_dir() else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path().join("site-packages/onnxruntime/capi")).collect();
    folders.sort();
    folders
}

/// `libonnxruntime.so`, or with a version behind it: the wheel has only that.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(STEM);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&format!("{STEM}.")))
    };
    folder.read_dir().ok()?.flatten().map(|entry| entry.path()).filter(versioned).max()
}

static LOADED: OnceLock<PathBuf> = OnceLock::new();

/// The library that was opened, if one was.
pub fn loaded() -> Option<PathBuf> {
    LOADED.get().cloned()
}

/// Opens the library and starts ONNX Runtime, once per process; later calls get the same environment.
///
/// # Errors
/// If there is no library, or it is not ONNX Runtime, or too old.
pub fn environment(configured: Option<&Path>) -> Result<Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Result<Environment, LibraryError>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let path = find(configured)?;
            let load = |reason: String| LibraryError::Load { path: path.clone(), reason };
            let environment = ort::init_from(&path).map_err(|e| load(e.to_string()))?;
            let environment = environment.with_name("embed-worker").with_telemetry(false).build();
            let _ = LOADED.set(path.canonicalize().unwrap_or_else(|_| path.clone()));
            tracing::info!(library = %path.display(), "ONNX Runtime loaded");
            environment.map_err(|e| load(e.to_string()))
        })
        .clone()
}
