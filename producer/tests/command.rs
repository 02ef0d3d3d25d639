//! The `embed` command: what it prints, how it exits, and the life of a local stack.

use std::{path::Path, sync::Arc};

use crate::support::{
    Server,
    command::{Dev, embed, is_running, output, registry, signal, stderr, stdout},
    slug, until,
    worker::{self, Worker},
};
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::provision;
use embed_schemas::{EmbedRequest, streams::StreamSettings};
use serde_json::Value;

#[test]
fn errors_are_one_line_and_exit_with_1() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let answer = output(&["ask", "-s", &free, "hello"]);
    assert_eq!(answer.status.code(), Some(1));
    let text = stderr(&answer);
    assert!(text.starts_with("error: no NATS server answers at") && text.lines().count() == 1, "{text}");
    assert!(answer.stdout.is_empty());
    let answer = output(&["--json", "ask", "-s", &free, "hello"]);
    let error: Value = serde_json::from_slice(&answer.stderr).unwrap();
    assert_eq!(error["error"]["code"], "no_server");
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in
        [&["ask"][..], &["nonsense"], &["ask", "--timeout", "soon", "x"], &["publish", "--lane", "rpc", "x"]]
    {
        assert_eq!(output(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_is_idempotent_and_check_only_compares() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    registry(folder.path());
    let registry = folder.path().to_str().unwrap();
    let init = |more: &[&str]| output(&[&["init", "-s", &server.url(), "--registry", registry], more].concat());
    let answer = init(&["--check"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(stdout(&answer).contains("EMBED_m: missing"), "{}", stdout(&answer));
    assert!(stdout(&init(&[])).contains("created    EMBED_m/int8-job"));
    assert!(!stdout(&init(&[])).contains("created"));
    assert_eq!(init(&["--check"]).status.code(), Some(0));
    // A limit that was given once stays, until another is given.
    let answer = stdout(&init(&["--results-max-bytes", "1GiB", "--ack-wait", "9s"]));
    assert!(answer.contains("EMBED_RESULTS_m: max_bytes") && answer.contains("EMBED_m/int8-job: ack_wait"), "{answer}");
    assert!(!stdout(&init(&[])).contains("updated"));
    assert_eq!(init(&["--check"]).status.code(), Some(0));
    assert_eq!(init(&["--check", "--ack-wait", "9s"]).status.code(), Some(0));
    let answer = stdout(&init(&["--check", "--ack-wait", "6s"]));
    assert!(answer.contains("EMBED_m/int8-job: ack_wait is 9000000000") && !answer.contains("max_bytes"), "{answer}");
    let answer = init(&["--variant", "M=fp32", "--json"]);
    assert!(stderr(&answer).contains("cannot create consumer EMBED_m/fp32-job"), "{}", stderr(&answer));
    let report: Value =
        serde_json::from_slice(&init(&["--variant", "m=fp32", "--variant", "m=int8", "--json"]).stdout).unwrap();
    assert_eq!(report["created"][0], "EMBED_m/fp32-job");
    let answer = init(&["--variant", "other=x"]);
    assert!(stderr(&answer).contains("the registry has no model other; it has m"), "{}", stderr(&answer));
}

#[test]
fn init_leaves_out_what_cannot_be_read() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    registry(folder.path());
    let next = folder.path().join("models/next");
    std::fs::create_dir_all(next.join("v1")).unwrap();
    std::fs::write(next.join("v1/metadata.json"), r#"{"pooling": "of the next version"}"#).unwrap();
    std::fs::write(next.join("current.json"), r#"{"version":"v1"}"#).unwrap();
    let registry = folder.path().to_str().unwrap();
    let init = |more: &[&str]| output(&[&["init", "-s", &server.url(), "--registry", registry], more].concat());
    let answer = init(&[]);
    assert!(stderr(&answer).contains("warning: model next is left out: registry"), "{}", stderr(&answer));
    assert!(answer.status.success() && stdout(&answer).contains("created    EMBED_m/int8-job"), "{}", stdout(&answer));
    // It was asked for.
    let answer = init(&["--variant", "next=int8"]);
    assert!(stderr(&answer).contains("models/next/v1/metadata.json"), "{}", stderr(&answer));
    assert!(!answer.status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_asked_for_published_and_backfilled() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _calls = Worker::calls(&client, slug("m"), Arc::new(|r| Some(worker::embed(r)))).await;
    let _jobs = Worker::jobs(&client, 1, Arc::new(|r| Some(worker::embed(r))));
    let url = server.url();
    let run = async |arguments: &[&str]| {
        let arguments: Vec<String> = ["-s", &url].iter().chain(arguments).map(ToString::to_string).collect();
        let run = move || output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };

    let answer = run(&["ask", "-m", "m", "abc", "de"]).await;
    assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
    assert_eq!(
        stdout(&answer),
        "\"abc\"  dim 2, 1 tokens  [3.0000, 1.0000]\n\"de\"  dim 2, 1 tokens  [2.0000, 1.0000]\n"
    );
    let answer = run(&["ask", "-m", "m", "--json", "--encoding", "base64", "abc"]).await;
    let result: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(result["vectors"][0], "AABAQAAAgD8=");

    let answer = run(&["publish", "--allow-unserved", "-m", "m", "--id", "one", "abc"]).await;
    assert_eq!(stdout(&answer), "job one is stored: EMBED_m #1\n");
    let answer = run(&["publish", "--allow-unserved", "-m", "m", "--wait", "--timeout", "60s", "--json", "abcd"]).await;
    let result: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(result["vectors"][0][0], 4.0, "{}", stderr(&answer));

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("in"), "{\"text\":\"abc\"}\n{\"text\":1}\n").unwrap();
    let answer = run(&["backfill", "run", "-m", "m", "--json", &path("in"), &path("out.jsonl")]).await;
    assert_eq!(answer.status.code(), Some(3), "{}", stderr(&answer));
    let summary: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((&summary["rows"], &summary["failed"]), (&2.into(), &1.into()));
    let answer = run(&["backfill", "status", &path("out.jsonl")]).await;
    assert!(stdout(&answer).contains("finished") && stdout(&answer).contains("1 failed"), "{}", stdout(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_spaces_are_warned_of_and_one_can_be_asked_for() {
    let server = Server::start();
    let client = server.provisioned().await;
    // The space of a job is that of its first text.
    let answer = |r: &EmbedRequest| Some(worker::embed_in(&r.texts[0], r));
    let _calls = Worker::calls(&client, slug("m"), Arc::new(answer)).await;
    let _jobs = Worker::jobs(&client, 1, Arc::new(answer));
    let url = server.url();
    let run = async |arguments: Vec<String>| {
        let arguments = ["-s".to_owned(), url.clone()].into_iter().chain(arguments).collect::<Vec<_>>();
        let run = move || output(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let command = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    // More texts than a job holds: three jobs, of two spaces.
    let texts = |n: usize| (0..n).map(|n| if n < 256 { "a".to_owned() } else { "b".to_owned() });
    let publish = command("publish -m m --wait --timeout 60s");
    let several = run(publish.iter().cloned().chain(texts(520)).collect()).await;
    assert_eq!(several.status.code(), Some(0), "{}", stderr(&several));
    let warnings: Vec<_> =
        stderr(&several).lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("two embedding spaces"), "{warnings:?}");
    let one = run(publish.iter().cloned().chain(texts(256)).collect()).await;
    assert_eq!((one.status.code(), stderr(&one).as_str()), (Some(0), ""));

    let answer = run(command("ask -m m --space a a")).await;
    assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
    for line in ["ask -m m --space a b", "publish -m m --wait --timeout 60s --space a b"] {
        let answer = run(command(&format!("--json {line}"))).await;
        let error: Value = serde_json::from_slice(&answer.stderr).unwrap();
        assert_eq!((answer.status.code(), &error["error"]["code"]), (Some(1), &"other_space".into()), "{line}");
        assert!(error["error"]["message"].as_str().unwrap().contains("--space b"), "{error}");
    }
}

/// The registry's model has its streams, with the default variant that a worker would choose.
async fn assert_provisioned(url: &str) {
    let settings = ConnectSettings { server: Some(url.to_owned()), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.unwrap();
    let model = provision::ModelVariants { model: slug("m"), variants: vec![slug("int8")] };
    assert_eq!(provision::check(client.nats(), &[model], &StreamSettings::default()).await.unwrap(), []);
    assert_eq!(client.nats().max_payload(), 8 << 20);
}

#[tokio::test]
async fn a_stack_is_ready_when_it_says_so_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path());
    assert_eq!(dev.ready["models"][0]["variant"], "int8");
    assert_eq!(dev.ready["metrics_url"], "http://127.0.0.1:1");
    let url = dev.ready["nats_url"].as_str().unwrap().to_owned();
    assert_provisioned(&url).await;

    // A second one may use neither the folder nor the port.
    let second = Dev::command(folder.path(), "0").output().unwrap();
    assert!(stderr(&second).contains("--data-dir"), "{}", stderr(&second));
    let other = tempfile::tempdir().unwrap();
    registry(&other.path().join("registry"));
    let port = url.rsplit_once(':').unwrap().1;
    let second = Dev::command(other.path(), port).output().unwrap();
    assert!(stderr(&second).contains("--port, 0 for any"), "{}", stderr(&second));

    signal(i32::try_from(dev.child.id()).unwrap(), libc::SIGTERM);
    let (status, text) = dev.end();
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("worker stops"), "{text}");
    assert!(text.contains(&format!("worker run --server {url} --registry ")) && text.contains("--threads=3"), "{text}");
    assert!(!is_running(dev.pid("nats_server")) && !is_running(dev.pid("worker")));
}

#[tokio::test]
async fn a_child_that_dies_ends_the_stack() {
    for (name, other, program) in [("nats_server", "worker", "nats-server"), ("worker", "nats_server", "embed-worker")]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut dev = Dev::start(folder.path());
        signal(dev.pid(name), libc::SIGKILL);
        let (status, text) = dev.end();
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(program) && text.contains("was ended by signal 9"), "{text}");
        assert!(!is_running(dev.pid(other)));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_behind_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path());
    dev.child.kill().unwrap();
    dev.child.wait().unwrap();
    until("both children are gone", async || !is_running(dev.pid("nats_server")) && !is_running(dev.pid("worker")))
        .await;
}

#[test]
fn a_missing_registry_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Dev::command(folder.path(), "0").output().unwrap();
    assert!(stderr(&missing).contains("make setup"), "{}", stderr(&missing));
    let nowhere = embed(&["init"]).current_dir(Path::new("/")).env_remove("EMBED_REGISTRY").output().unwrap();
    assert!(stderr(&nowhere).contains("--registry"), "{}", stderr(&nowhere));
}
