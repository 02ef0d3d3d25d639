//! Whoever may write to a registry decides on vectors, and on nothing else: neither on what files are read, nor on memory, nor on time.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use embed_testkit::{TestRegistry, model_registry::replace, wait_for};
use serde_json::{Value, json};

const SLUG: &str = "all-minilm-l6-v2";

/// What `embed-worker` says when it fails, which it does soon, whatever it is given.
fn refusal(arguments: &[&str], registry: &Path) -> String {
    let said = tempfile::tempdir().unwrap();
    let said = said.path().join("stderr");
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.args(arguments).env("EMBED_REGISTRY", registry).stdin(Stdio::null()).stdout(Stdio::null());
    let mut worker = command.stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let status = wait_for("the worker's end", || worker.try_wait().unwrap());
    let said = fs::read_to_string(said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

/// A version that no worker must load, and what is said of it, when it is loaded and before it is published.
fn refused(registry: &TestRegistry, version: &str, words: &[&str], change: impl FnOnce(&Path, &mut Value)) {
    registry.derive(version, change);
    registry.promote(SLUG, version);
    let folder = registry.version(version);
    let elsewhere = tempfile::tempdir().unwrap();
    for said in [
        refusal(&["check"], registry.path()),
        refusal(&["models", "publish", folder.to_str().unwrap()], elsewhere.path()),
    ] {
        for word in words {
            assert!(said.contains(word), "{version}: {said:?} lacks {word:?}");
        }
    }
    assert!(!elsewhere.path().join("models").exists(), "{version}: it is not published");
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80, "one byte is a length");
    [&[number << 3 | 2, length], content].concat()
}

/// The real graph with one more tensor, whose numbers are in another file.
fn external(graph: Vec<u8>, location: &str) -> Vec<u8> {
    let place = [field(1, b"location"), field(2, location.as_bytes())].concat();
    // One dimension, of float, by that name, elsewhere.
    let tensor = [&[1 << 3, 1, 2 << 3, 1][..], &field(8, b"stolen"), &field(13, &place), &[14 << 3, 1]].concat();
    [graph, field(7, &field(5, &tensor))].concat()
}

#[test]
fn versions_that_ask_for_more_than_any_model_needs_are_refused() {
    let registry = TestRegistry::new();
    let edit = |folder: &Path, metadata: &mut Value, file: &str, change: &dyn Fn(&mut Value)| {
        let mut content: Value = serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap();
        change(&mut content);
        replace(folder, metadata, file, content.to_string().as_bytes());
    };
    refused(&registry, "v2-external", &["\"stolen\" is in another file", "SHA-256"], |folder, metadata| {
        let graph = external(fs::read(folder.join("fp32.onnx")).unwrap(), "../../../secret");
        replace(folder, metadata, "fp32.onnx", &graph);
    });
    refused(&registry, "v2-length", &["`max_seq_length` is 4294967295", "32768"], |_, metadata| {
        metadata["max_seq_length"] = json!(u32::MAX);
    });
    refused(&registry, "v2-positions", &["`max_seq_length` is 513", "512 positions"], |_, metadata| {
        metadata["max_seq_length"] = json!(513);
    });
    refused(&registry, "v2-dimension", &["`dimension` is 4294967295", "16384"], |_, metadata| {
        metadata["dimension"] = json!(u32::MAX);
    });
    refused(&registry, "v2-replaces", &["`normalizer`", "replacements", "64"], |folder, metadata| {
        edit(folder, metadata, "tokenizer.json", &|file| {
            let one = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(32)});
            file["normalizer"] = json!({"type": "Sequence", "normalizers": [one.clone(), one.clone(), one]});
        });
    });
    refused(&registry, "v2-panics", &["tokenizer.json", "panics"], |folder, metadata| {
        edit(folder, metadata, "tokenizer.json", &|file| {
            file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "BQAAAAAAAAD/AA=="});
        });
    });
    refused(&registry, "v2-words", &["ids up to 40000", "30522 words"], |folder, metadata| {
        edit(folder, metadata, "tokenizer.json", &|file| file["model"]["vocab"]["zzzzzz"] = json!(40_000));
    });
    refused(&registry, "v2-around", &["ids up to 40001", "30522 words"], |folder, metadata| {
        edit(folder, metadata, "tokenizer.json", &|file| {
            file["post_processor"]["special_tokens"]["[CLS]"]["ids"] = json!([40_001]);
        });
    });
    refused(&registry, "v2-tolerance", &["golden.json: `tolerance` is 1000", "0.01"], |folder, metadata| {
        edit(folder, metadata, "golden.json", &|file| file["tolerance"] = json!(1000.0));
    });
    refused(&registry, "v2-few", &["golden.json: `items` has 1 texts"], |folder, metadata| {
        edit(folder, metadata, "golden.json", &|file| file["items"].as_array_mut().unwrap().truncate(1));
    });
}

/// Memory is the operator's: a version says how long its texts are, and the worker how long they may be.
#[test]
fn a_worker_loads_no_version_for_longer_texts_than_it_is_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.arg("check").env("EMBED_REGISTRY", embed_testkit::registry());
    let output = command.env("EMBED_WORKER__ENGINE__MAX_SEQ_LENGTH", "255").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`max_seq_length` is 256") && said.contains("engine.max_seq_length"), "{said}");
}

/// A registry whose files are not what they should be. None of them is waited for, or followed.
#[test]
fn only_regular_files_are_opened() {
    let registry = TestRegistry::new();
    let files = ["fp32.onnx", "tokenizer.json", "golden.json", "metadata.json"];
    for (n, file) in files.into_iter().enumerate() {
        let version = format!("v2-{n}");
        registry.derive(&version, |_, _| {});
        registry.promote(SLUG, &version);
        let path = registry.version(&version).join(file);
        let elsewhere = registry.path().join(format!("elsewhere-{n}"));
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let said = refusal(&["check"], registry.path());
        assert!(said.contains(file) && said.contains("a symbolic link"), "{said}");
        fs::remove_file(&path).unwrap();
        make_fifo(&path);
        let said = refusal(&["check"], registry.path());
        assert!(said.contains(file) && said.contains("a FIFO"), "{said}");
    }
    // A version's folder, a model's, and the pointer: as good as the file itself.
    registry.derive("v3", |_, _| {});
    registry.promote(SLUG, "v3");
    let (version, elsewhere) = (registry.version("v3"), registry.path().join("elsewhere"));
    fs::rename(&version, &elsewhere).unwrap();
    symlink(&elsewhere, &version).unwrap();
    assert!(refusal(&["check"], registry.path()).contains("v3: this is a symbolic link"));
    registry.promote(SLUG, "v1.0.0");
    let pointer = registry.model(SLUG).join("current.json");
    fs::rename(&pointer, registry.path().join("pointer")).unwrap();
    symlink(registry.path().join("pointer"), &pointer).unwrap();
    let named = ["check", "--variant", SLUG];
    assert!(refusal(&named, registry.path()).contains("current.json: this is a symbolic link"));
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// An ONNX Runtime that is too old, as far as it can tell: a library that says so.
#[test]
fn an_old_onnx_runtime_is_refused_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("old.c"), folder.path().join("libonnxruntime.so"));
    let code = "static const char *version(void) { return \"1.20.3\"; }\n\
        static const void *api(unsigned wanted) { (void)wanted; return 0; }\n\
        struct base { const void *(*api)(unsigned); const char *(*version)(void); };\n\
        static const struct base base = { api, version };\n\
        const struct base *OrtGetApiBase(void) { return &base; }\n";
    fs::write(&source, code).unwrap();
    let mut compiler = Command::new("cc");
    assert!(compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.arg("check").env("EMBED_REGISTRY", embed_testkit::registry()).env("ORT_DYLIB_PATH", &library);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("this is ONNX Runtime 1.20.3; 1.24 or later is needed"), "{said}");
}
