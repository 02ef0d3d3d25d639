//! The first step of a rollout on real workers: a candidate that is off on some texts only is found before any caller has a vector of it.

use std::collections::BTreeSet;

use crate::support::canary::{Canary, MODEL, traffic_by_variant};
use embed_testkit::{Daemon, TestRegistry, model_registry::FIRST, wait_for};
use serde_json::{Value, json};

/// A version that is off by a cosine of 0.97 on texts of more than 64 tokens. Its golden texts, and those that variants are probed with,
/// do not show it.
const OFF: &str = "v1.2.0";

fn texts() -> Vec<String> {
    let short = (0..30).map(|n| format!("sentence number {n} of those that are asked for again and again"));
    let long = (0..10).map(|n| format!("text number {n} {}", "which goes on for a while, as documents do, ".repeat(8)));
    short.chain(long).collect()
}

/// Mean cosines by length, as the record has them.
fn means(shadow: &Value) -> Vec<(u64, f64)> {
    let reasons = shadow["verdict"]["reasons"].as_array().unwrap().iter();
    let means = reasons.filter(|reason| reason["aspect"] == "mean_cosine" && reason["lane"] == "rpc");
    means.map(|reason| (reason["tokens"].as_u64().unwrap(), reason["figure"].as_f64().unwrap())).collect()
}

#[test]
fn a_candidate_that_is_off_on_long_texts_only_is_found_before_any_caller_has_a_vector_of_it() {
    let registry = TestRegistry::new();
    registry.derive_off_on_long_texts(OFF, 64, 0.97);
    registry.promote(MODEL, OFF);
    let canary = Canary::start(registry.path(), &[]);
    let (_calls, answered) = traffic_by_variant(&canary, &texts());
    let variants = || answered.lock().unwrap().keys().cloned().collect::<BTreeSet<_>>();

    let mut controller = canary.start_shadow("2m");
    let status = canary.status_when("the end", |rollout| rollout["phase"]["name"] == "ended");
    assert_eq!(controller.wait().0.code(), Some(1));
    let phase = &status["rollout"]["phase"];
    assert_eq!(phase["outcome"], "refused", "{status}");
    let reason = phase["reason"].as_str().unwrap();
    assert!(reason.contains("lane rpc, 65 to 128 tokens: mean cosine 0.97"), "{reason}");
    let shadow = &status["shadow"];
    for (tokens, mean) in means(shadow) {
        assert!(if tokens > 64 { (mean - 0.97).abs() < 0.01 } else { mean > 0.9999 }, "{tokens} {mean}: {shadow}");
    }
    assert_eq!(shadow["over"], false, "it did not take all of its time");
    assert!(shadow["counts"]["worst"][0]["text"].as_str().unwrap().starts_with("text number "), "{shadow}");
    assert_eq!(canary.route()["routes"], json!({}), "no traffic was ever moved");
    assert_eq!(variants(), BTreeSet::from(["fp32".to_owned()]), "nobody got a vector of it");

    let page = canary.file("page.html");
    let report =
        canary.routing("rollout", &["report", MODEL, "-o", page.to_str().unwrap(), "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&report["verdicts"], &report["different"]), (&json!(1), &json!(0)), "{report}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Shadow 1") && page.contains("farthest apart") && page.contains("text number"), "{page}");

    // Without the fault it passes, though its controller dies meanwhile.
    registry.promote(MODEL, FIRST);
    wait_for("the good version", || {
        let asked = canary.embed(&["ask", "--json", "--variant", "canary", "hello"]).output().unwrap();
        let asked: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        (asked["version"] == FIRST).then_some(())
    });
    let controller = canary.start_shadow("8s");
    canary.status_when("the shadow", |rollout| rollout["phase"]["name"] == "shadowing");
    controller.kill();
    let mut controller = Daemon::spawn(&mut canary.routing("rollout", &["run", MODEL, "--lease=10s", "--json"]));
    let status = wait_for("the first step", || {
        let seen = variants();
        let status = canary.status();
        let name = status["rollout"]["phase"]["name"].as_str().unwrap_or_default();
        assert!(!["paused", "ended"].contains(&name), "{status}");
        // What was seen before it was still a shadow.
        assert!(name != "shadowing" || seen == BTreeSet::from(["fp32".to_owned()]), "{seen:?}");
        ["moving", "holding"].contains(&name).then(|| status.clone())
    });
    let history = status["rollout"]["history"].to_string();
    assert!(history.contains("its vectors agree on"), "{history}");
    assert_eq!(status["shadow"]["over"], true, "{status}");
    assert!(canary.routing("rollout", &["abort", MODEL, "--json"]).output().unwrap().status.success());
    controller.wait();
}
