//! Rows that need not be embedded: equal ones, and those that a previous output has.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    Server,
    command::{output, stderr, stdout},
    files::{Files, pace, rows},
    until,
    worker::{Worker, embed, embed_in, vector},
};
use embed_backfill::{self as backfill, Error, Parameters, Reuse, Summary};
use embed_client::Client;
use embed_schemas::{EmbedRequest, ErrorCode, Outcome, WireError, streams::StreamSettings};
use serde_json::{Value, json};

/// How often each text was embedded.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<HashMap<String, usize>>>);

impl Counted {
    fn embed(&self, request: &EmbedRequest) -> Outcome {
        let mut counts = self.0.lock().unwrap();
        request.texts.iter().for_each(|text| *counts.entry(text.clone()).or_default() += 1);
        embed(request)
    }

    /// How many different texts were embedded since this was last asked: a job that took long may have come twice.
    fn texts(&self) -> usize {
        std::mem::take(&mut *self.0.lock().unwrap()).len()
    }
}

fn counting(client: &Client) -> (Worker, Counted) {
    let counted = Counted::default();
    let counts = counted.clone();
    (Worker::jobs(client, 1, Arc::new(move |r| Some(counts.embed(r)))), counted)
}

/// Rows of these ids and texts.
fn lines(rows: impl IntoIterator<Item = (usize, String)>) -> String {
    rows.into_iter().map(|(id, text)| json!({"id": id, "text": text}).to_string() + "\n").collect()
}

/// Those of a file, with those of a previous output.
async fn run(client: &Client, files: &Files, chunk: usize, previous: Option<&Path>) -> Result<Summary, Error> {
    let previous = previous.map(|path| path.to_str().unwrap().to_owned());
    let parameters = Parameters { reuse: Reuse { equal: true, previous }, ..files.parameters(chunk) };
    backfill::run(client, parameters, &files.output, false, &pace(), std::future::pending(), |_| {}).await
}

/// Every row has the vector of its own text, and is where it was.
fn assert_own_vectors(files: &Files) {
    let (read, written) = (rows(&files.input), rows(&files.output));
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        assert_eq!(read["id"], written["id"]);
        assert_eq!(written["embedding"], json!(vector(read["text"].as_str().unwrap())), "{read}");
        assert_eq!(written["tokens"], json!(read["text"].as_str().unwrap().split(' ').count()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_changed_is_embedded() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (_worker, counted) = counting(&client);
    let text = |n: usize| format!("row {n} {}", "x".repeat(n % 17));
    let before = Files::with(&lines((0..10_000).map(|n| (n, text(n)))));
    let summary = run(&client, &before, 64, None).await.unwrap();
    assert_eq!((summary.stored, summary.reused, summary.removed), (10_000, 0, None));
    assert_eq!(counted.texts(), 10_000);

    // 30 are gone, of the others every fiftieth has changed, they come in another order, and one is new.
    let changed = |n: usize| if n.is_multiple_of(50) { format!("changed {n}") } else { text(n) };
    let rest = (0..9_970).rev().map(|n| (n, changed(n)));
    let after = Files::with(&lines(rest.chain([(77_777, "new".into())])));
    let summary = run(&client, &after, 64, Some(&before.output)).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.reused), (9_971, 201, 9_770));
    assert_eq!((summary.failed, summary.removed), (0, Some(30)));
    assert_eq!(counted.texts(), 201);
    assert_own_vectors(&after);

    // What was reused can be reused again.
    let again = Files::with(&fs::read_to_string(&after.input).unwrap());
    let summary = run(&client, &again, 64, Some(&after.output)).await.unwrap();
    assert_eq!((summary.stored, summary.reused, summary.removed, counted.texts()), (0, 9_971, Some(0), 0));
    assert_eq!(fs::read(&again.output).unwrap(), fs::read(&after.output).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_texts_are_embedded_once_and_fail_alike() {
    let server = Server::start();
    let client = server.provisioned().await;
    let counted = Counted::default();
    let counts = counted.clone();
    let answer = move |r: &EmbedRequest| {
        let Outcome::Result(mut result) = counts.embed(r) else { unreachable!() };
        for (item, text) in result.items.iter_mut().zip(&r.texts) {
            item.error = (text == "refused").then(|| WireError::new(ErrorCode::TextTooLong, "too long"));
        }
        Some(Outcome::Result(result))
    };
    let _worker = Worker::jobs(&client, 1, Arc::new(answer));
    let text = |n: usize| if n % 50 == 7 { "refused".to_owned() } else { format!("text {}", "x".repeat(n % 50)) };
    let files = Files::with(&lines((0..3_000).map(|n| (n, text(n)))));
    let summary = run(&client, &files, 8, None).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.reused, summary.failed), (3_000, 49, 2_891, 60));
    let mut times = std::mem::take(&mut *counted.0.lock().unwrap());
    // One that failed is tried again once that is known.
    assert!((1..60).contains(&times.remove("refused").unwrap()));
    assert!(times.len() == 49 && times.values().all(|times| *times == 1), "{times:?}");
    for (n, row) in rows(&files.output).iter().enumerate() {
        if text(n) == "refused" {
            assert_eq!(row["error"]["code"], "text_too_long");
        } else {
            assert_eq!(row["embedding"], json!(vector(&text(n))));
        }
    }
    // Each by itself, for who wants that.
    fs::remove_file(&files.output).unwrap();
    fs::remove_file(backfill::state_path(&files.output)).unwrap();
    let summary = files.run(&client, 64, &pace()).await.unwrap();
    assert_eq!((summary.stored, summary.reused), (2_940, 0));
    assert!(counted.0.lock().unwrap()["refused"] >= 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_goes_on_knows_what_was_written_and_what_was_before() {
    let server = Server::start();
    let settings = StreamSettings { ack_wait_ms: 1_000, ..Default::default() };
    let client = server.provisioned_with(&settings).await;
    let (counted, open) = (Counted::default(), Arc::new(AtomicBool::new(true)));
    let (counts, is_open) = (counted.clone(), open.clone());
    let answer = move |r: &EmbedRequest| {
        let is_late = r.texts.iter().any(|text| text == "late");
        (!is_late || is_open.load(Ordering::SeqCst)).then(|| counts.embed(r))
    };
    let _worker = Worker::jobs(&server.client().await, 1, Arc::new(answer));
    let before = Files::with(&lines((0..100).map(|n| (n, format!("before {n}")))));
    run(&client, &before, 10, None).await.unwrap();
    assert_eq!(counted.texts(), 100);

    open.store(false, Ordering::SeqCst);
    let of_before = |n| (n, format!("before {}", n % 90));
    let once = (0..40).map(of_before).chain((200..700).map(|n| (n, format!("text {n}"))));
    let again = (701..2_201).map(|n| (n, format!("text {}", 200 + n % 500)));
    let files = Files::with(&lines(once.chain([(700, "late".into())]).chain(again).chain((40..90).map(of_before))));
    let reuse = Reuse { equal: true, previous: Some(before.output.to_str().unwrap().into()) };
    let parameters = Parameters { reuse, ..files.parameters(10) };
    let recorded = async || backfill::status(&files.output).is_ok_and(|state| state.done.rows >= 500);
    let stop = until("rows are recorded", recorded);
    let summary = backfill::run(&client, parameters, &files.output, false, &pace(), stop, |_| {}).await.unwrap();
    let Summary { rows, stored, reused, .. } = summary;
    assert!(!summary.finished && rows <= 540 && (stored, reused) == (rows - 40, 40), "{summary:?}");

    open.store(true, Ordering::SeqCst);
    let summary = files.resume(&client).await.unwrap();
    assert_eq!((summary.rows, summary.stored, summary.reused, summary.failed), (2_091, 501, 1_590, 0));
    assert_eq!(summary.removed, Some(10));
    assert_own_vectors(&files);
    let times = counted.0.lock().unwrap().clone();
    assert!(times.len() == 501 && !times.keys().any(|text| text.starts_with("before")), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_of_another_space_are_not_reused_and_not_mixed() {
    let server = Server::start();
    let client = server.provisioned().await;
    let space = Arc::new(Mutex::new("space"));
    let says = space.clone();
    let _worker = Worker::jobs(&client, 1, Arc::new(move |r| Some(embed_in(&says.lock().unwrap(), r))));
    let before = Files::new(20);
    run(&client, &before, 8, None).await.unwrap();

    *space.lock().unwrap() = "other";
    let half = fs::read_to_string(&before.input).unwrap() + "{\"id\":\"new\",\"text\":\"new\"}\n";
    // Nobody says that it is another: that comes to light with the first vector.
    let files = Files::with(&half);
    let error = run(&client, &files, 8, Some(&before.output)).await.unwrap_err();
    assert_eq!(error.code(), "other_space", "{error}");
    // Workers say so, and nothing is reused.
    let live = json!({"version": "v2", "precision": "fp32", "provider": "cpu", "space": "other", "since": ""});
    let status = json!({"m.fp32": {"state": "live", "default": true, "wanted": "current", "live": live}});
    let _told = Worker::says(&client, "w", Arc::new(move || status.clone())).await;
    let files = Files::with(&half);
    let summary = run(&client, &files, 8, Some(&before.output)).await.unwrap();
    assert_eq!((summary.stored, summary.reused, summary.removed), (21, 0, None));
    assert_eq!(backfill::status(&files.output).unwrap().space.as_deref(), Some("other"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reused_is_said_before_anything_is_written() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (_worker, _) = counting(&client);
    let before = Files::new(20);
    run(&client, &before, 8, None).await.unwrap();
    let files = Files::new(20);
    let refused = async |parameters: Parameters, output: &Path, force: bool, said: &str| {
        let error = backfill::run(&client, parameters, output, force, &pace(), std::future::pending(), |_| {}).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!files.output.exists());
    };
    let of = |path: &Path| {
        let previous = Some(path.to_str().unwrap().to_owned());
        Parameters { reuse: Reuse { equal: true, previous }, ..files.parameters(8) }
    };
    let reuse = of(&before.output);
    refused(of(&before.input), &files.output, false, "it is not known what it was made of").await;
    refused(reuse.clone(), &before.output, true, "is the output: choose another output").await;
    let other = Parameters { prompt: Some("query".into()), ..reuse.clone() };
    refused(other, &files.output, false, "its prompt is none, and now it is query").await;
    let mut state = backfill::status(&before.output).unwrap();
    state.finished = false;
    let path = backfill::state_path(&before.output);
    let finished = fs::read(&path).unwrap();
    fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
    refused(reuse.clone(), &files.output, false, "is unfinished").await;
    fs::write(&path, finished).unwrap();
    fs::write(&before.input, "{\"text\":\"other\"}\n").unwrap();
    refused(reuse, &files.output, false, "needs the input that it was made of").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_was_reused_and_what_is_gone() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (_worker, counted) = counting(&client);
    let folder = tempfile::tempdir().unwrap();
    let url = server.url();
    let run = async |arguments: &[&str]| {
        let first = ["-s", &url, "backfill", "run", "-m", "m", "--allow-unserved"].into_iter();
        let arguments: Vec<String> = first.chain(arguments.iter().copied()).map(str::to_owned).collect();
        let folder = folder.path().to_owned();
        let run = move || {
            let arguments: Vec<String> = arguments
                .into_iter()
                .map(|argument| match argument.strip_prefix('@') {
                    Some(name) => folder.join(name).to_str().unwrap().to_owned(),
                    None => argument,
                })
                .collect();
            output(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    let write = |name: &str, texts: &[&str]| {
        fs::write(folder.path().join(name), lines(texts.iter().map(ToString::to_string).enumerate())).unwrap();
    };
    write("in1", &["a", "b", "b", "c"]);
    write("in2", &["a", "x", "b"]);
    let answer = run(&["@in1", "@out1"]).await;
    assert!(stdout(&answer).contains("4 rows, 3 stored, 1 reused, 0 failed"), "{}", stderr(&answer));
    let answer = run(&["--reuse", "@out1", "@in2", "@out2"]).await;
    assert!(stdout(&answer).contains("3 rows, 1 stored, 2 reused, 1 removed, 0 failed"), "{}", stderr(&answer));
    assert_eq!(counted.texts(), 4);
    let answer = run(&["--json", "--no-dedupe", "@in1", "@out3"]).await;
    let summary: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!((&summary["stored"], &summary["reused"]), (&4.into(), &0.into()));
    assert_eq!(summary["removed"], Value::Null);
    let status = backfill::status(&folder.path().join("out2")).unwrap();
    assert_eq!((status.stored, status.reused, status.removed), (1, 2, Some(1)));
}
