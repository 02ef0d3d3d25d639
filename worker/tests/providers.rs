//! Chains of execution providers with the real ONNX Runtime, on a machine that has none but the CPU's, and with the real OpenVINO.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use embed_testkit::registry;
use serde_json::{Value, json};

/// The registry, with a graph for TensorRT as well: the CPU's, since it is not going to be run.
fn with_a_plain_graph() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let model = Path::new("models/all-minilm-l6-v2");
    let (from, to) = (registry().join(model), copy.path().join(model));
    fs::create_dir_all(to.join("v1.0.0")).unwrap();
    fs::copy(from.join("current.json"), to.join("current.json")).unwrap();
    for entry in fs::read_dir(from.join("v1.0.0")).unwrap() {
        let entry = entry.unwrap();
        embed_testkit::share(&entry.path(), &to.join("v1.0.0").join(entry.file_name()));
    }
    let path = to.join("v1.0.0/metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut plain = metadata["artefacts"][0].clone();
    plain["form"] = json!("plain");
    metadata["artefacts"].as_array_mut().unwrap().push(plain);
    fs::remove_file(&path).unwrap();
    fs::write(path, serde_json::to_vec(&metadata).unwrap()).unwrap();
    copy
}

fn check(registry: &Path, providers: &str, strict: bool) -> Output {
    check_with(registry, providers, strict, &[])
}

fn check_with(registry: &Path, providers: &str, strict: bool, more: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_embed-worker"))
        .args(["check"])
        .envs(more.iter().copied())
        .env("EMBED_REGISTRY", registry)
        .env("EMBED_WORKER__ENGINE__PROVIDERS", providers)
        .env("EMBED_WORKER__ENGINE__STRICT", strict.to_string())
        .output()
        .unwrap()
}

#[test]
fn a_chain_falls_back_to_the_cpu_and_says_why() {
    let registry = with_a_plain_graph();
    let output = check(registry.path(), r#"["tensorrt", "tensorrt-rtx", "cuda", "cpu"]"#, false);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("runs on cpu in fp32; all nodes of the graph run there"), "{said}");
    for (provider, reason) in [
        (
            "tensorrt",
            "this ONNX Runtime was built without TensorrtExecutionProvider (libonnxruntime_providers_tensorrt.so is not beside",
        ),
        ("tensorrt-rtx", "the plug-in libonnxruntime_providers_nv_tensorrt_rtx.so was not found; looked at"),
        (
            "cuda",
            "this ONNX Runtime was built without CUDAExecutionProvider (libonnxruntime_providers_cuda.so is not beside",
        ),
    ] {
        assert!(said.contains(&format!("not on {provider}: {reason}")), "{said}");
    }
}

#[test]
fn a_strict_chain_does_not_fall_back() {
    let output = check(&registry(), r#"["cuda", "cpu"]"#, true);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.lines().last().unwrap_or_default();
    assert!(last.contains("error: cuda: this ONNX Runtime was built without CUDAExecutionProvider"), "{error}");
}

#[test]
fn providers_that_are_not_known_are_refused_by_name() {
    let output = check(&registry(), r#"["cuda", "gpu"]"#, false);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("engine.providers") && error.contains("gpu") && error.contains("tensorrt-rtx"), "{error}");
}

#[test]
fn openvino_runs_what_it_is_to_run() {
    let said = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let strict = said(&check(&registry(), r#"["openvino"]"#, true));
    assert!(strict.contains("runs on openvino in fp32; all nodes of the graph run there"), "{strict}");
    let bf16 = [("EMBED_WORKER__VARIANT", r#"[{model = "all-minilm-l6-v2", precision = "bf16"}]"#)];
    let bf16 = said(&check_with(&registry(), r#"["openvino", "cpu"]"#, false, &bf16));
    if embed_engine::engine::computes_bf16() {
        assert!(bf16.contains("all-minilm-l6-v2 bf16") && bf16.contains("runs on openvino in bf16;"), "{bf16}");
    } else {
        let refused = "not on openvino: this processor does not compute in BF16";
        assert!(bf16.contains("runs on cpu in fp32") && bf16.contains(refused), "{bf16}");
    }
}

#[test]
fn the_faster_of_both_is_taken_if_that_is_asked_for() {
    let said = |more: &[(&str, &str)]| {
        let output = check_with(&registry(), "auto", true, more);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains("not on"), "nobody has asked for what is not there: {said}");
        said
    };
    let both = said(&[]);
    let measured = both.split_once("the fastest: ").expect(&both).1;
    assert!(measured.contains("openvino") && measured.contains("cpu") && measured.contains(" ms"), "{both}");
    let alone = said(&[("EMBED_WORKER__ENGINE__OPENVINO__LIBRARY", "/nowhere/libopenvino_c.so")]);
    assert!(alone.contains("runs on cpu in fp32"), "{alone}");
}

#[test]
fn a_chain_without_openvino_says_why() {
    let nowhere = [("EMBED_WORKER__ENGINE__OPENVINO__LIBRARY", "/nowhere/libopenvino_c.so")];
    let output = check_with(&registry(), r#"["openvino", "cpu"]"#, false, &nowhere);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("runs on cpu in fp32"), "{said}");
    assert!(said.contains("not on openvino: /nowhere/libopenvino_c.so: "), "{said}");
}
