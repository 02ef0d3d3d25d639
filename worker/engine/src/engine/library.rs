//! Where the ONNX Runtime library is: it is not linked but opened when the worker starts.

use std::{
    env,
    ffi::CStr,
    mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libloading::Library;
use ort::{environment::Environment, sys::OrtApiBase};

/// Names the library directly. `ort` knows the same variable.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// A library that is looked for.
#[derive(Debug)]
pub struct Wanted {
    /// How its file's name begins.
    pub stem: &'static str,
    /// Where a package for Python keeps it, below `site-packages`.
    pub package: &'static str,
}

const STEM: &str = "libonnxruntime.so";
const WANTED: Wanted = Wanted { stem: STEM, package: "onnxruntime/capi" };

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
    /// It is older than what is needed.
    #[error("{path}: this is ONNX Runtime {found}; {least} or later is needed (`pip install --upgrade onnxruntime`)", least = readable(MINIMUM))]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
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
/// Python virtual environment (`$VIRTUAL_ENV`, or `.venv` in the executable's folder or a parent of it), in the system's library
/// folders. Never in the current folder, and in no `.venv` of another user's: what stands there runs in this process.
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
    look_for(&WANTED, Vec::new()).map_err(|looked| LibraryError::NotFound { looked })
}

/// Looks for a library in these folders, and then where [`find`] does.
///
/// # Errors
/// Where it was looked for.
pub fn look_for(wanted: &Wanted, first: Vec<PathBuf>) -> Result<PathBuf, String> {
    let executable = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let environment = env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty()).map(PathBuf::from);
    look(wanted, first, executable.as_deref(), environment)
}

/// Looks in these folders, around an executable's, and in a virtual environment.
fn look(
    wanted: &Wanted,
    mut folders: Vec<PathBuf>,
    executable: Option<&Path>,
    environment: Option<PathBuf>,
) -> Result<PathBuf, String> {
    if let Some(folder) = executable {
        folders.push(folder.to_owned());
        folders.push(folder.join("../lib"));
    }
    let nearby = executable.iter().flat_map(|folder| folder.ancestors()).map(|folder| folder.join(".venv"));
    let environments = environment.into_iter().chain(nearby.filter(|folder| is_trusted(folder)));
    folders.extend(environments.flat_map(|folder| in_environment(&folder, wanted.package)));
    folders.extend(
        ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    let found = folders.iter().find_map(|folder| in_folder(folder, wanted.stem));
    found.ok_or_else(|| folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "))
}

/// Whether a folder, or a link to one, is the system's or ours: a parent of a program's folder may be one where everybody writes.
fn is_trusted(folder: &Path) -> bool {
    let Ok(owner) = folder.symlink_metadata().map(|found| found.uid()) else { return false };
    // SAFETY: it takes nothing, and only returns a number.
    owner == 0 || owner == unsafe { libc::geteuid() }
}

/// `lib/python3.*/site-packages/<package>`, which is where the wheel keeps the library.
fn in_environment(environment: &Path, package: &str) -> Vec<PathBuf> {
    let Ok(entries) = environment.join("lib").read_dir() else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path().join("site-packages").join(package)).collect();
    folders.sort();
    folders
}

/// The plain name, such as `libonnxruntime.so`, or with a version behind it: the wheels have only that.
fn in_folder(folder: &Path, stem: &str) -> Option<PathBuf> {
    let plain = folder.join(stem);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&format!("{stem}.")))
    };
    folder.read_dir().ok()?.flatten().map(|entry| entry.path()).filter(versioned).max()
}

/// The version of the interface that is used. Older libraries do not have it.
const MINIMUM: (u32, u32) = (1, ort::MINOR_VERSION);
/// The oldest version that is tested with: the images have it, and those that are newer.
const TESTED: (u32, u32) = (1, 31);

/// What is to be thought of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// It cannot be used.
    TooOld,
    /// It may work, and may have faults that are mended in later ones.
    Untested,
    /// It is one that is tested with, or newer.
    Tested,
}

/// What is to be thought of a version, such as `1.32.0`. What is no version is too old.
fn age(version: &str) -> Age {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match found {
        _ if found < MINIMUM => Age::TooOld,
        _ if found < TESTED => Age::Untested,
        _ => Age::Tested,
    }
}

fn readable((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// The version of a library, asked of itself.
fn version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers; it is the one that is about to be used.
    let library = unsafe { Library::new(path) }.map_err(|e| why(&e))?;
    // SAFETY: this is the function's signature in `onnxruntime_c_api.h`.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") };
    let base = base.map_err(|e| why(&e))?;
    // SAFETY: the function takes nothing, and gives a pointer to a structure that lives as long as the library, or none.
    let base = unsafe { base().as_ref() }.ok_or("OrtGetApiBase gives nothing")?;
    // SAFETY: it takes nothing, and gives a text that ends with a zero and lives as long as the library.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    let version = version.to_string_lossy().into_owned();
    // It is opened again at once, and must not be unloaded in between.
    mem::forget(library);
    Ok(version)
}

static LOADED: OnceLock<PathBuf> = OnceLock::new();

/// The library that was opened, if one was.
pub fn loaded() -> Option<PathBuf> {
    LOADED.get().cloned()
}

/// Opens the library and starts ONNX Runtime, once per process; later calls get the same environment. It reports home unless a program has
/// called [`super::telemetry::disable`] before.
///
/// # Errors
/// If there is no library, or it is not ONNX Runtime, or too old.
pub fn environment(configured: Option<&Path>) -> Result<Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Result<Environment, LibraryError>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let path = find(configured)?;
            let load = |reason: String| LibraryError::Load { path: path.clone(), reason };
            let version = version(&path).map_err(load)?;
            match age(&version) {
                Age::TooOld => return Err(LibraryError::TooOld { path, found: version }),
                Age::Untested => tracing::warn!(
                    version,
                    "this ONNX Runtime is older than {}, the oldest that is tested with; what was mended since may be wrong with it",
                    readable(TESTED)
                ),
                Age::Tested => {}
            }
            let environment = ort::init_from(&path).map_err(|e| load(e.to_string()))?;
            let environment = environment.with_name("embed-worker").with_telemetry(false).build();
            let _ = LOADED.set(path.canonicalize().unwrap_or_else(|_| path.clone()));
            tracing::info!(library = %path.display(), version, "ONNX Runtime loaded");
            environment.map_err(|e| load(e.to_string()))
        })
        .clone()
}

/// What the system said of a library, which its error has one level below.
pub(super) fn why(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_around_the_executable_and_not_in_the_current_folder() {
        let here = env::current_dir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let install = elsewhere.path().join("checkout/target/release");
        std::fs::create_dir_all(&install).unwrap();
        let looked = match look(&WANTED, Vec::new(), Some(&install), None) {
            Err(looked) => looked,
            // The system has one.
            found => format!("{found:?}"),
        };
        assert!(!looked.contains(&here.display().to_string()), "{looked}");
        let environment = elsewhere.path().join("checkout/.venv/lib/python3.12/site-packages/onnxruntime/capi");
        std::fs::create_dir_all(&environment).unwrap();
        std::fs::write(environment.join("libonnxruntime.so.1.2.3"), "").unwrap();
        assert_eq!(
            look(&WANTED, Vec::new(), Some(&install), None).unwrap(),
            environment.join("libonnxruntime.so.1.2.3")
        );
        assert_eq!(
            look(&WANTED, Vec::new(), None, Some(elsewhere.path().join("checkout/.venv"))).unwrap().parent(),
            Some(&*environment)
        );
        std::fs::write(install.join("libonnxruntime.so"), "").unwrap();
        assert_eq!(look(&WANTED, Vec::new(), Some(&install), None).unwrap(), install.join("libonnxruntime.so"));
    }

    #[test]
    fn nobody_elses_environment_is_used() {
        // Only root can give a folder away.
        // SAFETY: it takes nothing, and only returns a number.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let shared = tempfile::tempdir().unwrap();
        let (install, theirs) = (shared.path().join("tool"), shared.path().join(".venv"));
        let folder = theirs.join("lib/python3.12/site-packages/onnxruntime/capi");
        for one in [&install, &folder] {
            std::fs::create_dir_all(one).unwrap();
        }
        std::fs::write(folder.join("libonnxruntime.so.9"), "").unwrap();
        assert!(
            look(&WANTED, Vec::new(), Some(&install), None).is_ok_and(|found| found.starts_with(&theirs)),
            "as long as it is ours"
        );
        std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
        assert!(!look(&WANTED, Vec::new(), Some(&install), None).is_ok_and(|found| found.starts_with(&theirs)));
    }

    #[test]
    fn versions_are_told_apart() {
        for (version, expected) in [
            ("1.32.0", Age::Tested),
            ("1.31.1", Age::Tested),
            ("2.0.0", Age::Tested),
            ("1.30.9", Age::Untested),
            ("1.24.0", Age::Untested),
            ("1.23.2", Age::TooOld),
            ("0.99.0", Age::TooOld),
            ("", Age::TooOld),
            ("nonsense", Age::TooOld),
        ] {
            assert_eq!(age(version), expected, "{version}");
        }
        assert_eq!(age(&version(&find(None).unwrap()).unwrap()), Age::Tested, "the one that the tests run on");
    }
}
