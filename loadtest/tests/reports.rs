//! The load test against a real stack: what it measures is written down, and can be compared.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::support::Stack;
use embed_testkit::sibling_binary;
use serde_json::Value;

fn loadtest(arguments: &[&str], folder: &Path) -> Output {
    Command::new(sibling_binary("embed-loadtest")).args(arguments).arg("--out").arg(folder).output().unwrap()
}

fn succeed(arguments: &[&str], folder: &Path) -> Value {
    let output = loadtest(arguments, folder);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn written(folder: &Path) -> Value {
    let html = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(html.contains("<svg") && html.ends_with("</html>\n"));
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"))
}

fn series<'a>(report: &'a Value, plot: &str, name: &str) -> &'a Vec<Value> {
    let find = |list: &'a Value, key: &str, name: &str| list.as_array()?.iter().find(|entry| entry[key] == name);
    let plot = find(&report["plots"], "title", plot).unwrap_or_else(|| panic!("no plot {plot}"));
    find(&plot["series"], "name", name).and_then(|series| series["points"].as_array()).unwrap()
}

#[test]
fn a_mixed_run_is_written_down_and_is_as_good_as_itself() {
    let stack = Stack::start();
    let folder = tempfile::tempdir().unwrap();
    let (mixed, compared) = (folder.path().join("mixed"), folder.path().join("compared"));
    let (server, worker) = (stack.nats.url(), stack.worker.id().to_string());
    let run =
        "run --json --pattern mixed --lengths mixed --rate 10 --duration 3 --warm-up 1 --timeout 60 --bulk-window 2";
    let mut arguments: Vec<&str> = run.split(' ').collect();
    arguments.extend(["--server", &server, "--pid", &worker]);
    let printed = succeed(&arguments, &mixed);

    let report = written(&mixed);
    assert_eq!(report, printed, "what is printed is what is written");
    assert_eq!((&report["schema"], &report["command"]), (&"embed-loadtest/1".into(), &"run".into()));
    assert_eq!(report["answered"], report["due"], "{report}");
    assert!(number(&report, "due") > 0.0 && number(&report, "bulk_texts_per_second") >= 0.0);
    assert_eq!(report["bulk_errors"], serde_json::json!({}));
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    let offered: f64 = series(&report, "Calls per second", "offered").iter().map(|p| p[1].as_f64().unwrap()).sum();
    assert_eq!(offered, number(&report, "due"), "every call is in one of the seconds");
    assert!(!series(&report, "Resident memory", &format!("embed-worker ({worker})")).is_empty());

    let same = mixed.to_str().unwrap();
    let comparison = succeed(&["compare", "--json", same, &format!("{same}/report.json")], &compared);
    let rows = comparison["rows"].as_array().unwrap();
    assert!(rows.len() > 15 && rows.iter().all(|row| row["ratio"] == 1.0 && row["verdict"].is_null()), "{comparison}");
    assert_eq!(written(&compared), comparison);
    let text = Command::new(sibling_binary("embed-loadtest")).args(["compare", same, same]).output().unwrap();
    assert!(text.status.success() && String::from_utf8_lossy(&text.stdout).contains("1.00"));
}

#[test]
fn what_another_program_measured_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let script = embed_testkit::repository().join("loadtest/gpu/summarize.py");
    let results = embed_testkit::repository().join("loadtest/results/h100-cuda/results.json");
    fs::copy(results, folder.path().join("results.json")).unwrap();
    let python = embed_testkit::repository().join(".venv/bin/python");
    let summarized = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(summarized.status.success(), "{}", String::from_utf8_lossy(&summarized.stderr));
    let made = Command::new(sibling_binary("embed-loadtest")).arg("page").arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let html = fs::read_to_string(folder.path().join("report.html")).unwrap();
    // Plots before rows, and the rows of the matrix folded.
    let (plot, rows) = (html.find("<svg").unwrap(), html.find("<details>").unwrap());
    assert!(plot < rows && html.contains("beside the peers") && html.contains("bge-small-en-v1-5-twin"));
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fs::write(folder.path().join("report.json"), r#"{"schema": "other"}"#).unwrap();
    for (arguments, reason) in [
        (vec!["run", "--pattern", "high", "--rate", "500"], "20 to 100"),
        (vec!["soak", "--pid", "4294967295"], "--pid 4294967295"),
        (vec!["soak"], "--pid"),
        (vec!["compare", path, path], "embed-loadtest/1"),
    ] {
        let output = loadtest(&arguments, folder.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{arguments:?}: {said}");
    }
}
