//! Traffic split between two variants of a real worker, as a newcomer does it with `embed dev`.

use std::{collections::BTreeMap, process::Command};

use embed_testkit::{Daemon, sibling_binary};
use serde_json::Value;

const MODEL: &str = "all-minilm-l6-v2";

/// How often each variant answered.
type Answers = BTreeMap<String, u32>;

#[test]
fn a_newcomer_splits_traffic() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(sibling_binary("embed"));
    command.args(["dev", "--json", "--port", "0", "--data-dir"]).arg(folder.path().join("dev"));
    command.args(["--variant", &format!("{MODEL}=fp32"), "--variant", &format!("{MODEL}=canary")]);
    command
        .env("EMBED_REGISTRY", embed_testkit::registry())
        .env("NATS_SERVER_BIN", embed_testkit::nats_server_binary())
        // Of other servers, and nothing to those of this stack.
        .env("NATS_URL", "nats://127.0.0.1:1")
        .env("NATS_NKEY", "/nowhere")
        .env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    let mut dev = Daemon::spawn(&mut command);
    let ready = dev.json_line();
    let variants: Vec<_> = ready["models"].as_array().unwrap().iter().map(|served| &served["variant"]).collect();
    assert_eq!(variants, ["fp32", "canary"], "{ready}");

    // All that is needed stands in one file; nothing else says where the server is.
    let route = |arguments: &[&str]| {
        let mut command = Command::new(sibling_binary("embed"));
        command.args(["route", "--route-config", ready["route_config"].as_str().unwrap()]).args(arguments);
        let output = command.env_remove("NATS_URL").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let embed = |arguments: &[&str]| {
        let mut command = Command::new(sibling_binary("embed"));
        command.args(arguments).args(["--server", ready["nats_url"].as_str().unwrap(), "--json"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let calls = || {
        let mut answers = Answers::new();
        for _ in 0..30 {
            let variant = embed(&["ask", "hello"])[0]["variant"].as_str().unwrap().to_owned();
            *answers.entry(variant).or_default() += 1;
        }
        answers
    };

    assert_eq!(calls(), Answers::from([("fp32".to_owned(), 30)]), "without a route, the default variant");
    route(&["set", MODEL, "fp32=50", "canary=50"]);
    // That one of them gets none of 30 happens once in 500 million times.
    let answers = calls();
    assert_eq!(answers.len(), 2, "{answers:?}");
    // Jobs go to the consumers of both variants, through the stream.
    let mut by = Answers::new();
    for _ in 0..30 {
        let outcome = embed(&["publish", "--wait", "--timeout", "60s", "hello"]);
        *by.entry(outcome[0]["variant"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(by.len(), 2, "{by:?}");
    assert_eq!(embed(&["ask", "--variant", "fp32", "hello"])[0]["variant"], "fp32", "a caller chooses by itself");
    route(&["set", MODEL, "--all-to", "canary"]);
    assert_eq!(calls(), Answers::from([("canary".to_owned(), 30)]));
    route(&["clear", MODEL]);
    assert_eq!(calls(), Answers::from([("fp32".to_owned(), 30)]));
    assert!(route(&["show"]).contains("default variant"));

    dev.signal(libc::SIGTERM);
    let (status, log) = dev.wait();
    assert!(status.success(), "{log}");
}
