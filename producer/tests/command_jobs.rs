//! `embed backfill` and `embed init` as they are run: streams, what nobody serves, what is told of failures and of room for results.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
    sync::Arc,
};

use crate::support::{
    Server,
    command::{embed, registry, run, stderr, stdout},
    slug,
    worker::{self, Worker},
};
use async_nats::jetstream;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_for_nobody_is_refused_and_failed_rows_are_told_with_their_reasons() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _calls = Worker::calls(&client, slug("m"), Arc::new(|r| Some(worker::embed(r)))).await;
    let _jobs = Worker::jobs(&client, 1, Arc::new(|r| Some(worker::embed(r))));
    let url = server.url();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows = "{\"text\":\"abc\"}\n{\"text\":1}\nnonsense\n{\"id\":7,\"text\":\"abcd\",\"title\":\"x\"}\n";
    fs::write(path("in"), rows).unwrap();
    let begin = ["backfill", "run", "-s", &url, "-m", "m"];

    let answer = run(&[&begin[..], &["--variant", "fp23", "--json", &path("in"), &path("out.jsonl")]].concat()).await;
    let error: Value = serde_json::from_slice(&answer.stderr).unwrap();
    assert_eq!((answer.status.code(), &error["error"]["code"]), (Some(1), &"unknown_model".into()), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("variant fp23 of model m; served are: m"), "{error}");
    assert!(!Path::new(&path("out.jsonl")).exists());
    // Who means it waits, here for no longer than it takes to give up.
    let meant =
        ["--variant", "fp23", "--allow-unserved", "--stall-timeout", "100ms", &path("in"), &path("other.jsonl")];
    let answer = run(&[&begin[..], &meant].concat()).await;
    assert!(stderr(&answer).contains("no result came"), "{}", stderr(&answer));

    let answer = run(&[&begin[..], &["--keep", "title", &path("in"), &path("out.jsonl")]].concat()).await;
    assert_eq!(answer.status.code(), Some(3), "{}", stderr(&answer));
    let told = stdout(&answer);
    for line in [
        "2 stored, 2 failed",
        "  2 failed with invalid_request:",
        "    line 2: `text` is not a string",
        "    line 3: not a JSON",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(fs::read_to_string(path("out.jsonl")).unwrap().ends_with(",\"title\":\"x\"}\n"));
    let answer = run(&["backfill", "status", &path("out.jsonl")]).await;
    assert!(stdout(&answer).contains("2 failed with invalid_request"), "{}", stdout(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_and_output_are_streams() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _calls = Worker::calls(&client, slug("m"), Arc::new(|r| Some(worker::embed(r)))).await;
    let _jobs = Worker::jobs(&client, 1, Arc::new(|r| Some(worker::embed(r))));
    let folder = tempfile::tempdir().unwrap();
    let mut child = embed(&["backfill", "run", "-s", &server.url(), "-m", "m", "--chunk", "2", "--json", "-", "-"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut rows) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let talk = move || {
        // Rows come out as soon as their group is done, long before the input ends.
        for n in 0..3 {
            writeln!(input, "{{\"id\":{n}.0,\"text\":\"a\"}}\n{{\"text\":\"abc\"}}").unwrap();
            for begin in
                [format!("{{\"id\":{n}.0,\"embedding\":[1.0,"), format!("{{\"line\":{},\"embedding\":[3.0,", 2 * n + 2)]
            {
                let mut row = String::new();
                rows.read_line(&mut row).unwrap();
                assert!(row.starts_with(&begin), "{row}");
            }
        }
        drop(input);
        let mut rest = String::new();
        assert_eq!(rows.read_line(&mut rest).unwrap(), 0, "{rest}");
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
    let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let summary: Value = serde_json::from_slice(&ended.stderr).unwrap();
    // Of six rows, four are equal to one of the first two.
    assert_eq!((ended.status.code(), &summary["stored"], &summary["reused"]), (Some(0), &2.into(), &4.into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left");

    // What came from standard input cannot be gone on with, and that is said.
    let out = folder.path().join("out.jsonl");
    let arguments = ["backfill", "run", "-s", &server.url(), "-m", "m", "--window", "1", "-", out.to_str().unwrap()];
    let mut child = embed(&arguments).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    crate::support::until("it has begun", async || embed_backfill::state_path(&out).exists()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = run(&["backfill", "resume", "-s", &server.url(), out.to_str().unwrap()]).await;
    assert!(stderr(&answer).contains("standard input, which is gone"), "{}", stderr(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_reads_what_workers_read_and_says_how_many_results_fit() {
    let server = Server::start();
    let client = server.client().await;
    let folder = tempfile::tempdir().unwrap();
    registry(&folder.path().join("registry"));
    let config = folder.path().join("worker.toml");
    let written = format!(
        "registry = {:?}\n[nats]\nserver = {:?}\n[engine]\nthreads = 1\n[[variant]]\nmodel = \"M\"\nprecision = \"int8\"\n[[variant]]\n\
         model = \"M\"\nname = \"main\"\ndefault = true\n",
        folder.path().join("registry"),
        server.url()
    );
    fs::write(&config, written).unwrap();
    let init = async |more: &[&str]| run(&[&["init", "--config", config.to_str().unwrap()], more].concat()).await;

    let answer = init(&["--check"]).await;
    let told = stdout(&answer);
    let command = format!("\n  embed init --config {}\n", config.display());
    assert!(answer.status.code() == Some(1) && told.contains(&command), "{told} {}", stderr(&answer));
    let answer = init(&[]).await;
    let told = stdout(&answer);
    assert!(told.contains("created    EMBED_m/main-job") && told.contains("created    EMBED_m/int8-job"), "{told}");
    // 544 bytes for the result of one text, 2 GiB.
    let room = "results    m: kept for 1day, 2 GiB in all: about 3947580 of one text, or";
    assert!(told.contains(room), "{told}");
    let stream = jetstream::new(client.nats().clone()).get_stream("EMBED_m").await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("main-bulk").await.unwrap();
    assert!(consumer.cached_info().config.filter_subjects.contains(&"embed.bulk.m".to_owned()));
    assert_eq!(init(&["--check"]).await.status.code(), Some(0));

    // Nearly full, and said so with the command that makes room; no password is part of it.
    init(&["--results-max-bytes", "10KiB"]).await;
    client.nats().publish("embed.store.m.x", "x".repeat(9_000).into()).await.unwrap();
    crate::support::until("it is stored", async || crate::support::stored(&client, "EMBED_RESULTS_m").await == 1).await;
    let url = format!("nats://u:secret@{}", server.address());
    let answer = init(&["--check", "-s", &url]).await;
    let told = stderr(&answer);
    assert!(told.contains("EMBED_RESULTS_m is 8") && told.contains("% full"), "{told}");
    let command = format!("-s nats://…@{} --results-max-bytes 20480", server.address());
    assert!(told.contains(&command) && !told.contains("secret"), "{told}");
    let report: Value = serde_json::from_slice(&init(&["--json"]).await.stdout).unwrap();
    assert_eq!(report["results"][0]["max_bytes"], 10_240);
    assert!(report["results"][0]["warning"].as_str().unwrap().contains("% full"), "{report}");
    let missing = run(&["init", "--config", "/nonexistent/worker.toml"]).await;
    assert!(stderr(&missing).contains("cannot read /nonexistent/worker.toml"), "{}", stderr(&missing));
}
