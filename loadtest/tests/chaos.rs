//! Faults on real processes under load, in a short form: whatever dies, hangs, or is full meanwhile, every job that was accepted is
//! stored once, with its own vectors. The long form is `embed-loadtest chaos --duration 1h`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use embed_testkit::{S3Server, nats_server_binary, registry, sibling_binary};
use serde_json::Value;

fn chaos(environment: &[(String, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.arg("chaos").args(arguments).env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary());
    command.envs(environment.iter().cloned()).output().unwrap()
}

/// Plays these kinds, each once at least, and holds the report to what is promised.
fn play(arguments: &[&str], out: &Path) {
    play_with(&[], arguments, out);
}

/// The same, with more in its environment.
fn play_with(environment: &[(String, String)], arguments: &[&str], out: &Path) {
    let output =
        chaos(environment, &[arguments, &["--json", "--ack-wait", "3", "--out", out.to_str().unwrap()]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    let notes =
        report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    for (what, count) in report["wrong"].as_object().unwrap() {
        assert_eq!(count, 0, "{what}\n{notes}\n{said}");
    }
    assert_eq!(report["clients"]["calls"]["wrong"], Value::Null, "{notes}");
    for fault in report["faults"].as_array().unwrap() {
        assert!(fault["recovery"]["backlog"].is_f64() && fault["problem"].is_null(), "{fault}\n{notes}\n{said}");
    }
    assert!(output.status.success(), "{notes}\n{said}");
    let accepted = report["accepted"].as_u64().unwrap();
    assert!(accepted > 0 && report["stored"].as_u64().unwrap() >= accepted, "{report}");
    // The page and the document say the same.
    let written: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(written, report);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("Jobs lost"));
}

#[test]
fn with_one_server_every_job_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = "worker-kill,worker-pause,server-kill,network-half-open,consumer-deleted,results-full";
    play(&["--only", kinds, "--faults", "6"], folder.path());
}

#[test]
fn a_poison_takes_nobody_with_it() {
    let folder = tempfile::tempdir().unwrap();
    // With two workers, the harmless jobs that come with it are sooner or later the other's.
    play(&["--only", "poison", "--faults", "1", "--workers", "1"], folder.path());
}

#[test]
fn with_three_servers_every_job_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    play(&["--servers", "3", "--only", "leader-kill,two-of-three-kill,network-cut", "--faults", "3"], folder.path());
}

#[test]
fn the_line_to_the_registrys_server_may_go_away() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3Server::start();
    s3.make_bucket("models");
    let mut environment = S3Server::settings(&s3.address());
    environment.push(("EMBED_REGISTRY".to_owned(), "s3://models/registry".to_owned()));
    let version = registry().join("models/all-minilm-l6-v2/v1.0.0");
    for arguments in [vec!["publish", version.to_str().unwrap()], vec!["promote", "all-minilm-l6-v2", "v1.0.0"]] {
        let mut command = Command::new(sibling_binary("embed-worker"));
        let output = command.arg("models").args(&arguments).envs(environment.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    play_with(&environment, &["--only", "registry-away", "--faults", "1"], folder.path());
}

#[test]
fn what_cannot_be_done_is_said() {
    for (arguments, code, reason) in [
        (vec!["--only", "earthquake"], 2, "--list"),
        (vec!["--only", "leader-kill"], 1, "--servers 3"),
        (vec!["--faults", "0"], 1, "--faults"),
    ] {
        let output = chaos(&[], &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(reason), "{arguments:?}: {said}");
    }
    let list = chaos(&[], &["--list", "--json"]);
    let kinds: Vec<Value> =
        String::from_utf8(list.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(kinds.iter().any(|kind| kind["name"] == "leader-kill" && kind["lacks"].is_string()));
    assert!(kinds.iter().any(|kind| kind["name"] == "worker-kill" && kind["lacks"].is_null()));
}
