//! Backfills in the bucket: seen, paused, gone on with and ended from elsewhere, whoever dies meanwhile.

use std::{
    path::Path,
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream;
use embed_backfill::{self as backfill, Pace, Phase, Wish};
use embed_client::Client;
use embed_control::provision::apply;
use embed_schemas::{EmbedRequest, streams::StreamSettings};
use serde_json::{Value, json};

use crate::support::{
    Server,
    command::{embed as command, stderr, stdout},
    files::{Files, assert_complete, pace, rows},
    model_m, stored, until,
    worker::{Worker, embed},
};

/// A server whose jobs come again soon, and a worker that is slow enough for a run to be caught in the middle.
async fn slow(server: &Server) -> (Client, Worker) {
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let answer = |r: &EmbedRequest| {
        std::thread::sleep(Duration::from_millis(5));
        Some(embed(r))
    };
    let worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    (client, worker)
}

/// `embed backfill run` as a process of its own; each row is a job.
fn start(server: &Server, files: &Files) -> Child {
    let (input, output) = (files.input.to_str().unwrap(), files.output.to_str().unwrap());
    let arguments =
        ["backfill", "run", input, output, "--model", "m", "--allow-unserved", "--chunk", "1", "--window", "4"];
    let mut run = command(&arguments);
    run.args(["--server", &server.url()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    run.spawn().unwrap()
}

fn backfill_command(server: &Server, arguments: &[&str]) -> std::process::Output {
    let mut run = command(&["backfill"]);
    run.args(arguments).args(["--server", &server.url()]).stdin(Stdio::null());
    run.output().unwrap()
}

/// The only backfill that the bucket knows.
async fn only(client: &Client) -> backfill::Listed {
    let mut all = backfill::list(client).await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.pop().unwrap()
}

/// Waits until so many rows are recorded in the bucket.
async fn recorded(client: &Client, count: u64) {
    until("rows are recorded", async || {
        backfill::list(client).await.unwrap().iter().any(|one| one.progress.rows >= count)
    })
    .await;
}

/// Changes an entry as somebody else would.
async fn change(client: &Client, id: &str, change: impl Fn(&mut Value)) {
    let bucket = jetstream::new(client.nats().clone()).get_key_value("embed_backfills").await.unwrap();
    until("the entry is changed", async || {
        let entry = bucket.entry(id).await.unwrap().unwrap();
        let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
        change(&mut value);
        bucket.update(id, value.to_string().into(), entry.revision).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_is_gone_on_with_from_the_bucket_alone() {
    let server = Server::start();
    let (client, _worker) = slow(&server).await;
    let files = Files::new(600);
    let mut process = start(&server, &files);
    recorded(&client, 50).await;
    let running = only(&client).await;
    assert_eq!((running.phase, running.runner.map(|runner| runner.pid)), (Phase::Running, Some(process.id())));
    assert_eq!(running.output, files.output.to_str().unwrap());
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(only(&client).await.phase, Phase::Interrupted, "a process of this machine that is gone is known to be");
    // What stands beside the output is lost.
    std::fs::remove_file(backfill::state_path(&files.output)).unwrap();
    let listed = backfill_command(&server, &["list"]);
    assert!(stdout(&listed).contains("interrupted"), "{}{}", stdout(&listed), stderr(&listed));
    let resumed = backfill_command(&server, &["resume", running.id.as_str(), "--allow-unserved"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert_complete(&files, 600);
    assert_eq!(only(&client).await.phase, Phase::Finished);
    assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 0);
    // What ended is forgotten when somebody says so.
    let listed = backfill_command(&server, &["list", "--purge", "--json"]);
    assert_eq!(
        (stdout(&listed).as_str(), backfill::list(&client).await.unwrap().len()),
        ("", 0),
        "{}",
        stderr(&listed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_is_paused_and_gone_on_with_from_elsewhere() {
    let server = Server::start();
    let (client, _worker) = slow(&server).await;
    let files = Files::new(600);
    let process = start(&server, &files);
    recorded(&client, 20).await;
    let id = only(&client).await.id;
    let asked = backfill_command(&server, &["pause", id.as_str(), "--json"]);
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert_eq!(asked["phase"], "paused");
    let ended = process.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", stderr(&ended));
    assert!(stdout(&ended).contains("paused after"), "{}", stdout(&ended));
    assert_eq!(asked["rows"], json!(rows(&files.output).len()), "what is done is kept");
    let status = backfill_command(&server, &["status", files.output.to_str().unwrap()]);
    assert!(stdout(&status).contains("unfinished, paused"), "{}", stdout(&status));
    // It is known by its output as well, and the pause is over.
    let summary = files.resume(&client).await.unwrap();
    assert_eq!((summary.finished, summary.asked, summary.stored), (true, None, 600));
    assert_complete(&files, 600);
    let error = backfill::pause(&client, &files.output).await.unwrap_err().to_string();
    assert!(error.contains("finished already"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_backfill_leaves_no_results_and_does_not_go_on() {
    let server = Server::start();
    let client = server.provisioned().await;
    // One job is held up: the results of all after it wait in their stream.
    let answer = |r: &EmbedRequest| (!r.texts[0].starts_with("row 10 ")).then(|| embed(r));
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    for somebody_runs_it in [true, false] {
        let files = Files::new(300);
        let paced = Pace { window: 8, ..pace() };
        let run = files.run(&client, 1, &paced);
        let waiting = async {
            until("results wait", async || stored(&client, "EMBED_RESULTS_m").await == 289).await;
            recorded(&client, 1).await;
        };
        if somebody_runs_it {
            let cancelled = async {
                waiting.await;
                backfill::cancel(&client, &files.output, &pace()).await.unwrap()
            };
            let (summary, asked) = tokio::join!(run, cancelled);
            let summary = summary.unwrap();
            assert_eq!((summary.finished, summary.asked), (false, Some(Wish::Cancel)));
            assert_eq!((asked.phase, asked.rows), (Phase::Cancelled, summary.rows));
        } else {
            tokio::select! {
                end = run => panic!("it ended: {end:?}"),
                () = waiting => {}
            }
            let id = backfill::status(&files.output).unwrap().id;
            // As if it had run on another machine: its lease is over after that.
            change(&client, id.as_str(), |entry| {
                entry["runner"]["place"] = Value::Null;
                entry["runner"]["lease_ms"] = json!(500);
            })
            .await;
            assert_eq!(backfill::cancel(&client, &files.output, &pace()).await.unwrap().phase, Phase::Cancelled);
        }
        assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 0);
        assert!(backfill::status(&files.output).unwrap().cancelled);
        for error in [
            files.resume(&client).await.unwrap_err(),
            files.run(&client, 1, &pace()).await.unwrap_err(),
            backfill::cancel(&client, &files.output, &pace()).await.unwrap_err(),
        ] {
            assert!(error.to_string().contains("cancelled"), "{error}");
        }
        assert_eq!(backfill::remove_old(&client, Duration::ZERO).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_it_elsewhere_keeps_others_out_until_the_lease_is_over() {
    let server = Server::start();
    let (client, worker) = slow(&server).await;
    let files = Files::new(300);
    let paced = Pace { lease: Duration::from_secs(8), ..pace() };
    tokio::select! {
        end = files.run(&client, 1, &paced) => panic!("it ended: {end:?}"),
        () = async {
            until("the worker is in the middle", async || worker.taken() >= 50).await;
            recorded(&client, 1).await;
        } => {}
    }
    let id = backfill::status(&files.output).unwrap().id;
    change(&client, id.as_str(), |entry| {
        entry["runner"]["place"] = json!("elsewhere");
        entry["runner"]["host"] = json!("elsewhere");
    })
    .await;
    let error = files.resume(&client).await.unwrap_err().to_string();
    assert!(error.contains("is run by process") && error.contains("on elsewhere"), "{error}");
    until("the lease is over", async || files.resume(&client).await.is_ok_and(|summary| summary.finished)).await;
    assert_complete(&files, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_somebody_has_taken_over_stops() {
    let server = Server::start();
    let (client, _worker) = slow(&server).await;
    let files = Files::new(600);
    let paced = pace();
    let run = files.run(&client, 1, &paced);
    let taken = async {
        recorded(&client, 10).await;
        let id = backfill::status(&files.output).unwrap().id;
        change(&client, id.as_str(), |entry| entry["runner"]["id"] = json!("another")).await;
    };
    let (end, ()) = tokio::join!(run, taken);
    let error = end.unwrap_err().to_string();
    assert!(error.contains("is run by process"), "{error}");
    let state = backfill::status(&files.output).unwrap();
    assert!(!state.finished && state.done.rows < 600);
    // The lock of the output is proof that the other one of this machine is gone.
    assert_eq!(files.resume(&client).await.unwrap().stored, 600);
    assert_complete(&files, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bucket_what_stands_beside_the_output_has_to_do() {
    let server = Server::start();
    let client = server.provisioned().await;
    let context = jetstream::new(client.nats().clone());
    context.delete_stream("KV_embed_backfills").await.unwrap();
    let worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(200);
    let stop = until("the worker is in the middle", async || worker.taken() >= 20);
    let paced = Pace { window: 2, ..pace() };
    let run = backfill::run(&client, files.parameters(1), &files.output, false, &paced, stop, |_| {});
    assert!(!run.await.unwrap().finished);
    assert!(backfill::list(&client).await.unwrap_err().to_string().contains("embed init"));
    let known = backfill::look(Some(&client), &files.output).await.unwrap();
    assert!(known.entry.is_none() && known.state.done.rows > 0);
    // Once there is one, the bucket knows it.
    apply(client.nats(), &[model_m()], &StreamSettings::default()).await.unwrap();
    assert_eq!(files.resume(&client).await.unwrap().stored, 200);
    assert_complete(&files, 200);
    assert_eq!(only(&client).await.phase, Phase::Finished);
    let other = backfill::look(Some(&client), Path::new("/nothing.jsonl")).await.unwrap_err().to_string();
    assert!(other.contains("there is no backfill into /nothing.jsonl"), "{other}");
}
