//! How backfills behave: how fast they go, when they give up, when they wait, what they tell.

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    Server,
    command::{embed as command, output, stderr},
    files::{Files, assert_complete, pace, rows},
    stored, until,
    worker::{Worker, embed, failure},
};
use async_nats::jetstream;
use embed_backfill::{self as backfill, Manners, MaxErrors, Pace, Parameters, Retry};
use embed_schemas::{EmbedRequest, Outcome, WireError, streams::StreamSettings};
use embed_testkit::Daemon;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_no_faster_than_they_may() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(100);
    let manners = Manners { rate: NonZeroU32::new(100), ..Manners::default() };
    let begun = Instant::now();
    let summary = files.run(&client, 10, &Pace { manners, ..pace() }).await.unwrap();
    // The last ten need not wait for their time to pass.
    assert!(begun.elapsed() >= Duration::from_millis(900), "{summary:?}");
    assert_complete(&files, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_errors_stop_a_run_that_goes_on_later() {
    let server = Server::start();
    let client = server.provisioned().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let answer = {
        let is_well = is_well.clone();
        move |r: &EmbedRequest| {
            let is_bad = r.texts[0].starts_with("row 2") && !is_well.load(Ordering::SeqCst);
            Some(if is_bad { failure(r, WireError::invalid("no")) } else { embed(r) })
        }
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let files = Files::new(1_000);
    // Rows 20 to 29 and 200 to 299, in jobs of their own.
    let run = |most| Pace { window: 2, manners: Manners { max_errors: Some(most), ..Manners::default() }, ..pace() };
    let error = files.run(&client, 1, &run(MaxErrors::Rows(20))).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("too_many_errors", false));
    let text = error.to_string();
    assert!(text.contains("21 of ") && text.contains("invalid_request (line 3: ") && text.contains("resume"), "{text}");
    let state = backfill::status(&files.output).unwrap();
    assert_eq!((state.failed, state.finished), (21, false));
    is_well.store(true, Ordering::SeqCst);
    // What failed before is not held against this run.
    let summary = backfill::resume(&client, &files.output, &run(MaxErrors::Rows(20)), std::future::pending(), |_| {})
        .await
        .unwrap();
    assert_eq!((summary.rows, summary.stored + summary.failed), (1_000, 1_000));
    // What was in flight when it stopped had failed by then.
    assert!((21..=28).contains(&summary.failed), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_begun_while_a_stream_is_nearly_full() {
    let server = Server::start();
    let settings = StreamSettings { results_max_bytes: 1 << 20, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    // Somebody else's.
    client.nats().publish("embed.store.m.other", vec![b'x'; 1_000_000].into()).await.unwrap();
    until("it is stored", async || stored(&client, "EMBED_RESULTS_m").await == 1).await;
    let files = Files::new(50);
    let told = Mutex::new(None);
    let pace = pace();
    let hear = |progress: &backfill::Progress| *told.lock().unwrap() = Some(*progress);
    let run = backfill::run(&client, files.parameters(5), &files.output, false, &pace, std::future::pending(), hear);
    let make_room = async {
        until("it waits", async || told.lock().unwrap().is_some_and(|progress| progress.is_held)).await;
        assert_eq!((worker.taken(), stored(&client, "EMBED_m").await), (0, 0));
        jetstream::new(client.nats().clone()).get_stream("EMBED_RESULTS_m").await.unwrap().purge().await.unwrap();
    };
    let (summary, ()) = tokio::join!(run, make_room);
    assert_eq!(summary.unwrap().stored, 50);
    assert_complete(&files, 50);
    assert!(!told.lock().unwrap().unwrap().is_held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_estimates_and_leaves_nothing() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(10_000);
    let paths = [&files.input, &files.output].map(|path| path.to_str().unwrap().to_owned());
    let url = server.url();
    let run = move |more: &[&str]| {
        let arguments =
            ["-s", &url, "backfill", "run", "-m", "m", "--allow-unserved", "--dry-run", &paths[0], &paths[1]];
        output(&arguments.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let others = [&["--limit", "5000"][..], &["--rate", "3000"], &["--sample", "0.9", "--shard", "1/2"]];
    let all = move || {
        let others = others.map(|more| run(&[&["--json"], more].concat()));
        (run(&["--json", "--price-per-hour", "10"]), run(&[]), others)
    };
    let (told, plain, others) = tokio::task::spawn_blocking(all).await.unwrap();
    let [limited, slow, sample] = others.map(|told| serde_json::from_slice::<Value>(&told.stdout).unwrap());
    assert_eq!(limited["rows"], json!(5_000));
    let (rate, seconds) = (slow["rows_per_second"].as_f64().unwrap(), slow["seconds"].as_f64().unwrap());
    assert!(rate <= 3_000.0 && seconds > 9_000.0 / 3_000.0, "{slow}");
    let rows = sample["rows"].as_u64().unwrap();
    assert!((4_000..=5_300).contains(&rows), "{sample}");
    assert_eq!(told.status.code(), Some(0), "{}", stderr(&told));
    let estimate: Value = serde_json::from_slice(&told.stdout).unwrap();
    let rows = estimate["rows"].as_u64().unwrap();
    assert!((9_000..11_000).contains(&rows) && estimate["is_exact"] == json!(false), "{estimate}");
    // The worker counts three of each row.
    assert!(estimate["tokens"].as_u64().unwrap().abs_diff(3 * rows) <= 3, "{estimate}");
    assert!(estimate["cost"].as_f64().unwrap() > 0.0 && estimate["rows_per_second"].as_f64().unwrap() > 0.0);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("rows     about ") && !text.contains("cost"), "{text}");
    assert!(!files.output.exists() && backfill::status(&files.output).is_err());
    until("nothing is left in the streams", async || {
        stored(&client, "EMBED_RESULTS_m").await + stored(&client, "EMBED_m").await == 0
    })
    .await;

    // All there is: no estimate, but for the time.
    let few = Files::new(3);
    let estimate = backfill::estimate(&client, few.parameters(2), &pace(), None).await.unwrap();
    assert_eq!((estimate.rows, estimate.is_exact, estimate.sample.timed_rows), (Some(3), true, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_and_prometheus_are_told_how_it_goes() {
    let server = Server::start();
    let client = server.provisioned().await;
    let is_open = Arc::new(AtomicBool::new(false));
    let answer = {
        let is_open = is_open.clone();
        move |r: &EmbedRequest| (r.texts[0].starts_with("row 0 ") || is_open.load(Ordering::SeqCst)).then(|| embed(r))
    };
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    server.provisioned_with(&settings).await;
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let files = Files::new(40);
    let url = server.url();
    let mut run = command(&["-s", &url, "backfill", "run", "-m", "m", "--chunk", "10", "--allow-unserved", "--json"]);
    run.args(["--progress", "json", "--metrics-listen", "127.0.0.1:0"]).arg(&files.input).arg(&files.output);
    let mut run = Daemon::spawn(&mut run);
    let line = |run: &Daemon| -> Option<Value> {
        let log = run.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.rfind(|line: &Value| line["rows"] == json!(10))
    };
    until("the first rows are written", async || line(&run).is_some()).await;
    let told = line(&run).unwrap();
    assert_eq!((&told["failed"], &told["jobs_in_flight"]), (&json!(0), &json!(3)));
    assert!(told["jobs_queued"].as_u64().is_some() && told["seconds_left"].as_u64().is_some(), "{told}");
    let log = run.log();
    let address = log.lines().find_map(|line| line.strip_prefix("metrics: http://")?.strip_suffix("/metrics")).unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    for metric in ["akidb_backfill_rows_total 10", "akidb_backfill_tokens_total 30", "akidb_backfill_jobs_in_flight 3"]
    {
        assert!(page.contains(metric), "{page}");
    }
    is_open.store(true, Ordering::SeqCst);
    let summary = tokio::task::block_in_place(|| run.json_line());
    assert_eq!((&summary["rows"], &summary["stored"], &summary["tokens"]), (&json!(40), &json!(40), &json!(120)));
    let (status, log) = tokio::task::block_in_place(|| run.wait());
    assert!(status.success(), "{log}");
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["rows"], &last["jobs_queued"].is_u64()), (&json!(40), &true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_failed_are_tried_again_and_no_others() {
    let server = Server::start();
    let client = server.provisioned().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let answer = {
        let is_well = is_well.clone();
        move |r: &EmbedRequest| {
            let Outcome::Result(mut result) = embed(r) else { unreachable!() };
            for (item, text) in result.items.iter_mut().zip(&r.texts) {
                let is_bad = text.starts_with("row 3") && !is_well.load(Ordering::SeqCst);
                item.error = is_bad.then(|| WireError::invalid("no"));
            }
            Some(Outcome::Result(result))
        }
    };
    let worker = Worker::jobs(&client, 1, Arc::new(answer));
    let files = Files::new(100);
    assert_eq!(files.run(&client, 5, &pace()).await.unwrap().failed, 11);
    is_well.store(true, Ordering::SeqCst);
    let before = worker.taken();
    let again = files.output.with_extension("again.jsonl");
    let retry = Some(Retry { file: files.output.clone(), sha256: String::new() });
    let parameters = Parameters { retry, ..files.parameters(5) };
    let run = |output: PathBuf| {
        let (client, parameters) = (client.clone(), parameters.clone());
        async move { backfill::run(&client, parameters, &output, true, &pace(), std::future::pending(), |_| {}).await }
    };
    let error = run(files.output.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is the input"), "{error}");
    let summary = run(again.clone()).await.unwrap();
    assert_eq!((summary.rows, summary.stored, worker.taken() - before), (11, 11, 3));
    let ids: Vec<String> = rows(&again).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    let expected: Vec<String> = std::iter::once(3).chain(30..40).map(|n| format!("doc-{n}")).collect();
    assert_eq!(ids, expected);
}
