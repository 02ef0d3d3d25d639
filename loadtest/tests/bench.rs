//! `embed-loadtest bench` measures the real model and says what it measured. What the figures are is not tested: that is
//! up to the machine.

use std::{
    fs,
    process::{Command, Output},
};

use embed_testkit::registry;
use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-loadtest"));
    command.arg("bench").args(arguments).env("EMBED_REGISTRY", registry());
    command.output().unwrap()
}

/// A small matrix, two runners.
const TINY: [&str; 8] = ["--batch", "1,2", "--length", "16", "--seconds-per-cell", "0.05", "--runners", "2"];

fn bench_json(arguments: &[&str]) -> Value {
    let output = bench(&[&TINY[..], &["--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_positive(row: &Value, keys: &[&str]) {
    for key in keys {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {row}");
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

#[test]
fn the_matrix_has_a_row_for_every_shape() {
    let report = bench_json(&["--mix", "none"]);
    assert_eq!(report["schema"], "akidb-embed/bench/1");
    assert_eq!(report["parameters"]["runners"], 2);
    assert_eq!(report["parameters"]["batch"], serde_json::json!([1, 2]));
    assert!(report["machine"]["cores"].as_u64() >= Some(1) && report["machine"]["cpu"].is_string(), "{report}");
    let rows = list(&report, "matrix");
    let shapes: Vec<_> = rows.iter().map(|row| (row["batch"].as_u64(), row["length"].as_u64())).collect();
    assert_eq!(shapes, [(Some(1), Some(16)), (Some(2), Some(16))]);
    for row in rows {
        assert_eq!((&row["model"], &row["precision"]), (&"all-minilm-l6-v2".into(), &"fp32".into()));
        assert_positive(row, &["texts_per_second", "tokens_per_second", "p50_ms", "p95_ms", "runs"]);
    }
    assert!(list(&report, "mixes").is_empty());
    let waiting: Vec<_> = list(&report, "planner").iter().map(|row| row["waiting"].as_u64().unwrap()).collect();
    assert_eq!(waiting, [100, 1_000, 10_000, 100_000]);
    list(&report, "planner").iter().for_each(|row| assert_positive(row, &["us_per_text", "texts_per_batch"]));
}

#[test]
fn mixes_are_run_in_every_order_and_written_to_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("made");
    let mixes = ["--mix", "sentences", "--mix", "mixed", "--mix-texts", "20", "--mix-rounds", "1"];
    let report = bench_json(&[&mixes[..], &["--out", out.to_str().unwrap()]].concat());
    let rows = list(&report, "mixes");
    assert_eq!(rows.iter().map(|row| row["mix"].as_str().unwrap()).collect::<Vec<_>>(), ["sentences", "mixed"]);
    for row in rows {
        assert_eq!(row["texts"], 20);
        assert!(row["max_tokens"].as_u64() <= Some(256), "{row}");
        assert_positive(row, &["mean_tokens", "sorted_over_arrival", "planner_over_sorted"]);
        let arms = list(row, "arms");
        let orders: Vec<_> = arms.iter().map(|arm| arm["order"].as_str().unwrap()).collect();
        assert_eq!(orders, ["sorted", "planner", "arrival"]);
        for arm in arms {
            assert_positive(arm, &["texts_per_second", "tokens_per_second", "batches", "real_share"]);
            assert_eq!(list(arm, "rounds").len(), 1);
        }
    }
    assert_eq!(list(&report, "tokenizing").len(), 2);
    let written: Value = serde_json::from_slice(&fs::read(out.join("bench.json")).unwrap()).unwrap();
    assert_eq!(written, report);
    let page = fs::read_to_string(out.join("bench.html")).unwrap();
    assert!(page.contains("all-minilm-l6-v2 fp32") && page.contains("<svg"), "{page}");
}

#[test]
fn tokenizing_is_measured_without_an_engine() {
    let mixes = ["--tokenize", "--tokenize-threads", "1,2", "--mix", "mixed", "--mix-texts", "100"];
    let report = bench_json(&mixes);
    assert!(list(&report, "matrix").is_empty() && list(&report, "mixes").is_empty());
    let [row] = &list(&report, "tokenizing")[..] else { panic!("{report}") };
    assert_eq!((&row["model"], &row["mix"]), (&"all-minilm-l6-v2".into(), &"mixed".into()));
    assert_positive(row, &["mean_tokens", "texts_per_second", "library_texts_per_second"]);
    assert!(row["slow_because"].is_null(), "{row}");
    let pools = list(row, "pools");
    assert_eq!(pools.iter().map(|pool| pool["threads"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    pools.iter().for_each(|pool| assert_positive(pool, &["texts_per_second"]));
}

#[test]
fn people_get_tables() {
    let output = bench(&[&TINY[..], &["--mix", "none"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Full batches of one length") && text.contains("The planner alone"), "{text}");
    // By what it was run, too: on the processor there are two.
    let columns = |line: &&str| line.split_whitespace().take(3).eq(["all-minilm-l6-v2", "fp32", "cpu"]);
    assert_eq!(text.lines().filter(columns).count(), 2, "{text}");
}

#[test]
fn what_is_not_there_is_named() {
    for (arguments, status, words) in [
        (["--precision", "fp8"], 1, ["fp8", "fp32"]),
        (["--model", "no-such-model"], 1, ["no-such-model", "all-minilm-l6-v2"]),
        (["--precision", "fp7"], 2, ["fp7", "fp32"]),
        (["--length", "1"], 2, ["--length", "at least 2"]),
    ] {
        let output = bench(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{error}");
        words.into_iter().for_each(|word| assert!(error.contains(word), "{error:?} lacks {word:?}"));
    }
}
