//! What this crate may not know: nothing of a command line, an object store or a report is in it.

use std::{collections::BTreeSet, process::Command};

/// The crates that are built for this one, without those of its tests.
fn dependencies() -> BTreeSet<String> {
    let arguments = ["tree", "--offline", "--package", "embed-client", "--edges", "normal", "--prefix", "none"];
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).args(["--format", "{p}"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn nothing_of_a_command_is_in_it() {
    let dependencies = dependencies();
    for needed in ["async-nats", "embed-connect", "embed-schemas"] {
        assert!(dependencies.contains(needed), "{needed} is not among {dependencies:?}");
    }
    for unwanted in [
        "clap",
        "embed-control",
        "embed-registry",
        "embed-report",
        "embed-rollout",
        "indicatif",
        "object_store",
        "tracing-subscriber",
        "toml",
    ] {
        assert!(!dependencies.contains(unwanted), "{unwanted} is among the dependencies of embed-client");
    }
}
