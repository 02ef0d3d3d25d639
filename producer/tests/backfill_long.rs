//! Long texts: taken apart into windows on the way in, put together on the way out.

use std::{
    fmt::Write,
    path::Path,
    sync::{Arc, Mutex},
};

use data_encoding::HEXLOWER;
use embed_backfill::{self as backfill, Error, Long, LongMode, Pace, Parameters, Summary};
use embed_client::Client;
use embed_schemas::EmbedRequest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{
    Server,
    files::{Files, pace, rows},
    until,
    worker::{Worker, embed},
};

/// Tokens that the model takes.
const ROOM: usize = 16;

/// A registry of model `m` in these versions, the first of which is current. A word is a token; there are no others.
fn registry(versions: &[(&str, usize)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("models/m");
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "decoder": null, "normalizer": null, "post_processor": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    })
    .to_string();
    for (version, room) in versions {
        let file = |file: &str, content: &str| json!({"file": file, "bytes": content.len(), "sha256": HEXLOWER.encode(&Sha256::digest(content))});
        let metadata = json!({
            "model_name": "m", "slug": "m", "model_id": "a/m", "version": version, "dimension": 2, "max_seq_length": room,
            "pooling": "mean", "normalized": false, "space": "space", "prompts": {"query": "the question is: "},
            "tokenizer": file("tokenizer.json", &tokenizer), "golden": file("golden.json", "-"),
            "artefacts": [{"precision": "fp32", "file": "fp32.onnx", "bytes": 1, "sha256": "0".repeat(64)}],
            "created_at": "2026-01-01T00:00:00Z",
        });
        std::fs::create_dir_all(model.join(version)).unwrap();
        std::fs::write(model.join(version).join("tokenizer.json"), &tokenizer).unwrap();
        std::fs::write(model.join(version).join("metadata.json"), metadata.to_string()).unwrap();
    }
    std::fs::write(model.join("current.json"), json!({"version": versions[0].0}).to_string()).unwrap();
    root
}

/// Sentences of five words.
fn document(sentences: usize) -> String {
    (0..sentences).fold(String::new(), |mut text, n| {
        write!(text, "Sentence {n} is na\u{EF}ve indeed. ").unwrap();
        text
    })
}

/// Short ones and long ones, by turns; row 5 has no text.
fn documents() -> Files {
    let line = |n: usize| match n {
        5 => json!({"id": n}),
        _ => json!({"id": n, "text": document(if n.is_multiple_of(2) { 1 } else { 10 + n })}),
    };
    Files::with(&(0..12).map(|n| line(n).to_string() + "\n").collect::<String>())
}

fn parameters(files: &Files, long: Long) -> Parameters {
    Parameters { long, ..files.parameters(4) }
}

async fn run(client: &Client, files: &Files, long: Long, registry: &Path) -> Result<Summary, Error> {
    let registry = Some(registry.to_string_lossy().into_owned());
    let pace = Pace { registry, window: 3, ..pace() };
    let never = std::future::pending();
    backfill::run(client, parameters(files, long), &files.output, false, &pace, never, |_| {}).await
}

fn split() -> Long {
    Long { mode: LongMode::Split, overlap: Some(0), ..Long::default() }
}

fn text_of(row: u64, window: &Value) -> String {
    let text = document(if row.is_multiple_of(2) { 1 } else { 10 + row as usize });
    let at = |end: &str| window[end].as_u64().unwrap() as usize;
    text.chars().skip(at("start")).take(at("end") - at("start")).collect()
}

/// Every row of [`documents`] in order, with all windows of its text.
fn assert_windows(written: &[Value]) {
    let mut rows_seen = Vec::new();
    let mut covered = 0;
    for line in written {
        let row = line["id"].as_u64().unwrap();
        if rows_seen.last() != Some(&row) {
            rows_seen.push(row);
            covered = 0;
        }
        if row == 5 {
            assert_eq!(line["error"]["code"], "invalid_request");
            continue;
        }
        let window = &line["window"];
        let text = text_of(row, window);
        assert!(window["start"].as_u64().unwrap() <= covered);
        covered = window["end"].as_u64().unwrap();
        assert!(text.split_whitespace().count() <= ROOM, "{text}");
        assert!(text.starts_with("Sentence") && text.ends_with("indeed. "), "{text}");
        assert_eq!(line["embedding"], json!([text.len() as f32, 1.0]), "each has its own vector");
    }
    assert_eq!(rows_seen, (0..12).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_text_has_a_row_for_each_of_its_windows() {
    let server = Server::start();
    let client = server.provisioned().await;
    let texts = Arc::new(Mutex::new(Vec::new()));
    let record = {
        let texts = texts.clone();
        move |r: &EmbedRequest| {
            texts.lock().unwrap().push(r.texts.len());
            Some(embed(r))
        }
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(record));
    let (files, registry) = (documents(), registry(&[("v1", ROOM)]));
    let summary = run(&client, &files, split(), registry.path()).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.failed), (12, 11, 1));
    let written = rows(&files.output);
    assert_windows(&written);
    // Sentences have five words, and windows three sentences.
    let windows = |n: u64| (10 + n).div_ceil(3);
    let all: u64 = [1, 3, 7, 9, 11].map(windows).iter().sum();
    assert_eq!((summary.split, summary.windows, summary.truncated), (5, all, 0));
    assert_eq!(written.len() as u64, all + 6 + 1);
    // A text with more windows than a job has rows takes several jobs.
    assert!(texts.lock().unwrap().iter().all(|texts| *texts <= 4));
    // What was left open is kept.
    let long = backfill::status(&files.output).unwrap().parameters.long;
    assert_eq!((long.version.as_deref(), long.window, long.overlap), (Some("v1"), Some(16), Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_goes_on_with_the_same_windows() {
    let server = Server::start();
    let client = server.provisioned().await;
    let slow = |r: &EmbedRequest| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Some(embed(r))
    };
    let worker = Worker::jobs(&client, 1, Arc::new(slow));
    let (files, registry) = (documents(), registry(&[("v1", ROOM)]));
    tokio::select! {
        end = run(&client, &files, split(), registry.path()) => panic!("it ended before it was dropped: {end:?}"),
        () = until("the worker is in the middle", async || worker.taken() >= 4) => {}
    }
    // Another version has become current since, whose windows are others.
    std::fs::write(registry.path().join("models/m/current.json"), r#"{"version": "v9"}"#).unwrap();
    let pace = Pace { registry: Some(registry.path().to_string_lossy().into_owned()), ..pace() };
    let summary = backfill::resume(&client, &files.output, &pace, std::future::pending(), |_| {}).await.unwrap();
    assert_eq!((summary.stored, summary.split), (11, 5));
    assert_windows(&rows(&files.output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_text_has_the_mean_of_its_windows() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let registry = registry(&[("v1", ROOM)]);
    let (windows, means) = (documents(), documents());
    run(&client, &windows, split(), registry.path()).await.unwrap();
    let summary = run(&client, &means, Long { mode: LongMode::Mean, ..split() }, registry.path()).await.unwrap();
    assert_eq!((summary.stored, summary.failed, summary.split), (11, 1, 5));
    let written = rows(&means.output);
    assert_eq!(written.len(), 12);
    let windows = rows(&windows.output);
    for row in written.iter().filter(|row| row["id"] != 5) {
        let parts: Vec<(f64, u64)> = windows
            .iter()
            .filter(|window| window["id"] == row["id"])
            .map(|window| (window["embedding"][0].as_f64().unwrap(), window["tokens"].as_u64().unwrap()))
            .collect();
        let tokens: u64 = parts.iter().map(|(_, tokens)| tokens).sum();
        let mean = parts.iter().map(|(value, tokens)| value * *tokens as f64).sum::<f64>() / tokens as f64;
        assert_eq!((&row["tokens"], row.get("window")), (&json!(tokens), None));
        assert!((row["embedding"][0].as_f64().unwrap() - mean).abs() < 1e-3, "{row}");
        assert!((row["embedding"][1].as_f64().unwrap() - 1.0).abs() < 1e-6, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_texts_and_very_long_ones_are_rows_like_others() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    // More than a message may hold.
    let huge = document(60_000);
    assert!(huge.len() > 1 << 20);
    let texts = ["", " \n ", &huge, "end"];
    let lines: String = texts.iter().map(|text| json!({"text": text}).to_string() + "\n").collect();
    let files = Files::with(&lines);
    let registry = registry(&[("v1", 512)]);
    let summary = run(&client, &files, Long { mode: LongMode::Mean, ..split() }, registry.path()).await.unwrap();
    assert_eq!((summary.stored, summary.failed, summary.split), (4, 0, 1));
    assert!(summary.windows > 500, "{summary:?}");
    let written = rows(&files.output);
    assert_eq!((&written[0]["embedding"], &written[1]["embedding"]), (&json!([0.0, 1.0]), &json!([3.0, 1.0])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_that_is_served_says_what_a_token_is() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let registry = registry(&[("v1", 100), ("v2", ROOM)]);
    let status = |version: &str| {
        let live = json!({"version": version, "precision": "fp32", "provider": "cpu", "space": "space", "since": ""});
        json!({"state": "live", "default": true, "wanted": "current", "live": live})
    };
    let served = status("v2");
    let _told = Worker::says(&client, "w1", Arc::new(move || json!({"m.fp32": served}))).await;
    let files = documents();
    run(&client, &files, split(), registry.path()).await.unwrap();
    assert_eq!(backfill::status(&files.output).unwrap().parameters.long.version.as_deref(), Some("v2"));
    assert_windows(&rows(&files.output));
    // One of two that do not agree has to be chosen.
    let other = status("v1");
    let _other = Worker::says(&client, "w2", Arc::new(move || json!({"m.canary": other}))).await;
    let error = run(&client, &documents(), split(), registry.path()).await.unwrap_err().to_string();
    assert!(error.contains("v1 and v2") && error.contains("--variant"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_cut_is_refused_before_anything_is_written() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (files, registry) = (documents(), registry(&[("v1", ROOM)]));
    let refused = async |parameters: Parameters, registry: Option<String>| {
        let (pace, never) = (Pace { registry, ..pace() }, std::future::pending());
        let end = backfill::run(&client, parameters, &files.output, false, &pace, never, |_| {}).await;
        assert!(!files.output.exists());
        end.unwrap_err().to_string()
    };
    let here = Some(registry.path().to_string_lossy().into_owned());
    let error = refused(parameters(&files, split()), None).await;
    assert!(error.contains("--registry"), "{error}");
    let long = Long { window: Some(17), ..split() };
    let error = refused(parameters(&files, long.clone()), here.clone()).await;
    assert!(error.contains("17") && error.contains("takes 16"), "{error}");
    let error = refused(parameters(&files, Long { mode: LongMode::Truncate, ..long }), here.clone()).await;
    assert!(error.contains("split"), "{error}");
    // The prompt is put before every window.
    let with_prompt = |name: &str, long| Parameters { prompt: Some(name.into()), ..parameters(&files, long) };
    let error = refused(with_prompt("query", Long { window: Some(14), ..split() }), here.clone()).await;
    assert!(error.contains("takes 13"), "{error}");
    let error = refused(with_prompt("passage", split()), here.clone()).await;
    assert!(error.contains("passage") && error.contains("query"), "{error}");
    // The file is not the one that was published.
    std::fs::write(registry.path().join("models/m/v1/tokenizer.json"), "{}").unwrap();
    let error = refused(parameters(&files, split()), here).await;
    assert!(error.contains("tokenizer.json"), "{error}");
}
