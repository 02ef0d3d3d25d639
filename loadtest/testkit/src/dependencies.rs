//! What a crate is built from.

use std::{collections::BTreeSet, process::Command};

use crate::paths::repository;

/// The crates that are built for one of ours, without those of its tests. What other crates of ours ask of the same crates counts for nothing.
pub fn dependencies(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--offline", "--package", package, "--edges", "normal", "--prefix", "none"];
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).args(["--format", "{p}"]).current_dir(repository()).output();
    let output = output.expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("names are UTF-8");
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}
