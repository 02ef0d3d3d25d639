//! Backfills from end to end, with a worker that needs no model.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Server,
    files::{Files, assert_complete, pace, rows},
    stored, until,
    worker::{Worker, embed, embed_in, failure},
};
use embed_backfill::{self as backfill, Error, Pace, Parameters};
use embed_client::Error as ClientError;
use embed_schemas::{EmbedRequest, ErrorCode, Outcome, WireError, streams::StreamSettings};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_embedded_in_order_and_leaves_nothing_in_the_streams() {
    let server = Server::start();
    let client = server.provisioned().await;
    // Every result is stored twice: a redelivery. The second copy is heard, too.
    let _worker = Worker::jobs(&client, 2, Arc::new(|r| Some(embed(r))));
    let files = Files::new(1000);
    let summary = files.run(&client, 16, &Pace { window: 8, ..pace() }).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.failed, summary.finished), (1000, 1000, 0, true));
    assert_complete(&files, 1000);
    assert!(backfill::status(&files.output).unwrap().finished);
    until("jobs are acknowledged", async || stored(&client, "EMBED_m").await == 0).await;
    assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 0);
    // Doing it again is refused, and resuming it does nothing.
    let error = files.run(&client, 16, &pace()).await.unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
    assert_eq!(files.resume(&client).await.unwrap().stored, 1000);
    assert_complete(&files, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_stay_in_their_place() {
    let server = Server::with("max_payload: 20000");
    let client = server.provisioned().await;
    let refuse = |r: &EmbedRequest| {
        let Outcome::Result(mut result) = embed(r) else { unreachable!() };
        for (item, text) in result.items.iter_mut().zip(&r.texts) {
            item.error = (text == "refused").then(|| WireError::new(ErrorCode::TextTooLong, "too long"));
        }
        Some(Outcome::Result(result))
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(refuse));
    let huge = "x".repeat(30_000);
    let files = Files::with(&format!(
        "{{\"text\":\"a\"}}\nnonsense\n\n{{\"id\":7}}\n{{\"id\":\"h\",\"text\":\"{huge}\"}}\n{{\"text\":\"refused\"}}\n{{\"id\":null,\"text\":\"abc\"}}"
    ));
    let summary = files.run(&client, 3, &Pace { keep_results: true, ..pace() }).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.failed), (6, 2, 4));
    let rows = rows(&files.output);
    let names: Vec<_> = rows.iter().map(|row| row.get("id").or_else(|| row.get("line")).cloned().unwrap()).collect();
    assert_eq!(names, [json!(1), json!(2), json!(7), json!("h"), json!(6), json!(null)]);
    let has_id: Vec<_> = rows.iter().map(|row| row.get("id").is_some()).collect();
    assert_eq!(has_id, [false, false, true, true, false, true]);
    assert_eq!(summary.failures["invalid_request"].rows, 2);
    assert_eq!(summary.failures["text_too_long"].first[0].line, 6);
    let codes: Vec<_> = rows.iter().map(|row| row["error"]["code"].as_str()).collect();
    let bad = Some("invalid_request");
    assert_eq!(codes, [None, bad, bad, Some("payload_too_large"), Some("text_too_long"), None]);
    assert!(rows[1]["error"]["message"].as_str().unwrap().starts_with("line 2:"), "{}", rows[1]);
    assert!(rows[2]["error"]["message"].as_str().unwrap().starts_with("line 4:"), "{}", rows[2]);
    assert_eq!(rows[5]["embedding"], json!([3.0, 1.0]));
    assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_in_the_middle_is_survived() {
    let mut server = Server::start();
    // What the worker held when the server went away comes again soon.
    let settings = StreamSettings { ack_wait_ms: 1_000, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let slow = |r: &EmbedRequest| {
        std::thread::sleep(Duration::from_millis(2));
        Some(embed(r))
    };
    let worker = Worker::jobs(&server.client().await, 1, Arc::new(slow));
    let files = Files::new(600);
    let paced = Pace { window: 6, ..pace() };
    let running = files.run(&client, 2, &paced);
    let crash = async {
        for jobs in [60, 180] {
            until("the worker is in the middle", async || worker.taken() >= jobs).await;
            server.kill();
            // Away for long enough that everybody has noticed.
            until("the client notices", async || {
                client.nats().connection_state() == async_nats::connection::State::Disconnected
            })
            .await;
            server.restart();
        }
    };
    let (summary, ()) = tokio::join!(running, crash);
    assert_eq!(summary.unwrap().stored, 600);
    assert_complete(&files, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_is_resumed_without_doing_it_all_again() {
    let server = Server::start();
    let client = server.provisioned().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = {
        let seen = seen.clone();
        move |r: &EmbedRequest| {
            std::thread::sleep(Duration::from_millis(5));
            seen.lock().unwrap().push(r.id.clone().unwrap());
            Some(embed(r))
        }
    };
    let worker = Worker::jobs(&server.client().await, 1, Arc::new(record));
    let files = Files::new(800);
    for stop_after in [100, 200] {
        let paced = Pace { window: 8, ..pace() };
        let resumed = stop_after > 100;
        let run = async { if resumed { files.resume(&client).await } else { files.run(&client, 2, &paced).await } };
        tokio::select! {
            end = run => panic!("it ended before it was dropped: {end:?}"),
            () = until("the worker is in the middle", async || worker.taken() >= stop_after) => {}
        }
        assert!(!backfill::status(&files.output).unwrap().finished);
    }
    let error = files.run(&client, 2, &pace()).await.unwrap_err().to_string();
    assert!(error.contains("embed backfill resume"), "{error}");
    let summary = files.resume(&client).await.unwrap();
    assert_eq!((summary.rows, summary.stored), (800, 800));
    assert_complete(&files, 800);
    // 400 jobs. What was computed before a drop is found, not computed again.
    let seen = seen.lock().unwrap();
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (400, 400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_it_keeps_what_it_has() {
    let server = Server::start();
    let client = server.provisioned().await;
    let worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(400);
    let stop = until("the worker is in the middle", async || worker.taken() >= 20);
    let paced = Pace { window: 2, ..pace() };
    let summary =
        backfill::run(&client, files.parameters(1), &files.output, false, &paced, stop, |_| {}).await.unwrap();
    assert!(!summary.finished);
    assert_eq!(rows(&files.output).len() as u64, summary.rows);
    assert_eq!(files.resume(&client).await.unwrap().stored, 400);
    assert_complete(&files, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_tried_again_and_then_reported() {
    let server = Server::start();
    let client = server.provisioned().await;
    let attempts = AtomicU64::new(0);
    let answer = move |r: &EmbedRequest| {
        let fail = |code| Some(failure(r, WireError::new(code, "no")));
        if r.texts.len() > 2 {
            return fail(ErrorCode::ResultTooLarge);
        }
        match r.texts[0].as_str() {
            "once" if attempts.fetch_add(1, Ordering::SeqCst) == 0 => fail(ErrorCode::EngineFailed),
            "never" => fail(ErrorCode::TooManyDeliveries),
            _ => Some(embed(r)),
        }
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let names = ["once", "a", "b", "never", "never", "c"];
    let files = Files::with(&names.map(|name| json!({"text": name}).to_string() + "\n").concat());
    let summary = files.run(&client, 3, &pace()).await.unwrap();
    assert_eq!((summary.stored, summary.failed), (3, 3));
    let found: Vec<bool> = rows(&files.output).iter().map(|row| row["embedding"].is_array()).collect();
    // The halves of the second job are [never] and [never, c]: a job fails as a whole.
    assert_eq!(found, [true, true, true, false, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_progress_is_an_error_that_keeps_the_state() {
    let server = Server::start();
    let client = server.provisioned().await;
    let files = Files::new(10);
    let soon = Pace { stall_timeout: Duration::from_secs(3), ..pace() };
    let error = files.run(&client, 2, &soon).await.unwrap_err();
    assert!(matches!(&error, Error::Stalled { waiting: 5, .. }), "{error}");
    assert!(error.to_string().contains("Is a worker running"), "{error}");
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    assert_eq!(files.resume(&client).await.unwrap().stored, 10);
    assert_complete(&files, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_results_stream_is_enough() {
    let server = Server::start();
    let settings =
        StreamSettings { results_max_bytes: 64 * 1024, jobs_max_bytes: 8 * 1024, ..StreamSettings::default() };
    let client = server.provisioned_with(&settings).await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    // About 400 bytes of results a job, 1000 jobs: more than the stream holds; and more jobs in flight than theirs does.
    let files = Files::new(1000);
    let summary = files.run(&client, 1, &Pace { window: 64, ..pace() }).await.unwrap();
    assert_eq!(summary.stored, 1000);
    assert_complete(&files, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_holds_one_space() {
    let server = Server::start();
    let client = server.provisioned().await;
    let changed = AtomicBool::new(false);
    let answer =
        move |r: &EmbedRequest| Some(embed_in(if changed.swap(true, Ordering::SeqCst) { "new" } else { "old" }, r));
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let error = Files::new(10).run(&client, 5, &pace()).await.unwrap_err().to_string();
    assert!(error.contains("two embedding spaces"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_space_than_asked_for_stops_at_the_first_row() {
    let server = Server::start();
    let client = server.provisioned().await;
    let right = Arc::new(AtomicBool::new(false));
    let answer = {
        let right = right.clone();
        move |r: &EmbedRequest| Some(embed_in(if right.load(Ordering::SeqCst) { "old" } else { "new" }, r))
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let files = Files::new(10);
    let parameters = Parameters { space: Some("old".into()), ..files.parameters(2) };
    let one = Pace { window: 1, ..pace() };
    let never = std::future::pending();
    let error = backfill::run(&client, parameters, &files.output, false, &one, never, |_| {}).await.unwrap_err();
    assert!(matches!(&error, Error::Client(ClientError::OtherSpace { expected, .. }) if expected == "old"), "{error}");
    assert!(rows(&files.output).is_empty());
    assert_eq!(backfill::status(&files.output).unwrap().space.as_deref(), Some("old"));
    // The state keeps it: with the right variant in place the run goes on, past what is stored of the wrong one.
    right.store(true, Ordering::SeqCst);
    assert_eq!(files.resume(&client).await.unwrap().stored, 10);
    assert_complete(&files, 10);
}

#[tokio::test]
async fn the_input_is_never_overwritten() {
    let server = Server::start();
    let client = server.client().await;
    let files = Files::new(3);
    let before = std::fs::read(&files.input).unwrap();
    let never = std::future::pending();
    let run = backfill::run(&client, files.parameters(2), &files.input, true, &pace(), never, |_| {}).await;
    assert!(run.unwrap_err().to_string().contains("is the input"));
    assert_eq!(std::fs::read(&files.input).unwrap(), before);
}

#[tokio::test]
async fn a_model_without_streams_is_an_error_at_once() {
    let server = Server::start();
    let client = server.client().await;
    let error = Files::new(3).run(&client, 2, &pace()).await.unwrap_err();
    assert!(matches!(error, Error::Client(ClientError::NoStream { .. })), "{error}");
}
