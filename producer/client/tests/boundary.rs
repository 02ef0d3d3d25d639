//! What this crate may not know: nothing of a command line, an object store or a report is in it.

use embed_testkit::dependencies;

#[test]
fn nothing_of_a_command_is_in_it() {
    let dependencies = dependencies("embed-client");
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
        "moka",
        "object_store",
        "schemars",
        "signal-hook-registry",
        "time",
        "tracing-subscriber",
        "toml",
    ] {
        assert!(!dependencies.contains(unwanted), "{unwanted} is among the dependencies of embed-client");
    }
}
