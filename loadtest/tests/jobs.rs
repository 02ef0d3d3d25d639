//! Single jobs through the real binaries: ids that are taken, dead letters that are sent once more, jobs that are found and cancelled.

use std::process::Output;

use crate::support::{Stack, embed};
use async_nats::{HeaderMap, jetstream};
use embed_testkit::NatsServer;
use serde_json::{Value, json};

const MODEL: &str = "all-minilm-l6-v2";

fn run(nats: &NatsServer, arguments: &[&str]) -> Output {
    embed(nats).args(arguments).output().unwrap()
}

/// What a command prints as JSON, one value a line, and its exit status.
fn json_lines(nats: &NatsServer, arguments: &[&str]) -> (Vec<Value>, i32) {
    let output = run(nats, &[arguments, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, output.status.code().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for the dead letter of a job, other than `not`.
fn letter(nats: &NatsServer, id: &str, not: Option<u64>) -> Value {
    embed_testkit::wait_for("the dead letter", || {
        let (letters, status) = json_lines(nats, &["dead", "list"]);
        assert_eq!(status, 0);
        letters.into_iter().find(|letter| letter["id"] == id && letter["sequence"].as_u64() != not)
    })
}

/// Publishes as any client of NATS does, and waits for the server to have it.
fn publish(nats: &NatsServer, payload: &Value, message_id: &str) {
    let publish = async {
        let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", message_id);
        let subject = format!("embed.job.{MODEL}");
        context.publish_with_headers(subject, headers, payload.to_string().into()).await.unwrap().await.unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(publish);
}

#[test]
fn an_id_is_one_jobs_and_what_failed_is_found_and_sent_once_more() {
    let stack = Stack::start();
    let nats = &stack.nats;

    // The same id with the same content is the same job; with other content it is a conflict, and no vector of another text is shown.
    let cat = run(nats, &["publish", "--wait", "--id", "a", "cat"]);
    assert!(cat.status.success(), "{}", stderr(&cat));
    let again = run(nats, &["publish", "--wait", "--id", "a", "cat"]);
    assert_eq!((again.stdout, again.status.code()), (cat.stdout, Some(0)));
    for wait in [&["--wait"][..], &[]] {
        let arguments = [&["publish", "--id", "a"], wait, &["quantum chromodynamics"]].concat();
        let other = run(nats, &arguments);
        assert_eq!((other.status.code(), other.stdout.as_slice()), (Some(1), &b""[..]));
        assert!(stderr(&other).contains("id_conflict") && stderr(&other).contains("job a"), "{}", stderr(&other));
    }

    // A client that knows nothing of this is told by the worker, in a dead letter; the first job keeps its result.
    publish(nats, &json!({"id": "a", "texts": ["strange"]}), "somebody-else");
    let conflict = letter(nats, "a", None);
    assert_eq!(conflict["code"], "id_conflict");
    let (retried, status) = json_lines(nats, &["dead", "retry", "a"]);
    assert_eq!((retried[0]["retried"]["state"].as_str(), status), (Some("refused"), 3));
    let (retried, status) = json_lines(nats, &["dead", "retry", "a", "--new-id"]);
    assert_eq!((retried[0]["retried"]["state"].as_str(), status), (Some("published"), 0));
    let new = retried[0]["retried"]["id"].as_str().unwrap().to_owned();
    embed_testkit::wait_for("its result under the new id", || {
        run(nats, &["jobs", "result", &new]).status.success().then_some(())
    });

    // A failure says whose it is; the letter says why, by whom, and how often it was tried.
    let failed = run(nats, &["publish", "--wait", "--id", "doc", "--prompt", "nonsense", "text"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).starts_with("job doc: error unknown_prompt"), "{failed:?}");
    let first = letter(nats, "doc", None);
    let field = |name: &str| first[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (field("code"), field("model"), field("subject")),
        ("unknown_prompt".into(), MODEL.into(), format!("embed.job.{MODEL}"))
    );
    assert!(!field("worker").is_empty() && field("reason").contains("nonsense") && first["attempts"] == 0, "{first}");
    assert_eq!(json_lines(nats, &["jobs", "show", "doc"]).0[0]["error"]["code"], "unknown_prompt");
    for (filter, found) in [
        (["--code", "unknown_prompt"], 1),
        (["--code", "engine_failed"], 0),
        (["--since", "1h"], 1),
        (["--until", "1h"], 0),
        (["--model", "another"], 0),
    ] {
        assert_eq!(json_lines(nats, &["dead", "list", filter[0], filter[1]]).0.len(), found, "{filter:?}");
    }

    // Sent once more, it fails again: with a letter of its own, after the failure that stood in its way is gone.
    let sequence = first["sequence"].as_u64();
    let (would, _) = json_lines(nats, &["dead", "retry", "doc", "--dry-run"]);
    assert_eq!(would[0]["retried"]["state"], "would");
    assert_eq!(run(nats, &["dead", "retry"]).status.code(), Some(1), "all of them only if that is said");
    let (retried, status) = json_lines(nats, &["dead", "retry", "--all", "--code", "unknown_prompt"]);
    assert_eq!((retried[0]["retried"]["id"].as_str(), status), (Some("doc"), 0));
    let second = letter(nats, "doc", sequence);
    let (shown, _) = json_lines(nats, &["dead", "show", &second["sequence"].to_string()]);
    assert_eq!(shown[0]["job"]["texts"], json!(["text"]));
    let (purged, _) = json_lines(nats, &["dead", "purge", "--all"]);
    assert_eq!(purged[0]["purged"], 1);
    assert!(json_lines(nats, &["dead", "list"]).0.is_empty());

    // Without a worker, jobs wait, are found, and can be taken out; who waits for one hears of it.
    let Stack { worker, nats } = stack;
    worker.terminate();
    for id in ["stay", "go"] {
        assert!(run(&nats, &["publish", "--allow-unserved", "--id", id, "text"]).status.success());
    }
    let (shown, status) = json_lines(&nats, &["jobs", "show", "go"]);
    assert_eq!((shown[0]["state"].as_str(), status), (Some("queued"), 0));
    assert_eq!(json_lines(&nats, &["jobs", "cancel", "go"]).1, 0);
    assert_eq!(json_lines(&nats, &["jobs", "cancel", "go"]).0[0]["cancelled"]["state"], "ended");
    let again = run(&nats, &["publish", "--allow-unserved", "--id", "go", "text"]);
    assert!(!again.status.success() && stderr(&again).contains("job go has failed before (cancelled"), "{again:?}");
    let (left, _) = json_lines(&nats, &["jobs", "list"]);
    assert_eq!(left.iter().map(|job| &job["id"]).collect::<Vec<_>>(), ["stay"]);
    let (outcome, status) = json_lines(&nats, &["jobs", "result", "go"]);
    assert_eq!((outcome[0]["error"]["code"].as_str(), status), (Some("cancelled"), 1));
    assert_eq!(json_lines(&nats, &["jobs", "show", "nothing"]).1, 1);
}
