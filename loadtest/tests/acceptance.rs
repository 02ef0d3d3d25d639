//! The user's criteria on a real stack: each met, missed or not measured, and the exit code that follows. How fast it is is not tested.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use embed_testkit::sibling_binary;
use serde_json::Value;

use crate::support::{Stack, embed};

/// Loads that a busy machine gets through; the second criterion cannot be met, and two need what is not there.
const CRITERIA: &str = r#"
callers = 3
batches = [1, 4]

[[pattern]]
name = "low"
rate = 10
expected = { batch_size = 1, p95 = 8 }

[[criterion]]
name = "P95"
measure = "p95"
at = "low"
below = 60000

[[criterion]]
name = "Throughput"
measure = "answered"
at = "many-callers"
above = 1e9

[[criterion]]
name = "Errors"
measure = "error-rate"
at = "low"
below = 0.1

[[criterion]]
name = "Cosine"
measure = "cosine"
above = 0.999

[[criterion]]
name = "Models"
measure = "models"
at_least = 1
at_most = 1

[[criterion]]
name = "One text in a run"
measure = "batch-size"
at = "one-caller"
at_least = 1
at_most = 1

[[criterion]]
name = "Several texts in a run"
measure = "batch-size"
at = "many-callers"
at_least = 1
at_most = 3

[[criterion]]
name = "GPU"
measure = "gpu-utilisation"
at = "beside-bulk"
at_least = 80

[[criterion]]
name = "Memory"
measure = "memory-per-request"
at = "many-callers"
at_most = 10000

[[criterion]]
name = "Cost"
measure = "cost"
at = "many-callers"
at_most = 1

[[criterion]]
name = "Cheaper"
measure = "cost-reduction"
at = "many-callers"
at_least = -1e9

[[criterion]]
name = "Speed-up"
measure = "p95-speed-up"
at = "one-caller"
above = 0
"#;

fn acceptance(stack: &Stack, criteria: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.args(["acceptance", "--json", "--warm-up", "0.1", "--arrivals", "constant", "--timeout", "60"]);
    command.args(["--server", &stack.nats.url(), "--bulk-window", "1", "--bulk-texts", "4", "--criteria"]);
    command.arg(criteria).args(more).output().unwrap()
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[test]
fn a_live_system_is_judged_criterion_by_criterion() {
    let (stack, ready) = Stack::start_and_listen("2s");
    let serve = "models serve all-minilm-l6-v2 canary --wait --timeout 2m";
    let served = embed(&stack.nats).args(serve.split(' ')).output().unwrap();
    assert!(served.status.success(), "{}", String::from_utf8_lossy(&served.stderr));
    let folder = tempfile::tempdir().unwrap();
    let (criteria, out) = (folder.path().join("criteria.toml"), folder.path().join("out"));
    fs::write(&criteria, CRITERIA).unwrap();
    let worker = stack.worker.id().to_string();
    let metrics = ready["metrics_url"].as_str().unwrap().to_owned();
    let all =
        ["--duration", "0.6", "--variant", "canary", "--baseline", "fp32", "--pid", &worker, "--metrics", &metrics];
    let prices = ["--price", "1", "--baseline-price", "2", "--out", out.to_str().unwrap()];
    let output = acceptance(&stack, &criteria, &[&all[..], &prices].concat());
    let report = report(&output);
    // Something is missed.
    assert_eq!(output.status.code(), Some(3), "{report}");
    let judged = &report["criteria"];
    for (name, met) in [
        ("P95 (low)", Some(true)),
        ("Throughput (many-callers)", Some(false)),
        ("Errors (low)", Some(true)),
        ("Cosine", Some(true)),
        ("Models", Some(true)),
        ("One text in a run (one-caller)", Some(true)),
        ("Several texts in a run (many-callers)", Some(true)),
        ("GPU (beside-bulk)", None),
        ("Memory (many-callers)", Some(true)),
        ("Cost (many-callers)", Some(true)),
        ("Cheaper (many-callers)", Some(true)),
        ("Speed-up (one-caller)", Some(true)),
    ] {
        let one = find(judged, name);
        assert_eq!(one["met"], met.map_or(Value::Null, Value::Bool), "{one}");
        assert_eq!(one["values"].as_array().unwrap().len(), if met.is_some() { 3 } else { 0 }, "{one}");
    }
    assert_eq!(find(judged, "GPU (beside-bulk)")["reason"], "no worker's metrics show a GPU");
    assert!(find(&report["verdicts"], "GPU (beside-bulk)")["value"].as_str().unwrap().starts_with("not measured"));
    assert!(report["title"].as_str().unwrap().ends_with("10 criteria met, 1 missed, 1 not measured"), "{report}");
    assert!(report["parameters"]["baseline"].as_str().unwrap().contains("fp32 on cpu"), "{report}");
    // FP32 on the CPU beside the other, by texts in a call.
    let row = find(&report["figures"], "one caller, 4 texts in a call: p50");
    assert!(find(&row["figures"], "speed-up")["value"].as_f64().unwrap() > 0.0, "{row}");
    let low = find(&report["figures"], "low");
    assert!(find(&low["figures"], "p75")["value"].as_f64().unwrap() > 0.0, "{low}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("not measured") && page.contains("Latency by share of calls"), "{page}");
    let mut compare = Command::new(sibling_binary("embed-loadtest"));
    assert!(compare.arg("compare").args([&out, &out]).output().unwrap().status.success());

    // What is all met ends with 0; what is missing for a criterion is said.
    fs::write(&criteria, CRITERIA.split("[[criterion]]\nname = \"Throughput\"").next().unwrap()).unwrap();
    let output = acceptance(&stack, &criteria, &["--duration", "0.3"]);
    assert_eq!(output.status.code(), Some(0), "{}", self::report(&output));
    for (more, reason) in [
        (&["--repeats", "2"][..], "at least 3"),
        (&["--variant", "none"], "variant none: no worker has it loaded"),
        (&["--metrics", "http://127.0.0.1:1/metrics"], "cannot be read"),
        (&["--variant", "fp32", "--baseline", "fp32"], "it is the variant that is measured"),
        (&["--price", "0"], "must be above 0"),
    ] {
        let output = acceptance(&stack, &criteria, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)) && said.contains(reason), "{more:?}: {said}");
    }
}
