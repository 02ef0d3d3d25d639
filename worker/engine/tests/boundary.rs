//! What this crate may not know: it has neither a client nor a server in it.

use embed_engine::model::Registry;
use embed_testkit::dependencies;

#[test]
fn no_client_and_no_server_is_in_it() {
    let dependencies = dependencies("embed-engine");
    for needed in ["ort", "tokenizers", "embed-registry", "object_store"] {
        assert!(dependencies.contains(needed), "{needed} is not among {dependencies:?}");
    }
    for unwanted in [
        "async-nats",
        "axum",
        "embed-connect",
        "embed-producer",
        "embed-worker",
        "h2",
        "hyper",
        "metrics",
        "reqwest",
        "rustls",
        "figment",
        "clap",
    ] {
        assert!(!dependencies.contains(unwanted), "{unwanted} is among the dependencies of embed-engine");
    }
}

/// Built by itself; in a build with other crates, one of them may have asked for buckets.
#[test]
fn a_registry_in_a_bucket_needs_a_feature_that_is_named() {
    if let Err(error) = Registry::open("s3://bucket/prefix") {
        let error = error.to_string();
        assert!(error.contains("feature `remote` of `embed-registry`") && error.contains("s3://"), "{error}");
    }
}
