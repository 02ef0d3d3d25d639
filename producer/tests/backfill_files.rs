//! What backfills read and write: whether the input is the same, what it calls its rows, and what a death leaves behind.

use std::{
    fs::{self, File},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Server,
    files::{Files, assert_complete, pace, rows},
    until,
    worker::{Worker, embed},
};
use embed_backfill::{self as backfill, Pace, Parameters};
use embed_client::Client;
use embed_schemas::{EmbedRequest, streams::StreamSettings};
use serde_json::{Value, json};

/// Runs a backfill of 40 rows until some are recorded and the others are held up. They come when the worker that is returned is asked again.
async fn stopped(server: &Server, client: &Client) -> (Files, Worker) {
    let open = Arc::new(AtomicBool::new(false));
    let answer = {
        let open = open.clone();
        move |r: &EmbedRequest| {
            let is_late = r.texts[0].starts_with("row 2") || r.texts[0].starts_with("row 3");
            (!is_late || open.load(Ordering::SeqCst)).then(|| embed(r))
        }
    };
    let worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let files = Files::new(40);
    let paced = Pace { window: 4, ..pace() };
    let recorded = async || backfill::status(&files.output).is_ok_and(|state| state.done.rows >= 2);
    let stop = until("rows are recorded", recorded);
    let summary = backfill::run(client, files.parameters(1), &files.output, false, &paced, stop, |_| {}).await.unwrap();
    assert!(!summary.finished && summary.rows < 40, "{summary:?}");
    open.store(true, Ordering::SeqCst);
    (files, worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_input_is_refused_and_the_same_goes_on() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..Default::default() };
    let client = server.provisioned_with(&settings).await;
    let (files, _worker) = stopped(&server, &client).await;
    let (before, written) = (fs::read_to_string(&files.input).unwrap(), fs::read(&files.output).unwrap());
    let mut lines: Vec<&str> = before.lines().collect();
    // The last two, which have never been read: the same size all the same.
    lines.swap(38, 39);
    for (changed, said) in [
        (lines.join("\n") + "\n", "holds something else"),
        (before.clone() + "{\"id\":\"new\",\"text\":\"t\"}\n", "appended rows are another backfill"),
        (before[..before.len() - 9].to_owned(), "rows are missing"),
    ] {
        fs::write(&files.input, &changed).unwrap();
        let error = files.resume(&client).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(fs::read(&files.output).unwrap(), written, "what is done is kept");
    }
    fs::write(&files.input, &before).unwrap();
    assert_eq!(files.resume(&client).await.unwrap().stored, 40);
    assert_complete(&files, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_their_ids_as_they_were_written_and_get_no_others() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::with(
        "\u{feff}{\"id\":\"doc-0\",\"text\":\"text 0\"}\n\
         {\"id\": 3, \"text\": \"three\", \"n\": 1.50}\n\
         {\"id\": 2, \"text\": \"two \\ud83d\"}\n\
         {\"id\": 123456789012345678901234567890, \"text\": \"one\", \"tags\": [\"a\", {\"b\": 2}]}\n\
         {\"id\": {\"b\": 1.0, \"a\": 1e400}, \"text\": 4, \"n\": null}\n\
         {\"text\": \"nobody\"}\n",
    );
    let parameters = Parameters { keep: vec!["n".into(), "tags".into()], ..files.parameters(3) };
    let never = std::future::pending();
    let summary = backfill::run(&client, parameters, &files.output, false, &pace(), never, |_| {}).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.failed), (6, 4, 2));
    let text = fs::read_to_string(&files.output).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let begin = [
        "{\"id\":\"doc-0\",\"embedding\":[6.0,1.0]",
        "{\"id\":3,\"embedding\":[5.0,1.0]",
        "{\"line\":3,\"error\":",
        "{\"id\":123456789012345678901234567890,\"embedding\":[3.0,1.0]",
        "{\"id\":{\"b\": 1.0, \"a\": 1e400},\"error\":",
        "{\"line\":6,\"embedding\":[6.0,1.0]",
    ];
    for (line, begin) in lines.iter().zip(begin) {
        assert!(line.starts_with(begin), "{line}");
    }
    assert!(lines[1].ends_with(",\"n\":1.50}") && lines[4].ends_with(",\"n\":null}"), "{text}");
    assert!(lines[3].ends_with(",\"tags\":[\"a\", {\"b\": 2}]}"), "{text}");
    // Told beside the rows: which codes, and where.
    let reason = &summary.failures["invalid_request"];
    assert_eq!((reason.rows, reason.first[0].line, reason.first[1].line), (2, 3, 5));
    assert_eq!(backfill::status(&files.output).unwrap().failures, summary.failures);

    let reserved = Parameters { keep: vec!["embedding".into()], ..files.parameters(3) };
    let never = std::future::pending();
    let error = backfill::run(&client, reserved, &files.output, true, &pace(), never, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("--keep embedding"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_overwritten_is_there_until_its_state_is_not() {
    let server = Server::start();
    let client = server.provisioned().await;
    let _worker = Worker::jobs(&client, 1, Arc::new(|r| Some(embed(r))));
    let files = Files::new(20);
    let pace = pace();
    files.run(&client, 4, &pace).await.unwrap();
    let anew =
        || backfill::run(&client, files.parameters(4), &files.output, true, &pace, std::future::pending(), |_| {});
    // The new state cannot be written: that is where a kill would come.
    let obstacle = files.output.with_extension("jsonl.backfill.json.tmp");
    fs::create_dir(&obstacle).unwrap();
    anew().await.unwrap_err();
    assert!(backfill::status(&files.output).unwrap().finished);
    assert_complete(&files, 20);
    fs::remove_dir(&obstacle).unwrap();

    // A finished backfill is still somebody else's while its output is being written anew.
    let lock = File::open(&files.output).unwrap();
    lock.lock().unwrap();
    for refused in [files.resume(&client).await, anew().await] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("another backfill is writing"), "{error}");
    }
    drop(lock);
    let first = backfill::status(&files.output).unwrap().id;
    assert_eq!(anew().await.unwrap().stored, 20);
    assert_ne!(backfill::status(&files.output).unwrap().id, first);
    assert_complete(&files, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_is_cut_meanwhile_is_no_end() {
    let server = Server::start();
    let client = server.provisioned().await;
    let files = Files::new(20_000);
    let (input, once) = (files.input.clone(), AtomicBool::new(true));
    let answer = move |r: &EmbedRequest| {
        if once.swap(false, Ordering::SeqCst) {
            let file = File::options().write(true).open(&input).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        Some(embed(r))
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let error = files.run(&client, 256, &Pace { window: 1, ..pace() }).await.unwrap_err().to_string();
    assert!(error.contains("in.jsonl") && error.contains("has cut it meanwhile"), "{error}");
    assert!(!backfill::status(&files.output).unwrap().finished);
    let last: Value = rows(&files.output).pop().unwrap();
    assert_ne!(last["id"], json!("doc-19999"));
}
